"""Figures: what is drawn is what was measured."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import images, observations

from paperlib.paper import figures


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        plt.switch_backend("agg")
        figures.use_style()
        yield
    plt.close("all")


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


def test_groups_stand_beside_their_rows():
    y, m = observations()
    filled = {name: images(k) for k, name in enumerate(["a", "b", "c"])}
    figure = figures.comparison_figure(y, m, filled, groups={"two": ["a", "b"], "one": ["c"]})
    last = [ax.get_position() for ax in figure.axes[len(y) - 1 :: len(y)]]  # of y, a, b, c
    two, one = figure.texts
    assert (two.get_text(), one.get_text()) == ("two", "one")
    assert two.get_position()[1] == pytest.approx((last[1].y1 + last[2].y0) / 2)
    assert one.get_position()[1] == pytest.approx((last[3].y1 + last[3].y0) / 2)
    assert min(text.get_position()[0] for text in figure.texts) > last[0].x1


@pytest.mark.parametrize("step, seen", [(0.0, 0.0), (0.5, 0.5 / 2**0.5), (9.0, 1.0)])
def test_uncertainty_is_the_deviation_over_samples_on_one_scale(step, seen):
    (y, m), x = observations(), images()
    x_tilde = torch.stack([x, x + step])
    *axes, bar = figures.uncertainty_figure(y, m, x_tilde, x).axes
    assert [ax.get_ylabel() for ax in axes[:: len(y)]] == ["$y$", "mean", "std", "$x$"]
    colour = matplotlib.colormaps["magma"](seen)[:3]  # the same everywhere
    assert np.allclose(axes[2 * len(y)].images[0].get_array(), colour, atol=1e-2)
    assert bar.get_ylabel() == "std" and bar.get_ylim() == (0, 1)


def test_a_figure_is_written_to_look_at_and_to_print_and_is_reproducible(tmp_path):
    figure, ax = plt.subplots()
    ax.plot([1, 2])
    figures.save_figure(figure, tmp_path / "a.b")
    pdf = tmp_path / "a.b.pdf"
    first = pdf.read_bytes()
    assert first.startswith(b"%PDF") and b"CreationDate" not in first
    figures.save_figure(figure, tmp_path / "a.b")
    assert pdf.read_bytes() == first and (tmp_path / "a.b.png").is_file()


def test_curves_of_a_run_are_those_that_were_logged():
    log = [{"step": k, "loss_d": 2.0 / k, "loss_g": k, "error_y": 0.1 * k} for k in (1, 2)]
    losses, error_y = figures.curves_figure(log, "a run").axes
    assert [line.get_ydata().tolist() for line in losses.lines] == [[2, 1], [1, 2]]
    assert error_y.lines[0].get_xydata().tolist() == [[1, 0.1], [2, 0.2]]
