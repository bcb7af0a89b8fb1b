"""Images that are really incomplete: what a file holds, and how it says what is missing.

    mask   NAME.mask.png beside NAME.*: white = observed, black = missing
    alpha  an alpha channel: 0 = missing
    nan    NaN in any band (.npy, float TIFF)
    value  a number that all bands of a missing pixel have, e.g. 0

The first of these that a file has is taken, unless one is asked for; ``value`` is only ever asked
for. Images and masks that EXIF says are turned are read upright, as people see them. Values keep the type that they are stored in, so that what was observed can be given back
unchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageFile

from paperlib.image_source import MAX_PIXELS, DataError, open_image

RULES = ("auto", "mask", "alpha", "nan", "value")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".npy"}
MASK = ".mask.png"
MAX_BANDS = 16
ORIENTATION = 0x0112  # the tag of EXIF and TIFF

Limit = float | np.ndarray  # one for all bands, or one a band (C,)


@dataclass(frozen=True)
class Incomplete:
    """An image as it was read."""

    values: np.ndarray  # (H, W, C) uint8, uint16, float32 or float64; anything where missing
    observed: np.ndarray  # (H, W) bool
    rule: str  # how it said what is missing


def incomplete_files(folder: Path) -> list[Path]:
    """The images of a folder (masks are not images), sorted; ValueError where there is none."""
    found = sorted(
        path for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.endswith(MASK) and path.is_file()
    )  # fmt: skip
    if not found:
        raise ValueError(f"{folder}: no image (known: {', '.join(sorted(SUFFIXES))})")
    return found


def read_incomplete(
    path: Path,
    rule: str = "auto",
    value: float | None = None,
    max_pixels: int = MAX_PIXELS,
    complete: bool = False,
) -> Incomplete:
    """Read an image and what of it was observed.

    Args:
        path: PNG, JPEG, WebP, TIFF or .npy; 8 or 16 bits or float; (H, W), (H, W, C).
        rule: one of ``RULES``.
        value: that of missing pixels; asks for the rule "value".
        max_pixels: larger images are refused, before they are decoded where the format allows it.
        complete: accept one of which nothing is missing, if the rule can tell.

    Raises:
        DataError: the image cannot be used; the message names the file and says why.
    """
    if rule not in RULES:
        raise DataError(f"unknown rule {rule!r} for missing pixels, choose one of {RULES}")
    if value is not None and rule not in ("auto", "value"):
        raise DataError(f"{path}: the rule {rule!r} and a value contradict each other: give one")
    if value is not None and math.isnan(value):
        rule, value = "nan", None
    values, alpha = _decode(path, max_pixels)
    beside = path.with_name(path.stem + MASK)
    if value is not None:
        rule = "value"
    if rule == "auto":
        has = {"mask": beside.is_file(), "alpha": alpha is not None}
        has["nan"] = values.dtype.kind == "f" and bool(np.isnan(values).any())
        rule = next((name for name, there in has.items() if there), "")
        if not rule:
            raise DataError(
                f"{path}: nothing says what is missing: no {beside.name}, no alpha channel, no "
                "NaN; or give the value of missing pixels"
            )
    if rule == "mask":
        observed = _read_mask(beside, values.shape[:2], max_pixels)
    elif rule == "alpha":
        if alpha is None:
            raise DataError(f"{path}: it has no alpha channel, by which to say what is missing")
        observed = alpha > 0
    elif rule == "nan":
        observed = ~np.isnan(values).any(axis=2)
    else:
        if value is None:
            raise DataError(f"{path}: the rule 'value' needs the value of missing pixels")
        observed = (values != value).any(axis=2)
    if not observed.any():
        raise DataError(f"{path}: nothing at all is observed: leave it out")
    if observed.all() and not complete:
        raise DataError(f"{path}: no pixel is missing (rule: {rule})")
    if values.dtype.kind == "f" and not np.isfinite(values[observed]).all():
        raise DataError(f"{path}: observed pixels that are NaN or infinite: mark them as missing")
    return Incomplete(values, observed, rule)


def _decode(path: Path, max_pixels: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (H, W, C) as stored, and the alpha channel (H, W) if there is one."""
    suffix = path.suffix.lower()
    try:
        if suffix not in SUFFIXES:
            raise ValueError(f"unknown suffix {suffix!r} (known: {', '.join(sorted(SUFFIXES))})")
        if suffix == ".npy":
            array = _mapped(path)
            _check_size(array.shape, max_pixels)
            return _as_bands(np.asarray(array)), None
        if suffix in (".tif", ".tiff"):
            return _decode_tiff(path, max_pixels)
        with open_image(path, max_pixels) as image:
            _refuse_several(image)
            array = _upright(_pixels(path, image), _orientation(image))
        if array.ndim == 3 and array.shape[2] in (2, 4):
            return _as_bands(array[..., :-1]), array[..., -1]
        return _as_bands(array), None
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        said = reason if isinstance(error, ValueError) else f"cannot be decoded ({reason})"
        raise DataError(f"{path}: {said}") from None


