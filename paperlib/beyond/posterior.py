"""Gaussian random fields, whose posterior is known in closed form, and how far samples are from it.

All of it in float64. Fields are images of one band, (B, 1, H, W); ``n`` = H W counts their
entries, row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from paperlib.evaluation.calibration import coverage, energy_score

LEVELS = (0.5, 0.8, 0.95)  # of the central intervals
DIRECTIONS = 64  # of the sliced Wasserstein distance


@dataclass(frozen=True)
class Gaussian:
    """B normal laws of a field: a prior (B = 1), or B posteriors.

    Entries that are not ``missing`` are known: their variance is 0.
    """

    shape: tuple[int, int]  # H, W
    mean: Tensor  # (B, n)
    covariance: Tensor  # (B, n, n)
    missing: Tensor  # (B, n) bool; of a prior all

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, B, 1, H, W) float64; known entries are equal to the bit."""
        known = torch.diag_embed((~self.missing).double())  # 1 where nothing varies
        root = torch.linalg.cholesky(self.covariance + known)
        white = torch.randn(count, *self.mean.shape, generator=generator, dtype=torch.float64)
        off = torch.einsum("bij,sbj->sbi", root, white * self.missing)
        return (self.mean + off).view(count, -1, 1, *self.shape)


def random_field(side: int, length_scale: float = 1.5, nugget: float = 0.02) -> Gaussian:
    """p_X on a square grid: a stationary Gaussian field of mean 0 and variance 1.

    The covariance is exp(-d^2 / 2 l^2) / (1 + nugget) between pixels d apart, l the length scale;
    the nugget is the variance of white noise in units of that of the smooth part.
    """
    place = torch.arange(side, dtype=torch.float64)
    places = torch.cartesian_prod(place, place)  # (n, 2)
    squares = (places[:, None] - places).square().sum(dim=2)
    smooth = torch.exp(-squares / (2 * length_scale**2))
    white = torch.eye(side**2, dtype=torch.float64)  # (n, n)
    covariance = (smooth + nugget * white) / (1 + nugget)
    missing = torch.ones(1, side**2, dtype=torch.bool)
    return Gaussian((side, side), torch.zeros(1, side**2).double(), covariance[None], missing)


def condition(field: Gaussian, y: Tensor, m: Tensor) -> Gaussian:
    """The exact posteriors of a field (B = 1) given observations y and masks m, (B, 1, H, W) each.

    With o the observed entries (m = 1) of an observation

        mean        mu + C[:, o] C[o, o]^-1 (y[o] - mu[o])
        covariance  C - C[:, o] C[o, o]^-1 C[o, :]
    """
    y, seen, C = y.double().flatten(1), (m > 0).flatten(1), field.covariance
    # C[o, o] in place, the identity for what is missing: one matrix size for all masks
    pair = seen[:, :, None] & seen[:, None]  # (B, n, n)
    root = torch.linalg.cholesky(torch.where(pair, C, 0) + torch.diag_embed((~seen).double()))
    to_seen = torch.where(seen[:, None], C, 0)  # C[:, o], (B, n, n)
    gain = torch.cholesky_solve(to_seen.mT, root).mT  # C[:, o] C[o, o]^-1
    residual = torch.where(seen, y - field.mean, 0)  # (B, n)
    mean = field.mean + torch.einsum("bij,bj->bi", gain, residual)
    # what is observed has no spread, not even of rounding
    covariance = (C - gain @ to_seen.mT) * (~seen[:, :, None] & ~seen[:, None])
    return Gaussian(field.shape, torch.where(seen, y, mean), covariance, ~seen)


def distances_to_posterior(
    samples: Tensor, x: Tensor, exact: Gaussian, generator: torch.Generator
) -> dict[str, Tensor]:
    """How far samples (S, B, 1, H, W) of a model are from the exact posteriors, (B,) each.

    Over missing entries and, but for the scores, in units of their posterior standard deviation.
    Samples of the posterior itself reach the least, which is not 0. ``x`` are the true fields,
    (B, 1, H, W); ``generator`` draws S samples of the posteriors and the directions of the slices.

    Returns:
        mean: root mean square error of the mean;
        covariance: |C - C'| / |C| (Frobenius) of the entries in those units;
        variance: the samples' variance over the true one (1 is right);
        wasserstein: sliced Wasserstein-1 distance, the mean over directions;
        energy: energy score (see ``calibration``), lower is better;
        coverage_50, _80, _95: share of the missing entries of x in the central intervals.
    Where nothing is missing: NaN, but ``wasserstein`` is 0.
    """
    samples, x, own = samples.double(), x.double(), exact.sample(len(samples), generator)
    missing, of_images = exact.missing, exact.missing.view_as(x)  # (B, n)
    unit = torch.where(missing, exact.covariance.diagonal(dim1=1, dim2=2).sqrt(), 1)  # (B, n)
    off = [(each.flatten(2) - exact.mean) / unit for each in (samples, own)]
    s, t = (torch.where(missing, each, 0) for each in off)  # (S, B, n), 0 where observed
    directions = torch.randn(DIRECTIONS, s.shape[2], generator=generator, dtype=torch.float64)
    cut = normalize(directions[:, None] * missing, dim=2)  # (D, B, n)
    a, b = (torch.einsum("sbn,dbn->sdb", each, cut).sort(dim=0).values for each in (s, t))
    mean, free = s.mean(dim=0), missing.sum(dim=1)  # (B, n), (B,)
    covariance = torch.einsum("sbi,sbj->bij", s - mean, s - mean) / (len(s) - 1)
    truth = exact.covariance / (unit[:, :, None] * unit[:, None])
    return {
        "mean": (mean.square().sum(1) / free).sqrt(),
        "covariance": (covariance - truth).norm(dim=(1, 2)) / truth.norm(dim=(1, 2)),
        "variance": covariance.diagonal(dim1=1, dim2=2).sum(1) / free,
        "wasserstein": (a - b).abs().mean(dim=(0, 1)),
        "energy": energy_score(samples, x, of_images),
        **{f"coverage_{100 * p:.0f}": coverage(samples, x, of_images, p) for p in LEVELS},
    }
