"""A folder of really incomplete images as a data set: 8-bit tiles, and what of each was observed.

Larger images are cut into tiles (``fit: crop``) or made smaller (``fit: resize``); what lies under
a mask is set to 0 here, so that nothing behind it goes any further.
"""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from paperlib import paths
from paperlib.config import DataConfig
from paperlib.image_source import (
    MAX_PIXELS,
    DataError,
    NothingObserved,
    Source,
    fingerprint_of_files,
)
from paperlib.incomplete import (
    Incomplete,
    image_header,
    incomplete_files,
    read_incomplete,
)

DECODED = 8  # images kept, for the tiles that follow
LEAST_OBSERVED = 0.5  # share of the pixels averaged into one that must be observed


class IncompleteFolder(Source):
    """Incomplete images of any size and of 1 to 16 bands.

    ``fit: crop`` cuts them into non-overlapping tiles; ``resize`` makes one image of each, the
    shorter side brought to ``size`` by area averaging of what was observed, then the centre.

    Args:
        config: of the data set: source, size, bands, fit, missing, missing_value, max_pixels.

    Raises:
        DataError: the folder is missing or has no image.
    """

    masked = True

    def __init__(self, config: DataConfig) -> None:
        if config.source is None:
            raise DataError("incomplete: no source given; set it to a folder of images")
        self.root = paths.from_root(config.source)
        if not self.root.is_dir():
            raise DataError(
                f"incomplete: {self.root} is not a folder; set source: to one of images"
            )
        self.config, self.size = config, config.size
        self.crop = {
            "crop": f"non-overlapping {self.size} x {self.size} tiles",
            "resize": f"shorter side to {self.size} by area averaging of what was observed, centre",
        }[config.fit]
        self._read = functools.lru_cache(DECODED)(self._read_file)
        self._finding = threading.Lock()
        self._limits: np.ndarray | None = None

    @cached_property
    def files(self) -> list[Path]:
        try:
            return incomplete_files(self.root)
        except ValueError as error:
            raise DataError(f"incomplete: {error}") from None

    @cached_property
    def ids(self) -> list[str]:
        """File names below the folder; for tiles with "#top,left" appended."""
        names = []
        for path in self.files:
            name = path.relative_to(self.root).as_posix()
            if self.config.fit == "resize":
                names.append(name)
                continue
            names += [f"{name}#{top},{left}" for top, left in self._places(path)]
        return names

    def _places(self, path: Path) -> list[tuple[int, int]]:
        """(top, left) of the tiles of a file; one where reading it will say what is wrong."""
        try:
            (height, width), _ = image_header(path)
        except ValueError:
            return [(0, 0)]
        if height * width > (self.config.max_pixels or MAX_PIXELS):
            return [(0, 0)]
        tops, lefts = (range(0, n - self.size + 1, self.size) for n in (height, width))
        return [(top, left) for top in tops for left in lefts] or [(0, 0)]

    @property
    def limits(self) -> list[list[float]]:
        """The values of each band that stand for -1 and 1: 0 and 255 for 8 bits, else the least
        and the greatest that was observed anywhere. Found once, by the first thread that asks."""
        with self._finding:
            if self._limits is None:
                self._limits = self._find_limits()
        if (self._limits[0] < self._limits[1]).all():
            return self._limits.T.tolist()
        raise DataError(
            f"incomplete: {self.root}: no image can be read, or a band has one value only: see what "
            "is wrong with its files, or leave that band out"
        )

    def _find_limits(self) -> np.ndarray:
        """(2, C), the lower ones first. Of files of 8 bits one is decoded, the rest say the same."""
        low, high = np.full(self.config.bands, np.inf), np.full(self.config.bands, -np.inf)
        if any(self._can_be_read(path) for path in self.files if _has_8_bits(path)):
            low, high = np.minimum(low, 0), np.maximum(high, 255)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(self.files), 1024):  # bounds the memory
                for found in pool.map(self._extremes, self.files[start : start + 1024]):
                    low, high = np.minimum(low, found[0]), np.maximum(high, found[1])
        return np.stack([low, high])

    def _can_be_read(self, path: Path) -> bool:
        try:
            return self._read(path) is not None
        except (ValueError, OSError):
            return False

    def _extremes(self, path: Path) -> tuple[np.ndarray | float, np.ndarray | float]:
        """Of each band, (C,), of what is observed; infinite where 8 bits say it, or it is bad."""
        try:
            if not _has_8_bits(path):
                image = self._read(path)
                seen = image.values[image.observed]  # (n, C)
                return seen.min(axis=0), seen.max(axis=0)
        except (ValueError, OSError):
            pass  # it will be named when it is to be used
        return np.inf, -np.inf

    def _read_file(self, path: Path) -> Incomplete:
        c = self.config
        # A complete image among incomplete ones, a clear sky, is an observation like any other
        image = read_incomplete(path, c.missing, c.missing_value, c.max_pixels or MAX_PIXELS, True)
        if (bands := image.values.shape[2]) != c.bands:
            raise ValueError(
                f"{path}: {bands} bands, not {c.bands}: set 'bands' to it, or leave the file out"
            )
        return image

    def read(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """(size, size, C) uint8, 0 where missing, and what was observed, (size, size) bool."""
        name, _, place = (
            image_id.rpartition("#") if self.config.fit == "crop" else (image_id, "", "")
        )
        image = self._read(self.root / name)
        height, width = image.observed.shape
        if min(height, width) < self.size:
            raise ValueError(f"{width} x {height} px, smaller than the {self.size} px tiles")
        low, high = np.array(self.limits).T  # (C,) each
        if self.config.fit == "crop":
            top, left = map(int, place.split(","))
            window = np.s_[top : top + self.size, left : left + self.size]
            values, observed = image.values[window].astype(float), image.observed[window]
        else:
            values, observed = _shrink(image, self.size)
        if not observed.any():
            raise NothingObserved("nothing of it is observed")
        levels = ((values - low) / (high - low) * 255).round().clip(0, 255)
        return np.where(observed[..., None], levels, 0).astype(np.uint8), observed

    def fingerprint(self) -> str:
        """Changes with the names, sizes and dates of the files and of their masks."""
        files = sorted(p.relative_to(self.root) for p in self.root.rglob("*") if p.is_file())
        return fingerprint_of_files(self.root, [p.as_posix() for p in files])


def _has_8_bits(path: Path) -> bool:
    try:
        return image_header(path)[1] == np.uint8
    except ValueError:
        return False


def _shrink(image: Incomplete, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The image with its shorter side at ``size``, its centre, averaged over observed pixels.

    Returns:
        values (size, size, C) float64 and observed (size, size) bool.
    """
    height, width = image.observed.shape
    scale = size / min(height, width)
    shape = (max(round(width * scale), size), max(round(height * scale), size))  # PIL's order
    left, top = (shape[0] - size) // 2, (shape[1] - size) // 2

    def average(plane: np.ndarray) -> np.ndarray:
        small = Image.fromarray(plane.astype(np.float32)).resize(shape, Image.Resampling.BOX)
        return np.asarray(small, dtype=float)[top : top + size, left : left + size]

    weight = average(image.observed)
    values = np.where(image.observed[..., None], image.values, 0)
    sums = np.stack([average(values[..., c]) for c in range(values.shape[2])], axis=2)
    return sums / np.maximum(weight, 1e-9)[..., None], weight >= LEAST_OBSERVED
