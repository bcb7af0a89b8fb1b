"""What the explorer computes and draws: reconstructions along two directions of z, painted masks.

No widget is here: those are in ``explorer``. One image at a time: x and y are (3, H, W) in
[-1, 1], m is (1, H, W), 1 = observed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from skimage.draw import line
from torch import Tensor

from paperlib import paths, pretrained, records
from paperlib.config import DataConfig
from paperlib.models import Generator
from paperlib.plots import to_picture
from paperlib.records import write_atomically
from paperlib.sampling import reconstruct

TILE = 224  # pixels a side of a drawn image; shown at half of it, for screens with fine pixels
GAP = 12
CAPTION = 34  # pixels below a tile for its name
METADATA = "paperlib"  # the key of what was chosen, in a saved PNG


@dataclass(frozen=True)
class Answer:
    """What one run makes of one observation."""

    moved: Tensor  # (3, H, W)  the reconstruction for the z of the sliders
    samples: Tensor  # (K, 3, H, W)  for K random z

    @property
    def mean(self) -> Tensor:
        """(3, H, W), over the samples."""
        return self.samples.mean(dim=0)

    @property
    def deviation(self) -> Tensor:
        """(H, W), standard deviation over the samples, mean over the channels."""
        return self.samples.std(dim=0).mean(dim=0)


def available_runs() -> dict[str, Path]:
    """The pretrained runs, and every other trained run on the same data set: label -> directory."""
    found = {name: pretrained.run(name) for name in pretrained.names()}
    data = records.load_config(next(iter(found.values()))).data
    for record in sorted(paths.RESULTS.glob("*/runs/*/record.json")):
        run = record.parent
        if (run / "generator.safetensors").is_file() and _data_of(run) == data:
            found[run.relative_to(paths.RESULTS).as_posix().replace("/runs/", "/")] = run
    return found


def _data_of(run: Path) -> DataConfig | None:
    try:
        return records.load_config(run).data
    except records.RunError:  # of another version, or not whole: no reason not to open
        return None


def responses(G: Generator, y: Tensor, m: Tensor, z: Tensor) -> Tensor:
    """x~ (equation 4) for several z (K, nz) at once: (K, 3, H, W)."""
    y, m = (t.expand(len(z), -1, -1, -1) for t in (y, m))
    return reconstruct(G, y, m, z[None])[0]


def main_directions(G: Generator, y: Tensor, m: Tensor, count: int = 2) -> Tensor:
    """The unit vectors of z along which the reconstruction of ``y`` changes most, (count, nz).

    Singular vectors of the finite differences x~(e_i) - x~(0), one for each entry i of z, the
    strongest first; each points to where its largest entry is positive.
    """
    codes = torch.cat([torch.zeros(1, G.nz), torch.eye(G.nz)])  # (1 + nz, nz)
    x_tilde = responses(G, y, m, codes)
    change = (x_tilde[1:] - x_tilde[:1]).flatten(1)  # (nz, 3HW)
    directions = torch.linalg.svd(change, full_matrices=False).U.T[:count]  # (count, nz)
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return directions * torch.where(largest < 0, -1, 1)


def paint(
    m: Tensor, start: tuple[float, float], end: tuple[float, float], width: int, observed: bool
) -> Tensor:
    """A copy of the mask with a stroke from ``start`` to ``end``, (x, y) in pixels of the image.

    Args:
        m: mask, (1, H, W).
        start, end: x to the right and y down, from the upper left corner; they may lie outside.
        width: of the square brush, pixels.
        observed: whether the stroke uncovers (1) or hides (0).
    """
    m = m.clone()
    (left, top), (right, bottom) = (np.floor(p).astype(int) for p in (start, end))
    for row, column in zip(*line(top, left, bottom, right), strict=True):
        above, before = (max(place - (width - 1) // 2, 0) for place in (row, column))
        below, after = (max(place + width // 2 + 1, 0) for place in (row, column))
        m[:, above:below, before:after] = float(observed)
    return m


def panel(answer: Answer, top: float) -> Image.Image:
    """An answer drawn: the sliders' z, mean and std (black 0, white ``top``), then the samples."""
    heat = matplotlib.colormaps["magma"](answer.deviation.numpy() / top)[..., :3]
    pictures = {
        "z of the sliders": to_picture(answer.moved),
        f"mean of {len(answer.samples)}": to_picture(answer.mean),
        f"std (0 to {top:.2g})": heat,
    }
    pictures |= {f"sample {k + 1}": to_picture(x) for k, x in enumerate(answer.samples)}
    return sheet(pictures, columns=4)


