"""Incomplete images: the ways to say what is missing, values kept as stored, and bad files."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from holed_images import holes, picture, write
from PIL import Image, ImageOps

from paperlib.beyond.incomplete_files import (
    image_header,
    incomplete_files,
    read_incomplete,
    write_image,
)
from paperlib.errors import DataError

H, W = 20, 24
OBSERVED = holes(picture())


def write_mask(path: Path, observed: np.ndarray = OBSERVED, **options) -> Path:
    """The mask of the image ``path``; gives back ``path``."""
    Image.fromarray(observed).save(path.with_name(path.stem + ".mask.png"), **options)
    return path


def png(shape: tuple[int, int], depth: int, colour: int, data: bytes, *chunks) -> bytes:
    """A PNG by hand, of any depth, with any claim about its (height, width), and more chunks."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", *shape[::-1], depth, colour, 0, 0, 0)
    parts = (b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def png_16(values: np.ndarray, *chunks) -> bytes:
    """A PNG of 16 bits from values (H, W, C): grey, grey and alpha, RGB, RGBA."""
    data = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[:2], 16, (0, 4, 2, 6)[values.shape[2] - 1], data, *chunks)


def complaint(path: Path, *options, **more) -> str:
    """The one line, naming the file or its mask, with which ``path`` is refused."""
    with pytest.raises(DataError) as error:
        read_incomplete(path, *options, **more)
    text = str(error.value)
    assert str(path.with_suffix("")) in text and len(text.splitlines()) == 1
    return text


# What is missing

WAYS = {"alpha": (".png", ".tif"), "mask": (".png", ".tif", ".npy"), "nan": (".npy", ".tif")}
WAYS["value"] = WAYS["mask"]
