"""What training is shown: masked once and for all, in an order that is a function of the seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_prepare import noise  # noqa: F401

from paperlib import seeds
from paperlib.config import EvaluationConfig
from paperlib.core.corruption import CORRUPTIONS, corrupt, mask_law
from paperlib.data.datasets import DATA_SETS, CompleteImages, Observations, ObservedMasks, law_of
from paperlib.data.prepare import Prepared, load_prepared, prepare
from paperlib.errors import DataError

KINDS = [*DATA_SETS.values(), CompleteImages]


@pytest.fixture
def prepared(workspace, tiny_config) -> Prepared:
    return load_prepared(tiny_config.data)  # 60 images, 45 of them for training


def observations(prepared: Prepared, law="small_patch") -> Observations:
    return Observations(prepared, "training", mask_law(law), 0, "cpu")


# One batch


@pytest.mark.parametrize("law", list(CORRUPTIONS))
def test_observations_are_the_corrupted_images(prepared, law):
    rows = np.array([3, 0, 11])
    y, m = observations(prepared, law).batch(rows)
    indices = prepared.indices("training")[rows]
    x = torch.from_numpy(prepared.images()[indices]).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.equal(m, mask_law(law).for_ids(prepared.mask_ids()[indices], 32, 0))
    assert torch.equal(y, corrupt(x, m)) and y.dtype == m.dtype == torch.float32


def test_each_kind_shows_what_its_name_says(prepared):
    seen, paired, unpaired, whole = (
        kind(prepared, "training", mask_law("small_patch"), 0, "cpu") for kind in KINDS
    )
    rows = np.arange(20)
    x, m = whole.batch(rows)
    levels = ((x + 1) * 127.5).round().permute(0, 2, 3, 1).byte().numpy()
    assert np.array_equal(levels, prepared.images()[prepared.indices("training")[rows]])
    y, m_again = seen.batch(rows)
    assert torch.equal(y, corrupt(x, m)) and torch.equal(m, m_again)
    assert all(map(torch.equal, paired.batch(rows), (y, m, x)))
    # no image is seen both ways
    assert len(unpaired) == 22 and len(seen) == len(whole) == len(paired) == 45
    assert all(map(torch.equal, unpaired.batch(rows[:10]), (y[0::2], m[0::2], x[1::2])))


@pytest.mark.parametrize("kind", KINDS)
def test_images_kept_on_the_device_are_those_that_are_read(prepared, kind):
    read, kept = (kind(prepared, "training", mask_law("one_patch"), 0, "cpu") for _ in "ab")
    kept.keep_on_device()
    for _, *pair in zip(range(15), read.batches(4, 1), kept.batches(4, 1), strict=False):
        for a, b in zip(*pair, strict=True):  # of more than an epoch
            assert torch.equal(a, b) and a.stride() == b.stride()
    assert kept.nbytes == 45 * (32 * 32 * 3 + 8)
    before = kept.batch(np.arange(4))
    np.load(prepared.folder / "images.npy", mmap_mode="r+")[:] = 0  # they lie elsewhere now
    assert all(map(torch.equal, before, kept.batch(np.arange(4))))


# The order of batches


def which_images(observed: Observations, batches, n: int) -> list[int]:
    """Rows of the images in the first ``n`` batches, told by their masks, which all differ."""
    known = observed.batch(np.arange(len(observed)))[1].flatten(1)
    masks = torch.cat([next(batches)[1].flatten(1) for _ in range(n)])
    return (known[None] == masks[:, None]).all(2).int().argmax(1).tolist()


def test_order_is_that_of_a_permutation_for_each_epoch(prepared):
    observed, before = observations(prepared), torch.get_rng_state()
    expected = [
        np.random.default_rng(seeds.fold(3, "epoch", epoch)).permutation(45).tolist()
        for epoch in range(4)
    ]
    for batch_size, number in ((5, 27), (7, 25), (100, 1)):  # a batch may span epochs
        rows = which_images(observed, observed.batches(batch_size, seed=3), number)
        assert rows == sum(expected, [])[: batch_size * number]
    other = which_images(observed, observed.batches(5, seed=4), 9)
    assert sorted(other) == sorted(expected[0]) and other != expected[0] != expected[1]
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone


@pytest.mark.parametrize("start", [1, 6, 7, 40])
def test_batches_from_k_on_are_those_of_the_whole_sequence(prepared, start):
    observed = observations(prepared)
    whole = observed.batches(7, seed=3)
    part, own = (observed.batches(7, 3, start, rows) for rows in (slice(None), slice(1, None, 2)))
    for _ in range(start):
        next(whole)
    for _ in range(3):
        (y, m), batch, (y_own, m_own) = next(whole), next(part), next(own)
        assert isinstance(batch, tuple) and all(map(torch.equal, batch, (y, m)))
        assert torch.equal(y_own, y[1::2]) and torch.equal(m_own, m[1::2])


def test_observations_offer_no_complete_image(prepared):
    # Whoever trains unsupervised is handed this class: its public face must not give x away
    public = {name for name in dir(observations(prepared)) if not name.startswith("_")}
    assert public == {"batch", "batches", "nbytes", "keep_on_device"}


# Incomplete images


@pytest.fixture
def incomplete(noise) -> EvaluationConfig:  # noqa: F811
    config = EvaluationConfig(dataset="masked", size=8, corruption="observed")
    prepare(config.data)
    return config


def test_observations_of_incomplete_images_have_the_masks_that_they_came_with(incomplete):
    data, law = load_prepared(incomplete.data), law_of(incomplete)
    assert isinstance(law, ObservedMasks) and len(law.masks) == len(data.indices("training"))
    y, m = Observations(data, "training", law, 0, "cpu").batch(np.arange(9))
    rows = data.indices("training")[:9]
    assert np.array_equal(m[:, 0].numpy() > 0, data.masks()[rows])
    levels = ((y + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(levels[data.masks()[rows]], data.images()[rows][data.masks()[rows]])
    assert not y.permute(0, 2, 3, 1)[~torch.from_numpy(data.masks()[rows])].any()


# The law of masks that were really observed


def distinct_masks(n: int = 6) -> torch.Tensor:
    """(n, 1, 8, 8) bool; mask i shows its first i + 1 rows."""
    return torch.stack([(torch.arange(8) <= i)[:, None].expand(8, 8) for i in range(n)])[:, None]


def test_a_fresh_mask_is_an_observed_one_and_never_the_images_own():
    masks = distinct_masks()
    law, generator = ObservedMasks(torch.cat([masks, masks[:1]])), seeds.generator("masks")
    for own in masks.float():
        fresh = law.sample(200, 8, generator, own.expand(200, 1, 8, 8))
        known = (fresh[:, None] == masks[None].float()).flatten(2).all(2)  # (200, n)
        assert fresh.dtype == torch.float32 and known.any(1).all()
        assert not (fresh == own).flatten(1).all(1).any()
        assert (known.sum(0) > 0).sum() == len(masks) - 1  # each of the others is drawn,
    assert known[:, 0].float().mean() == pytest.approx(2 / 6, abs=0.08)  # as often as observed
    with pytest.raises(DataError, match="equal"):
        ObservedMasks(torch.ones(3, 1, 8, 8, dtype=torch.bool))


def test_flips_turn_masks():
    masks = distinct_masks(2)
    masks[:, :, :, 4:] = False  # the left half of the first row, or of the first two
    flipped = ObservedMasks(masks, flips=True).sample(100, 8, seeds.generator("f"))
    assert set(flipped.sum((1, 2, 3)).tolist()) == {4.0, 8.0}
    places = {
        (int(rows.float().argmax()), int(columns.float().argmax()))
        for rows, columns in ((m[0].any(1), m[0].any(0)) for m in flipped if m.sum() == 4)
    }
    assert places == {(0, 0), (0, 4), (7, 0), (7, 4)}
