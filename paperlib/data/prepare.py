"""Prepared data sets: decoded once into a memory-mapped array, and split.

``prepare`` writes a folder ``data/NAME/``:

    images.npy     (N, size, size, bands) uint8; rows of images that are left out are 0
    masks.npy      (N, size, size) bool, True = observed; of really incomplete images only
    manifest.json  what was asked for, the images' ids in the order of the rows, the row numbers of
                   each split, the checksum, and which images failed to decode, and why
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from scipy.ndimage import maximum_filter

from paperlib import paths, seeds
from paperlib.config import DataConfig
from paperlib.data.sources import Source, open_source
from paperlib.errors import DataError, DiskFull
from paperlib.files import folder_atomically, remove_drafts
from paperlib.progress import track

SPLITS = ("training", "validation", "test")
TOLERATED_FAILURES = 0.01  # share of images that may fail to decode
REGION = 12  # tiles a side of the regions that Blue Marble is split by
AT_ONCE = 64  # images that a thread decodes one after the other; tiles of a file stay together


@dataclass(frozen=True)
class Prepared:
    """A prepared data set, and what its manifest.json says."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def checksum(self) -> str:
        """SHA-256 over the images and masks and over which split each belongs to."""
        return self.manifest["checksum"]

    def images(self) -> np.ndarray:
        """(N, size, size, bands) uint8, memory-mapped, read-only."""
        return _load(self.folder / "images.npy")

    def masks(self) -> np.ndarray | None:
        """(N, size, size) bool, True = observed, memory-mapped; None where images are complete."""
        path = self.folder / "masks.npy"
        return _load(path) if path.is_file() else None

    def mask_ids(self) -> np.ndarray:
        """(N,) int64: the number by which an image's mask is drawn, a function of its id alone."""
        return np.array([seeds.fold("image", name) for name in self.manifest["ids"]])

    def indices(self, split: str) -> np.ndarray:
        """Row numbers of the images of "training", "validation" or "test"; DataError if none."""
        if rows := self.manifest["splits"][split]:
            return np.array(rows)
        raise DataError(f"the {split} split of {self.folder} is empty: set '{split}' above 0")

    def check(self) -> None:
        """Raise DataError unless the files are as they were prepared."""
        if _checksum(self.folder, self.manifest["splits"]) != self.checksum:
            raise DataError(f"{self.folder} is not as prepared: delete it and prepare it again")


def _load(path: Path, read: Callable[[Path], Any] | None = None) -> Any:
    """An array, memory-mapped, or what ``read`` makes of the file."""
    try:
        return read(path) if read else np.load(path, mmap_mode="r")
    except Exception:  # NumPy and JSON raise many kinds
        what = f"delete {path.parent} and prepare it again"
        raise DataError(f"{path} is damaged or missing: {what}") from None


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = json.loads(path.read_text())
    if not {"request", "ids", "splits", "checksum"} <= manifest.keys():
        raise ValueError("of an earlier version")
    return manifest


def load_prepared(config: DataConfig) -> Prepared:
    """The prepared data set; DataError says how to prepare it where it is missing or damaged."""
    folder = paths.DATA / config.folder
    if not folder.is_dir():
        raise DataError(f"{folder} is not prepared: run 'python -m paperlib prepare'")
    return Prepared(folder, _load(folder / "manifest.json", _read_manifest))


def prepare(config: DataConfig) -> Prepared:
    """Decode, crop, split and store a data set, or wait for who does; nothing if that was done.

    Up to 1 % of the images may fail to decode; they are left out.

    Raises:
        DataError: the source is missing or has no images, or too many of them fail; the message
            names the first ones. What was prepared before stays as it was.
        DiskFull: likewise, where there is no room.
    """
    folder, source = paths.DATA / config.folder, open_source(config)
    request = {"crop": source.crop.format(size=config.size), "config": config.model_dump()}
    request["source"] = source.fingerprint()

    def is_prepared() -> bool:
        with suppress(DataError):  # nothing there, or damaged
            return load_prepared(config).manifest["request"] == request
        return False

    if not is_prepared():  # who only reads needs no lock, and may not be allowed to write one
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not is_prepared():  # by the process that we waited for
                _prepare(source, folder, request)
    return load_prepared(config)


