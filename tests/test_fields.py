"""Algorithm 1 on random fields: what it learns from, and that its record can be relied on."""

from __future__ import annotations

import pytest
import torch

from paperlib import seeds
from paperlib.beyond import fields
from paperlib.beyond.fields import FieldData, field_config, load_field_generator, train_all
from paperlib.beyond.posterior import condition
from paperlib.core.baselines import METHODS
from paperlib.records import read_json

SMALL = FieldData(hold_out=20, samples=12)


def quick(**changes):
    return field_config(SMALL, **{"steps": 3, "batch_size": 16, "g_channels": [16]} | changes)


def test_observations_are_of_the_field_and_masked_by_the_law():
    x, y, m = SMALL.observe(4000, seeds.generator("x"))
    assert (m.sum(dim=(1, 2, 3)) == 8).all()  # half of 16 entries
    assert torch.equal(y[m > 0], x[m > 0]) and (y[m == 0] == 0).all()
    covariance = torch.cov(x.flatten(1).T)
    assert (covariance - SMALL.field.covariance[0]).abs().max() < 0.1


def test_batches_do_not_repeat_and_depend_on_the_seed_alone():
    first, again, other = (SMALL.batches(4, seed) for seed in (0, 0, 1))
    seen = [next(first) for _ in range(fields.PREPARED + 2)]  # beyond what is drawn at once
    assert all(torch.equal(a, b) for a, b in zip(next(again), seen[0], strict=True))
    assert not torch.equal(next(other)[0], seen[0][0])
    assert len({tuple(y.flatten().tolist()) for y, _ in seen}) == len(seen)


@pytest.mark.parametrize("method", ["base", "encoding_z", "encoding_y", "both", "mask_aware"])
def test_record_holds_every_measure_and_the_configuration(method, tmp_path):
    config = quick(method=method)
    record = fields.train_on_fields(config, SMALL, tmp_path)
    assert record["config"] == config.model_dump()
    assert {"mean", "covariance", "variance", "wasserstein", "energy", "exact_energy",
            "coverage_80"} <= record["distances"].keys()  # fmt: skip
    assert {"energy", "coverage_50", "coverage_80", "mse"} == record["hidden"].keys()
    assert all(m["low"] <= m["value"] <= m["high"] for m in record["distances"].values())
    _, y, m = SMALL.observe(5, seeds.generator("y"))
    fill = fields.sampler(load_field_generator(record, tmp_path), 2, seed=0)
    samples, _ = fill(y.float(), m, range(5))
    assert torch.equal(samples[:, m > 0], y.float()[m > 0].expand(2, -1))
    assert not torch.equal(samples[0], samples[1])


def test_the_step_is_that_of_the_images(tmp_path, monkeypatch):
    steps = []
    step = METHODS["mask_aware"].step
    monkeypatch.setattr(
        METHODS["mask_aware"], "step", lambda *a: steps.append(len(a[1])) or step(*a)
    )
    fields.train_on_fields(quick(method="mask_aware", accumulate=2), SMALL, tmp_path)
    assert steps == [2, 2, 2]


def test_runs_side_by_side_are_functions_of_their_seeds_and_made_once(tmp_path, monkeypatch):
    configs = [quick(method="both", seed=seed) for seed in (0, 1)]
    two = train_all(configs, SMALL, tmp_path / "two", workers=2)
    alone = fields.train_on_fields(configs[0], SMALL, tmp_path / "one")
    for part in ("distances", "hidden", "generator_checksum"):
        assert two[0][part] == alone[part] != two[1][part]
    monkeypatch.setattr(fields, "train_on_fields", lambda *_: pytest.fail("trained again"))
    assert train_all(configs, SMALL, tmp_path / "two", workers=1) == two


def test_every_configuration_and_field_has_a_record_of_its_own(tmp_path):
    others = [(quick(), SMALL), (quick(steps=4), SMALL), (quick(seed=1), SMALL),
              (quick(), FieldData(modes=2))]  # fmt: skip
    paths = {fields.record_path(*other, tmp_path) for other in others}
    assert len(paths) == 4
    fields.train_on_fields(quick(seed=1), SMALL, tmp_path)
    assert read_json(fields.record_path(quick(seed=1), SMALL, tmp_path))["config"]["seed"] == 1


def test_the_exact_posterior_put_in_the_place_of_g_reaches_the_least_distance():
    data = FieldData(hold_out=60, samples=60)

    def exact(y, m, rows):
        samples = condition(data.field, y, m).sample(60, seeds.generator("exact")).float()
        return samples, samples[0]

    found = fields.measure(exact, data)["distances"]
    for name in ("mean", "covariance", "wasserstein"):
        assert found[name]["value"] == pytest.approx(found[f"exact_{name}"]["value"], rel=0.1)
    assert found["coverage_80"]["value"] == pytest.approx(0.8, abs=0.05)
