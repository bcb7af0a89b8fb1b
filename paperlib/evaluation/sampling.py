"""Reconstructions of observations with a trained generator (paper, figure 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperlib import seeds
from paperlib.core.corruption import composite

Reconstruct = Callable[[Tensor, Tensor, np.ndarray], tuple[Tensor, Tensor]]
"""(y, m, row numbers) -> samples of x~ (samples, B, 3, H, W), and x~ with z unused (B, 3, H, W)."""


def latents(
    rows: Iterable[int], samples: int, nz: int, seed: int, device: torch.device | str = "cpu"
) -> Tensor:
    """z ~ N(0, I), (samples, B, nz), a function of the seed and the images' numbers ``rows`` alone."""
    draws = [torch.randn(samples, nz, generator=seeds.generator(seed, "z", int(r))) for r in rows]
    return torch.stack(draws, dim=1).to(device)


@torch.inference_mode()
def reconstruct(G: Any, y: Tensor, m: Tensor, z: Tensor) -> Tensor:
    """Plausible complete images x~ = G(y, z) * (1 - m) + y, one for each z (equation 4).

    Observations y (B, 3, H, W) in [-1, 1], 0 where missing, their masks m (B, 1, H, W), and
    z (samples, B, nz), where zeros leave it unused, give (samples, B, 3, H, W). Observed pixels
    equal those of ``y`` to the bit. G is in evaluation mode.
    """
    return torch.stack([composite(G(y, m, code), y, m) for code in z])


def sampler(G: Any, samples: int, seed: int) -> Reconstruct:
    """Reconstructions with ``samples`` z an image, as functions of (seed, row number)."""

    def sample(y: Tensor, m: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        z = latents(rows, samples, G.nz, seed, y.device)
        return reconstruct(G, y, m, z), reconstruct(G, y, m, torch.zeros_like(z[:1]))[0]

    return sample


def deterministic(fill: Callable[[Tensor, Tensor], Tensor]) -> Reconstruct:
    """What has no z, (y, m) -> (B, 3, H, W), as two equal samples, so that its std is 0."""

    @torch.inference_mode()
    def same(y: Tensor, m: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        filled = fill(y, m)
        return filled.expand(2, *filled.shape), filled

    return same
