"""One declared protocol of evaluation (paper, section 3.4; method, section 5).

All images are in [-1, 1], so MSE is in squared units of that scale (a quarter of it is the MSE in
[0, 1]). Every metric comes with the number of images it rests on and a 95 % bootstrap interval
over images. One pass draws the samples once and feeds every metric.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from paperlib.core.corruption import corrupt
from paperlib.data.datasets import CompleteImages
from paperlib.evaluation.calibration import coverage, energy_score
from paperlib.evaluation.features import BATCH, Extractor, extract, kernel_distance_name
from paperlib.evaluation.sampling import Reconstruct
from paperlib.progress import progress_bar

METRICS_VERSION = 2  # 2: calibration; an evaluation by an older one is done again
RESAMPLES = 1000  # of the bootstrap, for means over images
DISTANCE_RESAMPLES = 20  # of the bootstrap, for the Frechet distance
KID_SUBSETS, KID_SUBSET_SIZE = 100, 200
CALIBRATION = ("energy", "coverage_50", "coverage_80")  # of no image where nothing is missing


@dataclass(frozen=True)
class Measurement:
    """A metric's value, its 95 % interval, and the number of images behind them."""

    value: float
    low: float
    high: float
    images: int


def evaluate(
    reconstruct: Reconstruct,
    data: CompleteImages,
    count: int,
    border: int,
    extractor: Extractor,
    real: Tensor,
    title: str = "evaluating",
) -> dict[str, dict[str, Any]]:
    """Measure reconstructions of the first ``count`` images of a split.

    Args:
        reconstruct: what fills in, e.g. ``sampling.sampler(G, samples, seed)``.
        data: complete images and their masks.
        count: how many.
        border: width in pixels of the border that no mask observes; the interior leaves it out.
        extractor: the features for the distances.
        real: those of the same images' originals, (count, F).
        title: what the progress says.

    Returns:
        metric -> Measurement, as dictionaries; see ``per_image`` and ``distances`` for the names,
        and "seam", the mean jump across the masks' borders over that of the originals.
    """
    batches, fake = [], []
    with progress_bar(count, title) as progress:
        for rows in np.split(np.arange(count), range(BATCH, count, BATCH)):
            x, m = data.batch(rows)
            x_tilde, without_z = reconstruct(corrupt(x, m), m, rows)
            batches.append(per_image(x_tilde, without_z, x, m, border))
            fake.append(extract(extractor, x_tilde[0]))
            progress.update(len(rows))
    table = {k: torch.cat([b[k] for b in batches]).double().cpu().numpy() for k in batches[0]}
    jump, true_jump = table.pop("jump"), table.pop("true_jump")
    any_missing = ~np.isnan(table["coverage_50"])  # of diverged samples it is 0: they count
    for name in CALIBRATION:
        table[name] = table[name][any_missing]
    result = {name: bootstrap_ratio(values) for name, values in table.items()}
    result["seam"] = bootstrap_ratio(jump, true_jump)
    result |= distances(real, torch.cat(fake), extractor.name)
    return {name: vars(measurement) for name, measurement in result.items()}


def per_image(
    x_tilde: Tensor, without_z: Tensor, x: Tensor, m: Tensor, border: int
) -> dict[str, Tensor]:
    """Per-image metrics, (B,) each, from one set of samples.

    Args:
        x_tilde: reconstructions, (samples, B, 3, H, W).
        without_z: the reconstruction at z = 0, (B, 3, H, W).
        x: originals, (B, 3, H, W).
        m: masks, (B, 1, H, W), 1 = observed.
        border: pixels left out of the interior on each side.

    Returns:
        mse: over the whole image, mean over the samples;
        mse_missing, mse_interior: over missing pixels, over all but the border;
        mse_best: over missing pixels, of the best sample (best of 10);
        mse_without_z: over missing pixels, at z = 0;
        std: over the samples (ddof = 1), mean over channels and missing pixels (section 3.4);
        energy: energy score of the samples over missing entries, lower is better, and
        coverage_50, coverage_80: share of the missing entries in the samples' central intervals
            (see ``calibration``); NaN where nothing is missing;
        jump, true_jump: of the first sample and of the original, see ``jump_across_border``.
    """
    missing = (1 - m).expand_as(x)  # (B, 3, H, W)
    n_missing = missing.sum(dim=(1, 2, 3)).clamp(min=1)  # (B,)
    error = (x_tilde - x).square()  # (samples, B, 3, H, W)
    inside = slice(border, x.shape[-1] - border)
    over_missing = (error * missing).sum(dim=(2, 3, 4)) / n_missing  # (samples, B)
    deviation = x_tilde.std(dim=0, correction=1)  # (B, 3, H, W)
    return {
        "mse": error.mean(dim=(0, 2, 3, 4)),
        "mse_missing": over_missing.mean(dim=0),
        "mse_interior": error[..., inside, inside].mean(dim=(0, 2, 3, 4)),
        "mse_best": over_missing.min(dim=0).values,
        "mse_without_z": ((without_z - x).square() * missing).sum(dim=(1, 2, 3)) / n_missing,
        "std": (deviation * missing).sum(dim=(1, 2, 3)) / n_missing,
        "energy": energy_score(x_tilde, x, missing > 0),
        "coverage_50": coverage(x_tilde, x, missing > 0, 0.5),
        "coverage_80": coverage(x_tilde, x, missing > 0, 0.8),
        "jump": jump_across_border(x_tilde[0], m),
        "true_jump": jump_across_border(x, m),
    }


