"""Charts of a whole profile: training curves, distance against time, diversity, calibration.

A method has one colour, line and marker in all of them; each is told apart in grey too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paperlib import paths
from paperlib.paper.figures import WIDTH
from paperlib.paper.tables import CORRUPTIONS, TABLE1, TABLE2, distance_name
from paperlib.profiles import load_profile
from paperlib.run import Run

LABELS = TABLE2 | TABLE1
LOOKS = ("both", "encoding_z", "encoding_y", "base", "unpaired", "paired", "misgan", "mask_aware")
MARKERS = "osD^vPX*"
PANEL = WIDTH / 3  # inches, the width of a panel
LEVEL = "coverage_"  # metrics of this name hold what intervals of so many per cent cover
CURVES = {
    "loss_d": "loss of $D$",
    "loss_g": "loss of $G$ and $E$",
    "error_y": "error of $y$",
    "error_z": "error of $z$",
}


def look(method: str) -> dict[str, Any]:
    """Colour, line, marker and label of a method; what is none of ``LOOKS`` is dark grey."""
    label = {"label": LABELS.get(method, method)}
    if method not in LOOKS:
        return {"color": "0.35", "linestyle": (0, (2, 2)), "marker": "p"} | label
    place = LOOKS.index(method)
    cycle = list(plt.rcParams["axes.prop_cycle"])
    return cycle[place % len(cycle)] | {"marker": MARKERS[place]} | label


def logs(profile: str) -> dict[str, dict[str, list[list[dict[str, float]]]]]:
    """What was logged in training: corruption -> method -> one log a seed; only runs with a log."""
    found: dict[str, dict[str, list[list[dict[str, float]]]]] = {}
    for config in load_profile(profile):
        if log := Run(paths.runs(Path(profile).stem) / config.name).log():
            found.setdefault(config.corruption, {}).setdefault(config.method, []).append(log)
    return found


def curves_figure(methods: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> Figure:
    """Training curves of every run on a corruption, one panel a quantity, one line a run.

    Against the share of a run's updates: MisGAN's are fewer and longer. Critics without a bound
    and hinge losses have different scales, so the axis of losses is linear within 10 only.

    Args:
        methods: method -> one log a seed, as ``logs`` has them.
    """
    figure, axes = plt.subplots(1, len(CURVES), figsize=(WIDTH, 1.9), layout="constrained")
    for ax, (key, title) in zip(axes, CURVES.items(), strict=True):
        for method, seeds in methods.items():
            for log in seeds:
                lines = [line for line in log if key in line]
                share = [line["step"] / log[-1]["step"] for line in lines]
                how = look(method) | {"marker": ""}
                ax.plot(share, [line[key] for line in lines], **how)
        ax.set(title=title, xlabel="share of the updates")
        if key.startswith("loss"):
            ax.set_yscale("symlog", linthresh=10)
        else:
            ax.set_yscale("log")
    _one_legend(figure, axes)
    return figure


def course_figure(
    courses: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]], metric: str
) -> Figure:
    """A metric against the seconds of training, a panel for each corruption.

    Args:
        courses: corruption -> method -> looks, each with "seconds" and the metric.
        metric: what is drawn, e.g. FD-efflite0.
    """
    figure, axes = _panels(courses, "seconds of training", metric)
    for ax, methods in zip(axes, courses.values(), strict=True):
        for method, looks in methods.items():
            seconds = [one["seconds"] for one in looks]
            ax.plot(seconds, [one[metric] for one in looks], **look(method))
        _logarithmic(ax)
    _one_legend(figure, axes)
    return figure


def diversity_figure(evaluations: pd.DataFrame) -> Figure:
    """Diversity against fidelity, one point a method and seed: to the right is more diverse, further
    down is closer to the originals. The best of what has no z is a line across.

    Args:
        evaluations: as ``tables.load_evaluations`` returns them.
    """
    distance = distance_name(evaluations)
    shown = [c for c in CORRUPTIONS if c in set(evaluations["corruption"])]
    figure, axes = _panels(shown, "std over $z$", distance)
    index = ["method", "seed"]
    for ax, corruption in zip(axes, shown, strict=True):
        part = evaluations[evaluations["corruption"] == corruption]
        points = part.pivot(index=index, columns="metric", values="value").reset_index()
        points = points.dropna(subset=["std", distance])
        for method in [m for m in LABELS if m in LOOKS and m in set(points["method"])]:
            of_method = points[points["method"] == method]
            how = look(method) | {"linestyle": ""}
            ax.plot(of_method["std"], of_method[distance], **how)
        best = points[points["std"] == 0].nsmallest(1, distance)
        for method, value in zip(best["method"], best[distance], strict=True):
            ax.axhline(value, color="0.6", linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
            ax.annotate(
                LABELS[method], (1, value), xycoords=("axes fraction", "data"), ha="right",
                va="bottom", fontsize=6, color="0.4",
            )  # fmt: skip
        _logarithmic(ax)
    _one_legend(figure, axes)
    return figure


def coverages(evaluations: pd.DataFrame) -> dict[str, dict[str, dict[float, list[float]]]]:
    """What is recorded of coverage: corruption -> method -> level -> share covered, one a seed."""
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    rows = evaluations[evaluations["metric"].str.startswith(LEVEL)]
    rows = rows[rows["method"].isin(LOOKS)]
    for row in rows.sort_values("metric", kind="stable").itertuples():
        levels = found.setdefault(row.corruption, {}).setdefault(row.method, {})
        levels.setdefault(int(row.metric.removeprefix(LEVEL)) / 100, []).append(row.value)
    return {c: found[c] for c in CORRUPTIONS if c in found}


def calibration_figure(
    panels: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]],
) -> Figure:
    """What central intervals cover against what they should, one line a method.

    Args:
        panels: corruption, or another title -> method, or its label -> level -> share covered, one
            for each seed. The line is their mean, the bars their range.
    """
    figure, axes = _panels(panels, "level of the interval", "share of the truth inside")
    for ax, methods in zip(axes, panels.values(), strict=True):
        ax.plot([0, 1], [0, 1], color="0.6", linestyle="-", linewidth=1, label="calibrated")
        for method, levels in methods.items():
            values = np.array(list(levels.values()))  # (levels, seeds)
            mean = values.mean(axis=1)
            spread = np.abs(np.stack([values.min(axis=1), values.max(axis=1)]) - mean)
            ax.errorbar(list(levels), mean, spread, capsize=2, **look(_method(method)))
        ax.set(xlim=(0.4, 1), ylim=(0, 1))
    _one_legend(figure, axes)
    return figure


def _method(name: str) -> str:
    """The method of a label of ``TABLE1``; any other name as it is."""
    return {label: method for method, label in TABLE1.items()}.get(name, name)


def _panels(titles: Any, xlabel: str, ylabel: str) -> tuple[Figure, Sequence[Axes]]:
    width = max(PANEL * len(titles), 1.5 * PANEL)
    figure, axes = plt.subplots(
        1, len(titles), figsize=(width, 2.6), layout="constrained", squeeze=False
    )
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set(title=CORRUPTIONS.get(title, title), xlabel=xlabel)
    axes[0, 0].set_ylabel(ylabel)
    return figure, axes[0]


def _logarithmic(ax: Axes) -> None:
    """Both axes, with few labels upwards, so that none overlap."""
    ax.set(xscale="log", yscale="log")
    ax.yaxis.set_major_locator(plt.MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_minor_locator(plt.NullLocator())
    ax.xaxis.set_major_locator(plt.LogLocator(subs=(1, 3)))
    ax.xaxis.set_minor_formatter("")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")


def _one_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend below all panels, each name once."""
    known: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=4)
