"""Scores of what is hidden again: what is hidden, how it is scored, and the search that uses it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import changed, put_garbage_under_the_missing_pixels
from torch import Tensor

from paperlib import seeds
from paperlib.beyond import selection
from paperlib.beyond.posterior import condition, random_field
from paperlib.beyond.selection import HIDDEN, hide, over_images, score_hidden, score_run, search
from paperlib.core.corruption import CORRUPTIONS, DropPixel, MaskLaw, corrupt
from paperlib.data.datasets import ObservedMasks
from paperlib.data.prepare import load_prepared
from paperlib.errors import DataError, Diverged
from paperlib.records import read_json
from paperlib.training.loop import train

N = 100  # masks of a test


def law_and_masks(name: str, size: int) -> tuple[MaskLaw, Tensor]:
    """A law, and masks of it that images have; of observed ones, blocks of 4 x 4 pixels."""
    if name in CORRUPTIONS:
        return CORRUPTIONS[name], CORRUPTIONS[name].for_ids(range(N), size, seed=0)
    coarse = torch.rand(2 * N, 1, size // 4, size // 4, generator=seeds.generator("blocks")) < 0.7
    masks = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    law = ObservedMasks(masks[N:], flips=name == "flipped")
    return law, masks[:N].float()


LAWS = [*CORRUPTIONS, "observed", "flipped"]


@pytest.mark.parametrize("name", LAWS)
def test_a_part_of_what_was_observed_is_hidden_and_nothing_else(name):
    law, m = law_and_masks(name, 16)
    before = m.clone()
    shown, again, other = (hide(m, law, seeds.generator("hide", seed)) for seed in (0, 0, 1))
    assert torch.equal(m, before)
    assert torch.equal(shown, again) and not torch.equal(shown, other)
    assert shown.shape == m.shape and shown.dtype == m.dtype
    assert set(shown.unique().tolist()) <= {0, 1} and (shown <= m).all()
    share = (m - shown).sum(dim=(1, 2, 3)) / m.sum(dim=(1, 2, 3))
    assert share.max() <= HIDDEN
    assert (share > 0).double().mean() > 0.9 and share.mean() > HIDDEN / 3


def test_mask_of_which_nothing_can_be_hidden_stays():
    # Left or right is observed: another mask hides all of it or nothing.
    left = torch.zeros(1, 8, 8, dtype=torch.bool)
    left[..., :4] = True
    m = torch.stack([left, ~left, torch.zeros_like(left)]).float()
    law = ObservedMasks(torch.stack([left, ~left]))
    assert torch.equal(hide(m, law, seeds.generator("hide")), m)


def test_score_by_hand_on_two_hidden_pixels():
    y = torch.tensor([0.1, 0.2, 0.3, 0.0]).view(1, 1, 2, 2)
    m = torch.tensor([1.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2)
    shown = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)

    def reconstruct(seen, mask, rows):
        assert seen.flatten().tolist() == pytest.approx([0.1, 0, 0, 0])
        assert torch.equal(mask, shown) and rows.tolist() == [5]
        # the first hidden pixel at 0.2 + 0.3 and - 0.5 of it, the second as it is; garbage beside
        first, second = torch.tensor([[7.0, 0.5, 0.3, 9.0], [-7.0, -0.3, 0.3, -9.0]])
        return torch.stack([first, second]).view(2, 1, 1, 2, 2), None

    found = score_hidden(reconstruct, y, m, shown, np.array([5]))
    assert found["mse"].item() == pytest.approx((0.1 - 0.2) ** 2 / 2)  # of the mean
    # distances 0.3 and 0.5, and 0.8 between the two, over the root of two entries
    assert found["energy"].item() == pytest.approx((0.4 - 0.8 / 2) / math.sqrt(2), abs=1e-7)
    for level in (0.5, 0.8):  # between the two samples, and equal to both
        assert found[f"coverage_{level * 100:.0f}"].item() == pytest.approx((1 + level) / 2)


def test_images_of_which_nothing_is_hidden_do_not_count_and_diverged_ones_do():
    y, m = torch.zeros(3, 3, 2, 2), torch.ones(3, 1, 2, 2)
    shown = m.clone()
    shown[:2, ..., 0] = 0
    samples = torch.ones(2, *y.shape)
    found = score_hidden(lambda *_: (samples, None), y, m, shown, None)
    assert found["mse"][:2].tolist() == [1, 1] and found["mse"][2].isnan()
    assert over_images(found)["mse"] == {"value": 1, "low": 1, "high": 1, "images": 2}
    samples[:, 1] = math.nan
    found = over_images(score_hidden(lambda *_: (samples, None), y, m, shown, None))
    assert math.isnan(found["energy"]["value"]) and found["energy"]["images"] == 2
    with pytest.raises(DataError, match="no fresh mask"):
        over_images(score_hidden(lambda *_: (samples, None), y, m, m, None))


def test_both_too_sure_and_too_unsure_samples_score_worse_than_the_posterior_s():
    # The point of the criterion: without one complete field it finds the posterior's own spread.
    count, side = 400, 6
    field, law = random_field(side), DropPixel(0.4)
    m = law.sample(count, side, seeds.generator("m"))
    y = corrupt(field.sample(count, seeds.generator("x"))[:, 0], m)
    shown = hide(m, law, seeds.generator("hide"))

    def spread(factor: float, shift: float = 0.0):
        def reconstruct(y, m, rows):
            exact = condition(field, y, m)
            samples = exact.sample(selection.SAMPLES, seeds.generator("samples"))
            mean = exact.mean.view(y.shape)
            deviation = exact.covariance.diagonal(dim1=1, dim2=2).sqrt().view(y.shape)
            return mean + factor * (samples - mean) + shift * deviation, None

        return score_hidden(reconstruct, y, m, shown, np.arange(count))

    right = spread(1)
    for level in (50, 80):
        covered = right[f"coverage_{level}"].double().mean().item()
        assert covered == pytest.approx(level / 100, abs=0.04)
    sure, unsure = spread(0.4), spread(1.8)
    for wrong in (spread(0), sure, unsure, spread(1, shift=0.5)):
        loss = wrong["energy"] - right["energy"]  # of the same images
        assert loss.mean() > 4 * loss.std() / math.sqrt(count)
    assert sure["coverage_80"].mean() < 0.6 < 0.9 < unsure["coverage_80"].mean()


def test_scores_look_at_nothing_but_observations_of_the_hold_out(workspace, tiny_config):
    config = changed(tiny_config, steps=1)
    train(config, run := workspace / "run")
    before = score_run(run)["scores"]
    data = load_prepared(config.data)
    rng = np.random.default_rng(0)
    assert put_garbage_under_the_missing_pixels(config, data.indices("validation"), rng) > 0
    images = np.load(data.folder / "images.npy", mmap_mode="r+")
    for split in ("training", "test"):
        images[data.indices(split)] = rng.integers(0, 256, images.shape[1:], dtype=np.uint8)
    images.flush()
    assert score_run(run)["scores"] == before
    # the counterpart: it does look at those
    images[data.indices("validation")] ^= 255
    images.flush()
    assert score_run(run)["scores"] != before


def test_search_trains_every_combination_and_puts_the_best_first(workspace, tiny_config):
    config = changed(tiny_config, steps=1, start_from_fill=False, z_start=0.5)
    grid = {"lambda_z": [0.5, 2], "nz": [4, 8]}
    found = search(config, grid, workspace / "search")
    assert len(found) == 4 and found["energy"].is_monotonic_increasing
    assert set(found) == {"energy", "mse", "coverage_50", "coverage_80"}
    for name, scores in found.iterrows():
        run = workspace / "search" / name
        trained, record = read_json(run / "record.json"), read_json(run / "selection.json")
        own = trained["config"]
        assert f"lambda_z={own['lambda_z']:g}-nz={own['nz']}" == name
        assert own == record["config"] == config.model_dump() | {key: own[key] for key in grid}
        for key in ("generator_checksum", "data_checksum"):
            assert record["rests_on"][key] == trained[key]
        for key, score in record["scores"].items():
            assert score["value"] == scores[key] and score["images"] == 9  # the hold-out
            assert 0 <= score["low"] <= score["value"] <= score["high"]


def test_candidate_without_a_number_comes_last_and_one_that_diverges_is_left_out(
    workspace, tiny_config, monkeypatch, capsys
):
    values = {"1": 0.3, "2": math.nan, "3": 0.1, "4": None, "5": 0.2}

    def fake_train(candidate, run):
        if values[run.name.partition("=")[2]] is None:
            raise Diverged("step 7 is NaN")

    def fake_score(run):
        return {"scores": {"energy": {"value": values[run.name.partition("=")[2]]}}}

    monkeypatch.setattr(selection, "train", fake_train)
    monkeypatch.setattr(selection, "score_run", fake_score)
    found = search(tiny_config, {"lambda_y": [1, 2, 3, 4, 5]}, workspace / "search")
    assert [*found.index] == [f"lambda_y={k}" for k in (3, 5, 1, 2)]
    assert "left out: step 7 is NaN" in capsys.readouterr().err
    with pytest.raises(Diverged):
        search(tiny_config, {"lambda_y": [4]}, workspace / "search")


def test_missing_hold_out_is_refused_before_anything_is_trained(workspace, tiny_config):
    config = changed(tiny_config, validation=0.0)
    with pytest.raises(DataError, match="validation"):
        search(config, {"lambda_z": [1.0]}, workspace / "search")
    assert not (workspace / "search").exists()
