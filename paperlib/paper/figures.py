"""Pictures of reconstructions and of a step, training curves, and charts of methods.

Images are (3, H, W) in [-1, 1]. The border that no mask observes is cropped from every figure of
reconstructions: nothing can be learned there. A method has one colour, line and marker in all
charts; each is told apart in grey too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from paperlib.evaluation.sampling import latents, reconstruct
from paperlib.files import write_atomically
from paperlib.paper.tables import CORRUPTIONS, LABELS

MISSING_COLOUR = 0.85  # light grey, so that missing pixels are not taken for black ones
ACCENT = "#D55E00"  # Okabe and Ito's vermillion
WIDTH = 6.9  # inches, of a page's two columns
LOOKS = (
    "both", "encoding_z", "encoding_y", "base", "unpaired", "paired", "misgan", "scored", "mask_aware",
)  # fmt: skip
MARKERS = "osD^vPX*h"


def use_style() -> None:
    """The package's style, ``style.mplstyle``."""
    plt.style.use("paperlib.paper.style")


def save_figure(figure: Figure, target: Path) -> list[Path]:
    """Write ``target`` (.png or .pdf); without such a suffix both, to look at and to print.

    The files hold no date: the same figure gives the same bytes.

    Raises:
        DiskFull: there is no room; what was there before is intact.
    """
    suffixes = [target.suffix] if target.suffix in (".png", ".pdf") else [".png", ".pdf"]
    written = []
    for suffix in suffixes:
        path = target.with_name(target.name.removesuffix(suffix) + suffix)
        about = {"CreationDate": None} if suffix == ".pdf" else {}
        write_atomically(path, partial(figure.savefig, format=suffix[1:], metadata=about))
        written.append(path)
    return written


# Pictures


def to_picture(x: Tensor, m: Tensor | None = None, border: int = 0) -> np.ndarray:
    """(H, W, 3) in [0, 1] of one image, missing pixels in grey, without its border."""
    picture = ((x + 1) / 2).clamp(0, 1)
    if m is not None:
        picture = torch.where(m > 0, picture, MISSING_COLOUR)
    array = picture.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()  # grey: the band three times
    return array[border : array.shape[0] - border, border : array.shape[1] - border]


def reconstruction_figure(
    y: Tensor, m: Tensor, x_tilde: Tensor, border: int = 0, x: Tensor | None = None
) -> Figure:
    """Figures 4 and 5: observations on top, below them reconstructions (samples, B, 3, H, W).

    Where the originals x (B, 3, H, W) are given, they are the last row.
    """
    rows = {rf"$z_{{{number}}}$": images for number, images in enumerate(x_tilde, 1)}
    rows |= {} if x is None else {"$x$": x}
    return comparison_figure(y, m, rows, border)


def comparison_figure(
    y: Tensor, m: Tensor, filled: Mapping[str, Tensor], border: int = 0
) -> Figure:
    """One row a method below the observations.

    Args:
        y, m: observations (B, 3, H, W) and masks (B, 1, H, W).
        filled: what the row is called -> complete images (B, 3, H, W).
        border: pixels cropped from each side.
    """
    rows = {"$y$": [to_picture(*one, border) for one in zip(y, m, strict=True)]}
    rows |= {name: [to_picture(x, border=border) for x in xs] for name, xs in filled.items()}
    side = min(0.95, (WIDTH - 0.9) / len(y))  # inches; 0.9 for the labels of the rows
    figure, axes = plt.subplots(
        len(rows), len(y), figsize=(side * len(y) + 0.4, side * len(rows)), squeeze=False,
        gridspec_kw={"wspace": 0.04, "hspace": 0.04},
    )  # fmt: skip
    for row, (name, pictures) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, labelpad=4)
        for ax, picture in zip(row, pictures, strict=True):
            ax.imshow(picture)
            ax.set(xticks=[], yticks=[])
            sns.despine(ax=ax, left=True, bottom=True)
    return figure


