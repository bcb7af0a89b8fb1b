"""One declared protocol of evaluation (paper, section 3.4).

All images are in [-1, 1], so MSE is in squared units of that scale (a quarter of it is the MSE in
[0, 1]). Every metric comes with the number of images it rests on and a 95 % bootstrap interval
over images. One pass draws the samples once and feeds every metric.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlib.evaluation.calibration import coverage, energy_score
from paperlib.evaluation.features import as_stored, kernel_distance_name

METRICS_VERSION = 4  # 4: coverage shares ties out; an older evaluation is done again
BLOCK = 4  # side of the blocks of std_coarse, pixels: dots in which G writes z raise std only
RESAMPLES = 1000  # of the bootstrap, for means over images
DISTANCE_RESAMPLES = 20  # of the bootstrap, for the Frechet distance
KID_SUBSETS, KID_SUBSET_SIZE = 100, 200
PER_IMAGE = ("mse", "mse_missing", "std", "std_coarse", "energy")  # kept for paired comparisons
Measurement = dict[str, float]
"""A metric's value, its 95 % bootstrap interval low, high, and the number of images behind them."""


def per_image(
    x_tilde: Tensor, without_z: Tensor, x: Tensor, m: Tensor, border: int
) -> dict[str, Tensor]:
    """Per-image metrics, (B,) each, from one set of samples x_tilde, (samples, B, C, H, W).

    The reconstruction at z = 0, ``without_z``, and the originals x are (B, C, H, W), the masks m
    (B, 1, H, W), 1 = observed; ``border`` is the pixels left out of the interior on each side.
    """
    missing = (1 - m).expand_as(x)  # (B, C, H, W)
    n_missing = missing.sum(dim=(1, 2, 3)).clamp(min=1)  # (B,)
    error = (x_tilde - x).square()  # (samples, B, C, H, W)
    inside = slice(border, x.shape[-1] - border)
    over_missing = (error * missing).sum(dim=(2, 3, 4)) / n_missing  # (samples, B)
    blocks = F.avg_pool2d(x_tilde.flatten(0, 1), BLOCK).unflatten(0, x_tilde.shape[:2])
    levels = as_stored(x_tilde)
    return {
        "mse": error.mean(dim=(0, 2, 3, 4)),
        "mse_missing": over_missing.mean(dim=0),
        "mse_interior": error[..., inside, inside].mean(dim=(0, 2, 3, 4)),
        "mse_best": over_missing.min(dim=0).values,
        "mse_without_z": ((without_z - x).square() * missing).sum(dim=(1, 2, 3)) / n_missing,
        "std": _mean_deviation(x_tilde, missing),  # over missing pixels (section 3.4)
        "std_coarse": _mean_deviation(blocks, F.avg_pool2d(missing, BLOCK)),
        "energy": energy_score(x_tilde, x, missing > 0),
        "coverage_50": coverage(levels, x, missing > 0, 0.5),
        "coverage_80": coverage(levels, x, missing > 0, 0.8),
        "jump": jump_across_border(x_tilde[0], m),  # the seam ratio is the ratio of their means
        "true_jump": jump_across_border(x, m),
    }


def _mean_deviation(samples: Tensor, weight: Tensor) -> Tensor:
    """Standard deviation (ddof = 1) over samples (S, B, C, H, W), mean weighted by (B, C, H, W)."""
    deviation = samples.std(dim=0, correction=1) * weight
    return deviation.sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)).clamp(min=1e-9)


def jump_across_border(x: Tensor, m: Tensor) -> Tensor:
    """Mean |difference| between neighbours of which one is observed and one missing, (B,)."""
    total = count = x.new_zeros(len(x))
    for dim in (2, 3):
        across = m.diff(dim=dim).abs()  # (B, 1, H - 1, W) or (B, 1, H, W - 1)
        total = total + (x.diff(dim=dim).abs() * across).sum(dim=(1, 2, 3))
        count = count + across.sum(dim=(1, 2, 3)) * x.shape[1]
    return total / count.clamp(min=1)


