"""The explorer of notebook 09: widgets around ``exploration``.

    from paperlib.beyond.explorer import Explorer
    Explorer()

Each change computes all answers again, in less than 100 ms.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from ipycanvas import Canvas
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from paperlib import paths, seeds
from paperlib.beyond import exploration, pretrained
from paperlib.beyond.exploration import Answer, picture
from paperlib.core.corruption import CORRUPTIONS, ComputedMasks, corrupt
from paperlib.errors import RunError
from paperlib.evaluation.sampling import latents
from paperlib.run import Run

SAMPLES = 5
WIDE = {"layout": {"width": "290px"}, "style": {"description_width": "90px"}}
WRAPPED = {"flex_flow": "row wrap", "grid_gap": "0 10px"}  # in a narrow window
PIXELS = (  # small images are enlarged without smoothing
    "<style>.paperlib-pixels {image-rendering: pixelated}"
    " canvas.paperlib-pixels {cursor: crosshair}</style>"
)
NOTHING_MISSING = "nothing missing"
Place = tuple[float, float]  # (x, y) in pixels of the image


class Explorer(widgets.VBox):
    """Choose an image, hide parts of it, and see what two runs make of the rest.

    Args:
        images: name -> complete image (C, H, W) in [-1, 1]; the package's by default.
        runs: label -> directory of a run for images of this size; by default the package's two
            and every run trained here on the same data set.
        folder: where pictures are saved; results/explorer by default.

    Attributes:
        x, m, y: the image, its mask and the observation.
        answers: of the two runs, the one above and the one below.
        saved: the picture that was saved last.
    """

    def __init__(
        self,
        images: Mapping[str, Tensor] | None = None,
        runs: Mapping[str, Path] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.images = images or pretrained.images()
        self.runs = runs or exploration.available_runs()
        self.folder = folder or paths.RESULTS / "explorer"
        self.generator = cache(lambda label: Run(self.runs[label]).generator())
        self.samples_drawn = 0
        self.saved: Path | None = None
        self.stroke: Place | None = None  # where the pointer was, while it is down
        self._build()
        super().__init__(self._rows())
        self._connect()
        self.take_preset()

    # What is chosen

    @property
    def law(self) -> ComputedMasks | None:
        """The distribution of masks; None where nothing is hidden but by painting."""
        preset = CORRUPTIONS.get(self.corruption.value)
        chosen = {k: s.value for k, s in self.parameters.items() if hasattr(preset, k)}
        return preset and replace(preset, **chosen)

    def choices(self) -> dict[str, Any]:
        """All that determines the picture, as JSON values."""
        values = vars(self.law) if self.law else {}
        of_law = [f" {k}{v:g}" for k, v in values.items() if k in self.parameters]
        records = [Run(self.runs[run.value]).record for run in self.run]
        return {
            "image": self.image.value,
            "corruption": self.corruption.value + "".join(of_law) + " painted" * self.painted,
            "mask": self.m[0].int().tolist(),
            "mask_seed": self.mask_seed.value,
            "runs": [run.value for run in self.run],
            "checksums": [record["generator_checksum"] for record in records],
            "z": [slider.value for slider in self.z],
            "samples": self.samples_drawn,
        }

    # What follows from it

    def draw_mask(self) -> None:
        """Take the image and a mask drawn from the law, without what was painted."""
        if self.taking_preset:  # it is drawn when all parameters are set
            return
        self.x, self.painted = self.images[self.image.value], False
        size = self.x.shape[-1]
        self.m = torch.ones(1, size, size)
        if self.law:
            generator = seeds.generator("explorer", self.mask_seed.value)
            self.m = self.law.sample(1, size, generator)[0]
        self.take_observation()

    def take_observation(self) -> None:
        """The observation, and what follows from it."""
        self.y = corrupt(self.x[None], self.m[None])[0]
        self._show_observation()
        self.directions = cache(lambda G: exploration.main_directions(G, self.y, self.m))
        self.answer()

    def answer(self) -> None:
        """What both runs make of the observation."""
        self.answers = [self._answer(self.generator(run.value)) for run in self.run]
        both = torch.stack([answer.deviation for answer in self.answers])
        top = max(both.quantile(0.99).item(), 0.02)  # the standard deviation drawn brightest
        seen = ("observed", picture(self.x, self.m)), ("complete", picture(self.x))
        rows = [[left, *a.pictures(top)] for left, a in zip(seen, self.answers, strict=True)]
        scores = [answer.scores(self.x, self.m) for answer in self.answers]
        title = f"above {self.run[0].value}: {scores[0]};  below {self.run[1].value}: {scores[1]}"
        self.drawn = exploration.sheet([*rows[0], *rows[1]], len(rows[0]), title)
        buffer = io.BytesIO()
        self.drawn.save(buffer, format="png", compress_level=1)  # fast
        self.picture.value = buffer.getvalue()

    def _answer(self, G: Any) -> Answer:
        z = torch.tensor([slider.value for slider in self.z]) @ self.directions(G)  # (nz,)
        drawn = latents([self.samples_drawn], SAMPLES, G.nz, seed=0)[:, 0]  # (SAMPLES, nz)
        x_tilde = exploration.responses(G, self.y, self.m, torch.cat([z[None], drawn]))
        return Answer(x_tilde[0], x_tilde[1:])

    def _show_observation(self) -> None:
        opaque = torch.cat([picture(self.x, self.m), torch.ones_like(self.m)])  # (4, H, W)
        self.canvas.put_image_data(np.asarray(to_pil_image(opaque)))

    # What is done

    def take_preset(self) -> None:
        """Show the chosen corruption's parameters, set to the paper's, and draw once."""
        preset = CORRUPTIONS.get(self.corruption.value)
        self.taking_preset = True
        for name, slider in self.parameters.items():
            slider.layout.display = None if hasattr(preset, name) else "none"
            slider.value = getattr(preset, name, slider.value)
        self.taking_preset = False
        self.draw_mask()

    def paint(self, start: Place, end: Place) -> None:
        """Hide or uncover along a stroke; answers come when it ends."""
        self.m = exploration.paint(self.m, start, end, self.brush_width.value, self.brush.value)
        self.painted, self.stroke = True, end
        self._show_observation()

    def end_stroke(self) -> None:
        """The pointer is let go, or has left the image."""
        if self.stroke is not None:
            self.stroke = None
            self.take_observation()

    def change_run(self, run: widgets.Dropdown, before: str) -> None:
        """Another run was chosen; one that is damaged is named and not taken."""
        try:
            self.answer()
        except RunError as error:
            self.message.value, run.value = str(error), before

    def draw_samples(self) -> None:
        """Draw other random z."""
        self.samples_drawn += 1
        self.answer()

    def save(self) -> None:
        """Write what is seen as PNG."""
        self.saved = exploration.save_picture(self.folder, self.drawn, self.choices())
        self.message.value = f"saved {self.saved}"

    # The widgets

    def _build(self) -> None:
        def slider(kind: Any, label: str, value: float, *limits: float) -> Any:
            about = dict(zip(("min", "max", "step"), limits, strict=True))
            return kind(value, description=label, **about, **WIDE)

        whole, real, labels = widgets.IntSlider, widgets.FloatSlider, list(self.runs)
        names = [*CORRUPTIONS, NOTHING_MISSING]
        self.image = widgets.Dropdown(options=list(self.images), description="image", **WIDE)
        self.corruption = widgets.Dropdown(options=names, description="corruption", **WIDE)
        self.corruption.value = "drop_pixel"
        self.parameters = {  # of Patch and DropPixel, by name
            "n": slider(whole, "patches kept", 90, 1, 200, 1),
            "k": slider(whole, "side, of 128", 10, 4, 64, 2),
            "p": slider(real, "dropped", 0.9, 0.0, 0.99, 0.01),
        }
        self.mask_seed = slider(whole, "mask number", 0, 0, 99, 1)
        strokes = [("paint to hide", False), ("paint to uncover", True)]
        self.brush = widgets.ToggleButtons(options=strokes, style={"button_width": "138px"})
        self.brush_width = slider(whole, "brush", 4, 1, 9, 1)
        self.z = [slider(real, f"z, direction {i}", 0.0, -3.0, 3.0, 0.1) for i in (1, 2)]
        self.new_samples = widgets.Button(description="new samples")
        self.save_picture = widgets.Button(description="save picture")
        self.message = widgets.HTML()
        size = next(iter(self.images.values())).shape[-1]
        self.canvas = Canvas(width=size, height=size, layout={"width": "256px", "height": "256px"})
        self.canvas.add_class("paperlib-pixels")
        self.run = [
            widgets.Dropdown(options=labels, index=k % len(labels), description=place, **WIDE)
            for k, place in enumerate(("run above", "run below"))
        ]
        self.picture = widgets.Image(format="png", layout={"max_width": "1100px"})

    def _rows(self) -> list[widgets.Widget]:
        hiding = [self.image, self.corruption, *self.parameters.values(), self.mask_seed]
        painting = [self.brush, self.brush_width]
        answering = [*self.run, *self.z, self.new_samples, self.save_picture]
        columns = [[self.canvas], [*hiding, *painting], answering]
        above = widgets.HBox([widgets.VBox(each) for each in columns], layout=WRAPPED)
        return [widgets.HTML(PIXELS), above, self.picture, self.message]

    def _connect(self) -> None:
        for control in (self.image, self.mask_seed, *self.parameters.values()):
            control.observe(lambda _: self.draw_mask(), "value")
        for slider in self.z:
            slider.observe(lambda _: self.answer(), "value")
        for run in self.run:
            run.observe(lambda change: self.change_run(change.owner, change.old), "value")
        self.corruption.observe(lambda _: self.take_preset(), "value")
        self.new_samples.on_click(lambda _: self.draw_samples())
        self.save_picture.on_click(lambda _: self.save())
        self.canvas.on_mouse_down(lambda x, y: self.paint((x, y), (x, y)))
        self.canvas.on_mouse_move(lambda x, y: self.stroke and self.paint(self.stroke, (x, y)))
        self.canvas.on_mouse_up(lambda *_: self.end_stroke())
        self.canvas.on_mouse_out(lambda *_: self.end_stroke())
