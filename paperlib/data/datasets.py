"""What each kind of method may see of a prepared data set, in endless batches.

Unsupervised training sees ``Observations`` (y, m) only, and evaluation ``CompleteImages`` (x, m).
The supervised baselines have data sets of their own, whose names say what they show.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from paperlib import seeds
from paperlib.config import EvaluationConfig
from paperlib.core.corruption import ComputedMasks, MaskLaw, corrupt, mask_law
from paperlib.data.observed_masks import ObservedMasks
from paperlib.data.prepare import Prepared, load_prepared
from paperlib.errors import DataError

ALL = slice(None)
TOGETHER = (
    "corruption observed and dataset incomplete go together, and evaluation and the methods paired "
    "and unpaired need complete images"
)


def law_of(config: EvaluationConfig) -> MaskLaw:
    """p_M: a named law, or for ``observed`` the empirical one of the training images' masks.

    Raises:
        DataError: ``observed`` on a data set of complete images, or its masks are all equal.
    """
    if config.corruption != "observed":
        return mask_law(config.corruption)
    data = load_prepared(config.data)
    if (masks := data.masks()) is None:
        raise DataError(f"{data.folder} holds complete images: {TOGETHER}")
    try:
        rows = torch.from_numpy(masks[data.indices("training")]).unsqueeze(1)
        return ObservedMasks(rows, config.mask_flips, config.mask_shift)
    except ValueError as error:
        raise DataError(f"{data.folder}: {error}") from None


class Batches:
    """A split, whose ``batch(rows)`` gives its rows; a base class.

    Each image is corrupted once: its mask is a pure function of (mask_seed, image id), or is stored
    with it where it is really incomplete.

    Args:
        data, split: the images; "training", "validation" or "test".
        law, mask_seed: p_M and the seed by which masks are drawn.
        device: where batches are made.
        resident: keep the split on the device; else it is read batch by batch.

    Raises:
        DataError: the law is not that of the images' masks, or they are to be complete.
    """

    _needs_complete = True

    def __init__(
        self,
        data: Prepared,
        split: str,
        law: MaskLaw,
        mask_seed: int,
        device: torch.device | str,
        resident: bool = False,
    ) -> None:
        masks = data.masks()
        is_incomplete = masks is not None
        if (
            is_incomplete == isinstance(law, ComputedMasks)
            or is_incomplete
            and self._needs_complete
        ):
            raise DataError(f"{data.folder}: {TOGETHER}")
        self._rows, self._law, self._mask_seed = data.indices(split), law, mask_seed
        self._device = torch.device(device)
        self._arrays = [data.images(), data.mask_ids() if masks is None else masks]
        self.nbytes = len(self._rows) * sum(array[0].nbytes for array in self._arrays)
        self._resident: list[Tensor] = []
        if resident:
            self._resident = [self._upload(array[self._rows]) for array in self._arrays]

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) in [-1, 1] and masks (B, 1, H, W) of rows of the split."""
        raise NotImplementedError

    def batches(
        self, batch_size: int, seed: int, start: int = 0, own: slice = ALL
    ) -> Iterator[tuple[Tensor, ...]]:
        """Endless batches from number ``start`` on; every row once per epoch; of each, rows ``own``.

        Batch k is a pure function of (seed, k), so that training resumes where it stopped.
        """
        for rows in _order(len(self), batch_size, seed, start):
            yield self.batch(rows[own])

    def _complete(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) in [-1, 1], 0 where it is really missing, and m (B, 1, H, W)."""
        if self._resident:
            places = self._upload(rows)
            levels, masks = (array[places] for array in self._resident)
        else:
            levels, masks = (self._upload(array[self._rows[rows]]) for array in self._arrays)
        x = (levels.float() / 127.5 - 1).permute(0, 3, 1, 2)  # channels_last already
        if not isinstance(self._law, ComputedMasks):
            return x, masks.float().unsqueeze(1)
        return x, self._law.for_ids(masks, x.shape[-1], self._mask_seed, self._device)

    def _upload(self, array: np.ndarray) -> Tensor:
        """To the device; to a GPU by pinned memory, without waiting for it."""
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def _order(count: int, batch_size: int, seed: int, start: int) -> Iterator[np.ndarray]:
    """Rows (batch_size,) of batch ``start``, ``start`` + 1, ...; a batch may span epochs."""
    epoch, seen = divmod(start * batch_size, count)
    shuffled = (
        np.random.default_rng(seeds.fold(seed, "epoch", e)).permutation(count)
        for e in itertools.count(epoch)
    )
    rows = itertools.islice(itertools.chain.from_iterable(shuffled), seen, None)
    while True:
        yield np.fromiter(itertools.islice(rows, batch_size), np.int64, batch_size)


class Observations(Batches):
    """What unsupervised training sees: observations and masks, never a complete image."""

    _needs_complete = False

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """y (B, C, H, W) in [-1, 1], 0 where missing, and m (B, 1, H, W)."""
        x, m = self._complete(rows)
        return corrupt(x, m), m


class CompleteImages(Batches):
    """Complete images and their masks, for evaluation (and for no unsupervised training)."""

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) in [-1, 1] and m (B, 1, H, W)."""
        return self._complete(rows)


class PairedCompleteImages(Batches):
    """SUPERVISED: observations, each with the complete image that it was made from (Paired)."""

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """y, m and x, (B, C, H, W), (B, 1, H, W), (B, C, H, W)."""
        x, m = self._complete(rows)
        return corrupt(x, m), m, x


class UnpairedCompleteImages(Batches):
    """SUPERVISED: observations of one half of the split, complete images of the other (Unpaired).

    No image is seen both ways: rows 0, 2, 4, ... are observed, rows 1, 3, 5, ... complete.
    """

    def __len__(self) -> int:
        return super().__len__() // 2

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """y and m of the images 2 * rows of the split, and the complete images 2 * rows + 1."""
        x, m = self._complete(2 * rows)
        return corrupt(x, m), m, self._complete(2 * rows + 1)[0]


DATA_SETS: dict[str, type[Batches]] = {
    "observations": Observations,
    "paired": PairedCompleteImages,
    "unpaired": UnpairedCompleteImages,
}
"""By what a method learns from."""
