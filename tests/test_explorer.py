"""The explorer without a browser: what it computes, and that its widgets do what they say.

``tests/browser`` has the clicks.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from paperlib.beyond import pretrained
from paperlib.beyond.explorer import GAP, TILE, Explorer, main_directions, paint
from paperlib.core.corruption import composite
from paperlib.run import Run

RUNS = {name: pretrained.run(name) for name in pretrained.names()[:2]}  # which it opens with


IMAGES = pretrained.images()


@pytest.fixture
def explorer(tmp_path):
    return Explorer(IMAGES, folder=tmp_path / "saved")


def stroke(explorer, start, end):
    """Move the pointer, which paints nothing, press it, move it along, let go."""
    before = explorer.m
    explorer.paint(explorer.stroke, (9.0, 9.0))
    assert torch.equal(explorer.m, before)
    explorer.paint(start, start)
    explorer.paint(explorer.stroke, end)
    explorer.end_stroke()


class Linear(torch.nn.Module):
    """G whose answer is linear in z: 3 units of brightness along (0, 1, 0), 1 along (0, 0, 1)."""

    nz = 3

    def forward(self, y, m, z):
        return (3 * z[:, 1] + z[:, 2])[:, None, None, None].expand_as(y) * 0.01


def test_the_main_direction_is_the_one_that_changes_the_image_most():
    first, _ = main_directions(Linear(), torch.zeros(3, 4, 4), torch.zeros(1, 4, 4))
    assert torch.allclose(first.abs(), torch.tensor([0, 3, 1]) / 10**0.5, atol=1e-4)


def test_a_stroke_is_a_wide_line_and_may_leave_the_image():
    m = torch.ones(1, 12, 12)
    hidden = paint(m, (4.5, 5.2), (7.9, 5.2), observed=False)
    assert m.all()  # a copy
    assert (hidden[0, 3:8, 4:8] == 0).all() and hidden[0, :3].all() and hidden[0, 8:].all()
    assert torch.equal(paint(hidden, (4.5, 5.2), (7.9, 5.2), observed=True), m)
    across = paint(m, (-30.0, 5.0), (40.0, 5.0), observed=False)
    assert (across[0, 3:8] == 0).all() and across.sum() == 7 * 12
    assert paint(m, (-9.0, -9.0), (-8.0, -8.0), observed=False).all()


@pytest.mark.parametrize("corruption", ["one_patch", "small_patch", "drop_pixel"])
def test_observed_pixels_pass_to_the_bit(explorer, corruption):
    explorer.corruption.value = corruption
    stroke(explorer, (3.0, 3.0), (20.0, 9.0))
    explorer.z[0].value, explorer.z[1].value = 2.5, -1.5
    observed = (explorer.m > 0).expand_as(explorer.x)
    assert observed.any() and not observed.all()
    for x_tilde in explorer.answers:
        assert all(torch.equal(shown[observed], explorer.x[observed]) for shown in x_tilde)


def test_the_reconstruction_does_not_see_what_is_hidden(explorer):
    other = {"white below": torch.where(explorer.m > 0, explorer.x, 1.0)}
    blind = Explorer(other, RUNS, explorer.folder)
    assert torch.equal(blind.m, explorer.m)
    for mine, theirs in zip(explorer.answers, blind.answers, strict=True):
        assert torch.equal(mine, theirs)


def test_the_sliders_move_along_the_two_directions_and_leave_the_samples_alone(explorer):
    before = explorer.answers
    explorer.z[0].value, explorer.z[1].value = 1.5, -0.5
    for x_tilde, run, old in zip(explorer.answers, RUNS.values(), before, strict=True):
        G, y, m = Run(run).generator(), explorer.y[None], explorer.m[None]
        first, second = main_directions(G, explorer.y, explorer.m)
        with torch.inference_mode():
            expected = composite(G(y, m, (1.5 * first - 0.5 * second)[None]), y, m)[0]
        assert torch.allclose(x_tilde[0], expected, atol=1e-5)
        assert torch.allclose(x_tilde[1:], old[1:], atol=1e-6)
    explorer.draw_samples()
    assert not torch.allclose(explorer.answers[1][1:], before[1][1:])


def test_another_run_changes_its_side_alone_and_is_given_the_same_z(explorer):
    above = explorer.answers[0]
    explorer.run[1].value = next(iter(RUNS))
    assert torch.allclose(explorer.answers[0], above) and torch.equal(*explorer.answers)


def test_a_corruption_is_the_paper_s(explorer):
    for name, observed in (("one_patch", 64), ("drop_pixel", 102), ("nothing missing", 1024)):
        explorer.corruption.value = name
        assert explorer.m.sum() == observed


def test_a_saved_picture_shows_the_observation(explorer):
    stroke(explorer, (3.0, 3.0), (20.0, 9.0))
    explorer.save()
    first = explorer.saved
    explorer.save()
    assert explorer.saved != first and first.is_file()  # nothing is overwritten
    pixel = TILE // 32
    tile = np.asarray(Image.open(first))[GAP : GAP + TILE, GAP : GAP + TILE]  # the first
    levels = torch.tensor(tile[pixel // 2 :: pixel, pixel // 2 :: pixel]).permute(2, 0, 1)
    shown = (explorer.m > 0).expand(3, -1, -1)
    assert (levels - (explorer.x.expand(3, -1, -1) + 1) * 127.5)[shown].abs().max() <= 1
