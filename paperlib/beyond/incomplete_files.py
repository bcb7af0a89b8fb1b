"""Images that are really incomplete: what a file holds, and how it says what is missing.

    mask   NAME.mask.png beside NAME.*: white = observed, black = missing
    alpha  an alpha channel: 0 = missing
    nan    NaN in any band (.npy, float TIFF)
    value  a number that all bands of a missing pixel have, e.g. 0

The first of these that a file has is taken, unless one is asked for; ``value`` is only ever asked
for. Images and masks that EXIF says are turned are read upright. Values keep the type that they are
stored in, so that what was observed can be given back unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from paperlib.data.sources import MAX_PIXELS, open_image
from paperlib.errors import ConfigurationError, DataError
from paperlib.files import write_atomically

RULES = ("auto", "mask", "alpha", "nan", "value")
MASK = ".mask.png"
MAX_BANDS = 16
TYPES = [np.dtype(name) for name in ("uint8", "uint16", "float16", "float32", "float64")]
MODES = ("1", "L", "LA", "RGB", "RGBA", "P", "I;16")  # those of Pillow's that are read
ORIENTATION = 0x0112  # the tag of EXIF and TIFF


@dataclass(frozen=True)
class Incomplete:
    """An image as it was read."""

    values: np.ndarray  # (H, W, C) uint8, uint16, float32 or float64; anything where missing
    observed: np.ndarray  # (H, W) bool
    rule: str  # how it said what is missing


def incomplete_files(folder: Path) -> list[Path]:
    """The images of a folder (masks are not images), sorted; DataError where there is none."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.endswith(MASK) and path.is_file()
    )
    if not found:
        raise DataError(f"{folder}: no image (known: {', '.join(SUFFIXES)})")
    return found


def read_incomplete(
    path: Path,
    missing: str = "auto",
    missing_value: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Incomplete:
    """Read an image and what of it was observed, which may be all of it.

    Args:
        path: PNG, JPEG, WebP, TIFF or .npy; 8 or 16 bits or float; (H, W) or (H, W, C).
        missing: one of ``RULES``.
        missing_value: that of missing pixels; asks for the rule "value" (for "nan" if it is NaN).
        max_pixels: larger images are refused before they are decoded.

    Raises:
        ConfigurationError: the rule is unknown, or contradicts the value.
        DataError: the image cannot be used; the message names the file and says why.
    """
    known = RULES[:-1] if missing_value is None else ("auto", "value")
    if missing not in known:
        raise ConfigurationError(
            f"missing: {missing!r} is unknown, or contradicts missing_value ({missing_value}): "
            f"choose one of {', '.join(known)}"
        )
    if missing_value is not None:
        missing = "nan" if math.isnan(missing_value) else "value"
    values, alpha = _read(path, max_pixels)
    beside = path.with_name(path.stem + MASK)
    if missing == "auto":
        has = {"mask": beside.is_file(), "alpha": alpha is not None, "nan": np.isnan(values).any()}
        missing = next((rule for rule, there in has.items() if there), "")
    if missing == "mask":
        observed = _read_mask(beside, values.shape[:2], max_pixels)
    elif missing == "alpha" and alpha is not None:
        observed = alpha > 0
    elif missing == "nan":
        observed = ~np.isnan(values).any(axis=2)
    elif missing == "value":
        observed = (values != missing_value).any(axis=2)
    else:
        looked_for = "alpha channel" if missing else f"{beside.name}, no alpha channel, no NaN"
        raise DataError(
            f"{path}: nothing says what is missing: no {looked_for}; or give the value of missing "
            "pixels"
        )
    if not observed.any():
        raise DataError(f"{path}: nothing at all is observed: leave it out")
    if not np.isfinite(values[observed]).all():
        raise DataError(f"{path}: observed pixels that are NaN or infinite: mark them as missing")
    return Incomplete(values, observed, missing)


def image_header(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, int], np.dtype]:
    """(height, width) upright and the type of the values, without decoding them; DataError as
    ``read_incomplete``."""
    return _read(path, max_pixels, header_only=True)


def _read_mask(path: Path, shape: tuple[int, ...], max_pixels: int) -> np.ndarray:
    """(H, W) bool, white = observed."""
    if not path.is_file():
        raise DataError(f"{path} is missing, which should say what is missing")
    levels, _ = _read(path, max_pixels)
    if levels.shape[:2] != shape:
        (height, width), (rows, columns) = levels.shape[:2], shape
        sizes = f"a mask of {width} x {height} px for an image of {columns} x {rows}"
        raise DataError(f"{path}: {sizes}")
    return levels.mean(axis=2, dtype=np.float32) > np.iinfo(levels.dtype).max / 2


def _read(path: Path, max_pixels: int, header_only: bool = False) -> Any:
    """The header, or the pixels; any fault is a DataError of one line that names the file."""
    try:
        stages = _header_then_pixels(path, max_pixels)
        header = next(stages)
        return header if header_only else next(stages)
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{path}: cannot be read: {reason}") from None


