"""Fill in a user's incomplete images with a trained run: samples, their mean, their spread.

Images of any size: larger ones than the run was trained on are covered by overlapping tiles that
share one z, and the tiles' answers are blended with weights that vanish towards their edges.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.functional import to_tensor
from torchvision.utils import save_image
from tqdm import tqdm

from paperlib import seeds
from paperlib.beyond.incomplete_files import (
    MAX_PIXELS,
    Incomplete,
    incomplete_files,
    read_incomplete,
    write_image,
)
from paperlib.config import RunConfig
from paperlib.errors import ConfigurationError, DataError
from paperlib.files import write_atomically
from paperlib.progress import track
from paperlib.run import Run
from paperlib.training.device import default_device

TILES = 64  # a forward pass; bounds the memory
ON_SHEET = 12  # images on the contact sheet
THUMBNAIL = 256  # pixels a side there


def inpaint(
    run_folder: Path,
    source: Path,
    output: Path,
    samples: int = 5,
    seed: int = 0,
    missing: str = "auto",
    missing_value: float | None = None,
    limits: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    device: torch.device | str | None = None,
) -> dict[Path, str]:
    """Fill in an image, or every image of a folder; give back those that failed, each with why.

    For NAME it writes into ``output`` NAME-sample1 ... NAME-mean and NAME-std, in the format of the
    input (PNG for JPEG, which would not keep what was observed), and ``contact-sheet.png``: a row
    for each of the first images, observed, a sample, mean and std. An image that fails does not
    stop the others. A complete one, as a clear sky among clouds, comes back as it is, and is named.

    Args:
        samples: each with a z that is a function of ``seed``, the image's name and its number.
        missing, missing_value, max_pixels: see ``read_incomplete``.
        limits: the values that stand for -1 and 1, if not those of the run's training.

    Raises:
        ConfigurationError: ``output`` is in use or lies in ``source``, or an argument makes no sense.
        DataError: there is no image. RunError: ``run_folder`` is not that of a trained run.
    """
    _check(source, output, overwrite, limits, samples, max_pixels)
    run = Run(run_folder)
    G, trained_on = run.generator(device or default_device()), run.record.get("limits")
    root, files = (
        (source, incomplete_files(source)) if source.is_dir() else (source.parent, [source])
    )
    failed: dict[Path, str] = {}
    filled: dict[Path, list[Tensor]] = {}  # by where it went, what the contact sheet shows
    for path in track(files, len(files), f"filling in {len(files)} images"):
        name, suffix = path.relative_to(root).as_posix(), path.suffix.lower()
        target = (output / name).with_suffix(".png" if suffix in (".jpg", ".jpeg") else suffix)
        try:
            image = read_incomplete(path, missing, missing_value, max_pixels)
            stand = limits_of(image, run.config.bands, limits, trained_on)
            if target in filled:
                raise DataError(f"its results would replace those of another {target.name}")
            if image.observed.all():
                tqdm.write(f"note: {path}: no pixel is missing, it is given back", file=sys.stderr)
            shown = {"observed": np.where(image.observed[..., None], image.values, np.nan)}
            for label, values in fill_in(G, run.config, image, name, samples, seed, stand):
                write_image(target.with_stem(f"{path.stem}-{label}"), values)
                if label in ("sample1", "mean", "std"):
                    shown[label] = values
            filled[target] = _thumbnails(list(shown.values())) if len(filled) < ON_SHEET else []
        except (DataError, OSError, MemoryError, torch.OutOfMemoryError) as error:
            reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
            failed[path] = f"{path}: {' '.join(reason.split())}"
    if sheet := [thumbnail for row in filled.values() for thumbnail in row]:
        picture = output / "contact-sheet.png"
        write_atomically(picture, lambda draft: save_image(sheet, draft, "png", nrow=4))
    return failed


def _check(source: Path, output: Path, overwrite: bool, limits: Any, *counts: int) -> None:
    if min(counts) < 1:
        raise ConfigurationError("--samples and --max-pixels must be at least 1")
    if limits and not -np.inf < limits[0] < limits[1] < np.inf:
        raise ConfigurationError(f"--range must be two numbers, the lower first, got {limits}")
    if not source.exists():
        raise ConfigurationError(f"{source} does not exist")
    if any(path.is_file() for path in (output, *output.parents)):
        raise ConfigurationError(f"{output} is or lies in a file: choose a folder")
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise ConfigurationError(f"{output} lies in {source}: its images would be read next time")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise ConfigurationError(f"{output} is not empty: choose another folder, or --overwrite")


def _thumbnails(shown: list[np.ndarray]) -> list[Tensor]:
    """(3, THUMBNAIL, THUMBNAIL) of observed, sample, mean and std; light grey is missing."""
    low, high = np.nanmin(shown[0]), np.nanmax(shown[0])
    found = []
    for values, zero in zip(shown, (low, low, low, 0), strict=True):
        unit = ((values.astype(float) - zero) / max(high - low, 1e-9)).clip(0, 1)
        colours = unit[..., :3] if unit.shape[2] >= 3 else unit[..., [0, 0, 0]]
        picture = Image.fromarray((255 * np.nan_to_num(colours, nan=0.85)).astype(np.uint8))
        found.append(to_tensor(ImageOps.pad(picture, (THUMBNAIL, THUMBNAIL), color="white")))
    return found


def limits_of(
    image: Incomplete,
    bands: int,
    limits: tuple[float, float] | None,
    trained_on: list[list[float]] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The values of each band that stand for -1 and 1, (C,) each: ``limits``, else those of
    training on incomplete images, else all values of an integer type, or 0 and 1 of floats.

    Raises:
        DataError: the image has other bands than the run's ``bands``, or values beyond the limits.
    """
    has, dtype = image.values.shape[2], image.values.dtype
    if has != bands and (has, bands) != (1, 3):  # grey is filled in as RGB
        raise DataError(f"{has} bands, but the run was trained on {bands}")
    most = np.iinfo(dtype).max if dtype.kind == "u" else 1
    ranges: Any = [limits] if limits else trained_on or [(0, most)]
    low, high = np.broadcast_to(np.array(ranges, dtype=float)[:has], (has, 2)).T
    known = image.values[image.observed]  # (n, C)
    if trained_on is None and ((known < low).any() or (known > high).any()):
        raise DataError(f"observed values lie outside {low[0]:g} to {high[0]:g}: give the range")
    return low, high


