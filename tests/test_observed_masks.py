"""The law of masks that were really observed: a fresh mask is that of another image."""

from __future__ import annotations

import pytest
import torch

from paperlib import seeds
from paperlib.data.observed_masks import ObservedMasks


def distinct_masks(n: int = 6) -> torch.Tensor:
    """(n, 1, 8, 8) bool; mask i shows its first i + 1 rows."""
    return torch.stack([(torch.arange(8) <= i)[:, None].expand(8, 8) for i in range(n)])[:, None]


def test_a_fresh_mask_is_an_observed_one_and_never_the_images_own():
    masks = distinct_masks()
    law, generator = ObservedMasks(torch.cat([masks, masks[:1]])), seeds.generator("masks")
    assert law.interior_border(8) == 0
    for own in masks.float():
        fresh = law.sample(200, 8, generator, own.expand(200, 1, 8, 8))
        known = (fresh[:, None] == masks[None].float()).flatten(2).all(2)  # (200, n)
        assert fresh.dtype == torch.float32 and known.any(1).all()
        assert not (fresh == own).flatten(1).all(1).any()
        assert (known.sum(0) > 0).sum() == len(masks) - 1  # each of the others is drawn,
    assert known[:, 0].float().mean() == pytest.approx(2 / 6, abs=0.08)  # as often as observed


def test_flips_and_shifts_move_masks_around_the_edges_and_keep_their_share():
    masks = distinct_masks(2)
    masks[:, :, :, 4:] = False  # the left half of the first row, or of the first two
    flipped = ObservedMasks(masks, flips=True).sample(100, 8, seeds.generator("f"))
    moved = ObservedMasks(masks, shift=2).sample(300, 8, seeds.generator("s"))
    for fresh in (flipped, moved):
        assert set(fresh.sum((1, 2, 3)).tolist()) == {4.0, 8.0}
    places = {
        (int(rows.float().argmax()), int(columns.float().argmax()))
        for rows, columns in ((m[0].any(1), m[0].any(0)) for m in flipped if m.sum() == 4)
    }
    assert places == {(0, 0), (0, 4), (7, 0), (7, 4)}
    steps = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
    expected = torch.stack([masks[0, 0].float().roll(step, (0, 1)) for step in steps])
    found = moved[moved.sum((1, 2, 3)) == 4].flatten(1).unique(dim=0)
    assert torch.equal(found, expected.flatten(1).unique(dim=0))


def test_masks_are_a_function_of_the_generator():
    law = ObservedMasks(distinct_masks(), flips=True, shift=3)
    a, b, other = (law.sample(20, 8, seeds.generator(seed)) for seed in "xxy")
    assert torch.equal(a, b) and not torch.equal(a, other)


def test_masks_that_cannot_be_drawn_from_are_refused():
    with pytest.raises(ValueError, match="equal"):
        ObservedMasks(torch.ones(3, 1, 8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="masks of 8 px for images of 16 px"):
        ObservedMasks(distinct_masks()).sample(2, 16, seeds.generator("m"))
