"""Pictures of reconstructions, and training curves, also while a run trains.

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
import pandas as pd
import torch
from IPython.display import display
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from paperlib.evaluation.sampling import latents, reconstruct
from paperlib.files import write_atomically

MISSING_COLOUR = 0.85  # light grey, so that missing pixels are not taken for black ones
WIDTH = 6.9  # inches, of a page's two columns
HIGHEST_STD = 1.0  # drawn brightest, in every figure, so that figures can be compared
CURVES = [["d_real", "d_fake"], ["loss_d", "loss_g"], ["error_y"], ["error_z"]]


def use_style() -> None:
    """The package's style, ``style.mplstyle``."""
    plt.style.use("paperlib.paper.style")


def save_figure(figure: Figure, target: Path) -> None:
    """Write ``target``.png, to look at, and ``target``.pdf, to print; DiskFull where no room is.

    The files hold no date: the same figure gives the same bytes.
    """
    for suffix, about in ((".png", {}), (".pdf", {"CreationDate": None})):
        write = partial(figure.savefig, format=suffix[1:], metadata=about)
        write_atomically(target.with_name(target.name + suffix), write)


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
    return comparison_figure(y, m, rows | ({} if x is None else {"$x$": x}), border)


def comparison_figure(
    y: Tensor,
    m: Tensor,
    filled: Mapping[str, Tensor],
    border: int = 0,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """One row a method below the observations y (B, 3, H, W), whose masks are m (B, 1, H, W).

    ``filled`` is what the row is called -> complete images (B, 3, H, W); ``border`` is the pixels
    cropped from each side; ``groups`` is what stands at the right of some rows -> their names, of
    which those that ``filled`` lacks are passed over.
    """
    rows = {"$y$": [to_picture(*one, border) for one in zip(y, m, strict=True)]}
    rows |= {name: [to_picture(x, border=border) for x in xs] for name, xs in filled.items()}
    side = min(0.95, (WIDTH - 0.9) / len(y))  # inches; 0.9 for the labels of the rows
    figure, axes = plt.subplots(
        len(rows), len(y), figsize=(side * len(y) + 0.4, side * len(rows)), squeeze=False,
        gridspec_kw={"wspace": 0.04, "hspace": 0.04}, subplot_kw={"xticks": [], "yticks": []},
    )  # fmt: skip
    for row, (name, pictures) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, labelpad=4)
        for ax, picture in zip(row, pictures, strict=True):
            ax.imshow(picture)
            ax.spines[:].set_visible(False)
    for label, names in (groups or {}).items():
        beside = [
            ax.get_position() for ax, name in zip(axes[:, -1], rows, strict=True) if name in names
        ]
        if beside:
            right, low, high = beside[0].x1 + 0.01, beside[-1].y0 + 0.005, beside[0].y1 - 0.005
            figure.add_artist(Line2D([right, right], [low, high], color="0.5", linestyle="-"))
            figure.text(right + 0.01, (low + high) / 2, label, rotation=270, va="center")
    return figure


def uncertainty_figure(
    y: Tensor, m: Tensor, x_tilde: Tensor, x: Tensor | None = None, border: int = 0
) -> Figure:
    """Per pixel the mean and the standard deviation over z, beyond the paper.

    ``x_tilde``: (samples, B, 3, H, W); the others as of ``reconstruction_figure``. The scale is the
    same in every figure: from 0 to ``HIGHEST_STD``, and what is above looks as that.
    """
    deviation = x_tilde.std(dim=0).mean(dim=1).cpu()  # (B, H, W), mean over the channels
    scale = ScalarMappable(Normalize(0, HIGHEST_STD), "magma")
    colours = scale.cmap(deviation.numpy() / HIGHEST_STD)[..., :3]  # (B, H, W, 3) in [0, 1]
    maps = torch.from_numpy(colours).movedim(3, 1)
    rows = {"mean": x_tilde.mean(dim=0), "std": 2 * maps - 1}
    figure = comparison_figure(y, m, rows | ({} if x is None else {"$x$": x}), border)
    figure.colorbar(scale, ax=figure.axes, label="std", aspect=40, pad=0.01, extend="max")
    return figure


def curves_figure(log: Sequence[Mapping[str, float]], title: str = "") -> Figure:
    """Training curves of a run: D on real and fake, losses, the errors of y and of z."""
    table = pd.DataFrame(log).set_index("step")
    groups = [found for keys in CURVES if (found := table.columns.intersection(keys).tolist())]
    figure = plt.figure(figsize=(WIDTH, 1.7), layout="constrained")
    for number, keys in enumerate(groups, 1):
        ax = table[keys].plot(ax=figure.add_subplot(1, len(groups), number))
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.4 * (high - low))  # room for the legend
        ax.legend(loc="upper right")
    figure.suptitle(title)
    return figure


class Monitor:
    """Live curves and samples in a notebook while training: pass it as ``on_log``.

    Shows what an unsupervised user can see: observations and reconstructions, no originals.
    """

    def __init__(self, y: Tensor, m: Tensor, border: int = 0) -> None:
        self.y, self.m, self.border, self.drawn = y, m, border, 0.0
        self.log: list[Mapping[str, float]] = []

    def __call__(self, line: Mapping[str, float], G: Any) -> None:
        """Draw, or redraw in place, every 10 seconds."""
        self.log.append(line)
        if time.monotonic() - self.drawn < 10:
            return
        z = latents(range(len(self.y)), 3, G.nz, seed=0, device=self.y.device)
        x_tilde = reconstruct(G, self.y, self.m, z)
        with plt.ioff():  # while interactive, the inline backend keeps every figure of a cell
            pictures = reconstruction_figure(self.y, self.m, x_tilde, self.border)
            for name, figure in (("curves", curves_figure(self.log)), ("pictures", pictures)):
                display(figure, display_id=f"{name}-{id(self)}", update=self.drawn > 0)
                plt.close(figure)
        self.drawn = time.monotonic()