def over_images(measured: list[dict[str, Tensor]]) -> tuple[dict[str, Measurement], dict[str, Any]]:
    """Metric -> its mean over all images; name of ``PER_IMAGE`` -> one value an image.

    ``measured``: what ``per_image`` gives, batch by batch. The two jumps become "seam". Images of
    which nothing is missing do not count in the energy score and the coverages.
    """
    table = {k: torch.cat([m[k] for m in measured]).double().cpu().numpy() for k in measured[0]}
    kept = {name: [float(f"{v:.6g}") for v in table[name]] for name in PER_IMAGE}
    jump, true_jump = table.pop("jump"), table.pop("true_jump")
    any_missing = ~np.isnan(table["coverage_50"])  # of diverged samples it is 0: they count
    for name in ("energy", "coverage_50", "coverage_80"):
        table[name] = table[name][any_missing]
    result = {name: bootstrap_ratio(values) for name, values in table.items()}
    return result | {"seam": bootstrap_ratio(jump, true_jump)}, kept


def bootstrap_ratio(values: np.ndarray, over: np.ndarray | None = None) -> Measurement:
    """mean(values), or mean(values) / mean(over), with its percentile interval over images."""
    n, over = len(values), np.ones_like(values) if over is None else over
    picks = np.random.default_rng(0).integers(0, n, size=(RESAMPLES, n))
    estimates = values[picks].mean(axis=1) / over[picks].mean(axis=1)
    low, high = np.percentile(estimates, [2.5, 97.5])
    value = float(values.mean() / over.mean())
    return {"value": value, "low": float(low), "high": float(high), "images": n}


def distances(
    real: Tensor, fake: Tensor, name: str, resamples: int = DISTANCE_RESAMPLES
) -> dict[str, Measurement]:
    """Frechet and kernel distances of samples to complete images, by torchmetrics.

    Features ``real`` (N, F) of complete images and ``fake`` (samples, images, F); ``name`` is that
    of the Frechet distance on them. This grows when few images are used and when images repeat, so
    its resamples (of images) lie above it: the interval is value +- 1.96 standard deviations of the
    resamples. That of the kernel distance is over torchmetrics' random subsets.
    """
    # here: their import takes seconds, which training need not wait for
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    real, fake = real.double(), fake.double()
    n, subset = fake.shape[1], min(KID_SUBSET_SIZE, len(real) // 2, fake.shape[1] // 2)
    as_they_are: Any = nn.Identity()  # where torchmetrics expects an extractor
    as_they_are.num_features = real.shape[1]
    frechet = FrechetInceptionDistance(as_they_are).set_dtype(torch.float64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will save all extracted features")
        kernel = KernelInceptionDistance(as_they_are, KID_SUBSETS, subset)
    for metric in (frechet, kernel):
        metric.update(real, real=True)
        metric.update(fake.flatten(0, 1), real=False)

    value, rng, again = float(frechet.compute()), np.random.default_rng(0), []
    for _ in range(resamples):
        i, j = (torch.from_numpy(rng.integers(0, k, k)) for k in (len(real), n))
        again.append(frechet_distance(real[i], fake[0, j]))
    spread = 1.96 * float(np.std(again, ddof=1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # torchmetrics picks its subsets by the global generator
        mean, std = map(float, kernel.compute())
    half = float(1.96 * std / np.sqrt(n / subset))  # of the whole set, from the spread of subsets
    found = {name: (value, spread), kernel_distance_name(name): (mean, half)}
    return {
        key: {"value": value, "low": value - width, "high": value + width, "images": n}
        for key, (value, width) in found.items()
    }


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 sqrt(S_a S_b)) of features (N, F), for the resamples.

    As torchmetrics', but faster where N < F: with A, B the centred features over sqrt(N - 1), the
    trace of the root is the sum of the singular values of A B^T, (N, N).
    """
    mean_a, mean_b = a.mean(dim=0), b.mean(dim=0)
    A, B = (a - mean_a) / (len(a) - 1) ** 0.5, (b - mean_b) / (len(b) - 1) ** 0.5
    root = torch.linalg.svdvals(A @ B.T).sum()
    return float((mean_a - mean_b).square().sum() + A.square().sum() + B.square().sum() - 2 * root)
