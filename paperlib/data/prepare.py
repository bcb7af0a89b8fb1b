"""Prepared data sets: decoded once into a memory-mapped array, split, and corrupted once.

``prepare`` writes a folder ``data/NAME/``:

    images.npy     (N, size, size, bands) uint8; rows of images that are left out are 0
    masks.npy      (N, size, size) bool, True = observed; of really incomplete images only
    ids.txt        the images' ids, one a line, in the order of the rows
    mask_ids.npy   (N,) int64, the numbers by which their masks are drawn
    splits.npz     row numbers, int64: training, validation, test
    manifest.json  what was asked for, the count, the checksum, and what was left out and why
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
from scipy.ndimage import maximum_filter

from paperlib import paths, seeds
from paperlib.config import DataConfig
from paperlib.data.sources import Source, open_source
from paperlib.errors import DataError, DiskFull
from paperlib.files import folder_atomically, locked, remove_drafts
from paperlib.progress import track

SPLITS = ("training", "validation", "test")
TOLERATED_FAILURES = 0.01  # share of images that may fail to decode
FORMAT = 2  # of what prepare writes; data sets of another format are prepared again
REGION = 12  # tiles a side of the regions that Blue Marble is split by
AT_ONCE = 64  # images that a thread decodes one after the other; tiles of a file stay together


@dataclass(frozen=True)
class Prepared:
    """A prepared data set: ``manifest`` is manifest.json with "ids" and "splits" (row numbers)."""

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
        return _load(self.folder / "mask_ids.npy")

    def indices(self, split: str) -> np.ndarray:
        """Row numbers of the images of "training", "validation" or "test"; DataError if none."""
        rows = self.manifest["splits"][split]
        if not len(rows):
            raise DataError(f"the {split} split of {self.folder} is empty: set '{split}' above 0")
        return rows

    def check(self) -> None:
        """Raise DataError unless the files are as they were prepared."""
        numbers = [seeds.fold("image", name) for name in self.manifest["ids"]]
        is_whole = _checksum(self.folder, self.manifest["splits"]) == self.checksum
        if not is_whole or self.mask_ids().tolist() != numbers:
            raise DataError(f"{self.folder} is not as prepared: delete it and prepare it again")


def _load(path: Path, read: Callable[[Path], Any] | None = None) -> Any:
    """An array, memory-mapped, or what ``read`` makes of the file."""
    try:
        return read(path) if read else np.load(path, mmap_mode="r")
    except Exception:  # NumPy and JSON raise many kinds
        what = f"delete {path.parent} and prepare it again"
        raise DataError(f"{path} is damaged or missing: {what}") from None


def load_prepared(config: DataConfig) -> Prepared:
    """The prepared data set; DataError says how to prepare it where it is missing or damaged."""
    folder = paths.DATA / config.folder
    if not folder.is_dir():
        raise DataError(f"{folder} is not prepared: run 'python -m paperlib prepare'")
    manifest = _load(folder / "manifest.json", lambda path: json.loads(path.read_text()))
    splits = _load(folder / "splits.npz", lambda path: dict(np.load(path)))
    ids = _load(folder / "ids.txt", lambda path: path.read_bytes().decode().split("\n")[:-1])
    return Prepared(folder, manifest | {"splits": splits, "ids": ids})


def prepare(config: DataConfig, strict: bool = False) -> Prepared:
    """Decode, crop, split and store a data set, or wait for who does; nothing if that was done.

    Images that fail to decode are left out, up to 1 %, or if ``strict`` none.

    Raises:
        DataError: the source is missing or has no images, or too many of them fail; the message
            names the first ones. What was prepared before stays as it was.
        DiskFull: likewise, where there is no room.
    """
    folder = paths.DATA / config.folder
    with closing(open_source(config)) as source:
        about = {"config": config.model_dump(), "source": source.fingerprint()}
        request = {"format": FORMAT, "crop": source.crop.format(size=config.size)} | about
        if not _is_prepared(folder, request):
            with locked(folder.with_name(f".{folder.name}.lock"), f"{folder}", wait=True):
                if not _is_prepared(folder, request):  # by the process that we waited for
                    _prepare(source, folder, request)
    data = load_prepared(config)
    if (failed := data.manifest["failed"]) and strict:
        raise _failure(config, failed, len(data.manifest["ids"]))
    return data


def _is_prepared(folder: Path, request: dict[str, Any]) -> bool:
    with suppress(OSError, ValueError, LookupError, TypeError):
        return json.loads((folder / "manifest.json").read_text())["request"] == request
    return False


def _prepare(source: Source, folder: Path, request: dict) -> None:
    """Make the folder of the data set, at once and whole."""
    config, ids = source.config, source.ids
    if not ids:
        raise DataError(f"{config.dataset}: no images in {config.source}")
    for name in ids:
        if "\n" in name or name != name.encode(errors="replace").decode():
            raise DataError(f"{config.dataset}: a name with a line break or not UTF-8: {name!r}")
    where = source.where() if config.split in ("auto", "region") else None
    if where is None and config.split == "region":
        raise DataError(f"{config.dataset}: split 'region' needs bluemarble; use random")
    remove_drafts(folder.parent, folder.name)
    with folder_atomically(folder) as draft:
        usable, failed = _decode_all(source, draft)
        rows = np.flatnonzero(usable)
        splits = _split(config, rows, None if where is None else where[rows])
        np.savez(draft / "splits.npz", **splits)  # type: ignore[arg-type]
        np.save(draft / "mask_ids.npy", np.array([seeds.fold("image", name) for name in ids]))
        (draft / "ids.txt").write_bytes("".join(f"{name}\n" for name in ids).encode())
        manifest = {"request": request, "count": len(rows), "checksum": _checksum(draft, splits)}
        manifest |= {"failed": failed, "left_out": len(ids) - len(rows) - len(failed)}
        manifest |= {"limits": source.limits} if source.masked else {}
        (draft / "manifest.json").write_text(json.dumps(manifest))
    if failed:
        print(f"left out, see {folder / 'manifest.json'}: {_failure(config, failed, len(ids))}")


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
                raise _failure(config, failed, total)
    return usable, dict(sorted(failed.items()))


def _failure(config: DataConfig, failed: dict[str, str], total: int) -> DataError:
    named = "; ".join(f"{name}: {why}" for name, why in sorted(failed.items())[:3])
    return DataError(f"{config.dataset}: {len(failed)} of {total} images cannot be used ({named})")


def _checksum(folder: Path, splits: dict[str, np.ndarray]) -> str:
    lists = json.dumps({name: rows.tolist() for name, rows in splits.items()})
    digest = hashlib.sha256(lists.encode())
    for path in (folder / "images.npy", folder / "masks.npy"):
        if path.is_file():
            digest.update(np.memmap(path, np.uint8, "r").data)
    return digest.hexdigest()


def _split(config: DataConfig, rows: np.ndarray, where: np.ndarray | None) -> dict[str, np.ndarray]:
    """The rows of the training, validation and test images (method, section 6).

    On a map whole regions go to test, then to validation, until each has its share. Training tiles
    that touch a tile of another split, and validation tiles that touch a test tile, also across the
    date line or a corner, are left out.
    """
    rng = np.random.default_rng(config.split_seed)
    shares = config.validation, config.test
    counts = [round(s * len(rows)) if s < 1 else int(s) for s in shares]
    if sum(counts) >= len(rows):
        taken = f"validation {shares[0]:g} and test {shares[1]:g}"
        raise DataError(f"{config.dataset}: {taken} leave none of {len(rows)} images for training")
    if where is None:
        # Not sorted: the first images of a split are to be typical of it, in figures and tests
        order = rows if config.split == "file" else rng.permutation(rows)
        parts = np.split(order, [len(rows) - sum(counts), len(rows) - counts[1]])
        return dict(zip(SPLITS, parts, strict=True))
    regions, region_of = np.unique(where // REGION, axis=0, return_inverse=True)
    splits: dict[str, list[int]] = {name: [] for name in SPLITS}  # numbers of tiles
    for region in rng.permutation(len(regions)):
        wanted = zip(("test", "validation"), reversed(counts), strict=True)
        name = next((name for name, n in wanted if len(splits[name]) < n), "training")
        splits[name] += np.flatnonzero(region_of.ravel() == region).tolist()
    given = np.zeros(where.max(axis=0) + 1, bool)  # what of the map test, then validation, has
    for name in reversed(SPLITS):
        near = maximum_filter(given, 3, mode=("constant", "wrap"))[tuple(where.T)]  # (tiles,)
        splits[name] = [i for i in splits[name] if not near[i]]
        given[tuple(where[splits[name]].T)] = True
    return {name: rng.permutation(rows[found]) for name, found in splits.items()}
