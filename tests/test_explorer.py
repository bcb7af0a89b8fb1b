"""The explorer without a browser: what it computes, and that its widgets do what they say.

``tests/browser`` has the clicks.
"""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from paperlib import exploration, paths, pretrained
from paperlib.corruption import composite
from paperlib.exploration import main_directions, paint, responses, saved_choices
from paperlib.explorer import Explorer
from paperlib.training import load_generator


@pytest.fixture(scope="module")
def images():
    return pretrained.images()


@pytest.fixture(scope="module")
def runs():
    return {name: pretrained.run(name) for name in pretrained.names()}


@pytest.fixture
def explorer(images, runs, tmp_path):
    return Explorer(images, runs, tmp_path / "saved")


def stroke(explorer, *places):
    """Press the pointer, move it along, let go."""
    explorer._begin_stroke(*places[0])
    for place in places[1:]:
        explorer._go_on_with_stroke(*place)
    explorer._end_stroke()


class Linear(torch.nn.Module):
    """G whose answer is linear in z: 3 units of brightness along (0, 1, 0), 1 along (0, 0, 1)."""

    nz = 3

    def forward(self, y, m, z):
        return (3 * z[:, 1] + z[:, 2])[:, None, None, None].expand_as(y) * 0.01


# What it computes


def test_the_main_direction_is_the_one_that_changes_the_image_most():
    y, m = torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)
    first, _ = main_directions(Linear(), y, m)
    expected = torch.tensor([0, 3, 1]) / 10**0.5
    assert torch.allclose(first, expected, atol=1e-4)


def test_the_directions_of_a_trained_run_are_orthonormal_and_stronger_than_others(runs, images):
    G = load_generator(runs["drop_pixel-both-seed0"])
    y, m = torch.zeros(3, 32, 32), torch.zeros(1, 32, 32)
    y[:, :, :16], m[:, :, :16] = images["Qatar"][:, :, :16], 1
    directions = main_directions(G, y, m, count=G.nz)
    assert torch.allclose(directions @ directions.T, torch.eye(G.nz), atol=1e-4)
    step = 0.1  # where x~ is nearly linear in z
    x_tilde = responses(G, y, m, torch.cat([torch.zeros(1, G.nz), step * directions]))
    change = (x_tilde[1:] - x_tilde[0]).flatten(1).norm(dim=1)
    assert change[:2].min() > change[-2:].max()


def test_a_stroke_is_a_line_of_the_brush_s_width():
    m = torch.ones(1, 8, 8)
    hidden = paint(m, (1.5, 3.2), (5.9, 3.2), width=2, observed=False)
    expected = torch.ones(8, 8)
    expected[3:5, 1:7] = 0
    assert torch.equal(hidden[0], expected)
    assert m.all()  # a copy
    assert torch.equal(paint(hidden, (1.5, 3.2), (5.9, 3.2), width=2, observed=True), m)


def test_a_stroke_may_leave_the_image():
    m = paint(torch.ones(1, 8, 8), (-3.0, 1.0), (11.0, 1.0), width=1, observed=False)
    assert (m[0, 1] == 0).all() and m.sum() == 56
    assert paint(m, (-9.0, -9.0), (-8.0, -8.0), width=3, observed=False).sum() == 56


# What the widgets do


@pytest.mark.parametrize("corruption", ["one_patch", "small_patch", "drop_pixel"])
def test_observed_pixels_pass_to_the_bit(explorer, corruption):
    explorer.corruption.value = corruption
    stroke(explorer, (3.0, 3.0), (20.0, 9.0))
    explorer.z[0].value, explorer.z[1].value = 2.5, -1.5
    observed = (explorer.m > 0).expand_as(explorer.x)
    assert observed.any() and not observed.all()
    for answer in explorer.answers:
        for shown in (answer.moved, *answer.samples):
            assert torch.equal(shown[observed], explorer.x[observed])
        assert (answer.deviation[explorer.m[0] > 0] == 0).all()


def test_the_reconstruction_does_not_see_what_is_hidden(explorer, images, runs):
    other = {"black below": torch.where(explorer.m > 0, images["Qatar"], -1.0)}
    blind = Explorer(other, runs, explorer.folder)
    assert torch.equal(blind.m, explorer.m)
    for mine, theirs in zip(explorer.answers, blind.answers, strict=True):
        assert torch.equal(mine.moved, theirs.moved)
        assert torch.equal(mine.samples, theirs.samples)


def test_the_sliders_move_along_the_two_directions(explorer):
    explorer.z[0].value, explorer.z[1].value = 1.5, -0.5
    for side, answer in enumerate(explorer.answers):
        first, second = explorer.directions[side]
        G = explorer.generator(explorer.run[side].value)
        y, m = explorer.y[None], explorer.m[None]
        with torch.inference_mode():
            expected = composite(G(y, m, (1.5 * first - 0.5 * second)[None]), y, m)[0]
        assert torch.allclose(answer.moved, expected, atol=1e-5)
    assert not torch.allclose(*(answer.moved for answer in explorer.answers))


