"""Charts of a profile: what is drawn is what was recorded, and no two methods look the same."""

import colorsys
import itertools

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from paperlib import charts, plots


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        plt.switch_backend("agg")
        plots.use_style()
        yield
    plt.close("all")


def evaluations(**metrics):
    columns = ["corruption", "method", "seed", "metric", "value"]
    rows = [
        ("small_patch", method, seed, metric, value)
        for metric, of in metrics.items()
        for (method, seed), value in of.items()
    ]
    return pd.DataFrame(rows, columns=columns)


def test_methods_differ_in_line_marker_and_colour():
    looks = [charts.look(method) for method in charts.LOOKS]
    for key in ("color", "linestyle", "marker", "label"):
        assert len({str(one[key]) for one in looks}) == len(looks)


def test_colours_are_told_apart_on_white():
    for one in map(charts.look, charts.LOOKS):
        lightness = colorsys.rgb_to_hls(*to_rgb(one["color"]))[1]
        assert lightness < 0.7


def test_one_point_a_method_and_seed():
    keys = [("both", 0), ("both", 1), ("base", 0)]
    frame = evaluations(
        std=dict(zip(keys, (0.02, 0.03, 0.01), strict=True)) | {("linear", 0): 0.0},
        **{"FD-efflite0": dict(zip(keys, (50, 60, 70), strict=True)) | {("linear", 0): 40}},
    )
    (ax,) = charts.diversity_figure(frame).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn[charts.LABELS["both"]] == [[0.02, 50], [0.03, 60]]
    assert drawn[charts.LABELS["base"]] == [[0.01, 70]]


def test_calibration_draws_the_levels_that_are_recorded():
    frame = evaluations(
        coverage_80={("both", 0): 0.7, ("both", 1): 0.8, ("linear", 0): 0.0},
        coverage_50={("both", 0): 0.4, ("both", 1): 0.5, ("linear", 0): 0.0},
    )
    covered = charts.coverages(frame)
    assert covered == {"small_patch": {"both": {0.5: [0.4, 0.5], 0.8: [0.7, 0.8]}}}
    (ax,) = charts.calibration_figure(covered).axes
    points = [line.get_xydata() for line in ax.lines if line.get_marker() == "o"]
    assert points[0] == pytest.approx(pd.DataFrame([[0.5, 0.45], [0.8, 0.75]]).to_numpy())


def test_curves_have_a_line_a_run():
    log = [{"step": 10, "loss_d": 2.0, "error_y": 0.5}, {"step": 20, "loss_d": 1.0, "error_y": 0.1}]
    figure = charts.curves_figure({"both": [log, log], "base": [log]})
    panels = dict(zip(charts.CURVES, figure.axes, strict=True))
    assert len(panels["loss_d"].lines) == 3
    assert panels["loss_d"].lines[0].get_xydata().tolist() == [[0.5, 2.0], [1.0, 1.0]]
    assert all(len(line.get_xdata()) == 0 for line in panels["error_z"].lines)


def test_no_two_labels_of_an_axis_overlap():
    keys = list(itertools.product(("both", "base"), (0, 1)))
    frame = evaluations(
        std=dict(zip(keys, (0.002, 0.3, 0.01, 0.05), strict=True)),
        **{"FD-efflite0": dict(zip(keys, (150, 620, 330, 170), strict=True))},
    )
    figure = charts.diversity_figure(frame)
    figure.canvas.draw()
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        boxes = [t.get_window_extent() for t in axis.get_ticklabels(which="both") if t.get_text()]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_a_figure_is_written_to_look_at_and_to_print_and_is_reproducible(tmp_path):
    figure, ax = plt.subplots()
    ax.plot([1, 2])
    png, pdf = plots.save_figure(figure, tmp_path / "a.b")
    assert (png.name, pdf.name) == ("a.b.png", "a.b.pdf")
    first = pdf.read_bytes()
    assert first.startswith(b"%PDF") and b"CreationDate" not in first
    plots.save_figure(figure, tmp_path / "a.b")
    assert pdf.read_bytes() == first
