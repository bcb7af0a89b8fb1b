"""Image files as bytes, sound and unsound, for the tests of the data sets."""

from __future__ import annotations

import io

import numpy as np
import tifffile
from conftest import smooth_image
from PIL import Image


def photo(seed: int = 0, size: tuple[int, int] = (40, 36)) -> Image.Image:
    return smooth_image(np.random.default_rng(seed), *size)


def holed(seed: int = 0, size: int = 32) -> Image.Image:
    """RGBA, a third of it missing."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 256, (size, size, 4), dtype=np.uint8)
    values[..., 3] = np.where(rng.random((size, size)) < 2 / 3, 255, 0)
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **{"quality": 95} | options)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def jpegs(n: int, width: int, height: int, seed: int = 0) -> list[bytes]:
    """``n`` smooth images, all different."""
    rng = np.random.default_rng(seed)
    return [encoded(smooth_image(rng, width, height)) for _ in range(n)]


def decoded(content: bytes) -> np.ndarray:
    """(height, width, 3) uint8, as Pillow decodes it."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def claiming(content: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size, so that a huge image need not be made."""
    frame = content.index(b"\xff\xc0")  # the marker, its length (2), precision (1), then the size
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return content[: frame + 5] + size + content[frame + 9 :]


def shrunk_square(content: bytes, size: int) -> np.ndarray:
    """The means of the blocks of the central square of an image whose sides ``size`` divides."""
    pixels = decoded(content).astype(float)
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    square = pixels[top : top + side, left : left + side]
    factor = side // size
    return square.reshape(size, factor, size, factor, 3).mean(axis=(1, 3))
