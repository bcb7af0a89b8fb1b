"""Figures: what is drawn is what was measured, and no two methods look the same."""

from __future__ import annotations

import colorsys
import itertools

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import images, observations
from matplotlib.colors import to_rgb

from paperlib.paper import figures
from paperlib.paper.tables import LABELS

KEYS = [("both", 0), ("both", 1), ("base", 0)]


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        plt.switch_backend("agg")
        figures.use_style()
        yield
    plt.close("all")


# Pictures


def test_picture_is_grey_where_missing_and_has_no_border():
    x = torch.full((3, 8, 8), -1.0)
    m = torch.ones(1, 8, 8)
    m[0, 2, 3] = 0
    picture = figures.to_picture(x, m, border=1)
    assert picture.shape == (6, 6, 3)
    assert picture[1, 2] == pytest.approx(figures.MISSING_COLOUR)
    picture[1, 2] = 0
    assert not picture.any()
    assert figures.to_picture(x[:1] + 2).min() == 1  # one band is grey


def test_rows_of_reconstructions_show_every_sample_of_every_image():
    y, m = observations()
    x_tilde = torch.stack([images(seed) for seed in range(3)])
    axes = figures.reconstruction_figure(y, m, x_tilde, border=2).axes
    shown = [ax.images[0].get_array() for ax in axes]
    assert len(shown) == 4 * len(y)
    assert np.allclose(shown[1], figures.to_picture(y[1], m[1], 2))
    assert np.allclose(shown[2 * len(y) + 1], figures.to_picture(x_tilde[1, 1], border=2))
    labels = [ax.get_ylabel() for ax in axes[:: len(y)]]
    assert labels == ["$y$", "$z_{1}$", "$z_{2}$", "$z_{3}$"]


def test_uncertainty_is_the_deviation_over_samples():
    (y, m), x = observations(), images()
    x_tilde = torch.stack([x, x + 0.5])
    *axes, bar = figures.uncertainty_figure(y, m, x_tilde, x).axes
    assert [ax.get_ylabel() for ax in axes[:: len(y)]] == ["$y$", "mean", "std", "$x$"]
    deviation = axes[2 * len(y)].images[-1].get_array()
    assert np.allclose(deviation, 0.5 / 2**0.5, atol=1e-6) and bar.get_ylabel() == "std"


def test_pixels_that_no_image_observes_are_crossed():
    share = np.full((4, 4), 0.5)
    share[1, 2] = 0
    ax = figures.observed_by_figure(share).axes[0]
    assert ax.lines[0].get_xydata().tolist() == [[2, 1]]


def test_arrows_of_a_step_lead_from_panel_to_panel():
    panels = {name: np.zeros((4, 4, 3)) for name in "abc"}
    figure = figures.step_figure(panels, [("a", "b", "G"), ("a", "c", "D")])
    figure.canvas.draw()
    near, far = figure.artists
    a, b, c = (ax.get_position() for ax in figure.axes)
    (start, height), (end, _) = near._posA_posB
    assert a.x1 < start < end < b.x0 and a.y0 < height < a.y1
    (start, height), (end, _) = far._posA_posB
    assert a.x0 < start < a.x1 and c.x0 < end < c.x1 and height > a.y1
    assert [text.get_text() for text in figure.texts] == ["G", "D"]


def test_a_figure_is_written_to_look_at_and_to_print_and_is_reproducible(tmp_path):
    figure, ax = plt.subplots()
    ax.plot([1, 2])
    png, pdf = figures.save_figure(figure, tmp_path / "a.b")
    assert (png.name, pdf.name) == ("a.b.png", "a.b.pdf")
    first = pdf.read_bytes()
    assert first.startswith(b"%PDF") and b"CreationDate" not in first
    assert figures.save_figure(figure, pdf) == [pdf]
    assert pdf.read_bytes() == first


def test_curves_of_a_run_show_what_was_logged_and_what_it_lacks():
    log = [{"step": k, "loss_d": 2.0 / k, "loss_g": k, "error_y": 0.1 * k} for k in (1, 2)]
    judged, losses, error_y, error_z = figures.curves_figure(log, "a run").axes
    assert [line.get_ydata().tolist() for line in losses.lines] == [[2, 1], [1, 2]]
    assert error_y.lines[0].get_xydata().tolist() == [[1, 0.1], [2, 0.2]]
    for ax in (judged, error_z, *figures.curves_figure([]).axes):
        assert ax.texts[0].get_text() == "not in this variant"


# Charts of methods


def evaluations(**metrics):
    """metric -> (method, seed) -> value."""
    columns = ["corruption", "method", "seed", "metric", "value"]
    rows = [
        ("small_patch", method, seed, metric, value)
        for metric, of in metrics.items()
        for (method, seed), value in of.items()
    ]
    return pd.DataFrame(rows, columns=columns)


def test_methods_differ_in_line_marker_and_colour_and_are_told_apart_on_white():
    looks = [figures.look(method) for method in figures.LOOKS]
    for key in ("color", "linestyle", "marker", "label"):
        assert len({str(one[key]) for one in looks}) == len(looks)
    for one in looks:
        assert colorsys.rgb_to_hls(*to_rgb(one["color"]))[1] < 0.7  # lightness
    assert figures.look(LABELS["base"]) == figures.look("base")  # by its label too
    assert figures.look("another")["label"] == "another"


def test_one_point_or_line_a_method_and_seed_and_a_panel_a_corruption():
    data = pd.DataFrame(
        [("small_patch", *key, x, y) for key, x, y in zip(KEYS, (2, 3, 1), (5, 6, 7), strict=True)]
        + [("one_patch", "both", 0, 4, 8), ("one_patch", "both", 0, 5, 9)],
        columns=["corruption", "method", "seed", "x", "y"],
    )
    figure = figures.methods_figure(data, "x", "y", linestyle="")
    assert [ax.get_title() for ax in figure.axes] == ["One Patch", "Small Patch"]
    one, small = (
        [(line.get_label(), line.get_xydata().tolist()) for line in ax.lines] for ax in figure.axes
    )
    both, base = LABELS["both"], LABELS["base"]
    assert one == [(both, [[4, 8], [5, 9]])]
    assert small == [(both, [[2, 5]]), (both, [[3, 6]]), (base, [[1, 7]])]
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(named) == sorted([both, base])  # each once


def test_calibration_draws_the_levels_that_are_recorded_their_mean_and_range():
    frame = evaluations(
        coverage_80=dict(zip(KEYS, (0.7, 0.8, 0.1), strict=True)),
        coverage_50=dict(zip(KEYS, (0.4, 0.5, 0.1), strict=True)),
        energy=dict.fromkeys(KEYS, 9.0),
    )
    (ax,) = figures.calibration_figure(frame).axes
    drawn = {line.get_label(): line.get_xydata() for line in ax.lines}
    assert drawn[LABELS["both"]] == pytest.approx(np.array([[0.5, 0.45], [0.8, 0.75]]))
    bars = [segment.tolist() for bar in ax.collections for segment in bar.get_segments()]
    assert [[0.8, 0.7], [0.8, 0.8]] in bars
    diagonal = ax.lines[-1].get_xydata().tolist()
    assert diagonal == [[0, 0], [1, 1]]


def test_no_two_labels_of_a_logarithmic_axis_overlap():
    data = evaluations(std=dict(zip(KEYS, (0.002, 0.3, 0.01), strict=True)))
    data["distance"] = (150, 620, 330)
    figure = figures.methods_figure(data, "value", "distance", log=True)
    figure.canvas.draw()
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        boxes = [t.get_window_extent() for t in axis.get_ticklabels(which="both") if t.get_text()]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
