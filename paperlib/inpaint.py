"""Fill in a user's incomplete images with a trained run: samples, their mean, their spread.

Images of any size: larger ones than the run was trained on are covered by overlapping tiles that
share one z, and the tiles' answers are blended with weights that vanish towards their edges.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paperlib import records, seeds
from paperlib.config import RunConfig
from paperlib.image_source import DataError
from paperlib.incomplete import (
    MAX_PIXELS,
    Incomplete,
    from_unit,
    incomplete_files,
    read_incomplete,
    to_unit,
    value_range,
    write_image,
)
from paperlib.models import Generator
from paperlib.progress import Progress
from paperlib.training import default_device, load_generator

TILES = 64  # a forward pass; bounds the memory
ON_SHEET = 12  # images on the contact sheet
THUMBNAIL = 256  # pixels a side there


class InpaintError(ValueError):
    """What was asked for cannot be done; the message says why."""


@dataclass(frozen=True)
class Options:
    """How to read the images, and how many samples to draw."""

    samples: int = 5
    seed: int = 0
    missing: str = "auto"  # what says which pixels are missing, see ``incomplete``
    missing_value: float | None = None  # or the value that they have
    limits: tuple[float, float] | None = None  # the values that stand for -1 and 1
    max_pixels: int = MAX_PIXELS


def inpaint(
    run: Path,
    source: Path,
    output: Path,
    options: Options,
    overwrite: bool = False,
    device: torch.device | str | None = None,
) -> dict[Path, str]:
    """Fill in an image, or every image of a folder, one after the other.

    For NAME it writes into ``output`` NAME-sample1 ... NAME-sampleK, NAME-mean and NAME-std, in
    the format of the input (PNG for JPEG, which would not keep what was observed), and for all of
    them ``contact-sheet.png``. An image that fails does not stop the others. A complete one, as a
    clear sky among clouds, is no failure: it comes back as it is, and is named on standard error.

    Args:
        run: the directory of a trained run.
        source: an image or a folder.
        output: a new or an empty folder, or any with ``overwrite``.
        options: see ``Options``.

    Returns:
        the images that failed, each with the reason.

    Raises:
        InpaintError: there is no image, ``output`` is not empty or lies in ``source``, or the
            options contradict each other.
        RunError: ``run`` is not a trained run.
    """
    if not source.exists():
        raise InpaintError(f"{source} does not exist")
    try:
        files = [source] if source.is_file() else incomplete_files(source)
    except ValueError as error:
        raise InpaintError(str(error)) from None
    if output.exists() and not output.is_dir():
        raise InpaintError(f"{output} is a file: choose a folder")
    if blocked := next((parent for parent in output.parents if parent.is_file()), None):
        raise InpaintError(f"{output} cannot be made: {blocked} is a file: choose another folder")
    if options.limits and not -np.inf < options.limits[0] < options.limits[1] < np.inf:
        raise InpaintError(f"--range must be two numbers, the lower first, got {options.limits}")
    if options.missing != "auto" and options.missing_value is not None:
        raise InpaintError(
            f"--missing {options.missing} and --missing-value contradict each other: give one"
        )
    if options.max_pixels < 1:
        raise InpaintError(f"--max-pixels must be at least 1, got {options.max_pixels}")
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise InpaintError(
            f"{output} lies in {source}, whose images the next run would read with the results in "
            "it: choose a folder elsewhere"
        )
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise InpaintError(f"{output} is not empty: choose another folder, or --overwrite")
    root = source.parent if source.is_file() else source
    device = torch.device(device or default_device())
    G = load_generator(run, device)
    config = records.load_config(run)
    trained_on = records.read_json(run / "record.json").get("limits")
    failed: dict[Path, str] = {}
    complete: list[Path] = []
    taken: set[Path] = set()
    sheet: dict[str, dict[str, np.ndarray]] = {}
    progress = Progress(len(files), f"filling in {len(files)} images x {options.samples} samples")
    for path in files:
        name = path.relative_to(root).as_posix()
        try:
            how = options.missing, options.missing_value, options.max_pixels
            image = read_incomplete(path, *how, complete=True)
            results = fill_in(G, config, image, name, options, trained_on)
            target = (output / name).with_suffix(_suffix(path))
            if target in taken:
                raise DataError(f"{path}: its results would replace those of another {target.name}")
            shown = {"observed": _thumbnail(_seen(image))}
            for label, values in results:
                file = target.with_name(f"{path.stem}-{label}{target.suffix}")
                write = partial(_write, values=values, suffix=target.suffix)
                records.write_atomically(file, write)
                shown[label] = _thumbnail(values)
            taken.add(target)
            if image.observed.all():
                complete.append(path)
            if len(sheet) < ON_SHEET:
                sheet[name] = shown
        except (DataError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise  # torch says so where there is none left; anything else is our fault
            reason = " ".join(str(error).split()) or type(error).__name__
            failed[path] = reason if path.name in reason else f"{path}: {reason}"
        progress.update()
    progress.close()
    for path in complete:
        print(f"note: {path}: no pixel is missing, it is given back as it is", file=sys.stderr)
    if len(complete) == len(files):
        print("note: nothing was missing: check --missing and --missing-value", file=sys.stderr)
    if sheet:
        _contact_sheet(output / "contact-sheet.png", sheet)
    return failed


def fill_in(
    G: Generator,
    config: RunConfig,
    image: Incomplete,
    name: str,
    options: Options,
    trained_on: list[tuple[float, float]] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ("sample1", values), ..., ("mean", values), ("std", values), (H, W, C) each.

    Samples and mean have the observed values of the input, to the bit; the std is in units of the
    input's values, 0 where observed. Only two sums are held, so memory does not grow with K.

    Args:
        G: the averaged generator of a run.
        config: of the run.
        image: what to fill in.
        name: of the image; its z are a function of (seed, name, number of the sample).
        options: see ``Options``.
        trained_on: the values of each band that stood for -1 and 1 in training, where the run
            was trained on incomplete images.

    Raises:
        DataError: the image does not fit the run; the message names it.
    """
    bands = image.values.shape[2]
    if bands != config.bands and (bands, config.bands) != (1, 3):  # grey is filled in as RGB
        raise DataError(f"{name}: {bands} bands, but the run was trained on {config.bands}")
    ranges = [options.limits] if options.limits else trained_on or [value_range(image.values)]
    low, high = np.broadcast_to(np.array(ranges, dtype=float), (bands, 2)).T  # (C,) each
    known = np.where(image.observed[..., None], image.values, low)
    if trained_on is None and ((known < low).any() or (known > high).any()):
        raise DataError(
            f"{name}: observed values lie outside {low[0]:g} to {high[0]:g}: give the range"
        )
    x = np.where(image.observed[..., None], to_unit(known, low, high).clip(-1, 1), 0)
    y = torch.from_numpy(x).permute(2, 0, 1).expand(config.bands, -1, -1)  # (C, H, W)
    m = torch.from_numpy(image.observed)[None].float()  # (1, H, W)
    mean, squares = np.zeros(x.shape), np.zeros(x.shape)
    dtype = image.values.dtype
    for k in range(options.samples):
        z = torch.randn(G.nz, generator=seeds.generator(options.seed, "inpaint", name, k))
        filled = reconstruct_tiled(G, y, m, z, config.size)  # (C, H, W)
        if bands < config.bands:
            filled = filled.mean(0, keepdim=True)
        sample = filled.permute(1, 2, 0).numpy()  # (H, W, C)
        change = sample - mean  # Welford's running mean and sum of squares
        mean += change / (k + 1)
        squares += change * (sample - mean)
        yield f"sample{k + 1}", _observed_kept(image, from_unit(sample, low, high, dtype))
    yield "mean", _observed_kept(image, from_unit(mean, low, high, dtype))
    std = np.sqrt(squares / max(options.samples - 1, 1)) * (high - low) / 2
    std = np.where(image.observed[..., None], 0, std)
    yield "std", (std.round() if dtype.kind == "u" else std).astype(dtype)


