"""Fill in a user's incomplete images with a trained run: samples, their mean, their spread.

Images of any size: larger ones than the run was trained on are covered by overlapping tiles that
share one z, and the tiles' answers are blended with weights that vanish towards their edges.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

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
from paperlib.progress import track
from paperlib.run import Run
from paperlib.training.device import default_device


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
) -> dict[Path, str]:
    """Fill in an image, or every image of a folder; give back those that failed, each with why.

    For NAME it writes into ``output`` NAME-sample1 ... NAME-mean and NAME-std, in the format of the
    input (PNG for JPEG, which would not keep what was observed). An image that fails does not stop
    the others. A complete one, as a clear sky among clouds, comes back as it is.

    Args:
        samples: each with a z that is a function of ``seed``, the image's name and its number.
        missing, missing_value, max_pixels: see ``read_incomplete``.
        limits: the values that stand for -1 and 1, if not those of the run's training.

    Raises:
        ConfigurationError: ``output`` is in use or lies in ``source``, or an argument makes no sense.
        DataError: there is no image. RunError: ``run_folder`` is not that of a trained run.
    """
    if limits and not -np.inf < limits[0] < limits[1] < np.inf:
        raise ConfigurationError(f"--range must be two numbers, the lower first, got {limits}")
    if not source.exists():
        raise ConfigurationError(f"{source} does not exist")
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise ConfigurationError(f"{output} lies in {source}: its images would be read next time")
    if output.exists() and not (output.is_dir() and (overwrite or not any(output.iterdir()))):
        raise ConfigurationError(f"{output} is in use: choose another folder, or --overwrite")
    run = Run(run_folder)
    G = run.generator(default_device())
    limits = limits or run.record.get("limits")
    root, files = source.parent, [source]
    if source.is_dir():
        root, files = source, incomplete_files(source)
    failed, written = dict[Path, str](), set[Path]()
    for path in track(files, len(files), f"filling in {len(files)} images"):
        name, suffix = path.relative_to(root).as_posix(), path.suffix.lower()
        target = (output / name).with_suffix(".png" if suffix in (".jpg", ".jpeg") else suffix)
        try:
            image = read_incomplete(path, missing, missing_value, max_pixels)
            if target in written:
                raise DataError(f"its results would replace those of another {target.name}")
            filled = fill_in(G, run.config, image, name, samples, seed, limits)
            for label, values in filled.items():
                write_image(target.with_stem(f"{path.stem}-{label}"), values)
            written.add(target)
        except (DataError, OSError, MemoryError, torch.OutOfMemoryError) as error:
            reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
            failed[path] = f"{path}: {' '.join(reason.split())}"
    return failed


def fill_in(
    G: Any,
    config: RunConfig,
    image: Incomplete,
    name: str,
    samples: int,
    seed: int,
    limits: Any = None,
) -> dict[str, np.ndarray]:
    """The values (H, W, C) of "sample1", ..., "mean", "std", in the type of the image's.

    Samples and mean have the observed values of the image, to the bit; the std is in units of the
    image's values, 0 where observed. What stands for -1 and 1 are ``limits``, (2,) or (C, 2), to
    which G's input is clipped, else all values of an integer type, or 0 and 1 of floats.

    Raises:
        DataError: the image has other bands than the run, or without limits others than 0 to 1.
    """
    seen, dtype = image.observed[..., None], image.values.dtype
    known = image.values[image.observed]  # (n, C)
    if known.shape[1] != config.bands:
        raise DataError(f"{known.shape[1]} bands, but the run was trained on {config.bands}")
    whole = dtype.kind == "u"
    if limits is None and not whole and (known.min() < 0 or known.max() > 1):
        raise DataError("observed values lie outside 0 to 1: give --range")
    ranges = np.array(limits or (0, np.iinfo(dtype).max if whole else 1), dtype=float)
    low, high = np.broadcast_to(ranges, (config.bands, 2)).T  # (C,) each
    half = (high - low) / 2  # (C,)
    scaled = ((np.where(seen, image.values, low) - low) / half - 1).clip(-1, 1)  # (H, W, C)
    y = torch.from_numpy(np.where(seen, scaled, 0)).float().permute(2, 0, 1)
    m = torch.from_numpy(image.observed)[None].float()  # (1, H, W)
    draws = [seeds.generator(seed, "inpaint", name, k) for k in range(samples)]
    codes = [torch.randn(G.nz, generator=draw) for draw in draws]
    filled = [reconstruct_tiled(G, y, m, z, config.size) for z in codes]
    x_tilde = torch.stack(filled)  # (S, C, H, W)

    def stored(x: Tensor, low: np.ndarray | int, kept: np.ndarray | int) -> np.ndarray:
        values = x.permute(1, 2, 0).double().numpy() * half + low
        if whole:
            values = values.round().clip(0, np.iinfo(dtype).max)
        return np.where(seen, kept, values.astype(dtype)).astype(dtype)

    shown = {f"sample{k + 1}": x for k, x in enumerate(x_tilde)} | {"mean": x_tilde.mean(dim=0)}
    values = {label: stored(x + 1, low, image.values) for label, x in shown.items()}
    return values | {"std": stored(x_tilde.std(dim=0, correction=min(1, samples - 1)), 0, 0)}


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
    for top in tile_starts(y.shape[1], size):  # a row of tiles at once, which bounds the memory
        lefts = tile_starts(y.shape[2], size)
        tiles = [np.s_[:, top : top + size, left : left + size] for left in lefts]
        tiles = [tile for tile in tiles if (m[tile] == 0).any()]  # else there is nothing to fill in
        if not tiles:
            continue
        ys, ms = (torch.stack([t[tile] for tile in tiles]).to(device) for t in (y, m))
        answers = G(ys, ms, z.to(device).expand(len(tiles), -1)).cpu()  # (tiles, C, size, size)
        for tile, answer in zip(tiles, answers, strict=True):
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
