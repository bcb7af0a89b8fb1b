"""Random fields whose posterior is known in closed form, and how far samples are from it.

A field x is Gaussian, or a mixture of Gaussians, so that what is missing given what is observed,
p(x | y), is again a mixture of Gaussians. All of it in float64. Fields are images of one band,
(B, 1, H, W); ``n`` = H W counts their entries, row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from paperlib.calibration import coverage, energy_score

LEVELS = (0.5, 0.8, 0.95)  # of the central intervals
DIRECTIONS = 64  # of the sliced Wasserstein distance


def stationary_covariance(
    height: int, width: int, length_scale: float, nugget: float = 0.0
) -> Tensor:
    """exp(-d^2 / 2 l^2) / (1 + nugget) between pixels d apart, and 1 on the diagonal.

    Args:
        height, width: of the field, pixels.
        length_scale: l, pixels.
        nugget: variance of the white noise in units of that of the smooth part.

    Returns:
        (n, n) float64.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows, columns], dim=-1).reshape(-1, 2).double()  # (n, 2)
    squares = (places[:, None] - places).square().sum(dim=2)  # (n, n)
    smooth = torch.exp(-squares / (2 * length_scale**2))
    return (smooth + nugget * torch.eye(len(places), dtype=torch.float64)) / (1 + nugget)


@dataclass(frozen=True)
class Field:
    """A mixture of K Gaussian fields (K = 1: a Gaussian field), on a grid of ``shape``."""

    shape: tuple[int, int]  # H, W
    weights: Tensor  # (K,)
    means: Tensor  # (K, n)
    covariances: Tensor  # (K, n, n)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """x ~ p_X, (count, 1, H, W) float64."""
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        white = torch.randn(
            count, self.means.shape[1], generator=generator, dtype=torch.float64
        )  # (count, n)
        roots = torch.linalg.cholesky(self.covariances)  # (K, n, n)
        of_each = self.means[:, None] + white @ roots.mT  # (K, count, n)
        return of_each[k, torch.arange(count)].view(count, 1, *self.shape)


def gaussian_field(side: int, length_scale: float = 1.5, nugget: float = 0.02) -> Field:
    """A stationary Gaussian field of mean 0 and variance 1 on a square grid."""
    covariance = stationary_covariance(side, side, length_scale, nugget)
    zero = torch.zeros(1, side * side, dtype=torch.float64)
    return Field((side, side), torch.ones(1, dtype=torch.float64), zero, covariance[None])


def two_mode_field(
    side: int, length_scale: float = 1.5, nugget: float = 0.02, height: float = 1.5
) -> Field:
    """A mixture of two: a bump in the middle of the grid, up in one and down in the other.

    Away from the bump the two are alike: where only its foot is seen the posterior has two modes.
    The parts are scaled so that every entry of the mixture has a variance of at most 1.
    """
    rows, columns = torch.meshgrid(
        *[torch.arange(side).double() - (side - 1) / 2] * 2, indexing="ij"
    )
    bump = height * torch.exp(-(rows**2 + columns**2) / (2 * (side / 6) ** 2)).flatten()  # (n,)
    scale = (1 + height**2) ** -0.5
    covariance = stationary_covariance(side, side, length_scale, nugget) * scale**2
    return Field(
        (side, side),
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        torch.stack([bump, -bump]) * scale,
        torch.stack([covariance, covariance]),
    )


