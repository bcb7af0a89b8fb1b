"""Blue Marble under synthetic clouds: incomplete images as a user would have them, for notebook 07.

Clouds are where fractal noise is high: a Gaussian field whose spectrum falls as 1 / f^slope, but
for the lowest frequencies. So no cloud is much larger than OUTER pixels: a model that works on
tiles cannot know what is under a cloud larger than a tile.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from paperlib import records, seeds
from paperlib.progress import Progress
from paperlib.sources import BlueMarble

SLOPE = 3.0  # of the spectrum; larger is smoother
OUTER = 24.0  # pixels; the spectrum is flat for longer waves
HELD_OUT = 0.15  # of the map, its west


def fractal_noise(side: int, rng: np.random.Generator, slope: float = SLOPE) -> np.ndarray:
    """A Gaussian field, (side, side), of mean 0 and variance 1, periodic."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    spectrum = (frequency**2 + OUTER**-2) ** (-slope / 2)
    spectrum[0, 0] = 0  # no mean
    white = np.fft.rfft2(rng.standard_normal((side, side)))
    field = np.fft.irfft2(white * np.sqrt(spectrum), s=(side, side))
    return field / field.std()


def clear_sky(side: int, cover: float, rng: np.random.Generator) -> np.ndarray:
    """What clouds leave to see, (side, side) bool; ``cover`` is the share that they hide."""
    field = fractal_noise(2 * side, rng)[:side, :side]  # half of a period: does not wrap around
    return field < np.quantile(field, 1 - cover)


def write_cloudy_scenes(
    folder: Path, size: int = 128, most: int = 10_000, seed: int = 0,
    cover: tuple[float, float] = (0.2, 0.6),
) -> tuple[Path, Path]:  # fmt: skip
    """Write scenes of Blue Marble as PNG files whose alpha channel is 0 under a cloud.

    The colours under the clouds are set to 0 too: they are not in the files. Does nothing if the
    same scenes are there already.

    Args:
        folder: gets the folders ``training`` and ``held-out``.
        size: side of a scene, pixels.
        most: at most so many scenes each, spread over the map.
        seed: of the clouds.
        cover: least and greatest share of a scene under clouds, uniform between.

    Returns:
        the two folders. The held-out scenes are the west of the map: none touches a training one
        but along one line.
    """
    about = {
        "size": size,
        "most": most,
        "seed": seed,
        "cover": list(cover),
        "slope": SLOPE,
        "outer": OUTER,
    }
    done = folder / "scenes.json"
    parts = folder / "training", folder / "held-out"
    if done.is_file() and json.loads(done.read_text()) == about:
        return parts
    marble = BlueMarble(size)
    columns = marble.tiles.shape[1]
    west = [i for i in marble.ids if marble.place(i)[1] < HELD_OUT * columns]
    east = [i for i in marble.ids if marble.place(i)[1] >= HELD_OUT * columns]
    rng = np.random.default_rng(seed)
    chosen = [
        (part, name)
        for part, names in zip(parts, (east, west), strict=True)
        for name in rng.permutation(names)[:most]
    ]
    progress = Progress(len(chosen), "writing cloudy scenes")
    for part, name in chosen:
        rng = np.random.default_rng(seeds.fold(seed, "clouds", str(name)))
        seen = clear_sky(size, rng.uniform(*cover), rng)
        picture = np.where(seen[..., None], marble.read(str(name)), 0)
        alpha = np.where(seen, 255, 0)[..., None]
        image = Image.fromarray(np.concatenate([picture, alpha], axis=2).astype(np.uint8))
        records.write_atomically(part / f"{name}.png", partial(image.save, format="PNG"))
        progress.update()
    progress.close()
    records.write_json(done, about)
    return parts
