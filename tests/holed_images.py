"""Incomplete image files of every kind, for the tests of what is made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from paperlib.beyond.incomplete_files import write_image


def picture(
    height: int = 20, width: int = 24, bands: int = 3, dtype: type = np.uint8, seed: int = 0
) -> np.ndarray:
    """Random values (height, width, bands), none of them 0."""
    rng, shape = np.random.default_rng(seed), (height, width, bands)
    if np.dtype(dtype).kind == "f":
        return rng.uniform(0.1, 1, shape).astype(dtype)
    return rng.integers(1, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def holes(values: np.ndarray) -> np.ndarray:
    """(H, W) bool: a third of the pixels missing, among them the first and the last."""
    observed = np.random.default_rng(0).random(values.shape[:2]) < 2 / 3
    observed[0, 0] = observed[-1, -1] = False
    observed[0, 1:3] = True
    return observed


def write(
    path: Path, values: np.ndarray, way: str = "alpha", observed: np.ndarray | None = None
) -> Path:
    """Write an image that says by alpha, mask, nan or value (0) what is missing; its path."""
    observed = holes(values) if observed is None else observed
    if way == "alpha":
        alpha = np.where(observed, np.iinfo(values.dtype).max, 0).astype(values.dtype)
        Image.fromarray(np.dstack([values, alpha])).save(path, lossless=True)
    elif way == "mask":
        Image.fromarray(observed).save(path.with_name(path.stem + ".mask.png"))
        jpeg = path.suffix == ".jpg"
        Image.fromarray(values).save(path) if jpeg else write_image(path, values)
    else:
        hole = np.float32(np.nan) if way == "nan" else values.dtype.type(0)
        write_image(path, np.where(observed[..., None], values, hole))
    return path
