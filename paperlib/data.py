"""Prepared data sets: decoded once into a memory-mapped array, split, and corrupted once.

``prepare`` writes a folder ``data/NAME/``. What it holds in memory does not grow with the images
but for some 30 bytes of row numbers each, so that millions may come:

    images.npy     (N, size, size, 3) uint8, or as many bands as the images have
    masks.npy      (N, size, size) bool, True = observed; of really incomplete images only
    ids.txt        the images' ids, one a line, in the order of the rows
    mask_ids.npy   (N,) int64, the numbers by which their masks are drawn
    splits.npz     row numbers, int64: training, validation, test
    manifest.json  what was asked for, the count, the checksum, and what was left out and why

After that, unsupervised training sees ``Observations`` (y, m) only, and evaluation
``CompleteImages`` (x, m). The supervised baselines have data sets of their own, whose names say
what they show.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from paperlib import paths, seeds
from paperlib.acceleration import keeps_resident, to_device
from paperlib.config import DataConfig, EvaluationConfig
from paperlib.corruption import ComputedMasks, MaskLaw, ObservedMasks, corrupt, mask_law
from paperlib.files import folder_atomically
from paperlib.image_source import NothingObserved
from paperlib.names import Names
from paperlib.progress import Progress
from paperlib.sources import BlueMarble, DataError, Source, open_source

SPLITS = ("training", "validation", "test")
TOLERATED_FAILURES = 0.01  # share of images that may fail to decode
FORMAT = 2  # of what prepare writes; data sets of another format are prepared again
REGION = 12  # tiles a side of the regions that Blue Marble is split by
NEEDED = {"request", "count", "checksum", "failed"}  # in a manifest
ALL = slice(None)
SHOWN = 20  # images left out that are printed; the manifest has them all


Decoded = np.ndarray | tuple[np.ndarray, np.ndarray] | str | None
"""An image, with what of it was observed where it is incomplete; what is wrong; or nothing seen."""


@dataclass(frozen=True)
class Prepared:
    """A prepared data set on disk.

    ``manifest`` is manifest.json and, of the files beside it, "ids" (``Names``, which stay on disk)
    and "splits" (name to row numbers).
    """

    folder: Path
    manifest: dict

    @property
    def checksum(self) -> str:
        """SHA-256 over the images and over which split each belongs to."""
        return self.manifest["checksum"]

    def computed_checksum(self) -> str:
        """The same, computed anew from the files."""
        return _checksum(self.folder / "images.npy", self.manifest["splits"])

    def images(self) -> np.ndarray:
        """(N, size, size, 3) uint8, memory-mapped, read-only."""
        return self._load("images.npy", mmap_mode="r")

    def masks(self) -> np.ndarray | None:
        """(N, size, size) bool, True = observed, memory-mapped; None where images are complete."""
        there = (self.folder / "masks.npy").is_file()
        return self._load("masks.npy", mmap_mode="r") if there else None

    def indices(self, split: str) -> np.ndarray:
        """Row numbers of the images of "training", "validation" or "test"."""
        indices = self.manifest["splits"][split]
        if not len(indices):
            raise DataError(f"the {split} split of {self.folder} is empty: set '{split}' above 0")
        return indices

    def mask_ids(self) -> np.ndarray:
        """(N,) int64: the number by which an image's mask is drawn, a function of its id alone."""
        return self._load("mask_ids.npy")

    def _load(self, name: str, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
        try:
            return np.load(self.folder / name, mmap_mode=mmap_mode)
        except (FileNotFoundError, EOFError, ValueError):
            fault = "damaged" if (self.folder / name).is_file() else "missing"
            raise DataError(
                f"{self.folder / name} is {fault}: delete {self.folder} and prepare it again"
            ) from None


def prepare(config: DataConfig, strict: bool = False, workers: int | None = None) -> Prepared:
    """Decode, crop, split and store a data set; do nothing if that has been done.

    Args:
        config: the data set, its size and its split.
        strict: stop if any image fails to decode, not only if more than 1 % do.
        workers: decoding threads; the number of cores by default.

    Raises:
        DataError: the source is missing or has no images, or too many of them fail; the message
            names the first ones. What was prepared before stays as it was.
        DiskFull: likewise, where there is no room.
    """
    with closing(open_source(config)) as source:
        request = {
            "format": FORMAT,
            "config": config.model_dump(),
            "source": source.fingerprint(),
            "crop": source.crop,
        }
        folder = paths.DATA / config.folder
        known = _read_manifest(folder) if (folder / "manifest.json").is_file() else {}
        if known.get("request") != request:
            _prepare(config, source, request, strict, workers)
        elif strict and known["failed"]:
            total = known["count"] + len(known["failed"])
            raise DataError(_failure_message(config, known["failed"], total))
    return load_prepared(config)


def _prepare(
    config: DataConfig, source: Source, request: dict, strict: bool, workers: int | None
) -> None:
    """Make the folder of the data set, at once and whole."""
    folder = paths.DATA / config.folder
    with folder_atomically(folder) as draft:
        # Read first: its faults are to be found before the images are decoded, not after.
        partition = source.official() if config.split == "official" else None
        tolerated = 0 if strict else TOLERATED_FAILURES
        count, failed = _decode_all(config, source, draft, tolerated, workers)
        if source.masked and count and np.load(draft / "masks.npy", mmap_mode="r").all():
            raise DataError(
                f"{config.dataset}: no pixel is missing in any of {count} images: nothing says how "
                "to mask; check 'missing' and 'missing_value', or use the data set 'folder'"
            )
        ids = Names(draft / "ids.txt")
        if partition is not None:
            kept = np.fromiter((i not in failed for i in source.ids), bool, len(partition))
            splits = _split_officially(config, partition[kept])
        else:
            splits = _split(config, source, ids)
        # NumPy's stub takes the arrays for its one keyword, allow_pickle
        np.savez(draft / "splits.npz", **splits)  # type: ignore[arg-type]
        numbers = np.fromiter((seeds.fold("image", i) for i in ids), np.int64, count)
        np.save(draft / "mask_ids.npy", numbers)
        manifest = {
            "request": request,
            "count": count,
            "checksum": _checksum(draft / "images.npy", splits),
            "failed": failed,
            "left_out": len(source.ids) - count - len(failed),  # nothing of them is observed
        }
        if source.masked:
            manifest["limits"] = source.limits
        (draft / "manifest.json").write_text(json.dumps(manifest))
    if failed:
        total = count + len(failed)
        print(f"{config.folder}: left out {len(failed)} of {total} images that cannot be used:")
        for name, reason in itertools.islice(failed.items(), SHOWN):
            print(f"  {name}: {reason}")
        if len(failed) > SHOWN:
            print(f"  and {len(failed) - SHOWN} more: see {folder / 'manifest.json'}")


def load_prepared(config: DataConfig) -> Prepared:
    """The prepared data set; DataError says how to prepare it where it is missing."""
    folder = paths.DATA / config.folder
    manifest = _read_manifest(folder)
    if manifest["request"].get("format") != FORMAT:
        raise DataError(
            f"{folder} was prepared by another version: run 'python -m paperlib prepare' or "
            "notebook 01"
        )
    try:
        with np.load(folder / "splits.npz") as file:
            splits = {name: file[name] for name in SPLITS}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        raise DataError(
            f"{folder / 'splits.npz'} is damaged: delete {folder} and prepare it again"
        ) from None
    return Prepared(folder, manifest | {"splits": splits, "ids": Names(folder / "ids.txt")})


def _read_manifest(folder: Path) -> dict:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not manifest.keys() >= NEEDED:
            raise ValueError("no manifest")
        if not isinstance(manifest["request"], dict):
            raise ValueError("no request")
        return manifest
    except FileNotFoundError:
        raise DataError(
            f"{folder} is not prepared: run 'python -m paperlib prepare' or notebook 01"
        ) from None
    except (ValueError, RecursionError):
        raise DataError(
            f"{folder / 'manifest.json'} is damaged: delete {folder} and prepare it again"
        ) from None


def _decode_all(
    config: DataConfig, source: Source, draft: Path, tolerated: float, workers: int | None
) -> tuple[int, dict[str, str]]:
    """Write the images that can be decoded, and their ids, in order, one after the other.

    Returns:
        Their number, and the others' ids and faults.

    Raises:
        DataError: more than the share ``tolerated`` of all images fail; or an id is no line.
    """

    def read(image_id: str) -> Decoded:
        try:
            return source.read(image_id)
        except NothingObserved:
            return None
        except Exception as error:  # decoders raise nearly anything on damaged files
            return " ".join(str(error).split()) or type(error).__name__

    def read_several(image_ids: list[str]) -> list[Decoded]:
        return [read(image_id) for image_id in image_ids]

    names, count, failed = source.ids, 0, {}
    total = len(names)
    shape = (config.size, config.size, config.bands)
    window = max(1, min(1024, 2**27 // math.prod(shape)))  # images that may wait to be written
    workers = workers or os.cpu_count() or 1
    # Handed to a thread at once, for each hand-over costs; and tiles of one file stay together
    several = max(1, min(8, window // (4 * workers)))
    with (
        closing(Progress(total, f"decoding {total} images", images=1)) as progress,
        ThreadPoolExecutor(workers) as pool,
        (draft / "images.npy").open("wb") as images,
        (draft / "masks.npy").open("wb") as masks,
        (draft / "ids.txt").open("w", encoding="utf-8", newline="\n") as ids,
    ):
        images.write(_npy_header("|u1", total, *shape))
        masks.write(_npy_header("|b1", total, *shape[:2]))
        for batch in _batched(names, window):
            for image_id in batch:
                _refuse_what_is_no_line(config, image_id)
            done = itertools.chain.from_iterable(pool.map(read_several, _batched(batch, several)))
            for image_id, image in zip(batch, done, strict=True):
                if image is None:
                    pass
                elif isinstance(image, str):
                    failed[image_id] = image
                else:
                    if isinstance(image, tuple):  # of a masked source
                        image, observed = image
                        masks.write(observed.tobytes())
                    images.write(image.tobytes())
                    ids.write(f"{image_id}\n")
                    count += 1
            progress.update(len(batch))
            if len(failed) > tolerated * total:  # and so it ends: hours may be left otherwise
                seen = count + len(failed)
                raise DataError(_failure_message(config, failed, seen, seen < total))
        images.seek(0)
        images.write(_npy_header("|u1", count, *shape))
        masks.seek(0)
        masks.write(_npy_header("|b1", count, *shape[:2]))
    if not source.masked:
        (draft / "masks.npy").unlink()
    return count, failed


def _npy_header(dtype: str, *shape: int) -> bytes:
    """Of an array of single bytes. NumPy pads it so that its length does not depend on shape[0]."""
    header = io.BytesIO()
    what = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, what)
    return header.getvalue()


def _batched(names: Iterable[str], size: int) -> Iterator[list[str]]:
    names = iter(names)
    while batch := list(itertools.islice(names, size)):
        yield batch


def _refuse_what_is_no_line(config: DataConfig, image_id: str) -> None:
    try:
        image_id.encode()
        fault = "a line break" if "\n" in image_id else None
    except UnicodeEncodeError:
        fault = "bytes that are not UTF-8"
    if fault:
        raise DataError(f"{config.dataset}: {fault} in the name of {image_id!r}: rename it")


def _failure_message(
    config: DataConfig, failed: dict[str, str], total: int, early: bool = False
) -> str:
    firsts: dict[
        tuple[str, str], str
    ] = {}  # of the tiles of a file, "NAME#top,left", one is enough
    for image_id, reason in failed.items():
        firsts.setdefault((image_id.partition("#")[0], reason), f"{image_id}: {reason}")
    first = "; ".join(itertools.islice(firsts.values(), 3))
    of = f"the first {total}" if early else total
    return (
        f"{config.dataset}: {len(failed)} of {of} images cannot be used ({first}): mend them, or take "
        "them out"
    )


def _checksum(images: Path, splits: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for piece in _as_json(splits):
        digest.update(piece.encode())
    for path in (images, images.with_name("masks.npy")):
        if path.is_file():
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def _as_json(splits: dict[str, np.ndarray]) -> Iterator[str]:
    """json.dumps of the splits as lists, in pieces: a list of millions would fill the memory."""
    for number, (name, rows) in enumerate(splits.items()):
        yield f'{", " if number else "{"}"{name}": ['
        for start in range(0, len(rows), 4096):
            piece = json.dumps(rows[start : start + 4096].tolist())
            yield (", " if start else "") + piece[1:-1]
        yield "]"
    yield "}"


def _split(config: DataConfig, source: Source, ids: Names) -> dict[str, np.ndarray]:
    """Row numbers of the training, validation and test images (method, section 6)."""
    counts = [
        round(share * len(ids)) if share < 1 else int(share)
        for share in (config.validation, config.test)
    ]
    if sum(counts) >= len(ids):
        raise DataError(
            f"{config.dataset}: validation {config.validation:g} and test {config.test:g} leave "
            f"none of {len(ids)} images for training"
        )
    if config.split == "region" or (config.split == "auto" and isinstance(source, BlueMarble)):
        return _split_by_region(list(ids), counts[0], counts[1], config.split_seed)
    order = np.arange(len(ids))
    if config.split != "file":
        order = np.random.default_rng(config.split_seed).permutation(len(ids))
    # Not sorted: the first images of a split are to be typical of it, in figures and small tests.
    parts = np.split(order, [len(ids) - sum(counts), len(ids) - counts[1]])
    return dict(zip(SPLITS, parts, strict=True))


def _split_officially(config: DataConfig, partition: np.ndarray) -> dict[str, np.ndarray]:
    """Row numbers of each part of the distributed partition, shuffled as in ``_split``."""
    rng = np.random.default_rng(config.split_seed)
    splits = {s: rng.permutation(np.flatnonzero(partition == k)) for k, s in enumerate(SPLITS)}
    if not len(splits["training"]):
        raise DataError(f"{config.dataset}: no image of {config.source} is of the training part")
    return splits


def _split_by_region(
    ids: list[str], validation: int, test: int, seed: int
) -> dict[str, np.ndarray]:
    """Whole regions of the map go to test, then to validation, until each has its share.

    Training tiles that touch a tile of another split, and validation tiles that touch a test
    tile, also across the date line or a corner, are left out.
    """
    places = [BlueMarble.place(i) for i in ids]
    columns = 1 + max(c for _, c in places)
    regions: dict[tuple[int, int], list[int]] = {}
    for index, (r, c) in enumerate(places):
        regions.setdefault((r // REGION, c // REGION), []).append(index)
    rng = np.random.default_rng(seed)
    keys = sorted(regions)
    splits: dict[str, list[int]] = {"training": [], "validation": [], "test": []}
    for region in (regions[keys[k]] for k in rng.permutation(len(keys))):
        if len(splits["test"]) < test:
            splits["test"] += region
        elif len(splits["validation"]) < validation:
            splits["validation"] += region
        else:
            splits["training"] += region

    def touching(split: str) -> set[tuple[int, int]]:
        return {
            (r + dr, (c + dc) % columns)
            for r, c in (places[i] for i in splits[split])
            for dr in (-1, 0, 1)
            for dc in (-1, 0, 1)
        }

    near_test = touching("test")
    splits["validation"] = [i for i in splits["validation"] if places[i] not in near_test]
    near = near_test | touching("validation")
    splits["training"] = [i for i in splits["training"] if places[i] not in near]
    return {
        name: rng.permutation(np.asarray(rows, dtype=np.int64)) for name, rows in splits.items()
    }


def law_of(config: EvaluationConfig) -> MaskLaw:
    """p_M: a named law, or for ``observed`` the empirical one of the training images' masks.

    Raises:
        DataError: ``observed`` on a data set of complete images, or its masks are all equal.
    """
    if config.corruption != "observed":
        return mask_law(config.corruption)
    data = load_prepared(config.data)
    masks = data.masks()
    if masks is None:
        raise DataError(
            f"{data.folder} holds complete images: corruption 'observed' needs the dataset 'incomplete'"
        )
    try:
        rows = torch.from_numpy(masks[data.indices("training")]).unsqueeze(1)
        return ObservedMasks(rows, config.mask_flips, config.mask_shift)
    except ValueError as error:
        raise DataError(f"{data.folder}: {error}") from None


class Batches:
    """Endless batches of a data set whose ``batch(rows)`` gives its rows, reshuffled every epoch."""

    def __init__(
        self,
        data: Prepared,
        split: str,
        law: MaskLaw,
        mask_seed: int,
        device: torch.device | str,
        resident: Literal["auto"] | bool = False,
    ) -> None:
        self._complete = CompleteImages(data, split, law, mask_seed, device, resident)

    @property
    def resident(self) -> bool:
        """Whether the images lie on the device; else they are read batch by batch."""
        return self._complete.resident

    @property
    def nbytes(self) -> int:
        """Of the whole split."""
        return self._complete.nbytes

    def __len__(self) -> int:
        return len(self._complete)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def batches(
        self, batch_size: int, seed: int, start: int = 0, own: slice = ALL
    ) -> Iterator[tuple[Tensor, ...]]:
        """Endless batches from number ``start`` on; every row once per epoch; of each, rows ``own``.

        Batch k is a pure function of (seed, k), so that training resumes where it stopped.
        """
        order: dict[int, np.ndarray] = {}  # epoch -> permutation; a batch may span two

        def row(position: int) -> int:
            epoch, place = divmod(position, len(self))
            if epoch not in order:
                order.pop(epoch - 2, None)
                order[epoch] = np.random.default_rng(seeds.fold(seed, "epoch", epoch)).permutation(
                    len(self)
                )
            return order[epoch][place]

        while True:
            positions = range(start * batch_size, (start + 1) * batch_size)[own]
            yield self.batch(np.asarray([row(p) for p in positions]))
            start += 1


class Observations(Batches):
    """What unsupervised training sees: observations and masks, never a complete image.

    Each image is corrupted once: its mask is a pure function of (mask_seed, image id).
    """

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """y (B, 3, H, W) in [-1, 1], 0 where missing, and m (B, 1, H, W), of rows of the split."""
        x, m = self._complete.batch(rows)
        return corrupt(x, m), m


class PairedCompleteImages(Batches):
    """SUPERVISED: observations, each with the complete image that it was made from (Paired)."""

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """y, m and x, (B, 3, H, W), (B, 1, H, W), (B, 3, H, W), of rows of the split."""
        x, m = self._complete.batch(rows)
        return corrupt(x, m), m, x


class UnpairedCompleteImages(Batches):
    """SUPERVISED: observations of one half of the split, complete images of the other (Unpaired).

    No image is seen both ways: rows 0, 2, 4, ... are observed, rows 1, 3, 5, ... complete.
    """

    def __len__(self) -> int:
        return len(self._complete) // 2

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """y and m of the images 2 * rows of the split, and the complete images 2 * rows + 1."""
        x, m = self._complete.batch(2 * rows)
        others, _ = self._complete.batch(2 * rows + 1)
        return corrupt(x, m), m, others


class CompleteImages:
    """Complete images and their masks, for evaluation (and for no unsupervised training)."""

    def __init__(
        self,
        data: Prepared,
        split: str,
        law: MaskLaw,
        mask_seed: int,
        device: torch.device | str,
        resident: Literal["auto"] | bool = False,
    ) -> None:
        self._rows = data.indices(split)
        masks = data.masks()
        self._incomplete = masks is not None
        self._arrays = [data.images(), data.mask_ids() if masks is None else masks]
        self._law, self._mask_seed, self._device = law, mask_seed, device
        self.nbytes = len(self) * sum(array[0].nbytes for array in self._arrays)
        self.resident = keeps_resident(resident, self.nbytes, device)
        if self.resident:
            self._on_device = [self._upload(array) for array in self._arrays]

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """x (B, 3, H, W) in [-1, 1] and m (B, 1, H, W), of rows of the split."""
        levels, masks = self._read(rows)  # (B, H, W, 3) uint8; (B, H, W) bool, or (B,) ids
        x = (levels.float() / 127.5 - 1).permute(0, 3, 1, 2)  # channels_last already
        if self._incomplete:  # x is 0 where m is
            return x, masks.float().unsqueeze(1)
        assert isinstance(self._law, ComputedMasks)  # ObservedMasks come with stored masks
        return x, self._law.for_ids(masks, x.shape[-1], self._mask_seed, self._device)

    def _read(self, rows: np.ndarray) -> list[Tensor]:
        """The rows of both arrays, on the device."""
        if self.resident:
            places = to_device(torch.from_numpy(rows), self._device)
            return [array[places] for array in self._on_device]
        indices = self._rows[rows]
        return [to_device(torch.from_numpy(array[indices]), self._device) for array in self._arrays]

    def _upload(self, array: np.ndarray) -> Tensor:
        """The split's rows of an array; some at a time, as the host may have less memory."""
        parts = [self._rows[start : start + 4096] for start in range(0, len(self), 4096)]
        return torch.cat([torch.from_numpy(array[part]).to(self._device) for part in parts])
