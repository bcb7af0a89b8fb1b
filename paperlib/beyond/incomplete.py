"""The data set ``incomplete``: a folder of images that are really incomplete, and what it holds.

Larger images are cut into tiles; what lies under a mask is set to 0 here, so that nothing behind it
goes any further.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from paperlib.beyond.incomplete_files import Incomplete, incomplete_files, read_incomplete
from paperlib.config import DataConfig
from paperlib.data.prepare import Prepared
from paperlib.data.sources import Files, fingerprint_of_files
from paperlib.errors import DataError
from paperlib.progress import track

DECODED = 8  # images kept, for the tiles that follow
SUSPICIOUS = 0.01  # p-value below which masks are said to look dependent on content


class IncompleteFolder(Files):
    """Incomplete images of any size and number of bands, as ``incomplete_files`` reads them.

    An id is the name below the folder, and where in the image a tile begins: "NAME#top,left".
    """

    masked = True
    crop = "non-overlapping {size} x {size} tiles"

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        self.bands, self.files = config.bands, incomplete_files(self.path)
        self.decode = lru_cache(DECODED)(self._decode)

    @cached_property
    def _measured(self) -> list[tuple[list[str], np.ndarray]]:
        with ThreadPoolExecutor() as pool:
            found = pool.map(self._measure, self.files)
            return list(track(found, len(self.files), "measuring the files"))

    def _measure(self, path: Path) -> tuple[list[str], np.ndarray]:
        """The ids of a file, and the values of each band (2, C) that it would have limit it: 0 and
        255 of 8 bits, else the extremes of what was observed."""
        name = path.relative_to(self.path).as_posix()
        try:
            image = self._decode(path)
        except DataError:  # which reading it will say
            return [f"{name}#0,0"], np.repeat([[np.inf], [-np.inf]], self.bands, axis=1)
        seen = image.values[image.observed]  # (n, C)
        if seen.dtype == np.uint8:
            seen = np.repeat([[0], [255]], self.bands, axis=1)
        tops, lefts = (range(0, side - self.size + 1, self.size) for side in image.observed.shape)
        ids = [f"{name}#{top},{left}" for top in tops for left in lefts]
        return ids or [f"{name}#0,0"], np.stack([seen.min(axis=0), seen.max(axis=0)])

    @cached_property
    def ids(self) -> list[str]:  # type: ignore[override]
        return [image_id for ids, _ in self._measured for image_id in ids]

    @cached_property
    def limits(self) -> list[list[float]]:  # type: ignore[override]
        """The values of each band that stand for -1 and 1, over all files."""
        extremes = np.stack([extremes for _, extremes in self._measured])  # (files, 2, C)
        low, high = extremes[:, 0].min(axis=0), extremes[:, 1].max(axis=0)
        if not (low < high).all():
            raise DataError(f"{self.path}: no image can be read, or a band has one value only")
        return np.stack([low, high], axis=1).astype(float).tolist()

    def _decode(self, path: Path) -> Incomplete:
        config = self.config
        image = read_incomplete(path, config.missing, config.missing_value)
        if (bands := image.values.shape[2]) != self.bands:
            raise DataError(f"{path}: {bands} bands, not {self.bands}: set bands to it")
        return image

    def read(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        """(size, size, C) uint8, 0 where missing, and what was observed, (size, size) bool."""
        name, _, place = image_id.rpartition("#")
        image, (top, left) = self.decode(self.path / name), map(int, place.split(","))
        if (side := min(image.observed.shape)) < self.size:
            raise DataError(f"{side} px of it, smaller than the {self.size} px tiles")
        window = np.s_[top : top + self.size, left : left + self.size]
        values, observed = image.values[window].astype(float), image.observed[window]
        low, high = np.array(self.limits).T  # (C,) each
        levels = ((values - low) / (high - low) * 255).round().clip(0, 255)
        return np.where(observed[..., None], levels, 0).astype(np.uint8), observed

    def fingerprint(self) -> str:
        """Changes with the names, sizes and dates of the files and of their masks."""
        files = sorted(p.relative_to(self.path) for p in self.path.rglob("*") if p.is_file())
        return fingerprint_of_files(self.path, [p.as_posix() for p in files])


def describe(data: Prepared, split: str = "training") -> tuple[str, np.ndarray]:
    """Describe a split of a prepared data set of incomplete images, and say what looks wrong.

    Returns the text, and the share of the images that observe each pixel (size, size). Masks must
    not depend on what they hide (section 2.1: M independent of X). The test of that can miss much:
    the rank correlation between how much of an image is missing and how bright the rest is,
    two-sided. DataError if the split is empty.
    """
    from scipy.stats import spearmanr

    rows, images, every = np.sort(data.indices(split)), data.images(), data.masks()
    if every is None:
        raise DataError(f"{data.folder} holds complete images: there is nothing to describe")
    masks = every[rows]  # (n, size, size) bool
    missing, observed_by = 1 - masks.mean(axis=(1, 2)), masks.mean(axis=0)
    brightness = np.array([images[row][m].mean() for row, m in zip(rows, masks, strict=True)])
    varied = np.ptp(missing) > 0 and np.ptp(brightness) > 0
    rho, p = spearmanr(missing, brightness) if varied else (0.0, 1.0)
    lines = [
        f"{len(rows)} images, {len({m.tobytes() for m in masks})} different masks",
        f"missing: {missing.mean():.1%} of an image, from {missing.min():.1%} to {missing.max():.1%}",
        f"Spearman's correlation of missing share and brightness: {rho:+.2f} (p = {p:.2g})",
    ]
    if never := (observed_by == 0).sum():
        where = f"{never} of {observed_by.size} pixels are observed in no image"
        lines.append(f"WARNING: {where}: no method can learn what is there")
    if p < SUSPICIOUS:
        lines.append("WARNING: masks look dependent on content, which no method accounts for")
    return "\n".join(lines), observed_by