def _mapped(path: Path) -> np.ndarray:
    """A .npy of which only the header is read."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "mmap length" in str(error):
            raise ValueError("truncated: its header promises more values than it has") from None
        raise


def _pixels(path: Path, image: ImageFile.ImageFile) -> np.ndarray:
    """(H, W) or (H, W, C) as stored; the last of 2 or 4 channels is alpha."""
    if _deep(image) and image.mode != "I;16":
        return _decode_16_bits(path, image)  # which Pillow would bring down to 8
    clear = image.info.get("transparency")
    if image.mode == "P":
        return np.asarray(image.convert("RGB" if clear is None else "RGBA"))
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16", "1"):
        return np.asarray(image.convert("RGB"))
    if clear is None:
        return np.asarray(image.convert("RGB") if image.mode == "1" else image)
    if image.mode == "1" or any(f"L;{bits}" in str(t.args) for t in image.tile for bits in (2, 4)):
        raise ValueError("one grey level of few is transparent: save it with an alpha channel")
    array = np.asarray(image)
    bands = array if array.ndim == 3 else array[..., None]
    alpha = np.where((bands == clear).all(axis=2), 0, np.iinfo(array.dtype).max)
    return np.dstack([array, alpha.astype(array.dtype)])


def _refuse_several(image: ImageFile.ImageFile) -> None:
    """ValueError for animations; a camera's JPEG may hold a second, smaller picture (MPO)."""
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"an animation of {frames} pictures: save each as a file")


def _orientation(image: ImageFile.ImageFile) -> int:
    """EXIF's, 1 to 8, from the header alone."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the pixels to look behind them
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data are no reason to refuse an image
        return 1


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as it is to be seen, of an image stored with one of EXIF's orientations."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _decode_tiff(path: Path, max_pixels: int) -> tuple[np.ndarray, np.ndarray | None]:
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        _check_size((page.imagelength, page.imagewidth), max_pixels)
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise ValueError("a TIFF with a palette: save it as grey or RGB")
        # Of a page there may be smaller ones and a mask beside it (bits 1 and 4)
        pages = sum(not getattr(p, "subfiletype", 0) & 5 for p in file.pages)
        if pages > 1 or file.series[0].size != page.size:
            raise ValueError("a TIFF of several pages: save each as a file, or bands in one page")
        try:
            array = file.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise ValueError(
                f"a TIFF compressed by {tifffile.COMPRESSION(page.compression).name}: run 'pip install imagecodecs', or "
                "save it uncompressed"
            ) from None
        planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and array.ndim == 3
        colours: tuple[int, ...] = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        extra = page.extrasamples if page.photometric in colours else ()
        turned = _tiff_orientation(page)
    array = _upright(np.moveaxis(array, 0, 2) if planar else array, turned)
    if len(extra) == 1 and extra[0] in (1, 2) and array.ndim == 3 and array.shape[2] in (2, 4):
        return _as_bands(array[..., :-1]), array[..., -1]
    return _as_bands(array), None


def _tiff_orientation(page: tifffile.TiffPage) -> int:
    tag = page.tags.get(ORIENTATION)
    return int(tag.value) if tag else 1


def _decode_16_bits(path: Path, image: ImageFile.ImageFile) -> np.ndarray:
    """(H, W, 2, 3 or 4) uint16 from a PNG, in the order R, G, B, A."""
    array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)  # also as turned
    if array is None or array.dtype != np.uint16 or array.ndim != 3:
        raise ValueError("a PNG of 16 bits that cannot be read: save it again")
    if any("LA;16" in str(tile.args) for tile in image.tile):
        return array[..., [0, -1]]  # grey, which OpenCV gives as three equal bands
    return array[..., [2, 1, 0, *range(3, array.shape[2])]]


def image_header(path: Path) -> tuple[tuple[int, int], np.dtype]:
    """(height, width) upright and the type of the values, without decoding them.

    Raises:
        DataError: it has no such header; the message names the file.
    """
    try:
        if path.suffix.lower() == ".npy":
            array = _mapped(path)
            return array.shape[:2], array.dtype
        if path.suffix.lower() in (".tif", ".tiff"):
            with tifffile.TiffFile(path) as file:
                page = file.pages.first
                shape = page.imagelength, page.imagewidth
                if page.dtype is None:
                    raise ValueError("values of an unknown type")
                return _turned(shape, _tiff_orientation(page)), page.dtype
        with open_image(path, math.inf) as image:
            shape = _turned((image.height, image.width), _orientation(image))
            return shape, np.dtype(np.uint16 if _deep(image) else np.uint8)
    except Exception as error:
        raise DataError(f"{path}: cannot be decoded ({' '.join(str(error).split())})") from None


def _turned(shape: tuple[int, int], orientation: int) -> tuple[int, int]:
    return shape[::-1] if orientation in (5, 6, 7, 8) else shape


def _deep(image: ImageFile.ImageFile) -> bool:
    """Whether the file has 16 bits a channel, which Pillow's mode need not say."""
    return any(";16" in str(tile.args) for tile in image.tile)


