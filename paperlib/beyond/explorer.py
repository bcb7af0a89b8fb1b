"""The explorer of notebook 09: hide parts of an image, and see what two runs make of the rest.

One image at a time: x and y are (C, H, W) in [-1, 1], m is (1, H, W), 1 = observed. Each change
computes all answers again, in less than 100 ms.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import ipywidgets as widgets
import numpy as np
import torch
from ipycanvas import Canvas
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid

from paperlib import paths, seeds
from paperlib.beyond import pretrained
from paperlib.core.corruption import CORRUPTIONS, corrupt
from paperlib.evaluation.sampling import latents, reconstruct
from paperlib.files import write_atomically
from paperlib.run import Run

SAMPLES = 5
BRUSH = 3  # of OpenCV's lines, which become about two pixels wider
BRIGHTEST = 1.0  # the standard deviation that is drawn white
TILE, GAP = 160, 8  # sides of a drawn image (at most) and of what is between two, pixels
WIDE = {"layout": {"width": "290px"}, "style": {"description_width": "90px"}}
PIXELS = "<style>.paperlib-pixels {image-rendering: pixelated; cursor: crosshair}</style>"
Place = tuple[float, float]  # (x, y) in pixels, from the upper left corner


def responses(G: Any, y: Tensor, m: Tensor, z: Tensor) -> Tensor:
    """x~ (equation 4) for several z (K, nz) at once: (K, C, H, W)."""
    y, m = (t.expand(len(z), -1, -1, -1) for t in (y, m))
    return reconstruct(G, y, m, z[None])[0]


def main_directions(G: Any, y: Tensor, m: Tensor, count: int = 2) -> Tensor:
    """The unit vectors of z along which the reconstruction of ``y`` changes most, (count, nz).

    Singular vectors of the finite differences x~(e_i) - x~(0), one for each entry i of z, the
    strongest first.
    """
    codes = torch.cat([torch.zeros(1, G.nz), torch.eye(G.nz)])  # (1 + nz, nz)
    x_tilde = responses(G, y, m, codes)
    change = (x_tilde[1:] - x_tilde[:1]).flatten(1)  # (nz, CHW)
    return torch.linalg.svd(change, full_matrices=False).U.T[:count]


def paint(m: Tensor, start: Place, end: Place, observed: bool) -> Tensor:
    """A copy of the mask with a stroke, which may leave the image and uncovers (1) or hides (0)."""
    painted = m[0].numpy().copy()
    first, last = (np.floor(place).astype(int).tolist() for place in (start, end))
    cv2.line(painted, first, last, float(observed), BRUSH)
    return torch.from_numpy(painted)[None]


def picture(x: Tensor, m: Tensor | None = None) -> Tensor:
    """An image as (3, H, W) in [0, 1], grey where it is missing; one band becomes grey levels."""
    levels = ((x + 1) / 2).clamp(0, 1).expand(3, -1, -1)
    return levels if m is None else torch.where(m > 0, levels, 0.5)


class Explorer(widgets.VBox):
    """Widgets that show one of ``images`` (name -> (C, H, W) in [-1, 1], complete) and two of
    ``runs`` (label -> directory), the package's by default; pictures are saved in ``folder``.

    Attributes:
        x, m, y: the image, its mask and the observation.
        answers: (1 + SAMPLES, C, H, W) of either run: x~ for the z of the sliders, then random z.
        saved: the picture that was saved last.
    """

    def __init__(
        self,
        images: Mapping[str, Tensor] | None = None,
        runs: Mapping[str, Path] | None = None,
        folder: Path = paths.RESULTS / "explorer",
    ) -> None:
        self.images, self.folder = images or pretrained.images(), folder
        self.runs = runs or {name: pretrained.run(name) for name in pretrained.names()}
        self.generator = cache(lambda label: Run(self.runs[label]).generator())
        self.samples_drawn = 0
        self.stroke: Place | None = None  # where the pointer was, while it is down
        self._build()
        self.draw_mask()

    def draw_mask(self, *_: Any) -> None:
        """Take the image and a mask of the chosen law, without what was painted."""
        self.x = self.images[self.image.value]
        self.m = torch.ones_like(self.x[:1])
        if law := CORRUPTIONS.get(self.corruption.value):
            self.m = law.sample(1, self.x.shape[-1], seeds.generator("explorer"))[0]
        self.take_observation()

    def take_observation(self) -> None:
        """The observation, and what follows from it."""
        self._show_observation()
        self.y = corrupt(self.x[None], self.m[None])[0]
        self.directions = cache(lambda G: main_directions(G, self.y, self.m))
        self.answer()

    def answer(self, *_: Any) -> None:
        """What both runs make of the observation."""
        self.answers = []
        for G in (self.generator(run.value) for run in self.run):
            z = torch.tensor([slider.value for slider in self.z]) @ self.directions(G)  # (nz,)
            drawn = latents([self.samples_drawn], SAMPLES, G.nz, seed=0)[:, 0]  # (SAMPLES, nz)
            self.answers.append(responses(G, self.y, self.m, torch.cat([z[None], drawn])))
        tiles = []
        for seen, x_tilde in zip((self.m, None), self.answers, strict=True):
            moved, samples = x_tilde[0], x_tilde[1:]  # (C, H, W), (SAMPLES, C, H, W)
            spread = samples.std(dim=0).mean(dim=0, keepdim=True)  # (1, H, W)
            tiles += [picture(self.x, seen), picture(moved), picture(samples.mean(dim=0))]
            tiles += [picture(2 * spread / BRIGHTEST - 1), *map(picture, samples)]
        large = interpolate(torch.stack(tiles), scale_factor=max(1, TILE // self.x.shape[-1]))
        grid = to_pil_image(make_grid(large, len(tiles) // 2, GAP, pad_value=1))
        grid.save(buffer := io.BytesIO(), format="png", compress_level=1)  # fast
        self.picture.value = buffer.getvalue()

    def _show_observation(self) -> None:
        opaque = torch.cat([picture(self.x, self.m), torch.ones_like(self.m)])  # (4, H, W)
        self.canvas.put_image_data(np.asarray(to_pil_image(opaque)))

    def paint(self, start: Place | None, end: Place) -> None:
        """Hide or uncover along a stroke, if one has begun; answers come when it ends."""
        if start is not None:
            self.m, self.stroke = paint(self.m, start, end, self.uncover.value), end
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
        """Write what is seen as PNG."""
        count = len(list(self.folder.glob("*.png"))) + 1
        self.saved = self.folder / f"{self.image.value}-{count}.png"
        write_atomically(self.saved, lambda draft: draft.write_bytes(self.picture.value))
        self.message.value = f"saved {self.saved}"

    def _build(self) -> None:
        def choice(label: str, options: Iterable[str], at: int = 0) -> Any:
            return widgets.Dropdown(options=list(options), index=at, description=label, **WIDE)

        last, z = len(self.runs) - 1, ("z, direction 1", "z, direction 2")
        self.image = choice("image", self.images)
        self.corruption = choice("corruption", [*CORRUPTIONS, "nothing missing"])
        self.uncover = widgets.Checkbox(description="paint to uncover")
        self.run = [choice("run above", self.runs), choice("run below", self.runs, min(1, last))]
        self.z = [widgets.FloatSlider(0, min=-3, max=3, description=name, **WIDE) for name in z]
        new_samples = widgets.Button(description="new samples")
        save_picture = widgets.Button(description="save picture")
        self.message = widgets.HTML()
        self.picture = widgets.Image(format="png", layout={"max_width": "1100px"})
        size = next(iter(self.images.values())).shape[-1]
        self.canvas = Canvas(width=size, height=size, layout={"width": "256px", "height": "256px"})
        self.canvas.add_class("paperlib-pixels")
        buttons = widgets.HBox([new_samples, save_picture])
        controls = [self.image, self.corruption, self.uncover, *self.run, *self.z, buttons]
        above = widgets.HBox([self.canvas, widgets.VBox(controls)])
        super().__init__([widgets.HTML(PIXELS), above, self.picture, self.message])
        for control in (self.image, self.corruption):
            control.observe(self.draw_mask, "value")
        for control in (*self.run, *self.z):
            control.observe(self.answer, "value")
        new_samples.on_click(self.draw_samples)
        save_picture.on_click(self.save)
        self.canvas.on_mouse_down(lambda x, y: self.paint((x, y), (x, y)))
        self.canvas.on_mouse_move(lambda x, y: self.paint(self.stroke, (x, y)))
        self.canvas.on_mouse_up(self.end_stroke)
        self.canvas.on_mouse_out(self.end_stroke)
