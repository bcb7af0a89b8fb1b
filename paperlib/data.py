"""Prepared data sets: decoded once into a memory-mapped array, split, and corrupted once.

``prepare`` writes ``data/NAME/images.npy`` (N, size, size, 3) uint8 and ``manifest.json``. After
that, unsupervised training sees ``Observations`` (y, m) only, and evaluation ``CompleteImages``
(x, m). The supervised baselines have data sets of their own, whose names say what they show.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paperlib import paths, seeds
from paperlib.config import DataConfig
from paperlib.corruption import MaskLaw, corrupt
from paperlib.progress import Progress
from paperlib.sources import BlueMarble, DataError, Source, open_source

TOLERATED_FAILURES = 0.01  # share of images that may fail to decode
FORMAT = 1  # of what prepare writes; data sets of another format are prepared again
REGION = 12  # tiles a side of the regions that Blue Marble is split by


@dataclass(frozen=True)
class Prepared:
    """A prepared data set on disk."""

    folder: Path
    manifest: dict

    @property
    def checksum(self) -> str:
        """SHA-256 over the images and over which split each belongs to."""
        return self.manifest["checksum"]

    def images(self) -> np.ndarray:
        """(N, size, size, 3) uint8, memory-mapped, read-only."""
        return np.load(self.folder / "images.npy", mmap_mode="r")

    def indices(self, split: str) -> np.ndarray:
        """Row numbers of the images of "training", "validation" or "test"."""
        indices = np.asarray(self.manifest["splits"][split], dtype=np.int64)
        if not len(indices):
            raise DataError(f"the {split} split of {self.folder} is empty: see its manifest.json")
        return indices

    def mask_ids(self) -> np.ndarray:
        """(N,) int64: the number by which an image's mask is drawn, a function of its id alone."""
        return np.asarray([seeds.fold("image", i) for i in self.manifest["ids"]], dtype=np.int64)


def prepare(config: DataConfig, strict: bool = False, workers: int | None = None) -> Prepared:
    """Decode, crop, split and store a data set; do nothing if that has been done.

    Args:
        config: the data set, its size and its split.
        strict: stop if any image fails to decode, not only if more than 1 % do.
        workers: decoding threads; the number of cores by default.

    Raises:
        DataError: the source is missing or has no images, or too many of them fail; the message
            names the first ones. What was prepared before stays as it was.
    """
    folder = paths.DATA / config.folder
    source = open_source(config.dataset, config.size, config.source)
    request = {
        "format": FORMAT,
        "config": config.model_dump(),
        "source": source.fingerprint(),
        "crop": source.crop,
    }
    done = load_prepared(config) if (folder / "manifest.json").is_file() else None
    if done is not None and done.manifest["request"] == request:
        if strict and done.manifest["failed"]:
            raise DataError(_failure_message(config, done.manifest["failed"], len(source.ids)))
        return done

    draft = paths.DATA / f".{config.folder}.draft-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        ids, failed = _decode_all(source, config.size, draft / "images.npy", workers)
        total = len(ids) + len(failed)
        if not ids or len(failed) > (0 if strict else TOLERATED_FAILURES * total):
            raise DataError(_failure_message(config, failed, total))
        splits = _split(config, source, ids)
        manifest = {
            "request": request,
            "count": len(ids),
            "checksum": _checksum(draft / "images.npy", splits),
            "failed": failed,
            "splits": splits,
            "ids": ids,
        }
        (draft / "manifest.json").write_text(json.dumps(manifest))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if failed:
        print(f"{config.folder}: left out {len(failed)} of {total} images that cannot be used:")
        print("\n".join(f"  {name}: {reason}" for name, reason in failed.items()))
    return Prepared(folder, manifest)


def load_prepared(config: DataConfig) -> Prepared:
    """The prepared data set; DataError says how to prepare it where it is missing."""
    folder = paths.DATA / config.folder
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except FileNotFoundError:
        raise DataError(
            f"{folder} is not prepared: run 'python -m paperlib prepare' or notebook 01"
        ) from None
    except json.JSONDecodeError:
        raise DataError(f"{folder / 'manifest.json'} is damaged: delete {folder}") from None
    return Prepared(folder, manifest)


def _decode_all(
    source: Source, size: int, target: Path, workers: int | None
) -> tuple[list[str], dict[str, str]]:
    """Write the images that can be decoded, in order; return their ids and the others' faults."""

    def read(image_id: str) -> np.ndarray | str:
        try:
            return source.read(image_id)
        except Exception as error:  # decoders raise nearly anything on damaged files
            return str(error) or type(error).__name__

    ids: list[str] = []
    failed: dict[str, str] = {}
    names = source.ids
    total = len(names)
    array = np.lib.format.open_memmap(target, "w+", np.uint8, (total, size, size, 3))
    window = 1024  # bounds the memory held by images that are decoded but not yet written
    progress = Progress(total, f"decoding {total} images")
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for start in range(0, total, window):
            batch = names[start : start + window]
            for image_id, image in zip(batch, pool.map(read, batch), strict=True):
                if isinstance(image, str):
                    failed[image_id] = image
                else:
                    array[len(ids)] = image
                    ids.append(image_id)
            progress.update(len(batch))
    progress.close()
    array.flush()
    if failed and ids:
        kept = target.with_suffix(".kept.npy")
        shorter = np.lib.format.open_memmap(kept, "w+", np.uint8, (len(ids), size, size, 3))
        shorter[:] = array[: len(ids)]
        shorter.flush()
        os.replace(kept, target)
    return ids, failed