def _header_then_pixels(path: Path, max_pixels: int) -> Iterator[Any]:
    """First ((height, width), type), then (values (H, W, C), alpha (H, W) or None), all upright."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"unknown suffix {path.suffix!r} (known: {', '.join(SUFFIXES)})")
    stages = reader(path)
    shape, dtype, turned = next(stages)
    height, width, bands = (*shape, 1)[:3] if len(shape) in (2, 3) else (0, 0, 0)
    if not (height and width and 1 <= bands <= MAX_BANDS):
        expected = f"(H, W) or (H, W, C), C up to {MAX_BANDS}"
        raise ValueError(f"not an image, its shape is {tuple(shape)}; expected {expected}")
    if height * width > max_pixels:
        raise ValueError(f"{width} x {height} px, more than max_pixels ({max_pixels}) allows")
    native = dtype.newbyteorder("=") if dtype else None
    if native not in TYPES:
        raise ValueError(f"values are {dtype}; expected uint8, uint16 or float")
    yield (width, height) if turned >= 5 else (height, width), native

    array, has_alpha = next(stages)
    array = np.rot90(array, {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(turned, 0))
    array = array[:, ::-1] if turned in (2, 4, 5, 7) else array
    array = np.ascontiguousarray(array, np.float32 if native == np.float16 else native)
    array = array.reshape(*array.shape[:2], -1)
    yield (array[..., :-1], array[..., -1]) if has_alpha else (array, None)


# Each yields the header, (shape, type, EXIF's orientation), then (array, whether it ends in alpha)


def _npy(path: Path) -> Iterator[Any]:
    array = np.lib.format.open_memmap(path, mode="r")
    yield array.shape, array.dtype, 1
    yield np.array(array), False


def _tiff(path: Path) -> Iterator[Any]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        # Of a page there may be smaller copies and a mask beside it (bits 1 and 4)
        pages = sum(not getattr(p, "subfiletype", 0) & 5 for p in file.pages)
        if pages > 1 or file.series[0].size != page.size:
            raise ValueError("a TIFF of several pages: save each as a file, or bands in one page")
        colours = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        if page.photometric not in colours or page.axes not in ("YX", "YXS", "SYX"):
            what = f"{page.photometric!r}, axes {page.axes}"
            raise ValueError(f"a kind of TIFF that is not read ({what}): save it as grey or RGB")
        turned = page.tags.get(ORIENTATION)
        has_alpha = page.extrasamples[-1:] in ((1,), (2,))
        shape = page.imagelength, page.imagewidth, page.samplesperpixel - has_alpha
        yield shape, page.dtype, turned.value if turned else 1
        array = page.asarray()
        yield np.moveaxis(array, 0, 2) if page.axes == "SYX" else array, has_alpha


def _picture(path: Path) -> Iterator[Any]:
    with open_image(path, math.inf) as image:
        # A camera's JPEG may hold a second, smaller picture (MPO)
        if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
            raise ValueError(f"an animation of {frames} pictures: save each as a file")
        key = "transparency" in image.info
        if image.mode not in MODES or (key and image.mode != "P"):
            what = f"{image.mode}, one colour stands for transparent" if key else image.mode
            raise ValueError(f"a kind of image that is not read ({what}): save it as grey or RGB")
        mode = {"1": "L", "P": "RGBA" if key else "RGB"}.get(image.mode, image.mode)
        # Without "exif", Pillow would decode a PNG to look behind its pixels
        turned = image.getexif().get(ORIENTATION, 1) if "exif" in image.info else 1
        raw, _, deep = str(image.tile and image.tile[0][3]).partition(";16")
        yield (image.height, image.width), np.dtype(np.uint16 if deep else np.uint8), turned
        if deep:  # which Pillow would bring down to 8 bits
            import cv2

            array: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
            bands = {"I": [0], "LA": [0, 3], "RGB": [2, 1, 0], "RGBA": [2, 1, 0, 3]}[raw]
            array = np.atleast_3d(array)[..., bands]  # OpenCV's order is B, G, R, alpha
        else:
            array = np.asarray(image.convert(mode))
        yield array, mode in ("LA", "RGBA")


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
            import tifffile

            photometric = "rgb" if values.shape[2] == 3 else "minisblack"
            planes = None if array.ndim == 2 else "contig"
            tifffile.imwrite(draft, array, photometric=photometric, planarconfig=planes)
        elif array.dtype == np.uint16:  # which Pillow cannot write in colours
            import cv2

            _, content = cv2.imencode(".png", np.ascontiguousarray(values[..., ::-1]))
            draft.write_bytes(content.tobytes())
        else:
            options = {"lossless": True} if suffix == ".webp" else {}
            Image.fromarray(array).save(draft, format=suffix[1:].upper(), **options)

    write_atomically(path, write)
