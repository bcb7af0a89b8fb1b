"""p_M where it is not known: the empirical distribution of masks that were really observed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paperlib.core.corruption import MaskLaw


class ObservedMasks(MaskLaw):
    """A fresh mask is that of another image, never the image's own, then perhaps flipped and moved.

    Args:
        masks: (N, 1, H, W) bool, True = observed; at least two that differ.
        flips: flip each mask left to right and top to bottom with probability 1/2.
        shift: move each mask by up to so many pixels, around the edges.

    Raises:
        ValueError: all masks are equal: there is no other one to draw.
    """

    def __init__(self, masks: Tensor, flips: bool = False, shift: int = 0) -> None:
        if (masks == masks[:1]).all():
            raise ValueError("all masks are equal: to draw another one, at least two must differ")
        self.masks, self.flips, self.shift = masks, flips, shift

    def sample(
        self, n: int, size: int, generator: torch.Generator, own: Tensor | None = None
    ) -> Tensor:
        if self.masks.shape[-1] != size:
            raise ValueError(f"masks of {self.masks.shape[-1]} px for images of {size} px")
        random: Any = {"generator": generator, "device": generator.device}
        self.masks = self.masks.to(generator.device)
        rows = torch.randint(len(self.masks), (n,), **random)
        while own is not None:
            same = (self.masks[rows] == (own > 0)).flatten(1).all(1)  # (n,)
            if not same.any():
                break
            rows = torch.where(same, torch.randint(len(self.masks), (n,), **random), rows)
        masks = self.masks[rows]  # (n, 1, H, W)
        if self.flips:
            across, down = torch.rand(2, n, 1, 1, 1, **random) < 0.5
            masks = torch.where(across, masks.flip(3), masks)
            masks = torch.where(down, masks.flip(2), masks)
        if self.shift:
            dy, dx = torch.randint(-self.shift, self.shift + 1, (2, n, 1, 1, 1), **random)
            place = torch.arange(size, device=generator.device)
            rows_from = ((place.view(1, 1, -1, 1) + dy) % size).expand_as(masks)
            columns_from = ((place.view(1, 1, 1, -1) + dx) % size).expand_as(masks)
            masks = masks.gather(2, rows_from).gather(3, columns_from)
        return masks.float()

    def interior_border(self, size: int) -> int:
        """0: what no mask observes need not be a border."""
        return 0
