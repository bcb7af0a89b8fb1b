"""What all sources of images share: their face, and how one image file is read safely."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000  # of an image, where the configuration gives no max_pixels


class DataError(ValueError):
    """Data that cannot be used; the message names it and says what to do."""


class NothingObserved(ValueError):
    """An incomplete image, or tile, of which nothing is seen: left out, and no failure."""


class Source:
    """Lists string ids and reads one image by id.

    It raises DataError where the whole source is unusable, and ValueError or OSError where one
    image is.
    """

    HOW_TO_GET_IT = "set source: to its file or folder"  # said where no source is given
    crop: str  # how an image becomes size x size, for the manifest
    masked = False  # True: ``read`` gives the image and what of it was observed, (size, size) bool

    def __init__(self, size: int, path: Path, max_pixels: int, **options: Any) -> None:
        """How ``sources.FROM_FILES`` opens one; ``max_pixels``: images of more are refused."""
        raise NotImplementedError

    @property
    def ids(self) -> Collection[str]:
        """All ids, in an order that depends on the source alone."""
        raise NotImplementedError

    def read(self, image_id: str) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """The image as uint8 (size, size, 3). Called by several threads at once."""
        raise NotImplementedError

    @property
    def limits(self) -> list[list[float]]:
        """Where ``masked``: the values of each band that stand for -1 and 1."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Changes when the source's files change; cheap to compute."""
        raise NotImplementedError

    def official(self) -> np.ndarray:
        """(len(ids),) uint8, the distributed partition: 0 training, 1 validation, 2 test."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of open files."""


class _PillowsLimitOff:
    """Pillow's own limit of pixels is off while any thread is within, and then as it was."""

    def __init__(self) -> None:
        self._lock, self._within = threading.Lock(), 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._within:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                Image.MAX_IMAGE_PIXELS = self._limit


_LIMIT_OFF = _PillowsLimitOff()


def open_image(file: Path | IO[bytes], max_pixels: float) -> ImageFile.ImageFile:
    """An image of which only the header is read: its pixels are decoded when they are asked for.

    ``max_pixels`` takes the place of Pillow's own limit, be it lower or higher.

    Raises:
        ValueError: not an image, or one of more than ``max_pixels`` pixels.
    """
    try:
        with _LIMIT_OFF:
            image = Image.open(file)
    except UnidentifiedImageError:
        raise ValueError("not an image that Pillow can read") from None
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise ValueError(f"{width} x {height} px, more than max_pixels ({max_pixels}) allows")
    return image


def central_square(image: Image.Image, size: int) -> np.ndarray:
    """The short side resized to ``size`` by area averaging, the centre cropped: (size, size, 3).

    Raises:
        ValueError: the image is smaller than that, or has more than 8 bits a channel.
        OSError: it is truncated or damaged.
    """
    width, height = image.size
    if min(width, height) < size:
        raise ValueError(f"{width} x {height} px, smaller than the {size} px crop")
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"more than 8 bits a channel (mode {image.mode}): not supported")
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BOX))


def fingerprint_of_files(folder: Path, names: Collection[str]) -> str:
    """A digest of the names, sizes and times of change of files or folders below ``folder``."""
    digest = hashlib.sha256()
    for name in names:
        stat = (folder / name).stat()
        line = f"{name} {stat.st_size} {stat.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