def _observed_kept(image: Incomplete, values: np.ndarray) -> np.ndarray:
    return np.where(image.observed[..., None], image.values, values)


@torch.inference_mode()
def reconstruct_tiled(G: Generator, y: Tensor, m: Tensor, z: Tensor, size: int) -> Tensor:
    """G's answer for an image of any size, from overlapping tiles with one z.

    Args:
        G: a trained generator for ``size`` x ``size`` images.
        y: observation, (C, H, W), in [-1, 1], 0 where missing.
        m: mask, (1, H, W), 1 = observed.
        z: (nz,).
        size: of the tiles, pixels.

    Returns:
        (C, H, W) on the CPU; where ``m`` is 1, arbitrary.
    """
    device = next(G.parameters()).device
    _, height, width = y.shape
    pad = (0, max(size - width, 0), 0, max(size - height, 0))  # small ones: missing pixels beside
    y, m = (torch.nn.functional.pad(t, pad) for t in (y, m))
    window = tile_window(size, G.border)  # (size, size)
    total = torch.zeros_like(y)
    weight = torch.zeros_like(m)
    places = [
        (top, left)
        for top in tile_starts(y.shape[1], size)
        for left in tile_starts(y.shape[2], size)
        if (m[:, top : top + size, left : left + size] == 0).any()  # else nothing to fill in
    ]
    for start in range(0, len(places), TILES):
        chunk = places[start : start + TILES]
        ys, ms = (
            torch.stack([t[:, a : a + size, b : b + size] for a, b in chunk]).to(device)
            for t in (y, m)
        )
        tiles = G(ys, ms, z.to(device).expand(len(chunk), -1)).cpu()  # (tiles, C, size, size)
        for (a, b), tile in zip(chunk, tiles, strict=True):
            total[:, a : a + size, b : b + size] += window * tile
            weight[:, a : a + size, b : b + size] += window
    return (total / weight.clamp(min=1e-12))[:, :height, :width]


