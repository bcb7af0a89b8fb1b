"""The explorer of notebook 09: hide parts of an image, and see what two runs make of the rest.

One image at a time: x and y are (C, H, W) in [-1, 1], m is (1, H, W), 1 = observed. Each change
computes all answers again, in less than 100 ms.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import matplotlib
import numpy as np
import torch
from ipycanvas import Canvas
from PIL.PngImagePlugin import PngInfo
from skimage.draw import line
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, pad
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid

from paperlib import paths, seeds
from paperlib.beyond import pretrained
from paperlib.core.corruption import CORRUPTIONS, corrupt
from paperlib.evaluation.sampling import latents, reconstruct
from paperlib.files import write_atomically
from paperlib.run import Run

SAMPLES = 5
TILE, GAP = 160, 8  # sides of a drawn image (at most) and of what is between two, pixels
WIDE = {"layout": {"width": "290px"}, "style": {"description_width": "90px"}}
PIXELS = "<style>.paperlib-pixels {image-rendering: pixelated; cursor: crosshair}</style>"
Place = tuple[float, float]  # (x, y) in pixels of the image, from its upper left corner


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


def paint(m: Tensor, start: Place, end: Place, width: int, observed: bool) -> Tensor:
    """A copy of the mask with a stroke, which may leave the image and uncovers (1) or hides (0)."""
    (left, top), (right, bottom) = (np.floor(place).astype(int) for place in (start, end))
    rows, columns = line(top, left, bottom, right)
    inside = (rows >= 0) & (rows < m.shape[1]) & (columns >= 0) & (columns < m.shape[2])
    stroke = torch.zeros_like(m)
    stroke[0, rows[inside], columns[inside]] = 1
    before, after = width // 2, (width - 1) // 2
    stroke = max_pool2d(pad(stroke, (before, after, before, after)), width, stride=1)
    return torch.where(stroke > 0, float(observed), m)


def picture(x: Tensor, m: Tensor | None = None) -> Tensor:
    """An image as (3, H, W) in [0, 1], grey where it is missing; one band becomes grey levels."""
    levels = ((x + 1) / 2).clamp(0, 1).expand(3, -1, -1)
    return levels if m is None else torch.where(m > 0, levels, 0.5)


class Explorer(widgets.VBox):
    """Choose an image, hide parts of it, and see what two runs make of the rest.

    Args:
        images: name -> complete image (C, H, W) in [-1, 1]; the package's by default.
        runs: label -> directory of a run for such images; the package's by default.
        folder: where pictures are saved; results/explorer by default.

    Attributes:
        x, m, y: the image, its mask and the observation.
        answers: (1 + SAMPLES, C, H, W) of either run: x~ for the z of the sliders, then random z.
        saved: the picture that was saved last.
    """

    def __init__(
        self,
        images: Mapping[str, Tensor] | None = None,
        runs: Mapping[str, Path] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.images = images or pretrained.images()
        self.runs = runs or {name: pretrained.run(name) for name in pretrained.names()}
        self.folder = folder or paths.RESULTS / "explorer"
        self.generator = cache(lambda label: Run(self.runs[label]).generator())
        self.samples_drawn = 0
        self.stroke: Place | None = None  # where the pointer was, while it is down
        self._build()
        self.draw_mask()

    def draw_mask(self, *_: Any) -> None:
        """Take the image and a mask of the chosen law, without what was painted."""
        self.x, self.painted = self.images[self.image.value], False
        self.m = torch.ones_like(self.x[:1])
        if law := CORRUPTIONS.get(self.corruption.value):
            generator = seeds.generator("explorer", self.mask_seed.value)
            self.m = law.sample(1, self.x.shape[-1], generator)[0]
        self.take_observation()

    def take_observation(self) -> None:
        """The observation, and what follows from it."""
        self.y = corrupt(self.x[None], self.m[None])[0]
        self._show_observation()
        self.directions = cache(lambda G: main_directions(G, self.y, self.m))
        self.answer()

    def answer(self, *_: Any) -> None:
        """What both runs make of the observation."""
        self.answers = []
        for G in (self.generator(run.value) for run in self.run):
            z = torch.tensor([slider.value for slider in self.z]) @ self.directions(G)  # (nz,)
            drawn = latents([self.samples_drawn], SAMPLES, G.nz, seed=0)[:, 0]  # (SAMPLES, nz)
            self.answers.append(responses(G, self.y, self.m, torch.cat([z[None], drawn])))
        samples = torch.stack(self.answers)[:, 1:]  # (2, SAMPLES, C, H, W)
        mean, spread = samples.mean(dim=1), samples.std(dim=1)  # (2, C, H, W)
        top = max(spread.mean(dim=1).quantile(0.99).item(), 0.02)  # drawn brightest
        heat = matplotlib.colormaps["magma"](spread.mean(dim=1).numpy() / top)[..., :3]
        errors, missing = (samples - self.x).square().mean(dim=1), (self.m == 0).expand_as(self.x)
        tiles, caption = [], ""
        for k, seen in enumerate((picture(self.x, self.m), picture(self.x))):
            moved, *others = map(picture, self.answers[k])
            deviation = torch.tensor(heat[k]).permute(2, 0, 1).float()
            tiles += [seen, moved, picture(mean[k]), deviation, *others]
            error, std = (each[k][missing].mean().item() for each in (errors, spread))
            numbers = f"MSE {error:.4f}, std {std:.4f}" if missing.any() else "nothing is missing"
            caption += f"{self.run[k].value}: {numbers}<br>"
        caption += "Observed, and complete; z of the sliders; mean of the samples; their std "
        self.caption.value = f"{caption}(0 to {top:.2g}); {SAMPLES} samples"
        large = interpolate(torch.stack(tiles), scale_factor=max(1, TILE // self.x.shape[-1]))
        self.drawn = to_pil_image(make_grid(large, len(tiles) // 2, GAP, pad_value=1))
        buffer = io.BytesIO()
        self.drawn.save(buffer, format="png", compress_level=1)  # fast
        self.picture.value = buffer.getvalue()

    def _show_observation(self) -> None:
        opaque = torch.cat([picture(self.x, self.m), torch.ones_like(self.m)])  # (4, H, W)
        self.canvas.put_image_data(np.asarray(to_pil_image(opaque)))

    def paint(self, start: Place | None, end: Place) -> None:
        """Hide or uncover along a stroke, if one has begun; answers come when it ends."""
        if start is not None:
            self.m = paint(self.m, start, end, self.brush_width.value, self.brush.value)
            self.painted, self.stroke = True, end
            self._show_observation()

    def end_stroke(self, *_: Any) -> None:
        """The pointer is let go, or has left the image."""
        if self.stroke is not None:
            self.stroke = None
            self.take_observation()

    def draw_samples(self, *_: Any) -> None:
        """Draw other random z."""
        self.samples_drawn += 1
        self.answer()

    def save(self, *_: Any) -> None:
        """Write what is seen as PNG, with what was chosen as JSON in the text chunk ``paperlib``."""
        records = [Run(self.runs[run.value]).record for run in self.run]
        chosen = {
            "image": self.image.value,
            "corruption": self.corruption.value + " painted" * self.painted,
            "mask": self.m[0].int().tolist(),
            "mask_seed": self.mask_seed.value,
            "runs": [run.value for run in self.run],
            "checksums": [record["generator_checksum"] for record in records],
            "z": [slider.value for slider in self.z],
            "samples": self.samples_drawn,
        }
        about = PngInfo()
        about.add_text("paperlib", json.dumps(chosen))
        count = len(list(self.folder.glob("*.png"))) + 1
        self.saved = self.folder / f"{self.image.value}-{count}.png"
        write_atomically(self.saved, lambda p: self.drawn.save(p, format="png", pnginfo=about))
        self.message.value = f"saved {self.saved}"

    def _build(self) -> None:
        def choice(label: str, options: Iterable[str], at: int = 0) -> Any:
            return widgets.Dropdown(options=list(options), index=at, description=label, **WIDE)

        def slider(kind: Any, label: str, value: float, low: float, high: float) -> Any:
            return kind(value, min=low, max=high, description=label, **WIDE)

        whole, real, last = widgets.IntSlider, widgets.FloatSlider, len(self.runs) - 1
        self.image = choice("image", self.images)
        self.corruption = choice("corruption", [*CORRUPTIONS, "nothing missing"], 2)
        self.mask_seed = slider(whole, "mask number", 0, 0, 99)
        strokes = [("paint to hide", False), ("paint to uncover", True)]
        self.brush = widgets.ToggleButtons(options=strokes, style={"button_width": "138px"})
        self.brush_width = slider(whole, "brush", 4, 1, 9)
        self.run = [choice("run above", self.runs), choice("run below", self.runs, min(1, last))]
        self.z = [slider(real, f"z, direction {i}", 0.0, -3.0, 3.0) for i in (1, 2)]
        self.new_samples = widgets.Button(description="new samples")
        self.save_picture = widgets.Button(description="save picture")
        self.message, self.caption = widgets.HTML(), widgets.HTML()
        self.picture = widgets.Image(format="png", layout={"max_width": "1100px"})
        size = next(iter(self.images.values())).shape[-1]
        self.canvas = Canvas(width=size, height=size, layout={"width": "256px", "height": "256px"})
        self.canvas.add_class("paperlib-pixels")
        hiding = [self.image, self.corruption, self.mask_seed, self.brush, self.brush_width]
        answering = [*self.run, *self.z, self.new_samples, self.save_picture]
        above = [widgets.VBox(each) for each in ([self.canvas], hiding, answering)]
        wrapped = widgets.HBox(above, layout={"flex_flow": "row wrap", "grid_gap": "0 10px"})
        super().__init__([widgets.HTML(PIXELS), wrapped, self.caption, self.picture, self.message])
        for control in (self.image, self.corruption, self.mask_seed):
            control.observe(self.draw_mask, "value")
        for control in (*self.run, *self.z):
            control.observe(self.answer, "value")
        self.new_samples.on_click(self.draw_samples)
        self.save_picture.on_click(self.save)
        self.canvas.on_mouse_down(lambda x, y: self.paint((x, y), (x, y)))
        self.canvas.on_mouse_move(lambda x, y: self.paint(self.stroke, (x, y)))
        self.canvas.on_mouse_up(self.end_stroke)
        self.canvas.on_mouse_out(self.end_stroke)
