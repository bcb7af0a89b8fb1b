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

import io
import math
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps

from paperlib.data.sources import MAX_PIXELS, open_image
from paperlib.errors import ConfigurationError, DataError
from paperlib.files import write_atomically

RULES = ("auto", "mask", "alpha", "nan", "value")
MASK = ".mask.png"
PICTURES, TIFF = (".png", ".jpg", ".jpeg", ".webp"), (".tif", ".tiff")
SUFFIXES = (*PICTURES, *TIFF, ".npy")
MODES = ("1", "L", "LA", "RGB", "RGBA", "I;16")  # of Pillow's
TYPES = ("uint8", "uint16", "float32", "float64")
NPY = threading.Lock()  # a .npy header is parsed by ast, which threads break before Python 3.13


@dataclass(frozen=True)
class Incomplete:
    """An image as it was read."""

    values: np.ndarray  # (H, W, C), one of ``TYPES``; anything where missing
    observed: np.ndarray  # (H, W) bool


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
    beside, blank = path.with_name(path.stem + MASK), np.isnan(values).any(axis=2)  # (H, W)
    ways = {}  # of those to say what was observed, the ones that the file has
    if beside.is_file():
        levels, _ = read_file(beside, max_pixels)
        if levels.shape[:2] != blank.shape:
            raise DataError(f"{beside}: it has another size than its image")
        ways["mask"] = levels.mean(axis=2) > np.iinfo(levels.dtype).max / 2
    if alpha is not None:
        ways["alpha"] = alpha > 0
    if blank.any() or missing == "nan":
        ways["nan"] = ~blank
    if missing == "value":
        ways["value"] = (values != missing_value).any(axis=2)
    observed = next(iter(ways.values()), None) if missing == "auto" else ways.get(missing)
    if observed is None:
        how = f"give {beside.name}, an alpha channel, NaN, or a value"
        raise DataError(f"{path}: nothing says what is missing ({missing}): {how}")
    if not observed.any():
        raise DataError(f"{path}: nothing at all is observed: leave it out")
    if not np.isfinite(values[observed]).all():
        raise DataError(f"{path}: observed pixels that are NaN or infinite: mark them as missing")
    return Incomplete(values, observed)


def read_file(path: Path, max_pixels: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (H, W, C), one of ``TYPES``, and alpha (H, W) or None; DataError if unusable."""
    suffix = path.suffix.lower()
    try:
        if suffix in PICTURES:
            array, has_alpha = _picture(path, max_pixels)
        elif suffix in TIFF:
            array, has_alpha = _tiff(path, max_pixels)
        elif suffix == ".npy":
            with NPY:
                array, has_alpha = np.lib.format.open_memmap(path, mode="r"), False
        else:
            raise ValueError(f"unknown suffix {suffix!r} (known: {', '.join(SUFFIXES)})")
        array = np.atleast_3d(array)
        kind, bands = array.dtype.name, array.shape[2] - has_alpha
        if array.ndim != 3 or bands < 1 or kind not in TYPES:
            expected = f"expected (H, W) or (H, W, C) of {', '.join(TYPES)}"
            raise ValueError(f"its shape is {array.shape}, of {kind}; {expected}")
        _check_size(array.shape[0], array.shape[1], max_pixels)
        array = np.array(array, kind, order="C")  # in native byte order
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{path}: cannot be read: {reason}") from None
    return (array[..., :-1], array[..., -1]) if has_alpha else (array, None)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ValueError(f"{width} x {height} px, more than max_pixels ({max_pixels}) allows")


def _picture(path: Path, max_pixels: int) -> tuple[np.ndarray, bool]:
    """(H, W) or (H, W, C), upright, and whether the last band is alpha."""
    with open_image(path, max_pixels) as image:
        # A camera's JPEG may hold a second, smaller picture (MPO)
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise ValueError("it is an animation")
        if image.mode not in MODES:
            raise ValueError(f"expected grey or RGB, and alpha, not mode {image.mode}")
        if image.mode != "I;16" and image.tile and ";16" in str(image.tile[0][3]):
            raise ValueError("16 bits of colour, of which Pillow keeps 8: store it as TIFF")
        image.load()  # it says what is damaged
        upright = ImageOps.exif_transpose(image)
        array = np.asarray(upright.convert("L") if image.mode == "1" else upright)
    return array, image.mode in ("LA", "RGBA")


def _tiff(path: Path, max_pixels: int) -> tuple[np.ndarray, bool]:
    """(H, W) or (H, W, C), and whether the last band is alpha."""
    with tifffile.TiffFile(path) as file:
        page, axes = file.pages.first, file.series[0].axes
        if axes not in ("YX", "YXS", "SYX") or page.photometric not in (1, 2):
            raise ValueError(f"expected one page of bands, not {axes} of {page.photometric!r}")
        _check_size(page.imagelength, page.imagewidth, max_pixels)
        array, has_alpha = page.asarray(), page.extrasamples[-1:] in ((1,), (2,))
    return np.moveaxis(array, 0, 2) if axes == "SYX" else array, has_alpha


def write_image(path: Path, values: np.ndarray) -> None:
    """Write (H, W, C) atomically and without loss as the suffix says: PNG, WebP, TIFF or .npy."""
    array = values[..., 0] if values.shape[2] == 1 else values
    suffix, buffer = path.suffix.lower(), io.BytesIO()
    if suffix == ".npy":
        np.save(buffer, array)
    elif suffix in TIFF:
        colours = "rgb" if values.shape[2] == 3 else "minisblack"
        planes = "contig" if array.ndim == 3 else None
        tifffile.imwrite(buffer, array, photometric=colours, planarconfig=planes)
    else:
        Image.fromarray(array).save(buffer, suffix[1:], lossless=True)
    write_atomically(path, lambda draft: draft.write_bytes(buffer.getvalue()))
