"""What the explorer computes and draws; its widgets are in ``explorer``.

One image at a time: x and y are (C, H, W) in [-1, 1], m is (1, H, W), 1 = observed. A picture is
(3, H, W) in [0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from torch.nn.functional import interpolate, max_pool2d, pad
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid

from paperlib import paths
from paperlib.beyond import pretrained
from paperlib.errors import RunError
from paperlib.evaluation.sampling import reconstruct
from paperlib.files import write_atomically
from paperlib.run import Run

TILE = 160  # pixels a side of a drawn image, at most; shown smaller, for screens with fine pixels
GAP = 28  # pixels around it; its name is below it
METADATA = "paperlib"  # the key of what was chosen, in a saved PNG
MISSING_GREY = 0.5
Captioned = tuple[str, Tensor]  # a picture and what it shows


@dataclass(frozen=True)
class Answer:
    """What one run makes of one observation."""

    moved: Tensor  # (C, H, W)  the reconstruction for the z of the sliders
    samples: Tensor  # (K, C, H, W)  for K random z

    @property
    def deviation(self) -> Tensor:
        """(H, W), standard deviation over the samples, mean over the channels."""
        return self.samples.std(dim=0).mean(dim=0)

    def scores(self, x: Tensor, m: Tensor) -> str:
        """Over the missing pixels: squared error of the samples, and their standard deviation."""
        missing = (m == 0).expand_as(x)
        if not missing.any():
            return "nothing is missing"
        error = (self.samples - x).square().mean(dim=0)[missing].mean()
        return f"MSE {error:.4f}, std {self.samples.std(dim=0)[missing].mean():.4f}"

    def pictures(self, top: float) -> list[Captioned]:
        """The sliders' z, mean and std (black 0, white ``top``), then the samples."""
        heat = matplotlib.colormaps["magma"](self.deviation.numpy() / top)[..., :3]
        return [
            ("z of the sliders", picture(self.moved)),
            (f"mean of {len(self.samples)}", picture(self.samples.mean(dim=0))),
            (f"std (0 to {top:.2g})", torch.from_numpy(heat).permute(2, 0, 1).float()),
            *[(f"sample {k}", picture(x)) for k, x in enumerate(self.samples, 1)],
        ]


def available_runs() -> dict[str, Path]:
    """The pretrained runs, and every other trained run on the same data set: label -> directory."""
    found = {name: pretrained.run(name) for name in pretrained.names()}
    for record in sorted(paths.RESULTS.glob("*/runs/*/record.json")):
        try:
            if Run(record.parent).config.data == pretrained.DATA:
                found[f"{record.parts[-4]}/{record.parts[-2]}"] = record.parent
        except RunError:  # of another version, or not whole: no reason not to open
            continue
    return found


def responses(G: Any, y: Tensor, m: Tensor, z: Tensor) -> Tensor:
    """x~ (equation 4) for several z (K, nz) at once: (K, C, H, W)."""
    y, m = (t.expand(len(z), -1, -1, -1) for t in (y, m))
    return reconstruct(G, y, m, z[None])[0]


def main_directions(G: Any, y: Tensor, m: Tensor, count: int = 2) -> Tensor:
    """The unit vectors of z along which the reconstruction of ``y`` changes most, (count, nz).

    Singular vectors of the finite differences x~(e_i) - x~(0), one for each entry i of z, the
    strongest first; each points to where its largest entry is positive.
    """
    codes = torch.cat([torch.zeros(1, G.nz), torch.eye(G.nz)])  # (1 + nz, nz)
    x_tilde = responses(G, y, m, codes)
    change = (x_tilde[1:] - x_tilde[:1]).flatten(1)  # (nz, CHW)
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
    (left, top), (right, bottom) = (np.floor(place).astype(int) for place in (start, end))
    rows, columns = line(top, left, bottom, right)
    inside = (rows >= 0) & (rows < m.shape[1]) & (columns >= 0) & (columns < m.shape[2])
    stroke = torch.zeros_like(m)
    stroke[0, rows[inside], columns[inside]] = 1
    before, after = width // 2, (width - 1) // 2
    stroke = max_pool2d(pad(stroke, (before, after, before, after)), width, stride=1)
    return torch.where(stroke > 0, float(observed), m)


def picture(x: Tensor, m: Tensor | None = None) -> Tensor:
    """An image as a picture, grey where it is missing; one band becomes grey levels."""
    levels = ((x + 1) / 2).clamp(0, 1).expand(3, -1, -1)
    return levels if m is None else torch.where(m > 0, levels, MISSING_GREY)


def sheet(pictures: Sequence[Captioned], columns: int, title: str) -> Image.Image:
    """Captioned pictures in rows below a title, enlarged without smoothing."""
    levels = (torch.stack([shown for _, shown in pictures]) * 255).round().byte()
    tiles = interpolate(levels, scale_factor=max(1, TILE // levels.shape[-1]))
    drawn = to_pil_image(make_grid(tiles, columns, GAP, pad_value=255))
    pen, font, step = ImageDraw.Draw(drawn), ImageFont.load_default(size=20), tiles.shape[-1] + GAP
    pen.text((GAP, 2), title, fill="black", font=font)
    for k, (name, _) in enumerate(pictures):
        row, column = divmod(k, columns)
        place = column * step + (step + GAP) // 2, (row + 1) * step + 2
        pen.text(place, name, fill="black", font=font, anchor="ma")
    return drawn


def save_picture(folder: Path, image: Image.Image, choices: Mapping[str, Any]) -> Path:
    """Write a PNG; what was chosen (JSON values) is in its metadata, and most of it in its name."""
    z = "".join(f"{value:+.1f}" for value in choices["z"])
    name = "-".join([choices["image"], choices["corruption"], *choices["runs"], f"z{z}"])
    name = name.replace("/", "_").replace(" ", "_")
    path = folder / f"{name}-{len(list(folder.glob(f'{name}-*.png'))) + 1}.png"
    about = PngInfo()
    about.add_text(METADATA, json.dumps(choices))
    write_atomically(path, lambda draft: image.save(draft, format="png", pnginfo=about))
    return path


def saved_choices(path: Path) -> dict[str, Any]:
    """What was chosen when a picture was saved."""
    with Image.open(path) as image:
        return json.loads(image.info[METADATA])
