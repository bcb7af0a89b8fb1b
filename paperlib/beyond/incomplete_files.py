"""Images that are really incomplete: what a file holds, and how it says what is missing.

    mask   NAME.mask.png beside NAME.*: white = observed, black = missing
    alpha  an alpha channel: 0 = missing
    nan    NaN in any band (.npy, float TIFF)
    value  a number that all bands of a missing pixel have, e.g. 0

The first of these that a file has is taken, unless one is asked for; ``value`` is only ever asked
for. Values keep the type that they are stored in, so that what was observed can be given back
unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import ImageOps

from paperlib.data.sources import MAX_PIXELS, open_image
from paperlib.errors import ConfigurationError, DataError
from paperlib.files import write_atomically

RULES = ("auto", "mask", "alpha", "nan", "value")
MASK = ".mask.png"
MAX_BANDS = 16
TYPES = ("uint8", "uint16", "float32", "float64")
MODES = ("1", "L", "LA", "RGB", "RGBA", "I;16")  # of Pillow's


@dataclass(frozen=True)
class Incomplete:
    """An image as it was read."""

    values: np.ndarray  # (H, W, C), one of ``TYPES``; anything where missing
    observed: np.ndarray  # (H, W) bool
    rule: str  # how it said what is missing


def incomplete_files(folder: Path) -> list[Path]:
    """The images of a folder (masks are not images), sorted; DataError where there is none."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if images := sorted(path for path in found if not path.name.endswith(MASK)):
        return images
    raise DataError(f"{folder}: no image (known: {', '.join(SUFFIXES)})")