def _prepare(source: Source, folder: Path, request: dict[str, Any]) -> None:
    config, ids = source.config, source.ids
    if not ids:
        raise DataError(f"{config.dataset}: no images in {config.source}")
    remove_drafts(paths.DATA, folder.name)
    with folder_atomically(folder) as draft:
        usable, failed = _decode_all(source, draft)
        splits = _split(config, np.flatnonzero(usable), source.where())
        manifest = {"request": request, "count": int(usable.sum()), "ids": ids, "failed": failed}
        manifest |= {"splits": splits, "checksum": _checksum(draft, splits)}
        manifest |= {"limits": source.limits} if source.masked else {}
        (draft / "manifest.json").write_text(json.dumps(manifest))
    if failed:
        print(f"{len(failed)} of {len(ids)} images left out, see {folder / 'manifest.json'}")


def _decode_all(source: Source, draft: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Write images.npy and masks.npy; return which images are usable (N,), and what failed why."""
    config, ids = source.config, source.ids
    total, shape = len(ids), (len(ids), config.size, config.size)
    new_array = np.lib.format.open_memmap  # of zeros
    images = new_array(draft / "images.npy", "w+", np.uint8, (*shape, config.bands))
    masks = new_array(draft / "masks.npy", "w+", bool, shape) if source.masked else None
    if shutil.disk_usage(draft).free < images.nbytes:  # a full disk would kill the process
        raise DiskFull(f"{draft.parent} has no room for {images.nbytes / 1e9:.1f} GB: make room")
    usable, failed = np.zeros(total, bool), dict[str, str]()

    def read(rows: range) -> None:
        for row in rows:
            try:
                image = source.read(ids[row])
                if masks is not None:
                    image, masks[row] = image
                images[row] = image
                usable[row] = masks is None or masks[row].any()
            except Exception as error:  # decoders raise nearly anything on damaged files
                failed[ids[row]] = " ".join(str(error).split()) or type(error).__name__

    parts = [range(row, min(row + AT_ONCE, total)) for row in range(0, total, AT_ONCE)]
    with (
        ThreadPoolExecutor() as pool,
        closing(pool.map(read, parts)) as done,  # type: ignore[type-var]  # cancels what is left
    ):
        for _ in track(done, len(parts), f"decoding {total} images, {AT_ONCE} at a time"):
            if len(failed) > TOLERATED_FAILURES * total:  # hours may be left
                first = "; ".join(f"{name}: {why}" for name, why in sorted(failed.items())[:3])
                raise DataError(f"{len(failed)} of {total} images cannot be used ({first})")
    return usable, dict(sorted(failed.items()))


def _checksum(folder: Path, splits: dict[str, list[int]]) -> str:
    digest = hashlib.sha256(json.dumps(splits).encode())
    for path in (folder / "images.npy", folder / "masks.npy"):
        if path.is_file():
            digest.update(np.memmap(path, np.uint8, "r").data)
    return digest.hexdigest()


def _split(config: DataConfig, rows: np.ndarray, where: np.ndarray | None) -> dict[str, list[int]]:
    """The rows of the training, validation and test images (method, section 6), of the usable ones.

    On a map whole regions go to test, then to validation, until each has its share. Training tiles
    that touch a tile of another split, and validation tiles that touch a test tile, are left out.
    """
    rng, n = np.random.default_rng(config.split_seed), len(rows)
    counts = [round(s * n) if s < 1 else int(s) for s in (config.validation, config.test)]
    if sum(counts) >= n:
        what = "validation and test leave none"
        raise DataError(f"{config.dataset}: {what} of {n} images for training")
    if where is None or config.split != "auto":
        # Not sorted: the first images of a split are to be typical of it, in figures and tests
        ordered = rows if config.split == "file" else rng.permutation(rows)
        parts = np.split(ordered, [n - sum(counts), n - counts[1]])
        return {name: part.tolist() for name, part in zip(SPLITS, parts, strict=True)}
    where = where[rows]  # (n, 2)
    regions, region_of = np.unique(where // REGION, axis=0, return_inverse=True)
    order, splits = rng.permutation(len(regions)).tolist(), dict[str, list[int]]()
    given = np.zeros(where.max(axis=0) + 1, bool)  # what of the map the splits before have
    for name, wanted in (("test", counts[1]), ("validation", counts[0]), ("training", n)):
        tiles: list[int] = []
        while order and len(tiles) < wanted:
            tiles += np.flatnonzero(region_of.ravel() == order.pop(0)).tolist()
        near = maximum_filter(given, 3, mode=("constant", "wrap"))[tuple(where.T)]  # (tiles,)
        splits[name] = [i for i in tiles if not near[i]]
        given[tuple(where[splits[name]].T)] = True
    return {name: rng.permutation(rows[splits[name]]).tolist() for name in SPLITS}
