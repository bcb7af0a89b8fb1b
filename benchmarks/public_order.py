"""The step as the paper's public code orders it, on our networks, to be timed beside ours.

Every quantity is computed for D's phase and computed again for G's, from fresh masks and codes; the
masks are drawn in numpy, image by image, and copied to the device; spectral norms are computed at
every use. Networks, losses and Adam are ours. (That code itself cannot run as published.)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from paperlib.algorithm1 import Algorithm1, forward
from paperlib.config import RunConfig
from paperlib.corruption import MaskLaw, Patch


class MasksOneByOne(MaskLaw):
    """Patch(n, k), drawn in numpy."""

    def __init__(self, law: Patch, seed: int) -> None:
        self.law, self.rng = law, np.random.default_rng(seed)

    def interior_border(self, size: int) -> int:
        return self.law.interior_border(size)

    def sample(
        self, n: int, size: int, generator: torch.Generator, own: Tensor | None = None
    ) -> Tensor:
        masks = np.stack([self._one(size) for _ in range(n)])  # (n, size, size)
        return torch.from_numpy(masks)[:, None].to(generator.device)

    def _one(self, size: int) -> np.ndarray:
        k, border = self.law.pixels_at(size)
        mask = np.zeros((size, size), np.float32)
        for _ in range(self.law.n):
            top, left = self.rng.integers(border, size - border - k + 1, 2)
            mask[top : top + k, left : left + k] = 1
        return mask


class PublicOrder(Algorithm1):
    """Algorithm 1 in the order of the public code; for the patch corruptions."""

    def __init__(self, config: RunConfig, device: torch.device | str = "cpu") -> None:
        super().__init__(config, device)
        self.p_m = MasksOneByOne(self.p_m, config.seed)

    def step(self, batches: Iterator[tuple[Tensor, ...]], generator: torch.Generator) -> None:
        """One update of D, then one of G and E, over ``accumulate`` batches."""
        for optimizer, loss_of in (
            (self.optimizer_d, self.discriminator_loss),
            (self.optimizer_g, self.generator_loss),
        ):
            optimizer.zero_grad(set_to_none=True)
            for _ in range(self.config.accumulate):
                p = forward(self.nets, *next(batches), self.p_m, generator, self.config)
                loss, _ = loss_of(p)
                (loss / self.config.accumulate).backward()
            optimizer.step()
