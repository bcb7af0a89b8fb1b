"""Algorithm 1 on random fields: what it learns from, and that its record can be relied on."""

import json

import pytest
import torch

from paperlib import fields, posterior, records
from paperlib.algorithm1 import MASKS_SHOWN, Algorithm1
from paperlib.fields import (
    Algorithm1OnFields,
    FieldData,
    field_config,
    load_field_generator,
    record_name,
    train_all,
    train_on_fields,
)
from paperlib.sampling import latents, reconstruct
from paperlib.seeds import generator

SMALL = FieldData(hold_out=20, samples=12)


def quick(**changes):
    return field_config(SMALL, **{"steps": 3, "batch_size": 16, "g_channels": [16]} | changes)


def test_observations_are_of_the_field_and_masked_by_the_law():
    x, y, m = SMALL.observe(4000, generator("x"))
    assert (m.sum(dim=(1, 2, 3)) == 8).all()  # half of 16 entries
    assert torch.equal(y[m > 0], x[m > 0]) and (y[m == 0] == 0).all()
    covariance = torch.cov(x.flatten(1).T)
    assert (covariance - SMALL.field.covariances[0]).abs().max() < 0.1


def test_batches_do_not_repeat_and_depend_on_the_seed_alone():
    first, again, other = (SMALL.batches(4, seed) for seed in (0, 0, 1))
    seen = [next(first) for _ in range(fields.PREPARED + 2)]  # beyond what is drawn at once
    assert all(torch.equal(a, b) for a, b in zip(next(again), seen[0], strict=True))
    assert not torch.equal(next(other)[0], seen[0][0])
    assert len({tuple(y.flatten().tolist()) for y, _ in seen}) == len(seen)


def test_nothing_of_algorithm_1_is_redefined():
    own = {name for name in vars(Algorithm1OnFields) if not name.startswith("__")}
    assert own == {"build_networks"}
    assert Algorithm1OnFields.step is Algorithm1.step


@pytest.mark.parametrize("sees", MASKS_SHOWN)
def test_d_has_an_input_for_each_mask_that_it_sees(sees):
    config = quick(method="both", discriminator_sees=sees)
    D = Algorithm1OnFields(config, SMALL.p_m).nets.D
    assert D.net[0].in_features == 16 * (1 + MASKS_SHOWN[sees])


@pytest.mark.parametrize("method", ["base", "encoding_z", "encoding_y", "both", "mask_aware"])
def test_record_holds_every_measure_and_the_configuration(method, tmp_path):
    config = quick(method=method)
    record = train_on_fields(config, SMALL, tmp_path / "run.json")
    assert record["config"] == config.model_dump()
    assert {"mean", "covariance", "variance", "wasserstein", "energy", "exact_energy",
            "coverage_80"} <= set(record["distances"])  # fmt: skip
    assert {"energy", "coverage_50", "coverage_80", "mse"} == set(record["hidden"])
    assert all(m["low"] <= m["value"] <= m["high"] for m in record["distances"].values())


def test_a_run_is_a_function_of_its_seed(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    runs = [quick(method="mask_aware", seed=seed) for seed in (0, 0, 1)]
    trained = []
    for folder, config in zip(folders, runs, strict=True):
        (record,) = train_all([config], SMALL, folder, workers=1)
        trained.append((record["distances"], load_field_generator(record, folder).state_dict()))
    assert trained[0][0] == trained[1][0] != trained[2][0]
    assert all(torch.equal(trained[0][1][k], trained[1][1][k]) for k in trained[0][1])


def test_a_run_that_is_done_is_read(tmp_path, monkeypatch):
    config = quick(method="base")
    first = train_on_fields(config, SMALL, tmp_path / "run.json")
    monkeypatch.setattr(fields, "Algorithm1OnFields", None)  # would fail if anything was trained
    assert train_on_fields(config, SMALL, tmp_path / "run.json") == json.loads(json.dumps(first))


def test_a_record_of_another_run_is_not_taken_for_this_one(tmp_path):
    train_on_fields(quick(method="base"), SMALL, tmp_path / "run.json")
    record = train_on_fields(quick(method="base", seed=1), SMALL, tmp_path / "run.json")
    assert (
        records.read_json(tmp_path / "run.json")["config"]["seed"] == 1 == record["config"]["seed"]
    )


def test_names_of_records_differ_with_configuration_and_field():
    names = {record_name(quick(), SMALL), record_name(quick(steps=4), SMALL)}
    names |= {record_name(quick(), FieldData(modes=2))}
    assert len(names) == 3


def test_side_by_side_is_the_same_as_one_after_the_other(tmp_path):
    configs = [quick(method="both", seed=seed) for seed in (0, 1)]
    one, two = (train_all(configs, SMALL, tmp_path / str(n), workers=n) for n in (1, 2))
    assert [r["distances"] for r in one] == [r["distances"] for r in two]


def test_the_exact_posterior_put_in_the_place_of_g_reaches_the_least_distance():
    def exact(y, m, rows):
        samples = posterior.condition(SMALL.field, y, m).sample(60, generator("exact"))
        return samples.float(), samples[0].float()

    measured = fields.compare(exact, FieldData(hold_out=60, samples=60))
    for name in ("mean", "covariance", "wasserstein"):
        assert measured[name]["value"] == pytest.approx(measured[f"exact_{name}"]["value"], rel=0.1)
    assert measured["coverage_80"]["value"] == pytest.approx(0.8, abs=0.05)


def test_observed_entries_pass_unchanged():
    config = quick()
    G = fields.build_dense_networks(config).G.eval()
    _, y, m = SMALL.observe(5, generator("y"))
    x_tilde = reconstruct(G, y.float(), m, latents(range(5), 2, G.nz, seed=0))
    assert torch.equal(x_tilde[:, m > 0], y.float()[m > 0].expand(2, -1))
