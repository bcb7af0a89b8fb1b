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

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

RULES = ("auto", "mask", "alpha", "nan", "value")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".npy"}
MASK = ".mask.png"
MAX_BANDS = 16
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Incomplete:
    """An image as it was read."""

    values: np.ndarray  # (H, W, C) uint8, uint16 or float32; anything where missing
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
    path: Path, rule: str = "auto", value: float | None = None, max_pixels: int = MAX_PIXELS
) -> Incomplete:
    """Read an image and what of it was observed.

    Args:
        path: PNG, JPEG, WebP, TIFF or .npy; 8 or 16 bits or float; (H, W), (H, W, C).
        rule: one of ``RULES``.
        value: that of missing pixels; asks for the rule "value".
        max_pixels: larger images are refused, before they are decoded where the format allows it.

    Raises:
        ValueError: the image cannot be used; the message names the file and says why.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r} for missing pixels, choose one of {RULES}")
    values, alpha = _decode(path, max_pixels)
    beside = path.with_name(path.stem + MASK)
    if value is not None:
        rule = "value"
    if rule == "auto":
        has = {"mask": beside.is_file(), "alpha": alpha is not None}
        has["nan"] = values.dtype.kind == "f" and bool(np.isnan(values).any())
        rule = next((name for name, there in has.items() if there), "")
        if not rule:
            raise ValueError(
                f"{path}: nothing says what is missing: no {beside.name}, no alpha channel, no "
                "NaN; or give the value of missing pixels"
            )
    if rule == "mask":
        observed = _read_mask(beside, values.shape[:2])
    elif rule == "alpha":
        if alpha is None:
            raise ValueError(f"{path}: it has no alpha channel")
        observed = alpha > 0
    elif rule == "nan":
        observed = ~np.isnan(values).any(axis=2)
    else:
        if value is None:
            raise ValueError(f"{path}: the rule 'value' needs the value of missing pixels")
        observed = (values != value).any(axis=2)
    if not observed.any():
        raise ValueError(f"{path}: nothing at all is observed")
    if observed.all():
        raise ValueError(f"{path}: no pixel is missing (rule: {rule})")
    if values.dtype.kind == "f" and not np.isfinite(values[observed]).all():
        raise ValueError(f"{path}: observed pixels that are NaN or infinite")
    return Incomplete(values, observed, rule)


def _decode(path: Path, max_pixels: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (H, W, C) as stored, and the alpha channel (H, W) if there is one."""
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            _check_size(path, array.shape, max_pixels)
            return _as_bands(path, np.asarray(array)), None
        if path.suffix.lower() in (".tif", ".tiff"):
            with tifffile.TiffFile(path) as file:
                page = file.pages[0]
                _check_size(path, (page.imagelength, page.imagewidth), max_pixels)
                array = file.asarray()
                planar = page.planarconfig == 2 and array.ndim == 3
                extra = page.extrasamples if page.photometric in (1, 2) else ()
            values = _as_bands(path, np.moveaxis(array, 0, 2) if planar else array)
            is_alpha = len(extra) == 1 and extra[0] in (1, 2) and values.shape[2] in (2, 4)
            return (values[..., :-1], values[..., -1]) if is_alpha else (values, None)
        Image.MAX_IMAGE_PIXELS = None  # the limit here is max_pixels
        with Image.open(path) as image:
            _check_size(path, image.size, max_pixels)
            if image.mode == "P":
                image = image.convert("RGBA" if "transparency" in image.info else "RGB")
            if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
                image = image.convert("RGB")
            array = np.asarray(image)
            alpha = array[..., -1] if image.mode in ("LA", "RGBA") else None
        if alpha is not None:
            array = array[..., :-1]
        return _as_bands(path, array, grey_alpha=alpha is not None), alpha
    except ValueError as error:
        text = str(error)
        raise ValueError(text if str(path) in text else f"{path}: {text}") from None
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise ValueError(f"{path}: cannot be decoded ({error})") from None


def _check_size(path: Path, shape: tuple[int, ...], max_pixels: int) -> None:
    if len(shape) < 2 or (pixels := shape[0] * shape[1]) < 1:
        raise ValueError(f"{path}: not an image, its shape is {tuple(shape)}")
    if pixels > max_pixels:
        raise ValueError(
            f"{path}: {shape[0]} x {shape[1]} is more than {max_pixels} pixels (max_pixels)"
        )


def _as_bands(path: Path, array: np.ndarray, grey_alpha: bool = False) -> np.ndarray:
    """(H, W, C) uint8, uint16 or float32."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not 1 <= array.shape[2] <= MAX_BANDS + 1:
        raise ValueError(
            f"{path}: shape {array.shape}; expected (H, W) or (H, W, C), C up to {MAX_BANDS}"
        )
    if array.dtype.kind == "f":
        return np.asarray(array, dtype=np.float32)
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: values are {array.dtype}; expected uint8, uint16 or float")
    return array


def _read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, white = observed."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        mask = np.asarray(Image.open(path).convert("L"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be decoded ({error})") from None
    if mask.shape != shape:
        raise ValueError(
            f"{path}: a mask of {mask.shape[0]} x {mask.shape[1]} pixels for an image of "
            f"{shape[0]} x {shape[1]}"
        )
    return mask >= 128


def value_range(values: np.ndarray) -> tuple[float, float]:
    """The values that stand for -1 and 1: all of an integer type; 0 and 1 for floats."""
    return (0.0, float(np.iinfo(values.dtype).max)) if values.dtype.kind == "u" else (0.0, 1.0)


def to_unit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values (..., C) scaled from [low, high] to float32 [-1, 1]."""
    return ((values.astype(np.float64) - low) * (2 / (high - low)) - 1).astype(np.float32)


def from_unit(x: np.ndarray, low: float, high: float, dtype: np.dtype) -> np.ndarray:
    """The inverse of ``to_unit``: integers are rounded and clipped."""
    values = (x.astype(np.float64) + 1) * ((high - low) / 2) + low
    if np.dtype(dtype).kind == "u":
        values = values.round().clip(0, np.iinfo(dtype).max)
    return values.astype(dtype)


def write_image(path: Path, values: np.ndarray) -> None:
    """Write (H, W, C) without loss in the format of the suffix: PNG, WebP, TIFF or .npy.

    A PNG of more than 8 bits must be grey, which is all that Pillow writes.
    """
    array = values[..., 0] if values.shape[2] == 1 else values
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with path.open("wb") as file:
            np.save(file, array)
    elif suffix in (".tif", ".tiff"):
        photometric = "rgb" if values.shape[2] == 3 else "minisblack"
        tifffile.imwrite(path, array, photometric=photometric)
    else:
        image = Image.fromarray(array)
        image.save(
            path, format=suffix[1:].upper(), **({"lossless": True} if suffix == ".webp" else {})
        )
