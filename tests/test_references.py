"""Filling in without learning: what each reference paints, and its record."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import MeanAndSpread, changed

from paperlib.core.corruption import CORRUPTIONS, corrupt, mask_law
from paperlib.data.datasets import CompleteImages
from paperlib.data.prepare import load_prepared
from paperlib.evaluation.protocol import EvaluationProtocol, evaluate_reference
from paperlib.evaluation.references import REFERENCES, fill, linear_interpolation, mean_fill
from paperlib.records import read_json

every_reference = pytest.mark.parametrize("name", [*REFERENCES, "start"])


@pytest.fixture
def complete(workspace, tiny_config):
    """A function that gives x (6, 3, 32, 32) and m (6, 1, 32, 32) of the test images."""
    data = load_prepared(tiny_config.data)

    def of(corruption: str) -> tuple[torch.Tensor, torch.Tensor]:
        images = CompleteImages(data, "test", mask_law(corruption), 0, "cpu")
        return images.batch(np.arange(len(images)))

    return of


@every_reference
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_references_keep_what_was_observed_to_the_bit_and_paint_the_rest(
    complete, name, corruption
):
    x, m = complete(corruption)
    y, seen = corrupt(x, m), m.expand_as(x) > 0
    before = y.clone()
    filled = fill(name, y, m)
    assert torch.equal(filled[seen], y[seen]) and torch.equal(y, before)
    assert filled.shape == y.shape and filled.dtype == y.dtype
    assert filled.isfinite().all() and filled.abs().max() <= 1
    assert (filled[~seen] != 0).float().mean() > 0.9
    assert torch.equal(fill(name, y[2:3], m[2:3]), filled[2:3])  # whatever else is in the batch


def image(rows) -> np.ndarray:
    """(H, W, 3) from the first channel; the others are -1 times and half of it."""
    first = np.asarray(rows, dtype=float)
    return np.stack([first, -first, first / 2], axis=-1)


def test_mean_fill_by_hand():
    y = image([[0.2, 0.0], [0.6, 0.1]])
    filled = mean_fill(y, np.array([[False, True], [False, False]]))
    assert filled[0, 1] == pytest.approx([0.3, -0.3, 0.15])


def test_linear_interpolation_by_hand():
    # three observed pixels, whose triangle has (2, 2) on its long side
    missing = np.full((5, 5), True)
    y = np.zeros((5, 5, 3))
    for place, value in (((1, 1), 0.1), ((1, 3), 0.5), ((3, 1), -0.3)):
        missing[place], y[place] = False, value
    filled = linear_interpolation(y, missing)[..., 0]
    assert filled[1, 2] == pytest.approx((0.1 + 0.5) / 2)
    assert filled[2, 1] == pytest.approx((0.1 - 0.3) / 2)
    assert filled[2, 2] == pytest.approx((0.5 - 0.3) / 2)
    # outside the triangle, the nearest observed pixel
    assert filled[0, 0] == filled[0, 1] == 0.1 and filled[0, 4] == 0.5 and filled[4, 0] == -0.3
    assert (y[missing] == 0).all()  # what was given is left as it is


# The record


@pytest.fixture
def evaluated(workspace, tiny_config, monkeypatch):
    """A function that evaluates a reference; its record is at ``evaluated.path``."""
    monkeypatch.setattr("paperlib.evaluation.protocol.load_extractor", lambda _: MeanAndSpread())

    def run(name="mean", **changes):
        return evaluate_reference(name, changed(tiny_config, **changes).evaluation, run.path)

    run.path = workspace / "references" / "small_patch-mean.json"
    return run


@every_reference
def test_a_reference_has_no_diversity_and_one_error(evaluated, complete, name):
    record = evaluated(name)
    metrics = record["metrics"]
    assert metrics["std"] == {"value": 0, "low": 0, "high": 0, "images": 6}
    assert metrics["mse_best"] == metrics["mse_missing"] == metrics["mse_without_z"]
    assert metrics["mse_missing"]["value"] > 0 and "FD-cheap" in metrics
    x, m = complete("small_patch")
    error = (fill(name, corrupt(x, m), m) - x).square().mean().item()
    assert metrics["mse"]["value"] == pytest.approx(error, rel=1e-5)


def test_the_floor_is_the_distance_of_the_originals_to_other_images(evaluated):
    metrics = evaluated("real")["metrics"]
    assert metrics.keys() == {"FD-cheap", "KID-cheap"}
    assert 0 < metrics["FD-cheap"]["value"] < evaluated("mean")["metrics"]["FD-cheap"]["value"]


def test_record_of_a_reference_says_what_it_rests_on_and_is_not_made_twice(
    evaluated, tiny_config, monkeypatch
):
    record = evaluated()
    assert read_json(evaluated.path) == record
    assert record["config"] == tiny_config.evaluation.model_dump() and "commit" in record
    assert record["rests_on"]["reference"] == "mean"
    assert record["rests_on"]["data_checksum"] == load_prepared(tiny_config.data).checksum
    before = evaluated.path.stat().st_mtime_ns
    monkeypatch.setattr(EvaluationProtocol, "measure", None)
    assert evaluated() == record and evaluated.path.stat().st_mtime_ns == before


@pytest.mark.parametrize("change", [{"mask_seed": 1}, {"eval_images": 5}, {"eval_split": "validation"}, {"corruption": "one_patch"}])  # fmt: skip
def test_a_reference_is_evaluated_again_where_something_else_is_measured(evaluated, change):
    first = evaluated()
    second = evaluated(**change)
    assert second["metrics"]["mse"] != first["metrics"]["mse"]
    assert read_json(evaluated.path) == second
    # tables refuse a record of another configuration, whatever key it is
    assert evaluated(eval_samples=3)["config"]["eval_samples"] == 3
