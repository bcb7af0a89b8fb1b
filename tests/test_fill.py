"""The smooth guess that G may start from."""

from __future__ import annotations

import pytest
import torch
from test_models import assert_close, inputs

from paperlib import seeds
from paperlib.core.corruption import corrupt, mask_law
from paperlib.core.fill import laplacian, pyramid_fill


@pytest.mark.parametrize("sweeps", [0, 3])
@pytest.mark.parametrize("size", [8, 24, 32, 36])
def test_fill_is_linear_in_the_observation_and_without_sweeps_within_its_range(size, sweeps):
    y, m, _ = inputs(size)
    fill, ones = (pyramid_fill(u, m, sweeps=sweeps) for u in (y, m.expand_as(y)))
    assert_close(pyramid_fill(m - 0.5 * y, m, sweeps=sweeps), ones - 0.5 * fill)
    if not sweeps:  # a weighted mean
        assert fill.abs().max() <= y.abs().max() + 1e-6
        assert ones.min() >= 0 and ones.max() <= 1 + 1e-6


def test_fill_by_hand():
    # Of 2 x 2 pixels there is one level; the coarser guess is 0 and counts as 0.02 pixels.
    y = torch.tensor([[0.6, 0.0], [-0.3, 0.0]]).view(1, 1, 2, 2)
    m = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(1, 1, 2, 2)
    assert_close(pyramid_fill(y, m), y / 1.02)
    # Of 4 x 4 the coarser level is of means by (1, 3, 3, 1) / 8, of which an edge cuts off 1.
    left, right = 7 / 8 * torch.tensor([0.45, 0.075]) / ((7 / 8) ** 2 + 0.02)
    coarse = torch.stack([left, (3 * left + right) / 4, (left + 3 * right) / 4, right])
    y = torch.tensor([0.6, 0.6, 0.0, 0.0]).expand(1, 1, 4, 4)
    assert_close(pyramid_fill(y, torch.ones(1, 1, 4, 4)), (y + 0.02 * coarse) / 1.02)


def test_sweeps_make_the_fill_less_bent():
    y, m, _ = inputs()
    bent = [
        laplacian(torch.where(m > 0, y, pyramid_fill(y, m, sweeps=n))).square().sum()
        for n in (0, 2, 8, 32)
    ]
    assert bent == sorted(bent, reverse=True) and bent[-1] < 0.9 * bent[0]


@pytest.mark.parametrize("name, share", [("drop_pixel", 0.3), ("small_patch", 0.3), ("one_patch", 1.0)])  # fmt: skip
def test_fill_beats_a_grey_one_on_smooth_images(name, share):
    line = torch.linspace(0, 3, 32)
    x = 0.8 * torch.sin(line[:, None] + 0.7 * line[None, :]).expand(8, 3, 32, 32)
    m = mask_law(name).sample(8, 32, seeds.generator("fill"))
    missing = (1 - m).expand_as(x) > 0
    error = (pyramid_fill(corrupt(x, m), m) - x)[missing].square().mean()
    assert error < share * x[missing].square().mean()
