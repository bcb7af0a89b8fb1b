"""The metrics against loops and closed forms, and the protocol around them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import MeanAndSpread, changed
from torch import nn

from paperlib import seeds
from paperlib.core.corruption import composite, corrupt
from paperlib.core.models import Generator
from paperlib.data.prepare import load_prepared
from paperlib.evaluation import metrics, protocol
from paperlib.evaluation.features import EfficientNetLite0, extract, to_levels
from paperlib.evaluation.metrics import bootstrap_ratio, distances, frechet_distance, per_image
from paperlib.evaluation.protocol import evaluate_run
from paperlib.evaluation.sampling import latents, reconstruct, sampler
from paperlib.records import read_json
from paperlib.training.loop import train

SAMPLES, B, SIZE, BORDER = 4, 3, 6, 1
CALIBRATION = {"energy", "coverage_50", "coverage_80"}
ERRORS = {"mse", "mse_missing", "mse_interior", "mse_best", "mse_without_z"}


def tiny_case() -> dict[str, torch.Tensor]:
    """Originals, masks and composites of 6 x 6 pixels."""
    g = seeds.generator("tiny case")
    x = torch.rand(B, 3, SIZE, SIZE, generator=g) * 2 - 1
    m = (torch.rand(B, 1, SIZE, SIZE, generator=g) < 0.5).float()
    generated = torch.rand(SAMPLES + 1, B, 3, SIZE, SIZE, generator=g) * 2 - 1
    shown = torch.stack([composite(one, corrupt(x, m), m) for one in generated])
    return {"x_tilde": shown[:-1], "without_z": shown[-1], "x": x, "m": m}


# Per image


def test_per_image_metrics_equal_loops_over_pixels():
    case = tiny_case()
    values = per_image(**case, border=BORDER)
    s, s0, x, m = (case[k].double().numpy() for k in ("x_tilde", "without_z", "x", "m"))
    for b in range(B):
        whole, interior, missing = [], [], [[] for _ in range(SAMPLES)]
        deviations, at_zero = [], []
        for c, i, j in np.ndindex(3, SIZE, SIZE):
            errors = [(s[k, b, c, i, j] - x[b, c, i, j]) ** 2 for k in range(SAMPLES)]
            whole += errors
            if BORDER <= i < SIZE - BORDER and BORDER <= j < SIZE - BORDER:
                interior += errors
            if m[b, 0, i, j] == 0:
                for k in range(SAMPLES):
                    missing[k].append(errors[k])
                deviations.append(np.std(s[:, b, c, i, j], ddof=1))
                at_zero.append((s0[b, c, i, j] - x[b, c, i, j]) ** 2)
        expected = {
            "mse": np.mean(whole),
            "mse_interior": np.mean(interior),
            "mse_missing": np.mean(missing),
            "mse_best": min(np.mean(one) for one in missing),
            "mse_without_z": np.mean(at_zero),
            "std": np.mean(deviations),
        }
        for name, value in expected.items():
            assert values[name][b].item() == pytest.approx(value, rel=1e-5), name


def test_jump_equals_a_loop_over_neighbours():
    case = tiny_case()
    values = per_image(**case, border=BORDER)
    m = case["m"].numpy()[:, 0]
    for name, images in (("jump", case["x_tilde"][0]), ("true_jump", case["x"])):
        images = images.double().numpy()
        for b in range(B):
            jumps = []
            for i, j in np.ndindex(SIZE, SIZE):
                for k, n in ((i + 1, j), (i, j + 1)):
                    if k < SIZE and n < SIZE and m[b, i, j] != m[b, k, n]:
                        jumps += list(np.abs(images[b, :, i, j] - images[b, :, k, n]))
            assert values[name][b].item() == pytest.approx(np.mean(jumps), rel=1e-5)


def test_coarse_std_weighs_a_block_by_what_is_missing_of_it():
    # Of two blocks one is missing, the other observed but for a quarter.
    m = torch.zeros(1, 1, 4, 8)
    m[..., 4:7] = 1
    x = torch.zeros(1, 3, 4, 8)
    samples = torch.zeros(2, 1, 3, 4, 8)
    samples[0, ..., :4], samples[0, ..., 7] = 0.4, 0.8  # block means 0.4 and 0.2
    found = per_image(samples, x, x, m, border=0)["std_coarse"].item()
    expected = (1 * 0.4 + 0.25 * 0.2) / math.sqrt(2) / 1.25
    assert found == pytest.approx(expected)


def test_coverage_is_of_what_an_image_file_would_hold():
    # The truth has 8 bits: samples within half a level of it, all on one side, are that level.
    x = torch.full((1, 3, 4, 4), 100.0) / 127.5 - 1
    offsets = torch.linspace(0.1, 0.4, 9).view(-1, 1, 1, 1, 1) / 127.5
    values = per_image(x + offsets, x, x, torch.zeros(1, 1, 4, 4), border=0)
    assert values["coverage_50"].item() == pytest.approx(0.5)
    assert values["coverage_80"].item() == pytest.approx(0.8)  # all samples equal the truth
    values = per_image(x + offsets + 0.6 / 127.5, x, x, torch.zeros(1, 1, 4, 4), border=0)
    assert values["coverage_80"].item() == 0


# Intervals


@pytest.mark.parametrize("n", [50, 200, 800])
def test_interval_contains_its_value_and_shrinks_with_the_number_of_images(n):
    values = np.random.default_rng(0).normal(3, 1, n)
    result = bootstrap_ratio(values)
    assert result["low"] < result["value"] < result["high"] and result["images"] == n
    width = 2 * 1.96 / math.sqrt(n)  # of a mean of n normals
    assert result["high"] - result["low"] == pytest.approx(width, rel=0.25)
    assert bootstrap_ratio(values) == result


def test_ratio_is_that_of_means_and_its_interval_knows_of_pairs():
    rng = np.random.default_rng(0)
    over = rng.uniform(1, 5, 100)
    exact = bootstrap_ratio(2 * over, over)
    assert exact["value"] == exact["low"] == exact["high"] == pytest.approx(2)
    noisy = bootstrap_ratio(2 * over + rng.normal(0, 1, 100), over)
    assert noisy["value"] == pytest.approx(2, abs=0.3)
    assert noisy["low"] < noisy["value"] < noisy["high"]


# Frechet and kernel distances


def random_features(seed: int, n=80, f=12, shift=0.0, scale=1.0) -> torch.Tensor:
    g = seeds.generator("features", seed)
    mixing = torch.randn(f, f, generator=seeds.generator("mixing"), dtype=torch.float64)
    return shift + scale * torch.randn(n, f, generator=g, dtype=torch.float64) @ mixing


def test_frechet_distance_of_gaussians_is_the_closed_form():
    # Samples with exactly the moments wanted: whitened, then scaled and shifted.
    noise = random_features(0, 60, 3)
    noise = noise - noise.mean(0)
    white = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T.cov())).T
    sigma_a, sigma_b = torch.tensor([[1.0, 2.0, 3.0], [2.0, 0.5, 3.0]]).double()
    shift = torch.tensor([1.0, 0.0, -2.0]).double()
    expected = (shift**2).sum() + ((sigma_a - sigma_b) ** 2).sum()  # covariances commute
    found = frechet_distance(white * sigma_a, white * sigma_b + shift)
    assert found == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("n, f", [(80, 12), (20, 40)])
def test_both_frechet_distances_agree(n, f):
    # torchmetrics' gives the value, our own the resamples: of more images than features, and fewer
    a, b = random_features(0, n, f), random_features(1, n, f, shift=0.2, scale=1.3)
    value = distances(a, b[None], "FD-x")["FD-x"]["value"]
    assert frechet_distance(a, b) == pytest.approx(value, rel=1e-4) and value > 1


@pytest.mark.parametrize("name, kernel", [("FD-efflite0", "KID-efflite0"), ("FID", "KID")])
def test_distances_name_their_features_and_repeat_without_the_global_generator(name, kernel):
    a, b = random_features(0), random_features(1)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    result = distances(a, b[None], name)
    assert torch.equal(torch.get_rng_state(), state) and result.keys() == {name, kernel}
    for found in result.values():
        assert found["low"] < found["value"] < found["high"] and found["images"] == 80
    torch.manual_seed(4)
    assert distances(a, b[None], name) == result


def test_features_do_not_depend_on_the_batch(workspace, tiny_config):
    levels = torch.from_numpy(load_prepared(tiny_config.data).images()[:6].copy())
    few, extractor = levels.permute(0, 3, 1, 2) / 127.5 - 1, EfficientNetLite0()
    together = extract(extractor, few)
    alone = torch.cat([extract(extractor, one[None]) for one in few])
    assert together.shape == (6, 1280) and (together[0] - together[1]).abs().max() > 0.01
    assert torch.allclose(together, alone, rtol=1e-3, atol=1e-4)


def test_levels_are_exact_on_the_8_bit_grid_and_rounded_and_clipped_elsewhere():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_levels(levels.float() / 127.5 - 1), levels)
    step = 1 / 127.5
    x = torch.tensor([-1 + 0.4 * step, -1 + 0.6 * step, 1 - 0.4 * step, 1.5, -1.5])
    assert to_levels(x).tolist() == [0, 1, 255, 255, 0]


# The protocol


@pytest.fixture
def evaluated(workspace, tiny_config, monkeypatch):
    """A function that measures an untrained G that uses z on 23 images, as metrics."""
    monkeypatch.setattr(protocol, "load_extractor", lambda _: MeanAndSpread())
    config = changed(tiny_config, start_from_fill=False)
    torch.manual_seed(0)
    G = Generator(config).eval()
    for name, p in G.named_parameters():
        if "scale_shift.weight" in name:
            nn.init.normal_(p, std=0.5)
    measuring = protocol.EvaluationProtocol(config.evaluation, "cpu")
    measuring.images, measuring.count = measuring.others, 23

    def run(reconstruct=None):
        return measuring.measure(reconstruct or sampler(G, 3, 5), "measuring")["metrics"]

    run.G, run.data = G, measuring.images
    return run


def test_results_do_not_depend_on_the_batch_size(evaluated, monkeypatch):
    a = evaluated()
    for module in (metrics, protocol):
        monkeypatch.setattr(module, "BATCH", 7, raising=False)
    for name, measurement in evaluated().items():
        assert a[name] == pytest.approx(measurement, rel=1e-4, abs=1e-7), name


def test_evaluation_reports_every_metric_with_its_number_of_images(evaluated):
    result = evaluated()
    expected = ERRORS | CALIBRATION | {"std", "std_coarse", "seam", "FD-cheap", "KID-cheap"}
    assert result.keys() == expected
    for name, measurement in result.items():
        assert measurement["images"] == 23, name
        assert measurement["low"] <= measurement["value"] <= measurement["high"], name
    assert result["std"]["value"] > 0.01  # this G does use z
    assert result["mse_best"]["value"] < result["mse_missing"]["value"]
    # Composites: what was observed is known, and no error there, whatever G paints
    _, m = evaluated.data.batch(np.arange(23))
    share = 1 - m.mean().item()
    assert result["mse"]["value"] == pytest.approx(result["mse_missing"]["value"] * share, rel=0.05)


def test_samples_that_are_not_numbers_are_not_passed_over(evaluated):
    def diverged(y, m, rows):
        x_tilde, without_z = sampler(evaluated.G, 3, 5)(y, m, rows)
        at = torch.from_numpy(rows == 2).view(-1, 1, 1, 1)
        return torch.where(at, math.nan, x_tilde), without_z

    result = evaluated(diverged)
    for name in ("mse", "std", "energy"):
        assert math.isnan(result[name]["value"]) and result[name]["images"] == 23, name
    assert result["coverage_80"]["images"] == 23


def test_image_with_nothing_missing_has_no_say_in_calibration(evaluated, monkeypatch):
    batch = evaluated.data.batch

    def with_a_complete_one(rows):
        x, m = batch(rows)
        m[rows == 2] = 1
        return x, m

    monkeypatch.setattr(evaluated.data, "batch", with_a_complete_one)
    result = evaluated()
    for name in CALIBRATION:
        assert result[name]["images"] == 22 and result[name]["low"] <= result[name]["value"], name
    assert result["mse"]["images"] == 23


def test_latents_of_an_image_are_normal_and_do_not_depend_on_its_company():
    together = latents([3, 8, 1], samples=4, nz=5, seed=0)
    assert together.shape == (4, 3, 5)
    for place, row in enumerate((3, 8, 1)):
        assert torch.equal(latents([row], 4, 5, 0)[:, 0], together[:, place])
    assert not torch.equal(together[:, 0], together[:, 1])
    assert not torch.equal(latents([3], 4, 5, 1)[:, 0], together[:, 0])
    z = latents(range(100), 10, 8, 0)
    assert abs(z.mean()) < 4 / math.sqrt(8000) and abs(z.std() - 1) < 4 / math.sqrt(16000)


def test_reconstructions_keep_what_was_observed_to_the_bit(evaluated):
    x, m = evaluated.data.batch(np.arange(5))
    x_tilde = reconstruct(evaluated.G, corrupt(x, m), m, latents(range(5), 3, evaluated.G.nz, 0))
    assert x_tilde.shape == (3, *x.shape)
    observed = m.expand_as(x) > 0
    for one in x_tilde:
        assert torch.equal(one[observed], x[observed])
    assert (x_tilde[0] - x_tilde[1]).abs().max() > 1e-3


# The record


@pytest.fixture
def trained(workspace, tiny_config, monkeypatch):
    """A run of one step, and its configuration."""
    monkeypatch.setattr(protocol, "load_extractor", lambda _: MeanAndSpread())
    config = changed(tiny_config, steps=1, eval_samples=3)
    run = workspace / "run"
    train(config, run)
    return run, config


def test_evaluation_says_what_it_rests_on_and_is_done_again_if_that_changed(trained, monkeypatch):
    run, config = trained
    record, training = evaluate_run(run), read_json(run / "record.json")
    assert read_json(run / "evaluation.json") == record
    assert record["rests_on"]["generator_checksum"] == training["generator_checksum"]
    assert record["rests_on"]["data_checksum"] == record["data_checksum"]
    assert record["config"] == config.model_dump() and "commit" in record
    assert record["metrics"]["mse"]["images"] == len(record["per_image"]["mse"]) == 6  # of 60
    assert not {"course", "data_generator"} & record.keys()
    before = (run / "evaluation.json").stat().st_mtime_ns
    assert evaluate_run(run) == record
    assert (run / "evaluation.json").stat().st_mtime_ns == before
    renamed = MeanAndSpread()
    renamed.name = "FD-other"
    monkeypatch.setattr(protocol, "load_extractor", lambda _: renamed)
    assert "FD-other" in evaluate_run(run)["metrics"]


def test_evaluation_is_of_the_test_split_and_not_of_training(trained):
    run, config = trained
    data = load_prepared(config.data)
    first = evaluate_run(run)["metrics"]
    images = np.load(data.folder / "images.npy", mmap_mode="r+")
    for splits, same in ((("training", "validation"), True), (("test",), False)):
        (run / "evaluation.json").unlink()
        images[np.concatenate([data.indices(split) for split in splits])] ^= 255
        images.flush()
        assert (evaluate_run(run)["metrics"] == first) is same


def test_evaluation_of_misgan_measures_its_own_samples_and_leads_to_its_end(trained, workspace):
    config, run = changed(trained[1], method="misgan", steps=2, snapshots=1), workspace / "misgan"
    train(changed(config, eval_images=5), run)
    record = evaluate_run(run)
    assert record["data_generator"].keys() == {"FD-cheap", "KID-cheap"}
    own, imputed = record["data_generator"]["FD-cheap"], record["metrics"]["FD-cheap"]
    assert own["images"] == imputed["images"] == 5 and own["value"] != imputed["value"]
    first, last = record["course"]
    assert first.keys() == last.keys() == {"step", "seconds", "FD-cheap", "mse_missing"}
    assert (first["step"], last["step"]) == (1, 2)
    assert 0 < first["seconds"] < last["seconds"] == record["training"]["seconds"]
    for name in ("FD-cheap", "mse_missing"):
        assert last[name] == record["metrics"][name]["value"] != first[name]