def _check_size(shape: tuple[int, ...], max_pixels: int) -> None:
    if len(shape) < 2 or (pixels := shape[0] * shape[1]) < 1:
        raise ValueError(f"not an image, its shape is {tuple(shape)}")
    if pixels > max_pixels:
        raise ValueError(f"{shape[1]} x {shape[0]} px, more than max_pixels ({max_pixels}) allows")


def _as_bands(array: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8, uint16, float32 or float64."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not 1 <= array.shape[2] <= MAX_BANDS:
        raise ValueError(f"shape {array.shape}; expected (H, W) or (H, W, C), C up to {MAX_BANDS}")
    if array.dtype.kind == "f":
        return np.asarray(array, dtype=np.float64 if array.dtype.itemsize == 8 else np.float32)
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"values are {array.dtype}; expected uint8, uint16 or float")
    return array


def _read_mask(path: Path, shape: tuple[int, int], max_pixels: int) -> np.ndarray:
    """(H, W) bool, white = observed."""
    if not path.is_file():
        raise DataError(f"{path} is missing, which should say what is missing")
    try:
        with open_image(path, max_pixels) as image:
            _refuse_several(image)
            orientation = _orientation(image)
            height, width = _turned((image.height, image.width), orientation)
            if (height, width) != shape:
                raise ValueError(
                    f"a mask of {width} x {height} px for an image of {shape[1]} x {shape[0]}"
                )
            return _upright(np.asarray(image.convert("L")) >= 128, orientation)
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise DataError(f"{path}: {' '.join(str(error).split())[:300]}") from None


def value_range(values: np.ndarray) -> tuple[float, float]:
    """The values that stand for -1 and 1: all of an integer type; 0 and 1 for floats."""
    return (0.0, float(np.iinfo(values.dtype).max)) if values.dtype.kind == "u" else (0.0, 1.0)


def to_unit(values: np.ndarray, low: Limit, high: Limit) -> np.ndarray:
    """Values (..., C) scaled from [low, high] to float32 [-1, 1]."""
    return ((values.astype(np.float64) - low) * (2 / (high - low)) - 1).astype(np.float32)


def from_unit(x: np.ndarray, low: Limit, high: Limit, dtype: np.dtype) -> np.ndarray:
    """The inverse of ``to_unit``: integers are rounded and clipped."""
    values = (x.astype(np.float64) + 1) * ((high - low) / 2) + low
    if np.dtype(dtype).kind == "u":
        values = values.round().clip(0, np.iinfo(dtype).max)
    return values.astype(dtype)


def write_image(path: Path, values: np.ndarray) -> None:
    """Write (H, W, C) without loss in the format of the suffix: PNG, WebP, TIFF or .npy."""
    array = values[..., 0] if values.shape[2] == 1 else values
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with path.open("wb") as file:
            np.save(file, array)
    elif suffix in (".tif", ".tiff"):
        photometric = "rgb" if values.shape[2] == 3 else "minisblack"
        planes = None if array.ndim == 2 else "contig"
        tifffile.imwrite(path, array, photometric=photometric, planarconfig=planes)
    elif values.dtype == np.uint16 and values.shape[2] == 3:  # which Pillow cannot write
        done, content = cv2.imencode(".png", np.ascontiguousarray(values[..., ::-1]))
        if not done:
            raise DataError(f"{path}: OpenCV could not write it")
        path.write_bytes(content.tobytes())
    else:
        image = Image.fromarray(array)
        image.save(
            path, format=suffix[1:].upper(), **({"lossless": True} if suffix == ".webp" else {})
        )