def uncertainty_figure(
    y: Tensor, m: Tensor, x_tilde: Tensor, x: Tensor | None = None, border: int = 0
) -> Figure:
    """Per pixel the mean and the standard deviation over z, beyond the paper.

    Args:
        y, m: observations (B, 3, H, W) and masks (B, 1, H, W).
        x_tilde: reconstructions, (samples, B, 3, H, W).
        x: originals, (B, 3, H, W), shown in a last row if given.
        border: pixels cropped from each side.
    """
    mean, deviation = x_tilde.mean(dim=0), x_tilde.std(dim=0).mean(dim=1)  # of all channels
    rows = {"mean": mean, "std": mean} | ({} if x is None else {"$x$": x})
    figure = comparison_figure(y, m, rows, border)
    inside = slice(border, deviation.shape[-1] - border)
    maps = deviation[:, inside, inside].cpu().numpy()  # (B, h, w)
    top = max(float(np.quantile(maps, 0.99)), 1e-3)
    third_row = figure.axes[2 * len(y) : 3 * len(y)]
    for ax, one in zip(third_row, maps, strict=True):
        shown = ax.imshow(one, cmap="magma", vmin=0, vmax=top)  # over the mean
    place = third_row[-1].get_position()
    beside = figure.add_axes((place.x1 + 0.01, place.y0, 0.012, place.height))
    figure.colorbar(shown, cax=beside, label="std")
    return figure


def observed_by_figure(share: np.ndarray) -> Figure:
    """By what share of the images each pixel is observed, (size, size); those by none are crossed."""
    figure, ax = plt.subplots(figsize=(3.4, 2.8), layout="constrained")
    shown = ax.imshow(share, cmap="viridis", vmin=0, vmax=max(float(share.max()), 1e-9))
    rows, columns = np.nonzero(share == 0)
    ax.plot(columns, rows, "x", color=ACCENT, markersize=4)
    ax.set(xticks=[], yticks=[], title="observed by (share of the images)")
    figure.colorbar(shown)
    return figure


def step_figure(panels: Mapping[str, np.ndarray], arrows: Sequence[tuple[str, str, str]]) -> Figure:
    """Panels of one training step with labelled arrows between them (Figures 1 to 3).

    Args:
        panels: name -> picture (H, W, 3) in [0, 1], drawn from left to right.
        arrows: (from, to, label); arrows over more than one panel are bent.
    """
    names = list(panels)
    figure, axes = plt.subplots(1, len(names), figsize=(2.1 * len(names), 2.6), squeeze=False)
    figure.subplots_adjust(wspace=0.75, left=0.02, right=0.98, top=0.72, bottom=0.16)
    for ax, name in zip(axes[0], names, strict=True):
        ax.imshow(panels[name])
        ax.set_xlabel(name, fontsize=12)
        ax.set(xticks=[], yticks=[])
    for start, end, label in arrows:
        a, b = (axes[0, names.index(name)].get_position() for name in (start, end))
        far = names.index(end) - names.index(start) > 1
        tail, head = (a.x1 + 0.004, (a.y0 + a.y1) / 2), (b.x0 - 0.004, (b.y0 + b.y1) / 2)
        if far:
            tail, head = ((a.x0 + a.x1) / 2, a.y1 + 0.01), ((b.x0 + b.x1) / 2, b.y1 + 0.01)
        arrow = FancyArrowPatch(
            tail,
            head,
            transform=figure.transFigure,
            connectionstyle=f"arc3,rad={-0.18 if far else 0}",
            arrowstyle="-|>",
            mutation_scale=12,
            color=ACCENT if far else "0.2",
        )
        figure.add_artist(arrow)
        middle, lift = (tail[0] + head[0]) / 2, 0.17 if far else 0.03
        figure.text(middle, tail[1] + lift, label, ha="center", va="bottom", fontsize=9)
    return figure


# Training


def curves_figure(log: Sequence[Mapping[str, float]], title: str = "") -> Figure:
    """Training curves of a run: losses, D's outputs, reconstruction and latent errors."""
    panels = {
        "D on real and fake": {"d_real": "$D(y)$", "d_fake": r"$D(\tilde y)$"},
        "losses": {"loss_d": "$D$", "loss_g": "$G, E$"},
        "error of $y$": {"error_y": r"$\|\hat y - y\|^2$"},
        "error of $z$": {"error_z": r"$\|z_{rec} - z\|^2$"},
    }
    figure, axes = plt.subplots(1, 4, figsize=(WIDTH, 1.7), layout="constrained")
    steps = [line["step"] for line in log]
    for ax, (name, keys) in zip(axes, panels.items(), strict=True):
        ax.set(title=name, xlabel="step")
        known = [key for key in keys if log and key in log[0]]
        for key in known:
            ax.plot(steps, [line[key] for line in log], label=keys[key])
        if known:
            ax.legend()
        else:
            ax.text(0.5, 0.5, "not in this variant", ha="center", transform=ax.transAxes)
            ax.set(xticks=[], yticks=[])
    figure.suptitle(title)
    return figure