def test_the_same_z_gives_the_same_sample(explorer):
    before = [answer.moved for answer in explorer.answers]
    samples = [answer.samples for answer in explorer.answers]
    explorer.z[0].value = 2.0
    assert not torch.equal(explorer.answers[1].moved, before[1])
    explorer.z[0].value = 0.0
    for side, answer in enumerate(explorer.answers):
        assert torch.allclose(answer.moved, before[side], atol=1e-6)  # drawn in another batch
        assert answer.samples is samples[side]  # the sliders leave them alone
    explorer.new_samples.click()
    assert not torch.allclose(explorer.answers[1].samples, samples[1])


def test_both_runs_are_given_the_same_z(explorer):
    explorer.run[0].value = explorer.run[1].value
    assert torch.equal(explorer.answers[0].samples, explorer.answers[1].samples)


def test_another_run_changes_its_side_alone(explorer):
    left, right = explorer.answers
    explorer.run[1].value = explorer.run[0].value
    assert explorer.answers[0] is left
    assert not torch.equal(explorer.answers[1].moved, right.moved)


def test_a_damaged_run_is_named_and_not_taken(images, runs, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(runs["drop_pixel-both-seed0"], damaged)
    (damaged / "generator.safetensors").write_bytes(b"")
    explorer = Explorer(images, runs | {"damaged": damaged}, tmp_path)
    before = explorer.answers[0].moved
    explorer.run[0].value = "damaged"
    assert explorer.run[0].value == "drop_pixel-base-seed0"
    assert str(damaged) in explorer.message.value
    assert torch.equal(explorer.answers[0].moved, before)


def test_a_preset_has_the_paper_s_parameters_and_is_drawn_once(explorer, monkeypatch):
    drawn = []
    monkeypatch.setattr(explorer, "draw_mask", lambda: drawn.append(explorer.law))
    explorer.corruption.value = "one_patch"
    assert [str(law) for law in drawn] == ["Patch(n=1, k=32, border=4)"]


def test_parameters_of_the_corruption_are_used(explorer):
    explorer.corruption.value = "drop_pixel"
    explorer.p.value = 0.25
    assert explorer.m.sum() == 0.75 * 32 * 32
    shown = [control.layout.display for control in (explorer.n, explorer.k, explorer.p)]
    assert shown == ["none", "none", None]


def test_only_a_pressed_pointer_paints(explorer):
    explorer.corruption.value = "nothing missing"
    explorer._go_on_with_stroke(5.0, 5.0)
    assert explorer.m.all() and "painted" not in explorer.choices()["corruption"]
    stroke(explorer, (5.0, 5.0), (9.0, 5.0))
    assert not explorer.m.all() and "painted" in explorer.choices()["corruption"]
    explorer._go_on_with_stroke(20.0, 20.0)
    assert explorer.m[0, 20, 20] == 1


def test_a_saved_picture_says_what_was_chosen(explorer, images, runs):
    explorer.image.value = "Disko Bay"
    stroke(explorer, (3.0, 3.0), (20.0, 9.0))
    explorer.z[1].value = 1.2
    explorer.save_picture.click()
    chosen = saved_choices(explorer.saved)
    assert chosen == explorer.choices()
    assert chosen["image"] == "Disko Bay" and chosen["z"] == [0.0, 1.2]
    assert chosen["mask"] == explorer.m[0].int().tolist()
    assert explorer.saved.name.startswith("Disko_Bay-drop_pixel_p0.9_painted-")
    first = explorer.saved
    explorer.save()
    assert explorer.saved != first and first.is_file()  # nothing is overwritten


def test_a_saved_picture_shows_the_observation(explorer):
    explorer.save()
    with Image.open(explorer.saved) as image:
        tile = np.asarray(image)[50 : 50 + exploration.TILE, : exploration.TILE]
    pixel = exploration.TILE // 32
    levels = torch.tensor(tile[pixel // 2 :: pixel, pixel // 2 :: pixel]).permute(2, 0, 1)
    shown = (explorer.m > 0).expand_as(explorer.x)
    assert torch.equal(levels[shown], ((explorer.x + 1) * 127.5).round().byte()[shown])


def test_every_trained_run_on_the_same_data_is_offered(empty_workspace, runs):
    source = runs["drop_pixel-both-seed0"]
    places = {"quick/runs/mine": 32, "large/runs/other_data": 64, "old/runs/unknown": '"?"'}
    for place, size in places.items():
        run = paths.RESULTS / place
        run.mkdir(parents=True)
        for name in ("record.json", "generator.safetensors"):
            (run / name).symlink_to(source / name)
        config = (source / "config.json").read_text().replace('"size": 32', f'"size": {size}')
        (run / "config.json").write_text(config)
    assert list(exploration.available_runs()) == [*runs, "quick/mine"]