def jump_across_border(x: Tensor, m: Tensor) -> Tensor:
    """Mean |difference| between neighbours of which one is observed and one missing, (B,)."""
    total = count = x.new_zeros(len(x))
    for dim in (2, 3):
        across = m.diff(dim=dim).abs()  # (B, 1, H - 1, W) or (B, 1, H, W - 1)
        total = total + (x.diff(dim=dim).abs() * across).sum(dim=(1, 2, 3))
        count = count + across.sum(dim=(1, 2, 3)) * x.shape[1]
    return total / count.clamp(min=1)


def bootstrap_ratio(
    values: np.ndarray, over: np.ndarray | None = None, seed: int = 0
) -> Measurement:
    """mean(values), or mean(values) / mean(over), with its percentile interval over images."""
    over = np.ones_like(values) if over is None else over
    n = len(values)
    picks = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
    estimates = values[picks].mean(axis=1) / over[picks].mean(axis=1)
    low, high = np.percentile(estimates, [2.5, 97.5])
    return Measurement(float(values.mean() / over.mean()), float(low), float(high), n)


def distances(real: Tensor, fake: Tensor, name: str) -> dict[str, Measurement]:
    """Frechet and kernel distances between two sets of features, (N, F) each, by torchmetrics.

    The Frechet distance grows when few images are used and when images repeat, so its resamples
    lie above it: the interval is value +- 1.96 standard deviations of the resamples. That of the
    kernel distance is of the whole set, from the spread of torchmetrics' random subsets.

    Returns:
        {name: ..., "KID-" + features: ...}, e.g. FD-efflite0 and KID-efflite0.
    """
    real, fake = real.double(), fake.double()
    n, subset = len(fake), min(KID_SUBSET_SIZE, len(real) // 2)
    as_they_are = _Features(real.shape[1])
    frechet = FrechetInceptionDistance(as_they_are).set_dtype(torch.float64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will save all extracted features")
        kernel = KernelInceptionDistance(as_they_are, KID_SUBSETS, subset)
    for metric in (frechet, kernel):
        metric.update(real, real=True)
        metric.update(fake, real=False)

    value, rng, resamples = float(frechet.compute()), np.random.default_rng(0), []
    for _ in range(DISTANCE_RESAMPLES):
        i, j = (torch.from_numpy(rng.integers(0, len(s), len(s))) for s in (real, fake))
        resamples.append(frechet_distance(real[i], fake[j]))
    spread = 1.96 * float(np.std(resamples, ddof=1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # torchmetrics picks its subsets by the global generator
        mean, std = map(float, kernel.compute())
    half = float(1.96 * std / np.sqrt(n / subset))
    return {
        name: Measurement(value, value - spread, value + spread, n),
        kernel_distance_name(name): Measurement(mean, mean - half, mean + half, n),
    }


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 sqrt(S_a S_b)) of features (N, F), for the resamples.

    The same quantity as torchmetrics', faster where N < F: with A, B the centred features over
    sqrt(N - 1), the trace of the root is the sum of the singular values of A B^T, (N, N).
    """
    mean_a, mean_b = a.mean(dim=0), b.mean(dim=0)
    A, B = (a - mean_a) / (len(a) - 1) ** 0.5, (b - mean_b) / (len(b) - 1) ** 0.5
    root = torch.linalg.svdvals(A @ B.T).sum()
    return float((mean_a - mean_b).square().sum() + A.square().sum() + B.square().sum() - 2 * root)


class _Features(nn.Identity):
    """Features that pass where torchmetrics expects an extractor."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
