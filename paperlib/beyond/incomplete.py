"""The data set ``incomplete``: a folder of images that are really incomplete, and what it holds.

Larger images are cut into tiles (``fit: crop``) or made smaller (``fit: resize``); what lies under
a mask is set to 0 here, so that nothing behind it goes any further.
"""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from paperlib.beyond.incomplete_files import (
    Incomplete,
    incomplete_files,
    read_file,
    read_incomplete,
)
from paperlib.config import DataConfig
from paperlib.data.prepare import Prepared
from paperlib.data.sources import MAX_PIXELS, Files, fingerprint_of_files
from paperlib.errors import DataError, NothingObserved

DECODED = 8  # images kept, for the tiles that follow
LEAST_OBSERVED = 0.5  # share of the pixels averaged into one that must be observed
SUSPICIOUS = 0.01  # p-value below which masks are said to look dependent on content


class IncompleteFolder(Files):
    """Incomplete images of any size and of 1 to 16 bands, as ``incomplete_files`` reads them.

    An id is the name below the folder, for tiles with "#top,left" appended.
    """

    masked = True

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        self.bands, self.max_pixels = config.bands, config.max_pixels or MAX_PIXELS
        self.crop = {
            "crop": f"non-overlapping {self.size} x {self.size} tiles",
            "resize": f"shorter side to {self.size} by area averaging of what was observed, centre",
        }[config.fit]
        self.files = incomplete_files(self.path)
        self._decoded = functools.lru_cache(DECODED)(self._decode)
        self._finding_limits = threading.Lock()

    @cached_property
    def ids(self) -> list[str]:  # type: ignore[override]
        return [id_ for path in self.files for id_ in self._ids_of(path)]

    def _ids_of(self, path: Path) -> list[str]:
        name = path.relative_to(self.path).as_posix()
        if self.config.fit == "resize":
            return [name]
        try:
            sides, _ = read_file(path, self.max_pixels, header_only=True)
        except DataError:  # which reading its first tile will say
            sides = (0, 0)
        tops, lefts = (range(0, side - self.size + 1, self.size) for side in sides)
        return [f"{name}#{top},{left}" for top in tops for left in lefts] or [f"{name}#0,0"]

    @cached_property
    def limits(self) -> list[list[float]]:  # type: ignore[override]
        """The values of each band that stand for -1 and 1: 0 and 255 for 8 bits, else the least
        and the greatest that was observed anywhere."""
        with ThreadPoolExecutor() as pool:
            found = np.stack(list(pool.map(self._extremes, self.files)))  # (files, 2, C)
        low, high = found[:, 0].min(axis=0), found[:, 1].max(axis=0)
        if not (low < high).all():
            raise DataError(f"{self.path}: no image can be read, or a band has one value only")
        return np.stack([low, high], axis=1).tolist()

    def _extremes(self, path: Path) -> np.ndarray:
        """The least and the greatest observed value of each band, (2, C)."""
        try:
            if read_file(path, self.max_pixels, header_only=True)[1] == np.uint8:
                return np.repeat([[0.0], [255.0]], self.bands, axis=1)
            image = self._decoded(path)
        except DataError:  # which will be said when it is to be used
            return np.repeat([[np.inf], [-np.inf]], self.bands, axis=1)
        seen = image.values[image.observed]  # (n, C)
        return np.stack([seen.min(axis=0), seen.max(axis=0)])

    def _decode(self, path: Path) -> Incomplete:
        rule, value = self.config.missing, self.config.missing_value
        image = read_incomplete(path, rule, value, self.max_pixels)
        if (bands := image.values.shape[2]) != self.bands:
            raise DataError(f"{path}: {bands} bands, not {self.bands}: set bands to it")
        return image

    def read(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        """(size, size, C) uint8, 0 where missing, and what was observed, (size, size) bool."""
        crop = self.config.fit == "crop"
        name, _, place = image_id.rpartition("#") if crop else (image_id, "", "")
        image = self._decoded(self.path / name)
        height, width = image.observed.shape
        if min(height, width) < self.size:
            raise DataError(f"{width} x {height} px, smaller than the {self.size} px tiles")
        with self._finding_limits:  # once, by the first thread that asks
            low, high = np.array(self.limits).T  # (C,) each
        if crop:
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
        files = sorted(p.relative_to(self.path) for p in self.path.rglob("*") if p.is_file())
        return fingerprint_of_files(self.path, [p.as_posix() for p in files])


def _shrink(image: Incomplete, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (size, size, C) and observed (size, size): averages over the observed pixels."""

    def average(plane: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(plane.astype(np.float32))
        return np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.BOX), dtype=float)

    weight = average(image.observed)
    values = np.where(image.observed[..., None], image.values, 0)
    sums = np.stack([average(values[..., c]) for c in range(values.shape[2])], axis=2)
    return sums / np.maximum(weight, 1e-9)[..., None], weight >= LEAST_OBSERVED


@dataclass(frozen=True)
class Description:
    """What was found in a prepared data set of incomplete images; ``print`` it."""

    text: str
    observed_by: np.ndarray  # (size, size) share of the images that observe each pixel

    def __str__(self) -> str:
        return self.text


def describe(data: Prepared, split: str = "training") -> Description:
    """Describe a split of a prepared data set of incomplete images, and say what looks wrong.

    What no mask ever shows cannot be learned, and masks must not depend on what they hide (section
    2.1: M independent of X). The test of that can miss much: the rank correlation between how much
    of an image is missing and how bright the rest is, two-sided.

    Raises:
        DataError: the split is empty, or the data set has no masks of its own.
    """
    from scipy.stats import spearmanr

    rows, images, masks = np.sort(data.indices(split)), data.images(), data.masks()
    if masks is None:
        raise DataError(f"{data.folder} holds complete images: there is nothing to describe")
    missing, brightness = np.zeros((2, len(rows)))
    different, observed_by = set(), np.zeros(masks.shape[1:])
    for i, row in enumerate(rows):
        m = masks[row]  # (size, size) bool
        missing[i], brightness[i] = 1 - m.mean(), images[row][m].mean()
        different.add(np.packbits(m).tobytes())
        observed_by += m
    observed_by /= len(rows)
    seen = f"every pixel is observed somewhere, the rarest by {observed_by.min():.1%} of the images"
    if never := (observed_by == 0).sum():
        seen = (
            f"WARNING: {never} of {observed_by.size} pixels are observed in no image at all: no "
            "method can learn what is there, and what it paints there means nothing"
        )
    varied = np.ptp(missing) > 0 and np.ptp(brightness) > 0
    rho, p = spearmanr(missing, brightness) if varied else (0.0, 1.0)
    sign = "no sign that masks depend on content"
    if p < SUSPICIOUS:
        sign = "WARNING: masks look dependent on content, of which the method takes no account"
    text = (
        f"{len(rows)} images, {len(different)} different masks\n"
        f"missing: {missing.mean():.1%} of the pixels on average (standard deviation over images "
        f"{missing.std():.1%}, from {missing.min():.1%} to {missing.max():.1%})\n{seen}\n{sign} "
        f"(Spearman's correlation of missing share and brightness {rho:+.2f}, p = {p:.2g})"
    )
    return Description(text, observed_by)
