"""The metrics against loops and closed forms, and the protocol around them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import MeanAndSpread, changed
from torch import nn

from paperlib import metrics, seeds
from paperlib.algorithm1 import build_generator
from paperlib.config import RunConfig
from paperlib.corruption import composite, corrupt, mask_law
from paperlib.data import CompleteImages, load_prepared
from paperlib.evaluation import evaluate_run
from paperlib.features import EfficientNetLite0, extract, to_levels
from paperlib.metrics import (
    Measurement,
    bootstrap_ratio,
    distances,
    evaluate,
    frechet_distance,
    jump_across_border,
    per_image,
)
from paperlib.records import RunError, read_json
from paperlib.sampling import latents, reconstruct, sampler
from paperlib.training import snapshot_path, train

SAMPLES, B, SIZE, BORDER = 4, 3, 6, 1


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
        for c in range(3):
            for i in range(SIZE):
                for j in range(SIZE):
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
            for i in range(SIZE):
                for j in range(SIZE):
                    for k, n in ((i + 1, j), (i, j + 1)):
                        if k < SIZE and n < SIZE and m[b, i, j] != m[b, k, n]:
                            jumps += list(np.abs(images[b, :, i, j] - images[b, :, k, n]))
            assert values[name][b].item() == pytest.approx(np.mean(jumps), rel=1e-5)


def test_metrics_by_hand_on_one_missing_pixel():
    # x is 0; 2 of the 4 pixels of one image are missing, and the samples paint 0.5 and -0.1 there.
    x = torch.zeros(1, 3, 2, 2)
    m = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 1, 2, 2)
    shown = torch.stack([composite(torch.full_like(x, v), x, m) for v in (0.5, -0.1)])
    values = per_image(shown, shown[1], x, m, border=0)
    assert values["mse"].item() == pytest.approx((0.25 + 0.01) / 2 / 2)
    assert values["mse_missing"].item() == pytest.approx((0.25 + 0.01) / 2)
    assert values["mse_best"].item() == pytest.approx(0.01)
    assert values["mse_without_z"].item() == pytest.approx(0.01)
    assert values["std"].item() == pytest.approx(0.6 / math.sqrt(2))  # ddof = 1
    assert values["jump"].item() == pytest.approx(0.5) and values["true_jump"].item() == 0


def test_perfect_reconstruction_has_no_error_and_a_seam_of_one():
    case = tiny_case()
    case["x_tilde"] = case["x"].expand(SAMPLES, -1, -1, -1, -1)
    case["without_z"] = case["x"]
    values = per_image(**case, border=BORDER)
    for name in ("mse", "mse_missing", "mse_interior", "mse_best", "mse_without_z", "std"):
        assert values[name].abs().max() < 1e-6
    seam = bootstrap_ratio(values["jump"].numpy(), values["true_jump"].numpy())
    assert seam.value == seam.low == seam.high == 1


def test_observed_pixels_do_not_count_as_missing():
    case = tiny_case()
    before = per_image(**case, border=BORDER)
    case["x_tilde"] = case["x_tilde"] + 10 * case["m"]  # spoil what was observed
    after = per_image(**case, border=BORDER)
    for name in ("mse_missing", "mse_best", "std"):
        assert torch.allclose(after[name], before[name], rtol=1e-5), name
    assert (after["mse"] > before["mse"]).all()


def test_image_with_nothing_missing_counts_as_zero():
    x = torch.rand(1, 3, 4, 4)
    values = per_image(x.expand(2, 1, 3, 4, 4), x, x, torch.ones(1, 1, 4, 4), border=0)
    undefined = {"energy", "coverage_50", "coverage_80"}  # and left out of the means
    assert all(values.pop(name).isnan().all() for name in undefined)
    assert all(torch.equal(v, torch.zeros(1)) for v in values.values())


def test_jump_of_a_step_across_the_mask_is_its_height():
    x = torch.zeros(1, 3, 4, 4)
    x[..., 2:] = 0.75
    m = torch.zeros(1, 1, 4, 4)
    m[..., 2:] = 1
    assert jump_across_border(x, m).item() == pytest.approx(0.75)
    assert jump_across_border(x, m.transpose(2, 3)).item() == pytest.approx(0)


# Intervals


def test_interval_contains_its_value_and_shrinks_with_the_number_of_images():
    rng = np.random.default_rng(0)
    widths = []
    for n in (50, 200, 800):
        result = bootstrap_ratio(rng.normal(3, 1, n))
        assert result.low < result.value < result.high and result.images == n
        widths.append(result.high - result.low)
    for n, width in zip((50, 200, 800), widths, strict=True):
        assert width == pytest.approx(2 * 1.96 / math.sqrt(n), rel=0.25)  # of a mean of n normals


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(100):
        result = bootstrap_ratio(rng.normal(3, 1, 100))
        inside += result.low <= 3 <= result.high
    assert 86 <= inside <= 100  # 95 expected; fewer than 86 has probability 1e-4


def test_ratio_is_that_of_means_and_its_interval_knows_of_pairs():
    rng = np.random.default_rng(0)
    over = rng.uniform(1, 5, 100)
    exact = bootstrap_ratio(2 * over, over)
    assert exact.value == exact.low == exact.high == pytest.approx(2)
    noisy = bootstrap_ratio(2 * over + rng.normal(0, 1, 100), over)
    assert noisy.value == pytest.approx(2, abs=0.3) and noisy.low < noisy.value < noisy.high


def test_interval_is_the_same_every_time():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_ratio(values) == bootstrap_ratio(values)


# Frechet and kernel distances


def random_features(seed: int, n=80, f=12, shift=0.0, scale=1.0) -> torch.Tensor:
    g = seeds.generator("features", seed)
    mixing = torch.randn(f, f, generator=seeds.generator("mixing"), dtype=torch.float64)
    return shift + scale * torch.randn(n, f, generator=g, dtype=torch.float64) @ mixing


@pytest.mark.parametrize("n, f", [(80, 12), (20, 40)])
def test_both_frechet_distances_agree(n, f):
    # torchmetrics gives the value, our own one the resamples: with more images than features and
    # with fewer.
    a, b = random_features(0, n, f), random_features(1, n, f, shift=0.2, scale=1.3)
    value = distances(a, b, "FD-x")["FD-x"].value
    assert frechet_distance(a, b) == pytest.approx(value, rel=1e-4)
    assert value > 1


def test_frechet_distance_of_gaussians_is_the_closed_form():
    # Samples with exactly the moments wanted: whitened, then scaled and shifted.
    noise = random_features(0, 60, 3)
    noise = noise - noise.mean(0)
    white = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T.cov())).T
    sigma_a, sigma_b = (
        torch.tensor([1.0, 2.0, 3.0]).double(),
        torch.tensor([2.0, 0.5, 3.0]).double(),
    )
    shift = torch.tensor([1.0, 0.0, -2.0]).double()
    a, b = white * sigma_a, white * sigma_b + shift
    expected = (shift**2).sum() + ((sigma_a - sigma_b) ** 2).sum()  # covariances commute
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-9)
    assert distances(a, b, "FD-x")["FD-x"].value == pytest.approx(expected.item(), rel=1e-6)


def test_frechet_distance_does_not_see_order_and_is_zero_of_equal_sets():
    a = random_features(0)
    assert abs(frechet_distance(a, a)) < 1e-8
    assert abs(frechet_distance(a, a.flip(0))) < 1e-8
    b = random_features(1, shift=1)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_distances_name_their_features_and_count_their_images():
    a, b = random_features(0), random_features(1)
    assert distances(a, b, "FD-efflite0").keys() == {"FD-efflite0", "KID-efflite0"}
    result = distances(a, b, "FID")
    assert result.keys() == {"FID", "KID"}
    for measurement in result.values():
        assert measurement.images == 80
        assert measurement.low < measurement.value < measurement.high


def test_distances_do_not_touch_the_global_generator_and_repeat():
    a, b = random_features(0), random_features(1)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = distances(a, b, "FD-x")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert distances(a, b, "FD-x") == first


def test_kernel_distance_tells_equal_from_different_distributions():
    a, b, far = (random_features(s, n=200, shift=d) for s, d in ((0, 0), (1, 0), (2, 3.0)))
    same, other = distances(a, b, "FD-x")["KID-x"], distances(a, far, "FD-x")["KID-x"]
    assert other.value > 10 * abs(same.value) and other.low > same.high


@pytest.mark.parametrize("n", [2, 3])
def test_distances_of_hardly_any_images_do_not_fail(n):
    # The configuration allows 2 images; what cannot be estimated is not a number, not a crash.
    result = distances(random_features(0, n), random_features(1, n), "FD-x")
    assert result["FD-x"].value > 0


@pytest.fixture(scope="module")
def extractor() -> EfficientNetLite0:
    return EfficientNetLite0()


@pytest.fixture
def images(workspace, tiny_config) -> torch.Tensor:
    """All 60 prepared images, (60, 3, 32, 32) in [-1, 1]."""
    levels = torch.from_numpy(load_prepared(tiny_config.data).images().copy())
    return levels.permute(0, 3, 1, 2).float() / 127.5 - 1


def test_frechet_distance_grows_with_noise_from_that_of_two_halves(images, extractor, monkeypatch):
    monkeypatch.setattr(EfficientNetLite0, "SIZE", 64)  # four times faster, and enough here
    noise = torch.randn(images[:30].shape, generator=seeds.generator("noise"))
    half, other = images[:30], images[30:]
    real = extract(extractor, half).double()
    found = [frechet_distance(real, extract(extractor, other).double())]
    for strength in (0.1, 0.3, 0.9):
        noisy = (other + strength * noise).clamp(-1, 1)
        found.append(frechet_distance(real, extract(extractor, noisy).double()))
    assert found == sorted(found)
    assert 0 < found[0] < 0.5 * found[-1]
    assert abs(frechet_distance(real, real)) < 1e-3 * found[0]


def test_features_do_not_depend_on_the_batch(images, extractor):
    few = images[:6]
    together = extract(extractor, few)
    assert together.shape == (6, EfficientNetLite0.num_features)
    alone = torch.cat([extract(extractor, one[None]) for one in few])
    assert torch.allclose(together, alone, rtol=1e-3, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_levels_are_exact_on_the_8_bit_grid():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_levels(levels.float() / 127.5 - 1), levels)


def test_levels_are_rounded_and_clipped():
    step = 1 / 127.5
    x = torch.tensor([-1 + 0.4 * step, -1 + 0.6 * step, 1 - 0.4 * step, 1.5, -1.5])
    assert to_levels(x).tolist() == [0, 1, 255, 255, 0]


# The protocol


@pytest.fixture
def evaluated(workspace, tiny_config):
    """A function that evaluates an untrained G that uses z on up to 45 images."""
    config = RunConfig(**tiny_config.model_dump() | {"start_from_fill": False})
    torch.manual_seed(0)
    G = build_generator(config)
    for name, p in G.named_parameters():
        if "scale_shift.weight" in name:
            nn.init.normal_(p, std=0.5)
    G.eval()
    data = CompleteImages(
        load_prepared(config.data), "training", mask_law(config.corruption), 0, "cpu"
    )

    def run(images=23, samples=3, border=1, seed=5, **options):
        return evaluate(sampler(G, samples, seed), data, images, border, MeanAndSpread(), **options)

    run.G, run.data = G, data
    return run


def assert_same_measurements(a: dict, b: dict, rel: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        for key in ("value", "low", "high"):
            assert a[name][key] == pytest.approx(b[name][key], rel=rel, abs=1e-7), (name, key)
        assert a[name]["images"] == b[name]["images"]


def test_results_do_not_depend_on_the_batch_size(evaluated, monkeypatch):
    results = []
    for batch in (7, 100):
        monkeypatch.setattr(metrics, "BATCH", batch)
        results.append(evaluated())
    assert_same_measurements(*results, rel=1e-4)


def test_evaluation_repeats_and_depends_on_its_seed(evaluated):
    first, again, other = evaluated(), evaluated(), evaluated(seed=6)
    assert first == again
    assert first["mse_missing"]["value"] != other["mse_missing"]["value"]
    assert first["mse_without_z"] == other["mse_without_z"]  # has no z to draw


def test_evaluation_reports_every_metric_with_its_number_of_images(evaluated):
    result = evaluated()
    expected = {"mse", "mse_missing", "mse_interior", "mse_best", "mse_without_z", "std", "seam"}
    expected |= {"energy", "coverage_50", "coverage_80"}
    assert expected | {"FD-cheap", "KID-cheap"} <= result.keys()
    for name, measurement in result.items():
        assert measurement["images"] == 23, name
        assert measurement["low"] <= measurement["value"] <= measurement["high"], name
    assert result["std"]["value"] > 0.01  # this G does use z
    assert result["mse_best"]["value"] < result["mse_missing"]["value"]
    assert evaluated(images=10**6)["mse"]["images"] == 45  # as many as there are


def test_evaluation_is_of_composites(evaluated):
    # What was observed is known: no error there, whatever G paints.
    result = evaluated()
    _, m = evaluated.data.batch(np.arange(23))
    share = 1 - m.mean().item()
    assert result["mse"]["value"] == pytest.approx(result["mse_missing"]["value"] * share, rel=0.05)


def test_samples_that_are_not_numbers_are_not_passed_over(evaluated):
    def diverged(y, m, rows):
        x_tilde, without_z = sampler(evaluated.G, 3, 5)(y, m, rows)
        at = torch.from_numpy(rows == 2).view(-1, 1, 1, 1)
        return torch.where(at, math.nan, x_tilde), without_z

    result = evaluate(diverged, evaluated.data, 23, 1, MeanAndSpread())
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
    for name in ("energy", "coverage_50", "coverage_80"):
        assert result[name]["images"] == 22 and result[name]["low"] <= result[name]["value"], name
    assert result["mse"]["images"] == 23


def test_given_features_of_originals_are_used_as_they_are(evaluated):
    x, _ = evaluated.data.batch(np.arange(23))
    features = extract(MeanAndSpread(), x)
    assert_same_measurements(evaluated(real_features=features), evaluated(), rel=1e-9)
    # more features than images: those of the same images count
    more = torch.cat([features, features + 9])
    assert_same_measurements(evaluated(real_features=more), evaluated(), rel=1e-9)


def test_latents_of_an_image_do_not_depend_on_its_company():
    together = latents([3, 8, 1], samples=4, nz=5, seed=0)
    assert together.shape == (4, 3, 5)
    for place, row in enumerate((3, 8, 1)):
        assert torch.equal(latents([row], 4, 5, 0)[:, 0], together[:, place])
    assert not torch.equal(together[:, 0], together[:, 1])
    assert not torch.equal(latents([3], 4, 5, 1)[:, 0], together[:, 0])


def test_latents_are_standard_normal():
    z = latents(range(100), 10, 8, 0)
    assert abs(z.mean()) < 4 / math.sqrt(8000) and abs(z.std() - 1) < 4 / math.sqrt(16000)


def test_reconstructions_keep_what_was_observed_to_the_bit(evaluated):
    x, m = evaluated.data.batch(np.arange(5))
    y = corrupt(x, m)
    x_tilde = reconstruct(evaluated.G, y, m, latents(range(5), 3, evaluated.G.nz, 0))
    assert x_tilde.shape == (3, *x.shape)
    observed = m.expand_as(x) > 0
    for one in x_tilde:
        assert torch.equal(one[observed], x[observed])
    assert (x_tilde[0] - x_tilde[1]).abs().max() > 1e-3


# The record


@pytest.fixture
def trained(workspace, tiny_config, monkeypatch):
    from paperlib import evaluation

    monkeypatch.setattr(evaluation, "load_extractor", lambda device: MeanAndSpread())
    config = RunConfig(**tiny_config.model_dump() | {"steps": 1, "eval_samples": 3})
    run = workspace / "run"
    train(config, run)
    return run, config


def test_evaluation_record_says_what_it_rests_on(trained):
    run, config = trained
    record = evaluate_run(run)
    assert read_json(run / "evaluation.json") == record
    training = read_json(run / "record.json")
    assert record["rests_on"]["generator_checksum"] == training["generator_checksum"]
    assert record["rests_on"]["data_checksum"] == record["data_checksum"]
    assert record["config"] == config.model_dump() and "commit" in record
    assert record["metrics"]["mse"]["images"] == 6  # the test split of 60 images
    assert Measurement(**record["metrics"]["FD-cheap"]).images == 6


def test_evaluation_is_not_done_again_unless_something_changed(trained, monkeypatch):
    run, _ = trained
    record = evaluate_run(run)
    before = (run / "evaluation.json").stat().st_mtime_ns
    assert evaluate_run(run) == record
    assert (run / "evaluation.json").stat().st_mtime_ns == before
    renamed = MeanAndSpread()
    renamed.name = "FD-other"
    monkeypatch.setattr("paperlib.evaluation.load_extractor", lambda device: renamed)
    assert "FD-other" in evaluate_run(run)["metrics"]


def test_evaluation_is_of_the_test_split_and_not_of_training(trained):
    run, config = trained
    data = load_prepared(config.data)
    first = evaluate_run(run)["metrics"]
    (run / "evaluation.json").unlink()
    images = np.load(data.folder / "images.npy", mmap_mode="r+")
    images[np.concatenate([data.indices("training"), data.indices("validation")])] ^= 255
    images.flush()
    assert evaluate_run(run)["metrics"] == first
    (run / "evaluation.json").unlink()
    images[data.indices("test")] ^= 255
    images.flush()
    assert evaluate_run(run)["metrics"]["mse"] != first["mse"]


def test_run_trained_on_other_data_is_refused(trained):
    run, config = trained
    manifest = load_prepared(config.data).folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(load_prepared(config.data).checksum, "0" * 64))
    with pytest.raises(RunError, match="other data"):
        evaluate_run(run)


@pytest.fixture
def trained_misgan(trained, workspace):
    """A run of two steps with a snapshot after the first."""
    _, config = trained
    run = workspace / "misgan"
    train(changed(config, method="misgan", steps=2, snapshots=1, eval_images=5), run)
    return run


def test_evaluation_of_misgan_measures_its_own_samples_too(trained_misgan):
    record = evaluate_run(trained_misgan)
    assert record["data_generator"].keys() == {"FD-cheap", "KID-cheap"}
    own, imputed = record["data_generator"]["FD-cheap"], record["metrics"]["FD-cheap"]
    assert own["images"] == imputed["images"] == 5 and own["value"] != imputed["value"]


def test_course_of_a_run_leads_from_its_snapshots_to_its_end(trained_misgan):
    record = evaluate_run(trained_misgan)
    first, last = record["course"]
    assert first.keys() == last.keys() == {"step", "seconds", "FD-cheap", "mse_missing"}
    assert (first["step"], last["step"]) == (1, 2)
    assert 0 < first["seconds"] < last["seconds"] == record["training"]["seconds"]
    for name in ("FD-cheap", "mse_missing"):
        assert last[name] == record["metrics"][name]["value"] != first[name]


def test_missing_snapshot_is_named(trained_misgan):
    path = snapshot_path(trained_misgan, 1)
    path.unlink()
    with pytest.raises(RunError, match=path.name):
        evaluate_run(trained_misgan)
    assert not (trained_misgan / "evaluation.json").exists()


def test_evaluation_without_snapshots_or_data_generator_has_neither(trained):
    run, _ = trained
    assert not {"course", "data_generator"} & evaluate_run(run).keys()