@dataclass(frozen=True)
class Posterior:
    """p(x | y) for B observations: mixtures of K Gaussians. Observed entries have variance 0."""

    weights: Tensor  # (B, K)
    means: Tensor  # (B, K, n)
    covariances: Tensor  # (B, K, n, n)
    missing: Tensor  # (B, n) bool
    shape: tuple[int, int]

    @property
    def mean(self) -> Tensor:
        """(B, n)."""
        return torch.einsum("bk,bkn->bn", self.weights, self.means)

    @property
    def covariance(self) -> Tensor:
        """Of the whole mixture, (B, n, n)."""
        off = self.means - self.mean[:, None]  # (B, K, n)
        between = torch.einsum("bk,bki,bkj->bij", self.weights, off, off)
        return torch.einsum("bk,bkij->bij", self.weights, self.covariances) + between

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, B, 1, H, W); observed entries are those of y, to the bit."""
        batch, _, n = self.means.shape
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator).T
        # the identity where nothing varies makes the matrix positive definite, and nothing else
        seen = torch.diag_embed((~self.missing).double())[:, None]
        roots = torch.linalg.cholesky(self.covariances + seen)  # (B, K, n, n)
        white = torch.randn(count, batch, n, generator=generator, dtype=torch.float64)
        white = white * self.missing
        b = torch.arange(batch)
        x = torch.stack(
            [
                self.means[b, chosen] + torch.einsum("bij,bj->bi", roots[b, chosen], w)
                for chosen, w in zip(k, white, strict=True)
            ]
        )
        return x.view(count, batch, 1, *self.shape)


def condition(field: Field, y: Tensor, m: Tensor) -> Posterior:
    """The exact posterior of a field given observations.

    With o the observed entries of one observation, for each part k of the mixture

        mean        mu + C[:, o] C[o, o]^-1 (y[o] - mu[o])
        covariance  C - C[:, o] C[o, o]^-1 C[o, :]
        weight      proportional to w N(y[o]; mu[o], C[o, o])

    Args:
        field: the prior.
        y: observations, (B, 1, H, W).
        m: masks, (B, 1, H, W), 1 = observed.
    """
    n = field.means.shape[1]
    y, seen = y.double().reshape(-1, 1, n), (m > 0).reshape(-1, 1, n)  # (B, 1, n)
    batch = len(y)
    mean, C = field.means[None], field.covariances[None]  # (1, K, n), (1, K, n, n)
    residual = torch.where(seen, y - mean, 0)  # (B, K, n)
    # C[o, o] in place, the identity for what is missing: one matrix size for all masks
    pair = seen[..., :, None] & seen[..., None, :]  # (B, 1, n, n)
    unseen = torch.diag_embed((~seen).double())
    root = torch.linalg.cholesky(torch.where(pair, C, 0) + unseen)  # (B, K, n, n)
    to_seen = torch.where(seen[..., None, :], C, 0)  # C[:, o], (B, K, n, n)
    gain = torch.cholesky_solve(to_seen.mT, root).mT  # C[:, o] C[o, o]^-1
    means = mean + torch.einsum("bkij,bkj->bki", gain, residual)
    covariances = C - gain @ to_seen.mT
    white = torch.linalg.solve_triangular(root, residual[..., None], upper=False)[..., 0]
    log_density = -0.5 * white.square().sum(-1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    weights = torch.softmax(field.weights.log() + log_density, dim=1)  # 2 pi cancels
    unknown = ~seen  # what is observed has no spread, not even of rounding
    means = torch.where(seen, y, means)
    covariances = covariances * (unknown[..., :, None] & unknown[..., None, :])
    return Posterior(weights, means, covariances, unknown.reshape(batch, n), field.shape)


def distances_to_posterior(
    samples: Tensor, x: Tensor, exact: Posterior, generator: torch.Generator
) -> dict[str, Tensor]:
    """How far samples of a model are from the exact posterior, (B,) each.

    Everything is over missing entries and, but for the scores, in units of their posterior
    standard deviation. Each has beside it (``exact_...``) what as many samples of the posterior
    itself get: that is the least that can be reached.

    Args:
        samples: of the model, (S, B, 1, H, W).
        x: the fields that were observed, (B, 1, H, W).
        exact: their posterior.
        generator: draws the posterior's own samples and the directions of the slices.

    Returns:
        mean: root mean square error of the mean;
        covariance: |C - C'| / |C| (Frobenius) of the entries in those units;
        variance: the samples' variance over the true one (1 is right);
        wasserstein: sliced Wasserstein-1 distance, the mean over directions;
        energy: energy score (see ``calibration``), lower is better;
        coverage_50, _80, _95: share of the missing entries of x in the central intervals;
        modes: share of the samples in the first mode less its weight, absolute (mixtures of two
            only); a sample counts by the probability that it is of that mode.
    Where nothing is missing: NaN, but ``wasserstein`` is 0.
    """
    own = exact.sample(len(samples), generator)
    n = exact.means.shape[-1]
    directions = torch.randn(DIRECTIONS, n, generator=generator, dtype=torch.float64)
    measured = _distances(samples.double(), x.double(), exact, own, directions)
    other = exact.sample(len(samples), generator)
    floor = _distances(own, x.double(), exact, other, directions)
    return measured | {f"exact_{name}": values for name, values in floor.items()}


def _distances(
    samples: Tensor, x: Tensor, exact: Posterior, own: Tensor, directions: Tensor
) -> dict[str, Tensor]:
    count, batch = samples.shape[:2]
    missing = exact.missing  # (B, n)
    free = missing.sum(dim=1)  # (B,)
    deviation = exact.covariance.diagonal(dim1=-2, dim2=-1).sqrt()  # (B, n)
    unit = torch.where(missing, deviation, 1)

    def whiten(s: Tensor) -> Tensor:  # (S, B, n), 0 where observed
        off = (s.reshape(count, batch, -1) - exact.mean) / unit
        return torch.where(missing, off, 0)

    s, t = whiten(samples), whiten(own)
    mean = s.mean(dim=0)  # (B, n)
    off = s - mean
    covariance = torch.einsum("sbi,sbj->bij", off, off) / (count - 1)
    truth = exact.covariance / (unit[:, :, None] * unit[:, None, :])
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    result = {
        "mean": (mean.square().sum(1) / free).sqrt(),
        "covariance": (covariance - truth).norm(dim=(1, 2)) / truth.norm(dim=(1, 2)),
        "variance": diagonal.sum(1) / free,
        "wasserstein": sliced_wasserstein(s, t, missing, directions),
        "energy": energy_score(samples, x, missing.view_as(x)),
    }
    for level in LEVELS:
        inside = coverage(samples, x, missing.view_as(x), level)
        result[f"coverage_{100 * level:.0f}"] = inside
    if exact.means.shape[1] == 2:
        share = _share_of_first_mode(samples.reshape(count, batch, -1), exact)
        result["modes"] = (share - exact.weights[:, 0]).abs()
    return result


def _share_of_first_mode(samples: Tensor, exact: Posterior) -> Tensor:
    """Mean over samples (S, B, n) of the probability of being of the first mode of two, (B,).

    For samples of the posterior its expectation is that mode's weight, even where modes overlap.
    """
    seen = torch.diag_embed((~exact.missing).double())[:, None]
    root = torch.linalg.cholesky(exact.covariances + seen)  # (B, 2, n, n)
    off = samples.permute(1, 2, 0)[:, None] - exact.means[..., None]  # (B, 2, n, S)
    off = torch.where(exact.missing[:, None, :, None], off, 0)
    white = torch.linalg.solve_triangular(root, off, upper=False)
    log_density = (
        -0.5 * white.square().sum(2) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)[..., None]
    )
    log_density = log_density + exact.weights.log()[..., None]  # (B, 2, S)
    return torch.softmax(log_density, dim=1)[:, 0].mean(dim=1)


def sliced_wasserstein(s: Tensor, t: Tensor, missing: Tensor, directions: Tensor) -> Tensor:
    """Mean over directions of the Wasserstein-1 distance of two equal numbers of samples, (B,).

    Args:
        s, t: samples, (S, B, n).
        missing: the entries that vary, (B, n).
        directions: (D, n); each is cut to the missing entries and made a unit vector.
    """
    cut = directions[:, None] * missing  # (D, B, n)
    cut = cut / cut.norm(dim=2, keepdim=True).clamp(min=math.ulp(1.0))
    a, b = (torch.einsum("sbn,dbn->sdb", each, cut).sort(dim=0).values for each in (s, t))
    return (a - b).abs().mean(dim=(0, 1))