def tile_starts(length: int, size: int) -> list[int]:
    """Where tiles begin along a side: every half tile, the last one flush with the end."""
    return [*range(0, max(length - size, 0), size // 2), max(length - size, 0)]


def tile_window(size: int, border: int = 0) -> Tensor:
    """Weights of a tile's pixels, (size, size): falling to the edges, nearly 0 on the border that
    the run's masks never observe, above 0 everywhere, for the pixels that no other tile covers."""
    place = torch.arange(size) + 0.5
    ramp = torch.minimum(place, size - place) / (size / 2)  # (size,)
    if border:
        ramp[:border] *= 1e-3
        ramp[-border:] *= 1e-3
    return torch.outer(ramp, ramp)


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    return ".png" if suffix in (".jpg", ".jpeg") else suffix  # JPEG would not keep what was seen


def _seen(image: Incomplete) -> np.ndarray:
    """(H, W, C) float, NaN where missing."""
    return np.where(image.observed[..., None], image.values.astype(float), np.nan)


def _thumbnail(values: np.ndarray) -> np.ndarray:
    """Every n-th pixel, at most THUMBNAIL a side: what the contact sheet holds of an image."""
    step = -(-max(values.shape[:2]) // THUMBNAIL)
    return values[::step, ::step].copy()  # a view would keep the whole


def _write(draft: Path, values: np.ndarray, suffix: str) -> None:
    """``write_image`` under the temporary name, which has no suffix."""
    named = draft.with_name(draft.name + suffix)
    try:
        write_image(named, values)
        named.replace(draft)
    finally:
        named.unlink(missing_ok=True)


def _contact_sheet(path: Path, sheet: dict[str, dict[str, np.ndarray]]) -> None:
    """The first three bands as colours, each image from its least to its greatest value."""
    import matplotlib.pyplot as plt

    from paperlib.plots import save_figure, sheet_figure

    rows = {}
    for name, shown in sheet.items():
        low, high = np.nanmin(shown["observed"]), np.nanmax(shown["observed"])
        bands = 3 if shown["mean"].shape[2] >= 3 else 1
        pictures = [
            (shown[k][..., :bands].astype(float) - low) / max(high - low, 1e-9)
            for k in ("observed", "sample1", "mean")
        ]
        rows[name] = (pictures, shown["std"].astype(float).mean(axis=2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script without a font
        figure = sheet_figure(rows)
        save_figure(figure, path)
    plt.close(figure)
