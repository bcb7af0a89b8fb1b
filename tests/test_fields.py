"""Algorithm 1 on random fields: what it learns from, and that its record can be relied on."""

from __future__ import annotations

import pytest
import torch

from paperlib import seeds
from paperlib.beyond import fields
from paperlib.beyond.fields import FIELD, field_config, observe, train_on_fields
from paperlib.beyond.posterior import condition
from paperlib.core.baselines import METHODS


def quick(**changes):
    small = {"steps": 3, "batch_size": 16, "g_channels": [16]}
    return field_config(**small | {"eval_images": 20, "eval_samples": 12} | changes)


@pytest.mark.parametrize("method", ["base", "encoding_z", "encoding_y", "both", "mask_aware"])
def test_record_holds_every_measure_and_the_configuration(method, tmp_path):
    config = quick(method=method)
    record, G = train_on_fields(config, tmp_path)
    assert record["config"] == config.model_dump()
    names = {"mean", "covariance", "variance", "wasserstein", "energy", "coverage_80"}
    assert names | {f"exact_{name}" for name in names} <= record["distances"].keys()
    assert {"energy", "coverage_50", "coverage_80", "mse"} == record["hidden"].keys()
    assert all(m["low"] <= m["value"] <= m["high"] for m in record["distances"].values())
    _, y, m = observe(5, seeds.generator("y"))
    samples, _ = fields.sampler(G, 2, seed=0)(y.float(), m, range(5))
    assert torch.equal(samples[:, m > 0], y.float()[m > 0].expand(2, -1))
    assert not torch.equal(samples[0], samples[1])


def test_a_run_never_sees_an_observation_twice_depends_on_its_seed_and_is_made_once(
    tmp_path, monkeypatch
):
    seen, step = [], METHODS["both"].step

    def noting(self, batches, generator):
        seen.extend(tuple(row.tolist()) for y, _ in batches for row in y.flatten(1))
        return step(self, batches, generator)

    monkeypatch.setattr(METHODS["both"], "step", noting)
    record, G = train_on_fields(quick(accumulate=2), tmp_path / "a")
    assert len(seen) == len(set(seen)) == 3 * 2 * 16
    again, _ = train_on_fields(quick(accumulate=2), tmp_path / "b")
    other, _ = train_on_fields(quick(accumulate=2, seed=1), tmp_path / "a")
    for part in ("distances", "hidden", "generator_checksum"):
        assert record[part] == again[part] != other[part]
    monkeypatch.setattr(METHODS["both"], "step", lambda *_: pytest.fail("trained again"))
    kept, same = train_on_fields(quick(accumulate=2), tmp_path / "a")
    assert kept == record
    for name, value in G.state_dict().items():
        assert torch.equal(same.state_dict()[name], value)


def test_the_exact_posterior_put_in_the_place_of_g_reaches_the_least_distance():
    def exact(y, m, rows):
        samples = condition(FIELD, y, m).sample(60, seeds.generator("exact")).float()
        return samples, samples[0]

    found = fields.measure(exact, quick(eval_images=60))["distances"]
    for name in ("mean", "covariance", "wasserstein"):
        assert found[name]["value"] == pytest.approx(found[f"exact_{name}"]["value"], rel=0.1)
    assert found["mean"]["value"] == pytest.approx(60**-0.5, rel=0.15)  # of a mean of 60
    assert found["variance"]["value"] == pytest.approx(1, abs=0.05)
    for level in (50, 80, 95):
        assert found[f"coverage_{level}"]["value"] == pytest.approx(level / 100, abs=0.08)
