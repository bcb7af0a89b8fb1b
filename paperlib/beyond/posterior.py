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

from paperlib.evaluation.calibration import coverage, energy_score

LEVELS = (0.5, 0.8, 0.95)  # of the central intervals
DIRECTIONS = 64  # of the sliced Wasserstein distance


@dataclass(frozen=True)
class Mixture:
    """B laws of a field, each a mixture of K Gaussians: a prior (B = 1), or B posteriors.

    Entries that are not ``missing`` are known: they have variance 0, and the same mean in all parts.
    """

    shape: tuple[int, int]  # H, W
    weights: Tensor  # (B, K)
    means: Tensor  # (B, K, n)
    covariances: Tensor  # (B, K, n, n)
    missing: Tensor  # (B, n) bool; of a prior all

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

    @property
    def roots(self) -> Tensor:
        """Of the covariances, (B, K, n, n), with 1 on the diagonal where nothing varies."""
        known = torch.diag_embed((~self.missing).double())[:, None]
        return torch.linalg.cholesky(self.covariances + known)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, B, 1, H, W) float64; known entries are equal to the bit."""
        batch, _, n = self.means.shape
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator).T
        white = torch.randn(count, batch, n, generator=generator, dtype=torch.float64)
        off = torch.einsum("bkij,sbj->sbki", self.roots, white * self.missing)
        of_each = self.means + off  # (count, B, K, n)
        chosen = of_each.take_along_dim(k[..., None, None], dim=2)
        return chosen.view(count, batch, 1, *self.shape)


def random_field(
    side: int, modes: int = 1, length_scale: float = 1.5, nugget: float = 0.02, height: float = 1.5
) -> Mixture:
    """p_X on a square grid: a stationary Gaussian field of mean 0 and variance 1, or two such modes.

    The covariance is exp(-d^2 / 2 l^2) / (1 + nugget) between pixels d apart, and 1 on the diagonal.
    With two modes there is a bump in the middle of the grid, up in one and down in the other. Away
    from it the two are alike: where only its foot is seen the posterior has two modes. They are
    scaled so that every entry of the mixture has a variance of at most 1.

    Args:
        side: of the grid, pixels.
        modes: 1 or 2.
        length_scale: l, pixels.
        nugget: variance of the white noise in units of that of the smooth part.
        height: of the bump, in standard deviations.
    """
    place = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    places = torch.cartesian_prod(place, place)  # (n, 2)
    squares = (places[:, None] - places).square().sum(dim=2)
    smooth = torch.exp(-squares / (2 * length_scale**2))
    white = torch.eye(side**2, dtype=torch.float64)  # (n, n)
    covariance = (smooth + nugget * white) / (1 + nugget)
    bump = height * torch.exp(-places.square().sum(dim=1) / (2 * (side / 6) ** 2))  # (n,)
    sign, scale = {1: ([0.0], 1.0), 2: ([1.0, -1.0], (1 + height**2) ** -0.5)}[modes]
    return Mixture(
        shape=(side, side),
        weights=torch.full((1, modes), 1 / modes).double(),
        means=torch.tensor(sign)[None, :, None] * bump * scale,
        covariances=(covariance * scale**2).expand(1, modes, -1, -1),
        missing=torch.ones(1, side**2, dtype=torch.bool),
    )


def condition(field: Mixture, y: Tensor, m: Tensor) -> Mixture:
    """The exact posterior of a field given observations.

    With o the observed entries of one observation, for each part k of the mixture

        mean        mu + C[:, o] C[o, o]^-1 (y[o] - mu[o])
        covariance  C - C[:, o] C[o, o]^-1 C[o, :]
        weight      proportional to w N(y[o]; mu[o], C[o, o])

    Args:
        field: the prior, B = 1.
        y: observations, (B, 1, H, W).
        m: masks, (B, 1, H, W), 1 = observed.
    """
    y, seen = y.double().flatten(1)[:, None], (m > 0).flatten(1)[:, None]  # (B, 1, n)
    mean, C = field.means, field.covariances  # (1, K, n), (1, K, n, n)
    residual = torch.where(seen, y - mean, 0)  # (B, K, n)
    # C[o, o] in place, the identity for what is missing: one matrix size for all masks
    pair = seen[..., :, None] & seen[..., None, :]  # (B, 1, n, n)
    unseen = torch.diag_embed((~seen).double())
    root = torch.linalg.cholesky(torch.where(pair, C, 0) + unseen)  # (B, K, n, n)
    to_seen = torch.where(seen[..., None, :], C, 0)  # C[:, o], (B, K, n, n)
    gain = torch.cholesky_solve(to_seen.mT, root).mT  # C[:, o] C[o, o]^-1
    means = mean + torch.einsum("bkij,bkj->bki", gain, residual)
    covariances = C - gain @ to_seen.mT
    log_density = _log_density(residual[..., None], root)[..., 0]  # (B, K)
    weights = torch.softmax(field.weights.log() + log_density, dim=1)
    unknown = ~seen  # what is observed has no spread, not even of rounding
    means = torch.where(seen, y, means)
    covariances = covariances * (unknown[..., :, None] & unknown[..., None, :])
    return Mixture(field.shape, weights, means, covariances, unknown[:, 0])


def _log_density(off: Tensor, root: Tensor) -> Tensor:
    """Of S normal vectors ``off`` (..., n, S) around 0, but for 2 pi, which cancels; (..., S)."""
    white = torch.linalg.solve_triangular(root, off, upper=False)
    log_determinant = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum(-2) - log_determinant[..., None]


def distances_to_posterior(
    samples: Tensor, x: Tensor, exact: Mixture, generator: torch.Generator
) -> dict[str, Tensor]:
    """How far samples of a model are from the exact posterior, (B,) each.

    Everything is over missing entries and, but for the scores, in units of their posterior
    standard deviation. Each has beside it (``exact_...``) what as many samples of the posterior
    itself get: that is the least that can be reached.

    Args:
        samples: (S, B, 1, H, W).
        x: the true fields, (B, 1, H, W).
        exact: their posteriors.
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
    samples: Tensor, x: Tensor, exact: Mixture, own: Tensor, directions: Tensor
) -> dict[str, Tensor]:
    missing, of_images = exact.missing, exact.missing.view_as(x)  # (B, n)
    free, C = missing.sum(dim=1), exact.covariance  # (B,), (B, n, n)
    unit = torch.where(missing, C.diagonal(dim1=-2, dim2=-1).sqrt(), 1)  # (B, n)

    def in_units(s: Tensor) -> Tensor:  # (S, B, n), 0 where observed
        return torch.where(missing, (s.flatten(2) - exact.mean) / unit, 0)

    s, t = in_units(samples), in_units(own)
    mean = s.mean(dim=0)  # (B, n)
    covariance = torch.einsum("sbi,sbj->bij", s - mean, s - mean) / (len(s) - 1)
    truth = C / (unit[:, :, None] * unit[:, None, :])
    result = {
        "mean": (mean.square().sum(1) / free).sqrt(),
        "covariance": (covariance - truth).norm(dim=(1, 2)) / truth.norm(dim=(1, 2)),
        "variance": covariance.diagonal(dim1=-2, dim2=-1).sum(1) / free,
        "wasserstein": sliced_wasserstein(s, t, missing, directions),
        "energy": energy_score(samples, x, of_images),
        **{f"coverage_{100 * p:.0f}": coverage(samples, x, of_images, p) for p in LEVELS},
    }
    if exact.means.shape[1] == 2:
        off = samples.flatten(2).permute(1, 2, 0)[:, None] - exact.means[..., None]  # (B, 2, n, S)
        off = torch.where(missing[:, None, :, None], off, 0)
        log_density = exact.weights.log()[..., None] + _log_density(off, exact.roots)  # (B, 2, S)
        share_of_first = torch.softmax(log_density, dim=1)[:, 0].mean(dim=1)
        result["modes"] = (share_of_first - exact.weights[:, 0]).abs()
    return result


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