def read_incomplete(
    path: Path,
    missing: str = "auto",
    missing_value: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Incomplete:
    """Read an image (H, W) or (H, W, C), and what of it was observed, which may be all of it.

    ``missing`` is one of ``RULES``; ``missing_value`` asks for "value", or if it is NaN for "nan".

    Raises:
        ConfigurationError: the rule is unknown, or contradicts the value.
        DataError: the image cannot be used, or has more than ``max_pixels``; the file is named.
    """
    if missing not in (RULES[:-1] if missing_value is None else ("auto", "value")):
        raise ConfigurationError(f"missing: {missing!r} contradicts missing_value={missing_value}")
    if missing_value is not None:
        missing = "nan" if math.isnan(missing_value) else "value"
    values, alpha = read_file(path, max_pixels)
    beside = path.with_name(path.stem + MASK)
    has = {"mask": beside.is_file(), "alpha": alpha is not None, "nan": np.isnan(values).any()}
    if missing == "auto":
        missing = next((rule for rule, there in has.items() if there), "auto")
    if missing == "mask" and has["mask"]:
        levels, _ = read_file(beside, max_pixels)
        if levels.shape[:2] != values.shape[:2]:
            raise DataError(f"{beside}: it has another size than its image")
        observed = levels.mean(axis=2, dtype=np.float32) > np.iinfo(levels.dtype).max / 2
    elif missing == "alpha" and alpha is not None:
        observed = alpha > 0
    elif missing == "nan":
        observed = ~np.isnan(values).any(axis=2)
    elif missing == "value":
        observed = (values != missing_value).any(axis=2)
    else:
        raise DataError(
            f"{path}: nothing says what is missing ({missing}): give {beside.name}, an alpha "
            "channel, NaN, or the value of missing pixels"
        )
    if not observed.any():
        raise DataError(f"{path}: nothing at all is observed: leave it out")
    if not np.isfinite(values[observed]).all():
        raise DataError(f"{path}: observed pixels that are NaN or infinite: mark them as missing")
    return Incomplete(values, observed, missing)


def read_file(path: Path, max_pixels: int, header_only: bool = False) -> Any:
    """Values (H, W, C) and alpha (H, W) or None; or without decoding (H, W) and the values' type.

    Raises:
        DataError: as ``read_incomplete``.
    """
    try:
        if path.suffix.lower() not in READERS:
            raise ValueError(f"unknown suffix {path.suffix!r} (known: {', '.join(SUFFIXES)})")
        stages = READERS[path.suffix.lower()](path)
        shape, dtype = next(stages)
        sound = len(shape) in (2, 3) and 0 not in shape and shape[2:] <= (MAX_BANDS,)
        if not sound or dtype.name not in TYPES:
            expected = f"(H, W) or (H, W, C), C up to {MAX_BANDS}, of {', '.join(TYPES)}"
            raise ValueError(f"its shape is {tuple(shape)}, of {dtype}; expected {expected}")
        if shape[0] * shape[1] > max_pixels:
            raise ValueError(f"{shape[1]} x {shape[0]} px, more than max_pixels allows")
        if header_only:
            return shape[:2], dtype
        array, has_alpha = next(stages)
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{path}: cannot be read: {reason}") from None
    array = np.ascontiguousarray(array, dtype.name).reshape(*array.shape[:2], -1)
    return (array[..., :-1], array[..., -1]) if has_alpha else (array, None)


# Each yields the header, (shape, type), then (array, whether its last band is alpha)


def _npy(path: Path) -> Iterator[Any]:
    array = np.lib.format.open_memmap(path, mode="r")
    yield array.shape, array.dtype
    yield np.array(array), False


def _tiff(path: Path) -> Iterator[Any]:
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        grey_or_rgb = page.photometric in (1, 2) and page.axes in ("YX", "YXS", "SYX")
        if not grey_or_rgb or file.series[0].size != page.size:
            found = f"{len(file.pages)} of {page.photometric!r}, axes {page.axes}"
            raise ValueError(f"expected one page of grey, RGB or bands, not {found}")
        has_alpha = page.extrasamples[-1:] in ((1,), (2,))
        yield (page.imagelength, page.imagewidth, page.samplesperpixel - has_alpha), page.dtype
        array = page.asarray()
        yield np.moveaxis(array, 0, 2) if page.axes == "SYX" else array, has_alpha


def _picture(path: Path) -> Iterator[Any]:
    with open_image(path, math.inf) as image:
        # A camera's JPEG may hold a second, smaller picture (MPO)
        moving = image.format != "MPO" and getattr(image, "n_frames", 1) > 1
        if moving or image.mode not in MODES or "transparency" in image.info:
            what = "an animation" if moving else f"mode {image.mode} {[*image.info]}"
            raise ValueError(f"expected one picture in grey or RGB, and alpha, not {what}")
        deep = ";16" in str(image.tile)  # which Pillow would bring down to 8 bits
        # Without "exif", Pillow would decode a PNG to look behind its pixels
        turned = "exif" in image.info and not deep and image.getexif().get(0x0112, 1) >= 5
        size = image.size if turned else image.size[::-1]
        yield size, np.dtype(np.uint16 if deep else np.uint8)
        if deep:
            array: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
            bands: Any = {"I": [0], "LA": [0, 3], "RGB": [2, 1, 0], "RGBA": [2, 1, 0, 3]}
            array = np.atleast_3d(array)[..., bands[str(image.tile[0][3]).partition(";")[0]]]
        else:
            upright = ImageOps.exif_transpose(image)
            array = np.asarray(upright.convert("L") if image.mode == "1" else upright)
        yield array, image.mode in ("LA", "RGBA")


READERS = dict.fromkeys((".png", ".jpg", ".jpeg", ".webp"), _picture)
READERS |= {".tif": _tiff, ".tiff": _tiff, ".npy": _npy}
SUFFIXES = tuple(READERS)


def write_image(path: Path, values: np.ndarray) -> None:
    """Write (H, W, C) atomically and without loss as the suffix says: PNG, WebP, TIFF or .npy."""
    array = values[..., 0] if values.shape[2] == 1 else values
    suffix = path.suffix.lower()

    def write(draft: Path) -> None:
        if suffix == ".npy":
            with draft.open("wb") as file:
                np.save(file, array)
        elif suffix in (".tif", ".tiff"):
            colours = "rgb" if values.shape[2] == 3 else "minisblack"
            planes = "contig" if array.ndim == 3 else None
            tifffile.imwrite(draft, array, photometric=colours, planarconfig=planes)
        else:
            lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
            _, content = cv2.imencode(suffix, np.ascontiguousarray(values[..., ::-1]), lossless)
            draft.write_bytes(content.tobytes())

    write_atomically(path, write)
