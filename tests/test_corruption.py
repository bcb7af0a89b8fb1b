"""The measurement process, its masks, and the recovery of masks from observations."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from paperlib import seeds
from paperlib.core.corruption import (
    CORRUPTIONS,
    DropPixel,
    Patch,
    composite,
    corrupt,
    recover_mask,
)

ALL_LAWS = [*CORRUPTIONS.values(), Patch(3, 20, border=0), DropPixel(0.25)]
LEVELS = torch.arange(256).float() / 127.5 - 1  # every value that an 8-bit pixel can take


def every_level() -> torch.Tensor:
    """One 16 x 16 image in which each of the 256 levels occurs, grey: (1, 3, 16, 16)."""
    return LEVELS.view(1, 1, 16, 16).repeat(1, 3, 1, 1)


# The masks of given random integers


def kept_patches(law: Patch, size: int, bits: np.ndarray) -> np.ndarray:
    """Masks (B, 1, size, size): n rows, then n columns of corners, painted one by one."""
    border = round(law.border * size / 128)
    k = min(math.ceil(law.k * size / 128), size - 2 * border)
    corners = border + bits % (size - 2 * border - k + 1)  # (B, 2n)
    masks = np.zeros((len(bits), 1, size, size))
    for mask, own in zip(masks, corners, strict=True):
        for top, left in zip(*np.split(own, 2), strict=True):
            mask[0, top : top + k, left : left + k] = 1
    return masks


def dropped_pixels(law: DropPixel, size: int, bits: np.ndarray) -> np.ndarray:
    """Masks (B, 1, size, size): the pixels of the smallest integers are dropped."""
    masks = np.ones((len(bits), 1, size, size))
    for mask, order in zip(masks, np.argsort(bits, axis=1), strict=True):
        mask.flat[order[: round(law.p * size**2)]] = 0
    return masks


@pytest.mark.parametrize("law, size", [
    (Patch(90, 10), 32), (Patch(90, 10), 128), (Patch(1, 32), 64), (Patch(2, 9), 64),
    (Patch(3, 20, border=0), 16), (Patch(1, 120), 20),  # 19 px, rounded up, do not fit in 18
    (DropPixel(0.9), 32), (DropPixel(0.25), 17), (DropPixel(0.0), 8), (DropPixel(0.999), 8),
])  # fmt: skip
def test_masks_are_the_index_sets_that_their_integers_say(law, size):
    n, by_hand = (2 * law.n, kept_patches) if isinstance(law, Patch) else (size**2, dropped_pixels)
    bits = torch.randint(2**40, (7, n), generator=seeds.generator("bits")).numpy()
    masks = law.sample(7, size, seeds.generator("bits"))
    assert masks.dtype == torch.float32
    assert np.array_equal(masks, by_hand(law, size, bits))


@pytest.mark.parametrize("size, border", [(128, 4), (64, 2), (32, 1)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_border_is_what_no_mask_observes_and_scales(name, size, border):
    law, border = CORRUPTIONS[name], 0 if name == "drop_pixel" else border
    seen = law.sample(600 if name == "one_patch" else 300, size, seeds.generator(1)).amax((0, 1))
    rows = seen.any(1).nonzero().flatten()
    assert (rows[0], rows[-1]) == (border, size - border - 1)
    assert law.interior_border(size) == border


# The two ways to draw the integers


@pytest.mark.parametrize("law", ALL_LAWS)
def test_stored_mask_is_a_function_of_seed_and_id_alone(law):
    ids, order = [3, 2**62 + 1, 0, 17, 4, 99], [4, 0, 5, 2, 1, 3]
    torch.manual_seed(1)
    together = law.for_ids(ids, 32, seed=5)
    assert together.shape == (6, 1, 32, 32) and together.dtype == torch.float32
    assert set(together.unique().tolist()) == {0.0, 1.0}
    torch.manual_seed(2)
    shuffled = torch.tensor([ids[i] for i in order])
    assert torch.equal(law.for_ids(shuffled, 32, seed=5), together[order])
    split = torch.cat([law.for_ids(part, 32, seed=5) for part in (ids[:1], ids[1:4], ids[4:])])
    assert torch.equal(split, together)
    assert not torch.equal(law.for_ids(ids, 32, seed=6), together)
    # seed and id are not interchangeable, nor do they only act through their sum
    assert not torch.equal(law.for_ids([7], 32, seed=8), law.for_ids([8], 32, seed=7))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("law", ALL_LAWS)
def test_stored_mask_is_the_same_on_every_device(law):
    there = law.for_ids(range(100), 32, seed=5, device="cuda")
    assert torch.equal(there.cpu(), law.for_ids(range(100), 32, seed=5))


@pytest.mark.parametrize("name", CORRUPTIONS)
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
        # of 1024 standard normals the largest exceeds 5.5 with probability 4e-5
        assert ((f - g).abs() <= 5.5 * error).all()
    kept = [m.mean((1, 2, 3)) for m in (stored, fresh)]
    assert abs(kept[0].mean() - kept[1].mean()) <= 5 * kept[1].std() * math.sqrt(2 / n)
    assert kept[0].std() == pytest.approx(kept[1].std().item(), rel=0.15, abs=1e-6)


@pytest.mark.parametrize("name, digest", [
    ("one_patch", "8ed0290b7673396a"), ("small_patch", "6b09238b4f5b7c4c"),
    ("drop_pixel", "749c2fb8b1940808"),
])  # fmt: skip
def test_stored_masks_are_frozen(name, digest):
    # Another value here means that every record made so far rests on other observations.
    masks = CORRUPTIONS[name].for_ids([0, 1, 2**62 + 12345], 32, seed=7)
    assert hashlib.sha256(masks.to(torch.uint8).numpy().tobytes()).hexdigest()[:16] == digest


# F and equation 4


@pytest.fixture
def x_and_m() -> tuple[torch.Tensor, torch.Tensor]:
    """x (4, 3, 8, 8), and m (4, 1, 8, 8) of which half is observed."""
    x = torch.randn(4, 3, 8, 8, generator=seeds.generator("x"))
    return x, DropPixel(0.5).sample(4, 8, seeds.generator("m"))


def test_observed_values_pass_to_the_bit_and_the_rest_is_filled(x_and_m):
    (x, m), generated = x_and_m, torch.full((4, 3, 8, 8), -0.7)
    seen = m.expand_as(x) > 0
    for tau in (0.0, 0.25):
        y = corrupt(x, m, tau)
        assert torch.equal(y[seen], x[seen]) and (y[~seen] == tau).all()
    x_tilde = composite(generated, corrupt(x, m), m)
    assert torch.equal(x_tilde[seen], x[seen]) and torch.equal(x_tilde[~seen], generated[~seen])


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
def test_whatever_lies_under_the_mask_has_no_influence_nor_gradient(x_and_m, garbage):
    x, m = x_and_m
    spoilt = torch.where(m > 0, x, garbage).requires_grad_()
    y = corrupt(spoilt, m)
    assert torch.equal(y, corrupt(x, m))
    assert torch.equal(composite(x + 1, spoilt, m), composite(x + 1, x, m))
    y.sum().backward()
    assert torch.equal(spoilt.grad, m.expand_as(x))


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 3, 8, 8), (1, 1, 8, 8), (2, 1, 8, 4)])
def test_wrong_mask_shape_is_refused_naming_both_shapes(shape):
    x, m = torch.zeros(2, 3, 8, 8), torch.ones(shape)
    for call in (lambda: corrupt(x, m), lambda: composite(x, x, m)):
        with pytest.raises(ValueError) as error:
            call()
        assert str(shape) in str(error.value) and "(2, 3, 8, 8)" in str(error.value)


# T


@pytest.mark.parametrize("law", ALL_LAWS)
def test_recovered_mask_is_the_stored_one_on_8_bit_images(law):
    levels = torch.randint(256, (6, 3, 32, 32), generator=seeds.generator("levels"))
    m = law.for_ids(range(6), 32, seed=0)
    for tau in (0.0, 2.0, -3.0, 2 / 255):  # between two levels, or outside the range
        assert torch.equal(recover_mask(corrupt(levels / 127.5 - 1, m, tau), tau), m)
    assert recover_mask(every_level()).all()  # no level is taken for missing


@pytest.mark.parametrize("y, tau, words", [
    ((every_level() + 1) / 2, 0.0, "not 8-bit levels"),  # of [0, 1]: there black is 0 too
    ((every_level() + 1) * 127.5 + 1, 0.0, "not 8-bit levels"),
    (torch.full((1, 3, 4, 4), 7, dtype=torch.uint8), 0.0, "not 8-bit levels"),
    (every_level(), -1.0, "tau"), (every_level(), 1.0, "tau"),
    (every_level(), float(LEVELS[17]), "tau"),
    (every_level() * torch.eye(3)[0].view(1, 3, 1, 1), 0.0, "part of their channels"),
])  # fmt: skip
def test_mask_is_not_recovered_where_the_answer_would_be_ambiguous(y, tau, words):
    with pytest.raises(ValueError, match=words):
        recover_mask(y, tau)