class Monitor:
    """Live curves and samples in a notebook while training: pass it as ``on_log``.

    Shows what an unsupervised user can see: observations and reconstructions, no originals.
    """

    def __init__(
        self, y: Tensor, m: Tensor, border: int = 0, samples: int = 3, seconds: float = 10.0
    ) -> None:
        self.y, self.m, self.border, self.samples, self.seconds = y, m, border, samples, seconds
        self.log: list[Mapping[str, float]] = []
        self.drawn = 0.0
        self.handles: list[Any] = []

    def __call__(self, line: Mapping[str, float], G: Any) -> None:
        self.log.append(line)
        if time.monotonic() - self.drawn >= self.seconds:
            self.draw(G)
            self.drawn = time.monotonic()

    def draw(self, G: Any) -> None:
        """Draw, or redraw in place."""
        from IPython.display import display

        z = latents(range(len(self.y)), self.samples, G.nz, seed=0, device=self.y.device)
        x_tilde = reconstruct(G, self.y, self.m, z)
        with plt.ioff():  # while interactive, the inline backend keeps every figure of a cell
            pictures = reconstruction_figure(self.y, self.m, x_tilde, self.border)
            figures = [curves_figure(self.log), pictures]
        if not self.handles:
            self.handles = [display(figure, display_id=True) for figure in figures]
        else:
            for handle, figure in zip(self.handles, figures, strict=True):
                handle.update(figure)
        for figure in figures:
            plt.close(figure)


# Charts


def look(method: str) -> dict[str, Any]:
    """Colour, line, marker and label of a method, by its name or label; dark grey if of no look."""
    method = {label: name for name, label in LABELS.items()}.get(method, method)
    about = {"color": "0.35", "linestyle": (0, (2, 2)), "marker": "p"}
    if method in LOOKS:
        place, cycle = LOOKS.index(method), list(plt.rcParams["axes.prop_cycle"])
        about = cycle[place % len(cycle)] | {"marker": MARKERS[place]}
    return about | {"label": LABELS.get(method, method)}


def methods_figure(
    data: pd.DataFrame, x: str, y: str, panel: str = "corruption", log: bool = False, **how: Any
) -> Figure:
    """One line for each method and seed, in a panel for each corruption; one legend below.

    Args:
        data: columns method, x, y, ``panel``; seed where there are several; low and high for bars.
        x, y: the columns to draw, which name the axes.
        panel: the column of which each value has a panel.
        log: both axes logarithmic.
        how: instead of a method's look, e.g. linestyle="" for points alone.
    """
    titles = sorted(set(data[panel]), key=[*CORRUPTIONS, *data[panel]].index)
    size = (WIDTH * min(max(len(titles), 1.5) / 3, 1), 2.6)
    figure, axes = plt.subplots(1, len(titles), figsize=size, layout="constrained", squeeze=False)
    runs = ["method", "seed"] if "seed" in data else ["method"]
    for ax, title in zip(axes[0], titles, strict=True):
        for (method, *_), run in data[data[panel] == title].groupby(runs, sort=False):
            ax.plot(run[x], run[y], **look(method) | how)
            if "low" in run:
                ax.vlines(run[x], run["low"], run["high"], look(method)["color"])
        ax.set(title=CORRUPTIONS.get(title, title), xlabel=x)
        if log:
            _logarithmic(ax)
    axes[0, 0].set_ylabel(y)
    lines = {line.get_label(): line for ax in axes[0] for line in ax.lines}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4)
    return figure


def calibration_figure(evaluations: pd.DataFrame) -> Figure:
    """What central intervals cover against what they should; of several seeds the mean and range.

    Args:
        evaluations: as of ``tables.load_evaluations``; its metrics coverage_50, ... are drawn.
    """
    level, inside = "level of the interval", "share of the truth inside"
    rows = evaluations[evaluations["metric"].str.startswith("coverage_")]
    levels = rows["metric"].str.removeprefix("coverage_").astype(int) / 100
    values = rows.assign(**{level: levels}).sort_values(level, kind="stable")
    values = values.groupby(["corruption", "method", level], sort=False)["value"]
    covered = values.agg(["mean", "min", "max"]).set_axis([inside, "low", "high"], axis=1)
    figure = methods_figure(covered.reset_index(), level, inside)
    for ax in figure.axes:
        ax.plot([0, 1], [0, 1], color="0.6", linestyle="-", linewidth=1, zorder=0)
        ax.set(xlim=(0.4, 1), ylim=(0, 1))
    return figure


def _logarithmic(ax: Axes) -> None:
    """Both axes, with few labels upwards, so that none overlap."""
    ax.set(xscale="log", yscale="log")
    ax.yaxis.set_major_locator(plt.MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_minor_locator(plt.NullLocator())
    ax.xaxis.set_major_locator(plt.LogLocator(subs=(1, 3)))
    ax.xaxis.set_minor_formatter("")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