def _failure_message(config: DataConfig, failed: dict[str, str], total: int) -> str:
    first = "; ".join(f"{name}: {reason}" for name, reason in list(failed.items())[:3])
    return f"{config.dataset}: {len(failed)} of {total} images cannot be used ({first})"


def _checksum(images: Path, splits: dict[str, list[int]]) -> str:
    digest = hashlib.sha256(json.dumps(splits).encode())
    with images.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def _split(config: DataConfig, source: Source, ids: list[str]) -> dict[str, list[int]]:
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
    by_region = isinstance(source, BlueMarble)
    if config.split == "region" and not by_region:
        raise DataError(f"{config.dataset}: split 'region' needs bluemarble; use random or file")
    if config.split == "region" or (config.split == "auto" and by_region):
        return _split_by_region(ids, *counts, config.split_seed)
    order = np.arange(len(ids))
    if config.split != "file":
        order = np.random.default_rng(config.split_seed).permutation(len(ids))
    training, validation, test = np.split(order, [len(ids) - sum(counts), len(ids) - counts[1]])
    # Not sorted: the first images of a split are to be typical of it, in figures and small tests.
    return {
        "training": training.tolist(),
        "validation": validation.tolist(),
        "test": test.tolist(),
    }


def _split_by_region(ids: list[str], validation: int, test: int, seed: int) -> dict[str, list[int]]:
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
    return {name: rng.permutation(rows).tolist() for name, rows in splits.items()}


class Batches:
    """Endless batches of a data set whose ``batch(rows)`` gives its rows, reshuffled every epoch."""

    def __len__(self) -> int:
        raise NotImplementedError

    def batch(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Endless batches from number ``start`` on; every row once per epoch.

        Batch k is a pure function of (seed, k), so that training resumes where it stopped.
        """
        order = {}  # epoch -> permutation; a batch may span two

        def row(position: int) -> int:
            epoch, place = divmod(position, len(self))
            if epoch not in order:
                order.pop(epoch - 2, None)
                order[epoch] = np.random.default_rng(seeds.fold(seed, "epoch", epoch)).permutation(
                    len(self)
                )
            return order[epoch][place]

        while True:
            positions = range(start * batch_size, (start + 1) * batch_size)
            yield self.batch(np.asarray([row(p) for p in positions]))
            start += 1


class Observations(Batches):
    """What unsupervised training sees: observations and masks, never a complete image.

    Each image is corrupted once: its mask is a pure function of (mask_seed, image id).
    """

    def __init__(
        self, data: Prepared, split: str, law: MaskLaw, mask_seed: int, device: torch.device | str
    ) -> None:
        self._complete = CompleteImages(data, split, law, mask_seed, device)

    def __len__(self) -> int:
        return len(self._complete)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """y (B, 3, H, W) in [-1, 1], 0 where missing, and m (B, 1, H, W), of rows of the split."""
        x, m = self._complete.batch(rows)
        return corrupt(x, m), m


class PairedCompleteImages(Batches):
    """SUPERVISED: observations, each with the complete image that it was made from (Paired)."""

    def __init__(
        self, data: Prepared, split: str, law: MaskLaw, mask_seed: int, device: torch.device | str
    ) -> None:
        self._complete = CompleteImages(data, split, law, mask_seed, device)

    def __len__(self) -> int:
        return len(self._complete)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """y, m and x, (B, 3, H, W), (B, 1, H, W), (B, 3, H, W), of rows of the split."""
        x, m = self._complete.batch(rows)
        return corrupt(x, m), m, x


class UnpairedCompleteImages(Batches):
    """SUPERVISED: observations of one half of the split, complete images of the other (Unpaired).

    No image is seen both ways: rows 0, 2, 4, ... are observed, rows 1, 3, 5, ... complete.
    """

    def __init__(
        self, data: Prepared, split: str, law: MaskLaw, mask_seed: int, device: torch.device | str
    ) -> None:
        self._complete = CompleteImages(data, split, law, mask_seed, device)

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
        self, data: Prepared, split: str, law: MaskLaw, mask_seed: int, device: torch.device | str
    ) -> None:
        self._images = data.images()
        self._rows = data.indices(split)
        self._mask_ids = data.mask_ids()
        self._law, self._mask_seed, self._device = law, mask_seed, device

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """x (B, 3, H, W) in [-1, 1] and m (B, 1, H, W), of rows of the split."""
        indices = self._rows[rows]
        levels = torch.from_numpy(self._images[indices]).to(self._device)  # (B, H, W, 3) uint8
        x = (levels.float() / 127.5 - 1).permute(0, 3, 1, 2)  # channels_last already
        m = self._law.for_ids(
            torch.from_numpy(self._mask_ids[indices]), x.shape[-1], self._mask_seed, self._device
        )
        return x, m
