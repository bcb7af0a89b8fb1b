"""What each kind of method may see of a prepared data set, in endless batches.

Unsupervised training sees ``Observations`` (y, m) only, and evaluation ``CompleteImages`` (x, m).
The supervised baselines have data sets of their own, whose names say what they show.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperlib import seeds
from paperlib.config import EvaluationConfig
from paperlib.core.corruption import ComputedMasks, MaskLaw, corrupt, mask_law
from paperlib.data.prepare import Prepared, load_prepared
from paperlib.errors import DataError

ALL = slice(None)
TOGETHER = "dataset incomplete goes with corruption observed alone, and not with complete images"


class ObservedMasks(MaskLaw):
    """The empirical law of masks that were really observed, where p_M is not known.

    A fresh mask is that of another image, never the image's own.

    Args:
        masks: (N, 1, H, W) bool, True = observed; DataError where all are equal.
        flips: flip each mask left to right and top to bottom with probability 1/2.
    """

    def __init__(self, masks: Tensor, flips: bool = False) -> None:
        if (masks == masks[:1]).all():
            raise DataError("dataset incomplete: all masks are equal: at least two must differ")
        self.masks, self.flips = masks, flips

    def sample(
        self, n: int, size: int, generator: torch.Generator, own: Tensor | None = None
    ) -> Tensor:
        random: Any = {"generator": generator, "device": generator.device}
        self.masks = self.masks.to(generator.device)
        rows = torch.randint(len(self.masks), (n,), **random)
        if own is not None:
            while (same := (self.masks[rows] == (own > 0)).flatten(1).all(1)).any():  # (n,)
                rows = torch.where(same, torch.randint(len(self.masks), (n,), **random), rows)
        masks = self.masks[rows]  # (n, 1, H, W)
        if self.flips:
            across, down = torch.rand(2, n, 1, 1, 1, **random) < 0.5
            masks = torch.where(across, masks.flip(3), masks)
            masks = torch.where(down, masks.flip(2), masks)
        return masks.float()


def law_of(config: EvaluationConfig) -> MaskLaw:
    """p_M: a named law, or for ``observed`` that of the training images' masks.

    Raises:
        DataError: ``observed`` on a data set of complete images, or all its masks are equal.
    """
    if config.corruption != "observed":
        return mask_law(config.corruption)
    data = load_prepared(config.data)
    if (masks := data.masks()) is None:
        raise DataError(f"{data.folder} holds complete images: {TOGETHER}")
    rows = torch.from_numpy(masks[data.indices("training")]).unsqueeze(1)
    return ObservedMasks(rows, config.mask_flips)


class Batches:
    """A split ("training", "validation" or "test") in batches, which ``device`` makes; a base class.

    Each image is corrupted once: its mask, drawn by ``law``, is a pure function of (mask_seed, image
    id), or is stored with it where it is really incomplete.

    Raises:
        DataError: the law is not that of the images' masks, or they are to be complete.
    """

    def __init__(
        self, data: Prepared, split: str, law: MaskLaw, mask_seed: int, device: torch.device | str
    ) -> None:
        masks, is_computed = data.masks(), isinstance(law, ComputedMasks)
        is_shown_whole = not isinstance(self, Observations)
        if is_computed != (masks is None) or (masks is not None and is_shown_whole):
            raise DataError(f"{data.folder}: {TOGETHER}")
        self._rows, self._law, self._mask_seed = data.indices(split), law, mask_seed
        self._device = torch.device(device)
        self._arrays = [data.images(), data.mask_ids() if masks is None else masks]
        self._kept: list[Tensor] = []
        self.nbytes = len(self._rows) * sum(array[0].nbytes for array in self._arrays)

    def __len__(self) -> int:
        return len(self._rows)

    def keep_on_device(self) -> None:
        """Keep the ``nbytes`` of the split on the device; else it is read batch by batch."""
        self._kept = [self._read(array, self._rows) for array in self._arrays]

    def _read(self, array: np.ndarray, rows: np.ndarray) -> Tensor:
        """Rows of an array on the device; to a GPU by pinned memory, without waiting for it."""
        read = torch.from_numpy(array[rows])
        if self._device.type == "cuda":
            read = read.pin_memory()
        return read.to(self._device, non_blocking=True)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """What is shown of the B images in ``rows`` of the split."""
        raise NotImplementedError

    def batches(
        self, batch_size: int, seed: int, start: int = 0, own: slice = ALL
    ) -> Iterator[tuple[Tensor, ...]]:
        """Endless batches from number ``start`` on; every row once per epoch; of each, rows ``own``.

        Batch k is a pure function of (seed, k), so that training resumes where it stopped.
        """
        epoch, seen = divmod(start * batch_size, len(self))
        order = np.empty(0, np.int64)  # of the rows, from the current epoch on
        while True:
            while len(order) < seen + batch_size:  # a batch may span epochs
                rng = np.random.default_rng(seeds.fold(seed, "epoch", epoch))
                order, epoch = np.append(order, rng.permutation(len(self))), epoch + 1
            yield self.batch(order[seen : seen + batch_size][own])
            order, seen = order[seen + batch_size :], 0

    def _complete(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) in [-1, 1], 0 where it is really missing, and m (B, 1, H, W)."""
        if self._kept:
            places = torch.tensor(rows, device=self._device)
            levels, masks = (array[places] for array in self._kept)
        else:
            levels, masks = (self._read(array, self._rows[rows]) for array in self._arrays)
        x = (levels.float() / 127.5 - 1).permute(0, 3, 1, 2)  # channels_last already
        if not isinstance(self._law, ComputedMasks):
            return x, masks.float().unsqueeze(1)
        return x, self._law.for_ids(masks, x.shape[-1], self._mask_seed, self._device)


class Observations(Batches):
    """What unsupervised training sees, never a complete image: y (B, C, H, W) in [-1, 1], 0 where
    missing, and m (B, 1, H, W)."""

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        x, m = self._complete(rows)
        return corrupt(x, m), m


class CompleteImages(Batches):
    """Complete images and their masks (x, m), for evaluation (and for no unsupervised training)."""

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        return self._complete(rows)


class PairedCompleteImages(Batches):
    """SUPERVISED (Paired): observations, each with the image that it was made from: (y, m, x)."""

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        x, m = self._complete(rows)
        return corrupt(x, m), m, x


class UnpairedCompleteImages(Batches):
    """SUPERVISED (Unpaired): observations y, m of rows 0, 2, 4, ..., and the complete images x of
    rows 1, 3, 5, ... of the split: no image is seen both ways."""

    def __len__(self) -> int:
        return super().__len__() // 2

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        x, m = self._complete(2 * rows)
        return corrupt(x, m), m, self._complete(2 * rows + 1)[0]


DATA_SETS: dict[str, type[Batches]] = {  # by what a method learns from
    "observations": Observations,
    "paired": PairedCompleteImages,
    "unpaired": UnpairedCompleteImages,
}
