"""The explorer of notebook 09: widgets around ``exploration``, without a computation of their own.

    from paperlib.explorer import Explorer
    Explorer()

Each change computes what depends on it: another image, corruption or stroke the observation and
all answers; another run the answers of its side; the sliders of z one reconstruction a run.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from ipycanvas import Canvas
from IPython.display import display
from PIL import Image
from torch import Tensor

from paperlib import exploration, paths, pretrained, records, seeds
from paperlib.corruption import CORRUPTIONS, DropPixel, Patch, corrupt
from paperlib.exploration import Answer
from paperlib.models import Generator
from paperlib.plots import to_picture
from paperlib.sampling import latents
from paperlib.training import load_generator

SAMPLES = 5
SIDE = "224px"  # of an image on the screen
WIDE = {"width": "300px"}
WRAPPED = {"flex_flow": "row wrap"}  # in a narrow window
STYLE = {"description_width": "90px"}
PIXELS = (  # small images are enlarged without smoothing
    "<style>.paperlib-pixels {image-rendering: pixelated}"
    " canvas.paperlib-pixels {cursor: crosshair}</style>"
)
NOTHING_MISSING = "nothing missing"


class Explorer:
    """Choose an image, hide parts of it, and see what two runs make of the rest.

    Args:
        images: name -> complete image (3, H, W) in [-1, 1]; the package's by default.
        runs: label -> directory of a run for images of this size; by default the package's two
            and every run trained here on the same data set.
        folder: where pictures are saved; results/explorer by default.

    Attributes:
        x, m, y: the image, its mask and the observation.
        answers: of the two runs, left and right.
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
        self.generator = cache(lambda label: load_generator(self.runs[label]))
        self.samples_drawn = 0
        self.saved: Path | None = None
        self.answers: list[Answer] = []
        self.taking_preset = False
        self._build()
        self._connect()
        self.draw_mask()
        self.widget = widgets.VBox([widgets.HTML(PIXELS), *self._rows()])

    def _ipython_display_(self) -> None:
        display(self.widget)

    # What is chosen

    @property
    def size(self) -> int:
        """Of the images, pixels a side."""
        return self.x.shape[-1]

    @property
    def law(self) -> Patch | DropPixel | None:
        """The distribution of masks; None where nothing is hidden but by painting."""
        if self.corruption.value == NOTHING_MISSING:
            return None
        if self.corruption.value == "drop_pixel":
            return DropPixel(self.p.value)
        return Patch(self.n.value, self.k.value)

    def choices(self) -> dict[str, Any]:
        """All that determines the picture, as JSON values."""
        laws: dict[type, str] = {
            Patch: f" n{self.n.value} k{self.k.value}",
            DropPixel: f" p{self.p.value:g}",
        }
        parameters = laws.get(type(self.law), "")
        painted = " painted" if self.painted else ""
        return {
            "image": self.image.value,
            "corruption": self.corruption.value + parameters + painted,
            "mask": self.m[0].int().tolist(),
            "mask_seed": self.mask_seed.value,
            "runs": [run.value for run in self.run],
            "checksums": [
                records.read_json(self.runs[run.value] / "record.json")["generator_checksum"]
                for run in self.run
            ],
            "z": [slider.value for slider in self.z],
            "samples": self.samples_drawn,
        }

    # What follows from it

    def draw_mask(self) -> None:
        """Take the image and a mask drawn from the law, without what was painted."""
        self.x, self.painted = self.images[self.image.value], False
        self.complete.value = _png(Image.fromarray(exploration.levels(to_picture(self.x))))
        self.m = torch.ones(1, self.size, self.size)
        if self.law:
            generator = seeds.generator("explorer", self.mask_seed.value)
            self.m = self.law.sample(1, self.size, generator)[0]
        self.observe()

    def paint(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Hide or uncover along a stroke, (x, y) in pixels of the image; answers come later."""
        self.m = exploration.paint(self.m, start, end, self.width.value, self.brush.value)
        self.painted = True
        self._show_observation()

    def observe(self) -> None:
        """The observation, and what both runs make of it."""
        self.y = corrupt(self.x[None], self.m[None])[0]
        self.directions = [self._directions(side) for side in range(2)]
        self.answers = [self._answer(side) for side in range(2)]
        self._show_observation()
        self._show_answers()

    def _directions(self, side: int) -> Tensor:
        return exploration.main_directions(self._generator(side), self.y, self.m)

    def _answer(self, side: int, samples: Tensor | None = None) -> Answer:
        """The answer of a run; with ``samples``, only that for the z of the sliders is new."""
        G = self._generator(side)
        z = torch.tensor([slider.value for slider in self.z]) @ self.directions[side]  # (nz,)
        drawn = latents([self.samples_drawn], SAMPLES, G.nz, seed=0)[:, 0]  # (SAMPLES, nz)
        codes = torch.cat([z[None], drawn]) if samples is None else z[None]
        moved, *rest = exploration.responses(G, self.y, self.m, codes)
        return Answer(moved, torch.stack(rest) if samples is None else samples)

    def _generator(self, side: int) -> Generator:
        return self.generator(self.run[side].value)

    # What the user does

    def move(self) -> None:
        """The sliders of z have moved."""
        self.answers = [self._answer(side, a.samples) for side, a in enumerate(self.answers)]
        self._show_answers()

    def change_run(self, side: int) -> None:
        """Another run was chosen on one side."""
        self.directions[side] = self._directions(side)
        self.answers[side] = self._answer(side)
        self._show_answers()

    def draw_samples(self) -> None:
        """Draw other random z."""
        self.samples_drawn += 1
        self.answers = [self._answer(side) for side in range(2)]
        self._show_answers()

    def save(self) -> None:
        """Write what is seen as PNG."""
        seen = {"observed": to_picture(self.y, self.m), "complete": to_picture(self.x)}
        titles = [
            f"{run.value}, {self._scores(answer)}"
            for run, answer in zip(self.run, self.answers, strict=True)
        ]
        panels = dict(zip(titles, self.panels, strict=True))
        image = exploration.beside({self.image.value: exploration.sheet(seen, 1)} | panels)
        self.saved = exploration.save_picture(self.folder, image, self.choices())
        self.message.value = f"saved {self.saved}"

    # The widgets

    def _build(self) -> None:
        def slider(
            kind: type, label: str, value: float, low: float, high: float, step: float
        ) -> Any:
            return kind(
                value=value, min=low, max=high, step=step, description=label, layout=WIDE,
                style=STYLE,
            )  # fmt: skip

        whole, real, labels = widgets.IntSlider, widgets.FloatSlider, list(self.runs)
        about = {"layout": WIDE, "style": STYLE}
        self.image = widgets.Dropdown(options=list(self.images), description="image", **about)
        names = [*CORRUPTIONS, NOTHING_MISSING]
        self.corruption = widgets.Dropdown(
            options=names, value="drop_pixel", description="corruption", **about
        )
        self.n = slider(whole, "patches kept", 90, 1, 200, 1)
        self.k = slider(whole, "side, of 128", 10, 4, 64, 2)
        self.p = slider(real, "dropped", 0.9, 0.0, 0.99, 0.01)
        self.mask_seed = slider(whole, "mask number", 0, 0, 99, 1)
        self.brush = widgets.ToggleButtons(
            options=[("paint to hide", False), ("paint to uncover", True)],
            style={"button_width": "145px"},
        )
        self.width = slider(whole, "brush", 4, 1, 9, 1)
        self.z = [slider(real, f"z, direction {i}", 0.0, -3.0, 3.0, 0.1) for i in (1, 2)]
        narrow = {"layout": {"width": "110px"}}
        self.new_samples = widgets.Button(description="new samples", **narrow)
        self.save_picture = widgets.Button(description="save picture", **narrow)
        self.message = widgets.HTML()
        size = next(iter(self.images.values())).shape[-1]
        self.canvas = Canvas(width=size, height=size, layout={"width": SIDE, "height": SIDE})
        self.canvas.add_class("paperlib-pixels")
        self.complete = widgets.Image(format="png", layout={"width": SIDE, "height": SIDE})
        self.complete.add_class("paperlib-pixels")
        self.run = [
            widgets.Dropdown(options=labels, value=label, layout={"width": "235px"})
            for label in (labels[0], labels[min(1, len(labels) - 1)])
        ]
        self.summary = [widgets.HTML() for _ in range(2)]
        self.picture = [widgets.Image(format="png", layout={"width": "404px"}) for _ in range(2)]
        self._show_parameters()

    def _rows(self) -> list[widgets.Widget]:
        column, row = widgets.VBox, widgets.HBox
        apart = {"margin": "0 10px 0 0"}
        titles = "<b>observed</b>: paint here", "<b>complete</b>: neither run saw it"
        observed, complete = (
            column([widgets.HTML(title), image], layout=apart)
            for title, image in zip(titles, (self.canvas, self.complete), strict=True)
        )
        hiding = [self.image, self.corruption, self.n, self.k, self.p, self.mask_seed]
        controls = column([*hiding, self.brush, self.width])
        codes = row([*self.z, self.new_samples, self.save_picture], layout=WRAPPED)
        sides = [
            column([row([run, summary]), picture], layout=apart)
            for run, summary, picture in zip(self.run, self.summary, self.picture, strict=True)
        ]
        top = row([observed, complete, controls], layout=WRAPPED)
        return [top, codes, row(sides, layout=WRAPPED), self.message]

    def _connect(self) -> None:
        def on_change(action: Callable[[], object], *controls: widgets.Widget) -> None:
            for control in controls:
                control.observe(lambda _: action(), names="value")

        on_change(self._draw_once, self.image, self.n, self.k, self.p, self.mask_seed)
        on_change(self._take_preset, self.corruption)
        on_change(self.move, *self.z)
        for side, run in enumerate(self.run):
            run.observe(lambda change, side=side: self._take_run(side, change.old), names="value")
        self.new_samples.on_click(lambda _: self.draw_samples())
        self.save_picture.on_click(lambda _: self.save())
        self.stroke: tuple[float, float] | None = None  # where the pointer was, while it is down
        self.canvas.on_mouse_down(self._begin_stroke)
        self.canvas.on_mouse_move(self._go_on_with_stroke)
        self.canvas.on_mouse_up(lambda *_: self._end_stroke())
        self.canvas.on_mouse_out(lambda *_: self._end_stroke())

    def _begin_stroke(self, x: float, y: float) -> None:
        self.stroke = (x, y)
        self.paint(self.stroke, self.stroke)

    def _go_on_with_stroke(self, x: float, y: float) -> None:
        if self.stroke is not None:
            self.paint(self.stroke, (x, y))
            self.stroke = (x, y)

    def _end_stroke(self) -> None:
        if self.stroke is not None:
            self.stroke = None
            self.observe()

    def _take_run(self, side: int, before: str) -> None:
        try:
            self.change_run(side)
        except records.RunError as error:  # damaged, or not whole
            self.message.value = str(error)
            self.run[side].value = before

    def _draw_once(self) -> None:
        if not self.taking_preset:  # which draws when all its parameters are set
            self.draw_mask()

    def _take_preset(self) -> None:
        """Set the parameters of the chosen corruption to the paper's, and draw once."""
        preset = CORRUPTIONS.get(self.corruption.value)
        self.taking_preset = True
        if isinstance(preset, Patch):
            self.n.value, self.k.value = preset.n, preset.k
        elif isinstance(preset, DropPixel):
            self.p.value = preset.p
        self.taking_preset = False
        self._show_parameters()
        self.draw_mask()

    def _show_parameters(self) -> None:
        """Only the sliders that the chosen corruption has."""
        kind = type(CORRUPTIONS.get(self.corruption.value))
        for control, owner in ((self.n, Patch), (self.k, Patch), (self.p, DropPixel)):
            control.layout.display = None if kind is owner else "none"

    def _show_observation(self) -> None:
        levels = exploration.levels(to_picture(self.x, self.m))  # (H, W, 3)
        opaque = np.full((*levels.shape[:2], 1), 255, np.uint8)
        self.canvas.put_image_data(np.concatenate([levels, opaque], axis=2))

    def _show_answers(self) -> None:
        top = exploration.shared_scale(self.answers)
        self.panels = [exploration.panel(answer, top) for answer in self.answers]
        for side, answer in enumerate(self.answers):
            self.picture[side].value = _png(self.panels[side])
            self.summary[side].value = self._scores(answer)

    def _scores(self, answer: Answer) -> str:
        if (self.m > 0).all():
            return "nothing is missing"
        scores = exploration.scores(answer, self.x, self.m)
        return ", ".join(f"{k} {v:.4f}" for k, v in scores.items())


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png", compress_level=1)  # fast
    return buffer.getvalue()
