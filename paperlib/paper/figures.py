"""Pictures: reconstructions, uncertainty, training curves of a run, and the panels of one step.

Images are (3, H, W) in [-1, 1]. The border that no mask observes is cropped from every figure of
reconstructions: nothing can be learned there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from paperlib.evaluation.sampling import latents, reconstruct
from paperlib.files import write_atomically

MISSING_COLOUR = 0.85  # light grey, so that missing pixels are not taken for black ones
ACCENT = "#D55E00"  # Okabe and Ito's vermillion
WIDTH = 6.9  # inches, of a page's two columns


def use_style() -> None:
    """The package's style, ``style.mplstyle``."""
    plt.style.use("paperlib.paper.style")


def save_figure(figure: Figure, target: Path) -> list[Path]:
    """Write ``target`` (.png or .pdf); without such a suffix both, to look at and to print.

    The files hold no date: the same figure gives the same bytes.

    Raises:
        DiskFull: there is no room; what was there before is intact.
    """
    suffixes = [".png", ".pdf"]
    if target.suffix in suffixes:
        suffixes, target = [target.suffix], target.with_suffix("")
    written = []
    for suffix in suffixes:
        path = target.with_name(target.name + suffix)
        about = {"CreationDate": None} if suffix == ".pdf" else {}
        write_atomically(path, partial(figure.savefig, format=suffix[1:], metadata=about))
        written.append(path)
    return written


def to_picture(x: Tensor, m: Tensor | None = None, border: int = 0) -> np.ndarray:
    """(H, W, 3) in [0, 1] of one image, missing pixels in grey, without its border."""
    picture = ((x + 1) / 2).clamp(0, 1)
    if m is not None:
        picture = torch.where(m > 0, picture, MISSING_COLOUR)
    array = picture.permute(1, 2, 0).cpu().numpy()
    return array[border : array.shape[0] - border, border : array.shape[1] - border]


def reconstruction_figure(y: Tensor, m: Tensor, x_tilde: Tensor, border: int = 0) -> Figure:
    """Figures 4 and 5: observations on top, below them reconstructions for different z.

    Args:
        y, m: observations (B, 3, H, W) and masks (B, 1, H, W).
        x_tilde: reconstructions, (samples, B, 3, H, W).
        border: pixels cropped from each side.
    """
    samples, images = x_tilde.shape[:2]
    figure, axes = _grid(samples + 1, images)
    for j in range(images):
        axes[0, j].imshow(to_picture(y[j], m[j], border))
        for i in range(samples):
            axes[i + 1, j].imshow(to_picture(x_tilde[i, j], border=border))
    _row_label(axes[0, 0], "$y$")
    for i in range(samples):
        _row_label(axes[i + 1, 0], rf"$z_{{{i + 1}}}$")
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
    mean = x_tilde.mean(dim=0)
    deviation = x_tilde.std(dim=0).mean(dim=1).cpu().numpy()  # (B, H, W), over the channels
    inside = slice(border, deviation.shape[-1] - border)
    deviation = deviation[:, inside, inside]
    images = len(y)
    figure, axes = _grid(3 if x is None else 4, images)
    top = max(float(np.quantile(deviation, 0.99)), 1e-3)
    for j in range(images):
        axes[0, j].imshow(to_picture(y[j], m[j], border))
        axes[1, j].imshow(to_picture(mean[j], border=border))
        shown = axes[2, j].imshow(deviation[j], cmap="magma", vmin=0, vmax=top)
        if x is not None:
            axes[3, j].imshow(to_picture(x[j], border=border))
    labels = ["$y$", "mean", "std", "$x$"]
    for row, label in zip(axes, labels, strict=False):
        _row_label(row[0], label)
    place = axes[2, -1].get_position()
    beside = figure.add_axes((place.x1 + 0.01, place.y0, 0.012, place.height))
    bar = figure.colorbar(shown, cax=beside)
    bar.set_label("std")
    return figure


def comparison_figure(
    y: Tensor, m: Tensor, filled: Mapping[str, Tensor], border: int = 0
) -> Figure:
    """One row a method below the observations.

    Args:
        y, m: observations (B, 3, H, W) and masks (B, 1, H, W).
        filled: what the row is called -> complete images (B, 3, H, W).
        border: pixels cropped from each side.
    """
    figure, axes = _grid(1 + len(filled), len(y))
    _row_label(axes[0, 0], "$y$")
    for j in range(len(y)):
        axes[0, j].imshow(to_picture(y[j], m[j], border))
    for row, (name, images) in zip(axes[1:], filled.items(), strict=True):
        _row_label(row[0], name)
        for ax, image in zip(row, images, strict=True):
            ax.imshow(to_picture(image, border=border))
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


