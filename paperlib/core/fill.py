"""The smooth guess that G may start from; not in the paper (README, our own additions)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def pyramid_fill(y: Tensor, m: Tensor, trust: float = 0.02, sweeps: int = 0) -> Tensor:
    """A smooth guess of the missing pixels, without parameters: pull-push on a Gaussian pyramid.

    Observed values and the mask are both halved in size with the binomial filter (1, 3, 3, 1),
    level by level; then, from the coarsest level on, the weighted mean of what was observed near
    a pixel is mixed with the coarser guess, which counts as ``trust`` observed pixels (Gortler et
    al., The Lumigraph, 1996).

    So many ``sweeps`` relax each level towards the biharmonic equation: slopes then go on into a hole,
    where pull-push alone flattens. From coarse to fine few are needed (a cascadic multigrid,
    Bornemann and Deuflhard 1996).

    Observations y (B, C, H, W), 0 where missing, and masks m (B, 1, H, W), 1 = observed, give
    (B, C, H, W).
    """
    taps = torch.full((4,), 3 / 8, device=y.device)
    taps[::3] = 1 / 8  # made there: nothing waits for a copy
    levels = [torch.cat([y, m], dim=1)]  # (B, C + 1, H, W): values times weights, weights
    kernel = torch.outer(taps, taps).expand(levels[0].shape[1], 1, 4, 4)
    while levels[-1].shape[-1] > 2 and levels[-1].shape[-1] % 2 == 0:
        finer = levels[-1]
        levels.append(F.conv2d(finer, kernel, stride=2, padding=1, groups=finer.shape[1]))
    guess = torch.zeros_like(levels[-1][:, :-1])
    for level in reversed(levels):
        if guess.shape[-1] < level.shape[-1]:
            guess = F.interpolate(guess, scale_factor=2, mode="bilinear")
        values, weights = level[:, :-1], level[:, -1:]
        guess = (values + trust * guess) / (weights + trust)
        for step in relaxation_steps(sweeps):
            guess = guess - step * laplacian(laplacian(guess))
            guess = (values + trust * guess) / (weights + trust)
    return guess


def relaxation_steps(sweeps: int, steepest: float = 64.0, flattest: float = 0.3) -> list[float]:
    """Chebyshev's steps, small and large in turn, of so many relaxations by the squared Laplacian.

    ``steepest`` is its largest eigenvalue, 8 squared, ``flattest`` the smallest that still matters:
    smoother errors are the coarser level's to mend.
    """
    middle, half = (steepest + flattest) / 2, (steepest - flattest) / 2
    roots = [middle + half * math.cos(math.pi * (k + 0.5) / sweeps) for k in range(sweeps)]
    pairs = zip(roots[: (sweeps + 1) // 2], reversed(roots), strict=False)  # descending, ascending
    return [1 / root for pair in pairs for root in pair][:sweeps]


def laplacian(u: Tensor) -> Tensor:
    """Sum of the differences to the four neighbours, (B, C, H, W); the border goes on level."""
    p = F.pad(u, (1, 1, 1, 1), mode="replicate")
    beside = p[..., 1:-1, :-2] + p[..., 1:-1, 2:]
    return p[..., :-2, 1:-1] + p[..., 2:, 1:-1] + beside - 4 * u
