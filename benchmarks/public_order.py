"""The step as the paper's public code orders it, on our networks, to be timed beside ours.

Every quantity is computed for D's phase and computed again for G's, from fresh masks and codes; the
masks are drawn in numpy, image by image, and copied to the device; spectral norms are computed at
every use. Networks, losses and Adam are ours. (That code itself cannot run as published.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperlib.core.algorithm1 import Algorithm1, Batch
from paperlib.core.corruption import MaskLaw, Patch


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

    def __init__(self, config: Any, nets: Any, p_m: Patch, adam: Any) -> None:
        super().__init__(config, nets, MasksOneByOne(p_m, config.seed), adam)

    def step(self, batches: Sequence[Batch], generator: torch.Generator) -> dict[str, Tensor]:
        """One update of D, then one of G and E, over ``accumulate`` batches each."""
        for name, loss_of in (
            ("optimizer_d", self.discriminator_loss),
            ("optimizer_g", self.generator_loss),
        ):
            optimizer = self.optimizers[name]
            optimizer.zero_grad(set_to_none=True)
            for batch in batches:
                loss, _ = loss_of(self.forward(*batch, generator=generator))
                (loss / len(batches)).backward()
            optimizer.step()
        return {}