def step_figure(
    panels: Mapping[str, np.ndarray], arrows: Sequence[tuple[str, str, str]], title: str = ""
) -> Figure:
    """Panels of one training step with labelled arrows between them (Figures 1 to 3).

    Args:
        panels: name -> picture (H, W, 3) in [0, 1], drawn from left to right. A picture of None
            leaves the place to the name alone, e.g. for z.
        arrows: (from, to, label); arrows over more than one panel are bent.
        title: above the panels.
    """
    n = len(panels)
    figure, axes = plt.subplots(1, n, figsize=(2.1 * n, 2.6), squeeze=False)
    figure.subplots_adjust(wspace=0.75, left=0.02, right=0.98, top=0.72, bottom=0.16)
    where = {}
    for ax, (name, picture) in zip(axes[0], panels.items(), strict=True):
        where[name] = ax
        ax.imshow(picture)
        ax.set_xlabel(name, fontsize=12)
        ax.set(xticks=[], yticks=[])
    for start, end, label in arrows:
        a, b = where[start].get_position(), where[end].get_position()
        far = abs(list(panels).index(start) - list(panels).index(end)) > 1
        height = (a.y0 + a.y1) / 2
        if far:
            ends = ((a.x0 + a.x1) / 2, a.y1 + 0.01), ((b.x0 + b.x1) / 2, b.y1 + 0.01)
        else:
            ends = (a.x1 + 0.004, height), (b.x0 - 0.004, height)
        arrow = FancyArrowPatch(
            *ends,
            transform=figure.transFigure,
            connectionstyle=f"arc3,rad={-0.18 if far else 0}",
            arrowstyle="-|>",
            mutation_scale=12,
            color=ACCENT if far else "0.2",
        )
        figure.add_artist(arrow)
        middle = (ends[0][0] + ends[1][0]) / 2
        lift = 0.17 if far else 0.03
        figure.text(middle, ends[0][1] + lift, label, ha="center", va="bottom", fontsize=9)
    if title:
        figure.suptitle(title, y=1.02)
    return figure


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
        for key, label in keys.items():
            if log and key in log[0]:
                ax.plot(steps, [line[key] for line in log], label=label)
        ax.set(title=name, xlabel="step")
        if ax.lines:
            ax.legend()
        else:
            ax.text(0.5, 0.5, "not in this variant", ha="center", transform=ax.transAxes)
            ax.set(xticks=[], yticks=[])
    if title:
        figure.suptitle(title)
    return figure


def field_figure(rows: Mapping[str, Tensor], limit: float = 2.5) -> Figure:
    """Fields in a diverging palette, one row a name, missing entries (NaN) in grey.

    Args:
        rows: name -> fields, (images, H, W).
        limit: the colour scale reaches from -limit to limit.
    """
    figure, axes = _grid(len(rows), max(len(fields) for fields in rows.values()))
    palette = sns.color_palette("vlag", as_cmap=True).with_extremes(bad=str(MISSING_COLOUR))
    for row, (name, fields) in zip(axes, rows.items(), strict=True):
        _row_label(row[0], name)
        for ax, field in zip(row, fields, strict=False):
            ax.imshow(field.numpy(), cmap=palette, vmin=-limit, vmax=limit)
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
            figures = [
                curves_figure(self.log),
                reconstruction_figure(self.y, self.m, x_tilde, self.border),
            ]
        if self.handles:
            for handle, figure in zip(self.handles, figures, strict=True):
                handle.update(figure)
        else:
            self.handles = [display(figure, display_id=True) for figure in figures]
        for figure in figures:
            plt.close(figure)


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    side = min(0.95, (WIDTH - 0.9) / columns)  # inches; 0.9 for the labels of the rows
    figure, axes = plt.subplots(
        rows, columns, figsize=(side * columns + 0.4, side * rows), squeeze=False,
        gridspec_kw={"wspace": 0.04, "hspace": 0.04},
    )  # fmt: skip
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
    return figure, axes


def _row_label(ax: Axes, text: str) -> None:
    ax.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9, labelpad=4)