def sheet(pictures: Mapping[str, np.ndarray], columns: int) -> Image.Image:
    """Captioned pictures (H, W, 3) in [0, 1] in rows, enlarged without smoothing."""
    rows = -(-len(pictures) // columns)
    size = columns * (TILE + GAP), rows * (TILE + CAPTION)
    drawn = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(size=22)
    for k, (name, picture) in enumerate(pictures.items()):
        corner = k % columns * (TILE + GAP), k // columns * (TILE + CAPTION)
        drawn.paste(
            Image.fromarray(levels(picture)).resize((TILE, TILE), Image.Resampling.NEAREST), corner
        )
        place = corner[0] + TILE // 2, corner[1] + TILE + 2
        pen.text(place, name, fill="black", font=font, anchor="ma")
    return drawn


def levels(picture: np.ndarray) -> np.ndarray:
    """8 bits from values in [0, 1]."""
    return (picture * 255).round().astype(np.uint8)


def beside(images: Mapping[str, Image.Image]) -> Image.Image:
    """Images side by side, each below its title."""
    font = ImageFont.load_default(size=26)
    width = sum(image.width + GAP for image in images.values())
    drawn = Image.new("RGB", (width, max(i.height for i in images.values()) + 50), "white")
    pen, left = ImageDraw.Draw(drawn), 0
    for title, image in images.items():
        pen.text((left, 8), title, fill="black", font=font)
        drawn.paste(image, (left, 50))
        left += image.width + GAP
    return drawn


def shared_scale(answers: list[Answer]) -> float:
    """The standard deviation drawn brightest: the 99 % quantile, the same for all, at least 0.02."""
    both = torch.stack([answer.deviation for answer in answers])
    return max(both.quantile(0.99).item(), 0.02)


def scores(answer: Answer, x: Tensor, m: Tensor) -> dict[str, float]:
    """Over the missing pixels: squared error of the samples, and their standard deviation."""
    missing = (m == 0).expand_as(x)
    error = (answer.samples - x).square().mean(dim=0)[missing].mean()
    return {
        "MSE": error.item(),
        "std": answer.samples.std(dim=0)[missing].mean().item(),
    }


def save_picture(folder: Path, image: Image.Image, choices: Mapping[str, Any]) -> Path:
    """Write the picture as PNG; what was chosen is in its name, and whole in its metadata.

    Args:
        folder: made if missing.
        image: what to save.
        choices: JSON values; image, corruption, runs, z and number make the name.
    """
    z = "".join(f"{value:+.1f}" for value in choices["z"])
    parts = [choices["image"], choices["corruption"], *choices["runs"], f"z{z}"]
    name = "-".join(str(part).replace("/", "_").replace(" ", "_") for part in parts)
    number = len(list(folder.glob(f"{name}*.png")))
    path = folder / f"{name}{f'-{number + 1}' if number else ''}.png"
    about = PngInfo()
    about.add_text(METADATA, json.dumps(choices))
    write_atomically(path, lambda draft: image.save(draft, format="png", pnginfo=about))
    return path


def saved_choices(path: Path) -> dict[str, Any]:
    """What was chosen when a picture was saved."""
    with Image.open(path) as image:
        return json.loads(image.info[METADATA])
