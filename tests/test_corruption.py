"""The measurement process, its masks, and the recovery of masks from observations."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from paperlib import seeds
from paperlib.corruption import (
    CORRUPTIONS,
    DropPixel,
    Patch,
    composite,
    corrupt,
    mask_law,
    recover_mask,
)

ALL_LAWS = [*CORRUPTIONS.values(), Patch(3, 20, border=0), DropPixel(0.25)]
LEVELS = torch.arange(256).float() / 127.5 - 1  # every value an 8-bit pixel can take


def every_level() -> torch.Tensor:
    """One 16 x 16 image in which each of the 256 levels occurs, grey: (1, 3, 16, 16)."""
    return LEVELS.view(1, 1, 16, 16).repeat(1, 3, 1, 1)


# Patch


def test_one_patch_keeps_exactly_one_sixteenth_at_128():
    kept = Patch(1, 32).sample(200, 128, seeds.generator("kept")).mean(dim=(1, 2, 3))
    assert torch.equal(kept, torch.full((200,), 0.0625))


def test_small_patch_keeps_about_40_percent_at_128():
    kept = Patch(90, 10).sample(500, 128, seeds.generator("kept")).mean(dim=(1, 2, 3))
    # An image deviates by about 0.02, the mean over 500 by about 0.001.
    assert 0.385 < kept.mean() < 0.42
    assert kept.std() > 0.005  # patches overlap by chance: the share varies


@pytest.mark.parametrize(
    "k, size, scaled",
    [(32, 128, 32), (32, 64, 16), (32, 32, 8), (10, 128, 10), (10, 64, 5), (10, 32, 3), (9, 64, 5)],
)
def test_patch_side_scales_with_size_rounded_up(k, size, scaled):
    assert Patch(1, k).pixels_at(size)[0] == scaled


@pytest.mark.parametrize("size, border", [(128, 4), (64, 2), (32, 1)])
@pytest.mark.parametrize("name", ["one_patch", "small_patch"])
def test_border_scales_and_is_never_observed(name, size, border):
    law = CORRUPTIONS[name]
    assert law.interior_border(size) == border
    seen = law.sample(300 if name == "small_patch" else 1000, size, seeds.generator(1)).amax((0, 1))
    inside = torch.zeros(size, size)
    inside[border:-border, border:-border] = 1
    assert not (seen > inside).any()
    # and the border is no wider than it says: its inner neighbours are seen (corners are rare)
    for edge in (seen[border], seen[-border - 1], seen[:, border], seen[:, -border - 1]):
        assert edge.any()


def test_drop_pixel_has_no_border():
    law = DropPixel(0.9)
    assert law.interior_border(32) == 0
    assert law.sample(400, 32, seeds.generator(1)).amax((0, 1)).min() == 1


@pytest.mark.parametrize(
    "law, size", [(Patch(90, 10), 32), (Patch(1, 32), 64), (Patch(3, 20, 0), 16)]
)
def test_patches_equal_a_loop_that_paints_them(law, size):
    n = law._integers_per_mask(size) // 2
    bits = torch.randint(2**40, (7, 2 * n), generator=seeds.generator("bits"))
    k, border = law.pixels_at(size)
    places = size - 2 * border - k + 1  # a patch's corner has as many, per side
    expected = torch.zeros(7, 1, size, size)
    for i in range(7):
        for j in range(n):
            top, left = (border + int(bits[i, c]) % places for c in (j, n + j))
            expected[i, 0, top : top + k, left : left + k] = 1
    assert torch.equal(law._masks(bits, size), expected)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_patch_of_one_is_exactly_one_square(size):
    k = Patch(1, 32).pixels_at(size)[0]
    for mask in Patch(1, 32).sample(50, size, seeds.generator(size)).bool()[:, 0]:
        rows, columns = mask.nonzero(as_tuple=True)
        top, left = rows.min(), columns.min()
        assert mask[top : top + k, left : left + k].all()
        assert mask.sum() == k * k


def test_patch_places_are_uniform():
    size, k, border = 32, 8, 1
    masks = Patch(1, 32).sample(6000, size, seeds.generator("uniform")).bool()[:, 0]
    tops = masks.any(2).int().argmax(1) - border  # first row with an observed pixel
    lefts = masks.any(1).int().argmax(1) - border
    places = size - 2 * border - k + 1
    for corner in (tops, lefts):
        counts = torch.bincount(corner, minlength=places).double()
        assert len(counts) == places
        expected = 6000 / places
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        assert chi_squared < 60  # 22 degrees of freedom: exceeded with probability 2e-5
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.06  # row and column are independent


@pytest.mark.parametrize("arguments", [(0, 10), (5, 0), (1, 121), (1, 10, -1)])
def test_impossible_patches_are_refused(arguments):
    with pytest.raises(ValueError, match="Patch"):
        Patch(*arguments)


# DropPixel


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("size", [8, 17, 32])
def test_drop_pixel_drops_exactly_its_share_of_each_image(p, size):
    masks = DropPixel(p).sample(20, size, seeds.generator(2))
    dropped = (masks == 0).sum(dim=(1, 2, 3))
    assert torch.equal(dropped, torch.full((20,), round(p * size * size)))


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5])
def test_impossible_drop_shares_are_refused(p):
    with pytest.raises(ValueError, match="p must be in"):
        DropPixel(p)


# Both ways to draw


@pytest.mark.parametrize("law", ALL_LAWS)
def test_masks_are_zeros_and_ones_of_the_stated_shape(law):
    for mask in (law.sample(3, 32, seeds.generator(0)), law.for_ids([5, 6, 7], 32, seed=0)):
        assert mask.shape == (3, 1, 32, 32)
        assert mask.dtype == torch.float32
        assert set(mask.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("law", ALL_LAWS)
def test_stored_mask_of_an_image_does_not_depend_on_its_company(law):
    ids = [3, 2**62 + 1, 0, 17, 4, 99]
    together = law.for_ids(ids, 32, seed=5)
    order = [4, 0, 5, 2, 1, 3]
    assert torch.equal(law.for_ids([ids[i] for i in order], 32, seed=5), together[order])
    split = torch.cat([law.for_ids(part, 32, seed=5) for part in (ids[:1], ids[1:4], ids[4:])])
    assert torch.equal(split, together)
    assert torch.equal(law.for_ids(torch.tensor(ids), 32, seed=5), together)


@pytest.mark.parametrize("law", ALL_LAWS)
def test_stored_mask_does_not_depend_on_the_global_generators(law):
    torch.manual_seed(1)
    first = law.for_ids([1, 2], 32, seed=5)
    torch.manual_seed(2)
    assert torch.equal(law.for_ids([1, 2], 32, seed=5), first)


@pytest.mark.parametrize("law", ALL_LAWS)
def test_stored_masks_differ_between_ids_and_between_seeds(law):
    # At 64 px one_patch has 45 x 45 places, so two of 30 ids agree by chance at times.
    distinct = law.for_ids(range(30), 64, seed=0).flatten(1).unique(dim=0)
    assert len(distinct) >= 28
    a, b = law.for_ids(range(30), 64, seed=0), law.for_ids(range(30), 64, seed=1)
    assert (a != b).flatten(1).any(1).sum() >= 28
    # seed and id are not interchangeable, nor do they only act through their sum
    c, d = law.for_ids([7], 64, seed=8), law.for_ids([8], 64, seed=7)
    assert not torch.equal(c, d)


@pytest.mark.parametrize("name", list(CORRUPTIONS))
@pytest.mark.parametrize("ids", ["consecutive", "hashed"])
def test_stored_masks_have_the_law_of_fresh_ones(name, ids):
    law, n, size = CORRUPTIONS[name], 4000, 32
    numbers = range(n) if ids == "consecutive" else [seeds.fold("image", i) for i in range(n)]
    stored = law.for_ids(numbers, size, seed=0)
    fresh = law.sample(n, size, seeds.generator("fresh"))
    for of in (
        lambda m: m,
        lambda m: m[..., 1:] * m[..., :-1],
        lambda m: m[:, :, 1:] * m[:, :, :-1],
    ):
        # how often each pixel, and each pair of neighbours, is observed
        f, g = of(stored).mean((0, 1)), of(fresh).mean((0, 1))
        pooled = (f + g) / 2
        error = (2 * pooled * (1 - pooled) / n).sqrt()  # of the difference of two shares
        deviation = ((f - g).abs() / error.clamp(min=1e-9))[error > 0]
        assert deviation.max() < 5.5  # of 1024 standard normals: exceeded with probability 4e-5
        assert torch.equal(f[error == 0], g[error == 0])
    kept = [m.mean((1, 2, 3)) for m in (stored, fresh)]
    assert abs(kept[0].mean() - kept[1].mean()) <= 5 * kept[1].std() * math.sqrt(2 / n)
    assert kept[0].std() == pytest.approx(kept[1].std().item(), rel=0.15, abs=1e-6)


@pytest.mark.parametrize(
    "name, digest",
    [
        ("one_patch", "8ed0290b7673396a"),
        ("small_patch", "6b09238b4f5b7c4c"),
        ("drop_pixel", "749c2fb8b1940808"),
    ],
)
def test_stored_masks_are_frozen(name, digest):
    # Another value here means that every record made so far rests on other observations.
    masks = CORRUPTIONS[name].for_ids([0, 1, 2**62 + 12345], 32, seed=7)
    assert hashlib.sha256(masks.to(torch.uint8).numpy().tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("law", ALL_LAWS)
def test_fresh_masks_follow_their_generator(law):
    first = law.sample(5, 32, seeds.generator("a"))
    assert torch.equal(law.sample(5, 32, seeds.generator("a")), first)
    assert not torch.equal(law.sample(5, 32, seeds.generator("b")), first)
    generator = seeds.generator("a")
    law.sample(5, 32, generator)
    assert not torch.equal(law.sample(5, 32, generator), first)  # the generator has moved on


def test_unknown_corruption_names_the_known_ones():
    with pytest.raises(ValueError, match="'blur'.*one_patch, small_patch, drop_pixel"):
        mask_law("blur")


# F and eq. 4


def test_corrupt_passes_observed_values_to_the_bit_and_fills_with_tau():
    x = torch.randn(4, 3, 8, 8, generator=seeds.generator("x"))
    m = DropPixel(0.5).sample(4, 8, seeds.generator("m"))
    for tau in (0.0, 0.25):
        y = corrupt(x, m, tau)
        observed = m.expand_as(x) > 0
        assert torch.equal(y[observed], x[observed])
        assert (y[~observed] == tau).all()


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_corrupt_ignores_whatever_lies_under_the_mask(garbage):
    x = torch.randn(2, 3, 8, 8, generator=seeds.generator("x"))
    m = DropPixel(0.5).sample(2, 8, seeds.generator("m"))
    spoilt = torch.where(m > 0, x, garbage)
    assert torch.equal(corrupt(spoilt, m), corrupt(x, m))
    assert torch.equal(composite(x + 1, spoilt, m), composite(x + 1, x, m))


@pytest.mark.parametrize("under_mask", [0.5, float("nan")])
def test_gradient_of_corrupt_is_the_mask(under_mask):
    m = DropPixel(0.5).sample(2, 8, seeds.generator("m"))
    x = torch.where(m > 0, 0.5, under_mask).repeat(1, 3, 1, 1).requires_grad_()
    corrupt(x, m).sum().backward()
    assert torch.equal(x.grad, m.expand_as(x))


def test_composite_keeps_observed_and_takes_the_rest_from_the_generator():
    y = torch.full((1, 3, 2, 2), 0.1)
    generated = torch.full((1, 3, 2, 2), -0.7)
    m = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 1, 2, 2)
    expected = torch.tensor([[0.1, -0.7], [-0.7, 0.1]]).expand(1, 3, 2, 2)
    assert torch.equal(composite(generated, y, m), expected)


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 3, 8, 8), (1, 1, 8, 8), (2, 1, 8, 4)])
def test_wrong_mask_shape_is_refused_naming_both_shapes(shape):
    x, m = torch.zeros(2, 3, 8, 8), torch.ones(shape)
    for call in (lambda: corrupt(x, m), lambda: composite(x, x, m)):
        with pytest.raises(ValueError) as error:
            call()
        assert str(shape) in str(error.value) and "(2, 3, 8, 8)" in str(error.value)


# T


def test_no_8_bit_level_is_taken_for_missing():
    assert recover_mask(every_level()).all()


@pytest.mark.parametrize("law", ALL_LAWS)
def test_recovered_mask_is_the_stored_one_on_8_bit_images(law):
    levels = torch.randint(256, (6, 3, 32, 32), generator=seeds.generator("levels"))
    x = levels.float() / 127.5 - 1
    m = law.for_ids(range(6), 32, seed=0)
    assert torch.equal(recover_mask(corrupt(x, m)), m)


def test_recovered_mask_is_exact_with_another_unambiguous_tau():
    m = DropPixel(0.5).for_ids([0], 16, seed=0)
    for tau in (2.0, -3.0, 2 / 255):  # outside the range, or between two levels
        y = corrupt(every_level(), m, tau)
        assert torch.equal(recover_mask(y, tau), m)


def test_images_in_0_1_are_refused():
    # There black is 0 too: an observed black pixel would be taken for missing.
    with pytest.raises(ValueError, match="not 8-bit levels"):
        recover_mask((every_level() + 1) / 2)


def test_images_in_0_255_are_refused():
    with pytest.raises(ValueError, match="not 8-bit levels"):
        recover_mask((every_level() + 1) * 127.5 + 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_integer_images_are_refused(dtype):
    with pytest.raises(ValueError, match=str(dtype)):
        recover_mask(torch.ones(1, 3, 4, 4, dtype=dtype))


@pytest.mark.parametrize("tau", [-1.0, 1.0, float(LEVELS[17])])
def test_tau_that_is_an_8_bit_level_is_refused(tau):
    with pytest.raises(ValueError, match="tau"):
        recover_mask(every_level(), tau)


def test_pixels_missing_in_some_channels_only_are_refused():
    y = every_level()
    y[0, 1, 3, 3] = 0.0
    with pytest.raises(ValueError, match="part of their channels"):
        recover_mask(y)


def test_images_without_batch_dimension_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 16, 16\)"):
        recover_mask(every_level()[0])