def fill_in(
    G: Any,
    config: RunConfig,
    image: Incomplete,
    name: str,
    samples: int,
    seed: int,
    limits: tuple[np.ndarray, np.ndarray],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ("sample1", values), ..., ("mean", values), ("std", values), (H, W, C) each.

    Samples and mean have the observed values of the input, to the bit; the std is in units of the
    input's values, 0 where observed. Memory does not grow with the number of samples.
    """
    (low, high), seen, dtype = limits, image.observed[..., None], image.values.dtype
    scaled = (np.where(seen, image.values, low) - low) * (2 / (high - low)) - 1
    x = torch.from_numpy(np.where(seen, scaled.clip(-1, 1), 0)).float()
    y, m = x.permute(2, 0, 1), torch.from_numpy(image.observed)[None].float()  # (C or 1, H, W)

    def stored(values: np.ndarray, kept: np.ndarray | int) -> np.ndarray:
        if dtype.kind == "u":
            values = values.round().clip(0, np.iinfo(dtype).max)
        return np.where(seen, kept, values.astype(dtype)).astype(dtype)

    mean, squares = np.zeros(scaled.shape), np.zeros(scaled.shape)
    for k in range(samples):
        z = torch.randn(G.nz, generator=seeds.generator(seed, "inpaint", name, k))
        filled = reconstruct_tiled(G, y.expand(config.bands, -1, -1), m, z, config.size)
        filled = filled.mean(0, keepdim=True) if len(y) < config.bands else filled
        unit = filled.permute(1, 2, 0).double().numpy()  # (H, W, C) in [-1, 1]
        sample = (unit + 1) * ((high - low) / 2) + low
        change = sample - mean  # Welford's running mean and sum of squares
        mean += change / (k + 1)
        squares += change * (sample - mean)
        yield f"sample{k + 1}", stored(sample, image.values)
    yield "mean", stored(mean, image.values)
    yield "std", stored(np.sqrt(squares / max(samples - 1, 1)), 0)


@torch.inference_mode()
def reconstruct_tiled(G: Any, y: Tensor, m: Tensor, z: Tensor, size: int) -> Tensor:
    """G's answer for y (C, H, W) and m (1, H, W), from overlapping tiles with one z (nz,).

    Gives (C, H, W) on the CPU, arbitrary where ``m`` is 1; ``size`` is the tiles' in pixels.
    """
    device = next(G.parameters()).device
    _, height, width = y.shape
    beside = (0, max(size - width, 0), 0, max(size - height, 0))  # missing pixels
    y, m = pad(y, beside), pad(m, beside)
    window = tile_window(size, G.border)  # (size, size)
    total, weight = torch.zeros_like(y), torch.zeros_like(m)
    tiles = [
        (slice(None), slice(top, top + size), slice(left, left + size))
        for top in tile_starts(y.shape[1], size)
        for left in tile_starts(y.shape[2], size)
    ]
    tiles = [tile for tile in tiles if (m[tile] == 0).any()]  # else there is nothing to fill in
    for start in range(0, len(tiles), TILES):
        chunk = tiles[start : start + TILES]
        ys, ms = (torch.stack([t[tile] for tile in chunk]).to(device) for t in (y, m))
        answers = G(ys, ms, z.to(device).expand(len(chunk), -1)).cpu()  # (tiles, C, size, size)
        for tile, answer in zip(chunk, answers, strict=True):
            total[tile] += window * answer
            weight[tile] += window
    return (total / weight.clamp(min=1e-12))[:, :height, :width]


def tile_starts(length: int, size: int) -> list[int]:
    """Where tiles begin along a side: every half tile, the last one flush with the end."""
    return [*range(0, max(length - size, 0), size // 2), max(length - size, 0)]


def tile_window(size: int, border: int = 0) -> Tensor:
    """Weights of a tile's pixels, (size, size): falling to the edges, nearly 0 on the border that
    no mask of the run observes."""
    place = torch.arange(size) + 0.5
    ramp = torch.minimum(place, size - place) / (size / 2)  # (size,)
    ramp[(place < border) | (place > size - border)] *= 1e-3
    return torch.outer(ramp, ramp)
