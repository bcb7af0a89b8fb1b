"""LSUN bedrooms as they are distributed: an LMDB of JPEG or WebP files."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from paperlib.image_source import DataError, Source, central_square, open_image


class LSUN(Source):
    """The LMDB bedroom_train_lmdb: 3,033,042 images, their short side 256 pixels.

    The short side is resized to the size, then the centre is cropped. An id is the image's key.
    Nothing that grows with the number of images is held in memory.

    Args:
        size: image side, pixels.
        path: the folder with data.mdb.
        max_pixels: of an image; larger ones are not decoded.
    """

    HOW_TO_GET_IT = (
        "download http://dl.yf.io/lsun/scenes/bedroom_train_lmdb.zip (43 GB), unpack it, and set "
        "source: to the folder bedroom_train_lmdb with data.mdb in it"
    )

    def __init__(self, size: int, path: Path, max_pixels: int) -> None:
        self.size, self.path, self.max_pixels = size, path, max_pixels
        self.crop = f"short side resized to {size}, centre {size} x {size} cropped"
        if not (path / "data.mdb").is_file():
            raise DataError(f"lsun: {path / 'data.mdb'} does not exist; {self.HOW_TO_GET_IT}")
        self._environment = _open(path)

    def close(self) -> None:
        self._environment.close()

    @property
    def ids(self) -> Collection[str]:
        return Keys(self._environment, self.path)

    def read(self, image_id: str) -> np.ndarray:
        with self._environment.begin() as transaction:
            data = transaction.get(image_id.encode())
        return central_square(open_image(io.BytesIO(data), self.max_pixels), self.size)

    def fingerprint(self) -> str:
        stat = (self.path / "data.mdb").stat()
        return f"data.mdb {stat.st_size} {stat.st_mtime_ns}"


class Keys(Collection[str]):
    """The keys of an LMDB in their order, read from it whenever they are iterated over."""

    def __init__(self, environment: Any, path: Path) -> None:
        self._environment, self._path = environment, path

    def __len__(self) -> int:
        return self._environment.stat()["entries"]

    def __iter__(self) -> Iterator[str]:
        with self._environment.begin() as transaction:
            for key in transaction.cursor().iternext(keys=True, values=False):
                try:
                    yield key.decode()
                except UnicodeDecodeError:
                    raise DataError(
                        f"lsun: {self._path}: the key {key!r} is not text: {LSUN.HOW_TO_GET_IT}"
                    ) from None

    def __contains__(self, image_id: object) -> bool:
        with self._environment.begin() as transaction:
            return transaction.get(str(image_id).encode()) is not None


def _open(path: Path) -> Any:
    """The LMDB in ``path``, read-only; DataError if it is none, truncated or empty."""
    try:
        import lmdb
    except ImportError:
        raise DataError("lsun: the package lmdb is missing; run 'pip install lmdb'") from None
    try:
        # No lock file: it may lie on a read-only disk. No read-ahead: the values lie scattered.
        environment = lmdb.open(str(path), readonly=True, create=False, lock=False, readahead=False)
    except lmdb.Error as error:
        raise DataError(f"lsun: {path} is not an LMDB ({error}); {LSUN.HOW_TO_GET_IT}") from None
    pages = environment.info()["last_pgno"] + 1
    fault = None
    if (path / "data.mdb").stat().st_size < pages * environment.stat()["psize"]:
        fault = "is truncated"  # and reading past its end would kill the process
    elif not environment.stat()["entries"]:
        fault = "has no images"
    if fault:
        environment.close()
        raise DataError(f"lsun: {path / 'data.mdb'} {fault}; {LSUN.HOW_TO_GET_IT}")
    return environment
