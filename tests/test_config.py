"""Configurations and profiles."""

from __future__ import annotations

import pytest
import yaml

from paperlib import paths
from paperlib.config import BOOKKEEPING, DataConfig, EvaluationConfig, RunConfig
from paperlib.core.baselines import METHODS
from paperlib.errors import ConfigurationError
from paperlib.profiles import evaluation_configs, load_profile, run_of_profile


def refusal(parse, *arguments) -> str:
    """The one line that ``parse`` refuses its arguments with."""
    with pytest.raises(ConfigurationError) as error:
        parse(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# Keys


def test_unknown_key_is_named_and_the_known_ones_listed():
    message = refusal(RunConfig.parse, {"lamda_y": 3})
    assert "unknown key 'lamda_y'" in message
    assert "lambda_y" in message and "batch_size" in message


WRONG = [
    ("steps", "many"), ("steps", 2.5), ("steps", 0), ("lr_g", "fast"), ("lr_g", 0),
    ("lambda_y", -1.0), ("lambda_y", float("nan")), ("lr_x", float("inf")), ("ema", 1.0),
    ("batch_size", 1), ("d_sees_y_hat", "perhaps"), ("g_channels", "wide"),
    ("g_channels", [16, "x"]), ("norm", "l3"), ("split", "alphabetical"), ("validation", -0.1),
    ("seed", -1), ("source", 3), ("precision", "float16"), ("compile", "always"),
    ("resident", "never"), ("method", ["base"]), ("corruption", None),
]  # fmt: skip


@pytest.mark.parametrize("key, value", WRONG)
def test_wrong_value_is_refused_naming_key_and_value(key, value):
    message = refusal(RunConfig.parse, {key: value})
    assert f"'{key}" in message  # g_channels.1 names the element
    assert (repr(value) if value != [16, "x"] else "'x'") in message


def test_all_wrong_keys_are_named_at_once():
    message = refusal(RunConfig.parse, {"lr_g": "fast", "lamda_y": 1, "steps": -4}, "mine.yaml")
    assert all(part in message for part in ("mine.yaml", "lr_g", "lamda_y", "steps"))


def test_unknown_corruption_and_method_name_the_known_ones():
    message = refusal(RunConfig.parse, {"corruption": "blur", "method": "gan"})
    assert "one_patch, small_patch, drop_pixel" in message and "encoding_z" in message


def test_removed_key_is_refused_saying_so_unless_it_changed_nothing():
    # D's view is the method's now: mask_aware shows it both masks
    message = refusal(RunConfig.parse, {"discriminator_sees": "both_masks"})
    assert "'discriminator_sees': removed in 0.2" in message and "mask_aware" in message
    assert "unknown" not in message
    assert RunConfig.parse({"discriminator_sees": None, "seed": 3}) == RunConfig(seed=3)


def test_numbers_are_taken_as_they_are_meant():
    # YAML 1.1 reads 4e-4 as a string (it wants 4.0e-4): whoever writes it means the number.
    config = RunConfig.parse(yaml.safe_load("lr_g: 4e-4\nlambda_y: 3\nbatch_size: 8.0"))
    assert (config.lr_g, config.lambda_y, config.batch_size) == (4e-4, 3.0, 8)
    assert isinstance(config.lambda_y, float) and isinstance(config.batch_size, int)


@pytest.mark.parametrize(
    "values",
    [
        {"size": 34},
        {"size": 12, "g_channels": [8, 8, 8]},
        {"size": 8, "g_channels": [8, 8, 8]},
        {"size": 30, "patch": 4},
    ],
)
def test_size_that_the_networks_do_not_support_is_refused_with_those_that_they_do(values):
    message = refusal(RunConfig.parse, {"d_channels": [8], "e_channels": [8]} | values)
    assert f"size {values['size']} is not supported" in message and "multiple of" in message


@pytest.mark.parametrize("size, attention", [(32, 8), (64, 16), (128, 32), (64, 0)])
def test_sizes_of_the_paper_are_supported(size, attention):
    assert RunConfig.parse({"size": size, "attention": attention}).size == size


@pytest.mark.parametrize(
    "values, parts",
    [
        ({"g_channels": []}, ["g_channels"]),
        ({"e_channels": [8, -8]}, ["e_channels"]),
        ({"size": 64, "attention": 8}, ["attention 8", "0, 16"]),
        ({"method": "misgan", "accumulate": 2}, ["misgan", "accumulate"]),
        ({"missing": "nan", "missing_value": 0}, ["missing: nan", "missing_value"]),
    ],
)
def test_keys_that_do_not_go_together_are_named(values, parts):
    message = refusal(RunConfig.parse, values)
    assert all(part in message for part in parts)


def test_configuration_survives_json_and_cannot_be_changed():
    config = RunConfig.parse({"seed": 3, "lr_g": 1e-3})
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 4


def test_a_run_s_parts_are_its_keys_of_data_and_evaluation():
    about = {"dataset": "folder", "source": "x", "test": 0.2}
    config = RunConfig(**about, corruption="one_patch", eval_images=9, seed=5, steps=3)
    assert config.data == DataConfig(**about)
    assert config.evaluation == EvaluationConfig(**about, corruption="one_patch", eval_images=9)
    assert config.name == "one_patch-both-seed5"
    assert set(RunConfig.model_fields) > BOOKKEEPING


def test_each_source_size_and_split_has_its_own_folder():
    changes = [{}, {"size": 64}, {"dataset": "celeba"}, {"source": "a"}, {"source": "b"}]
    changes += [{"split_seed": 1}, {"split": "random"}, {"test": 0.2}]
    folders = [DataConfig(**change).folder for change in changes]
    assert len(set(folders)) == len(folders) and folders[0] == "bluemarble-32"


def test_names_and_seeds_of_what_was_made_before_stay():
    # Other ones would prepare every data set anew, and evaluate with other codes.
    run = run_of_profile("celeba32", "one_patch", "both", seed=1)
    assert run.data.folder == "celeba-32-98fc6c"
    assert run.evaluation_seed == 1820906261106485909


# Profiles


@pytest.fixture
def profile(tmp_path):
    """A function that writes a profile and returns its path."""

    def write(text: str) -> str:
        (tmp_path / "mine.yaml").write_text(text)
        return str(tmp_path / "mine.yaml")

    return write


def test_unknown_profile_lists_the_known_ones():
    message = refusal(load_profile, "nope")
    assert "no profile 'nope'" in message and "smoke" in message.split("known: ")[1]


def test_matrix_is_the_product_in_its_order(profile):
    runs = load_profile(
        profile("steps: 7\nmatrix:\n  corruption: [drop_pixel, one_patch]\n  seed: [1, 0, 2]\n")
    )
    assert [(r.corruption, r.seed) for r in runs] == [
        (c, s) for c in ("drop_pixel", "one_patch") for s in (1, 0, 2)
    ]
    assert all(r.steps == 7 for r in runs)
    assert load_profile(profile("seed: 4")) == [RunConfig(seed=4)]  # without one: one run


OVERRIDES = """
lambda_z: 1.0
matrix: {corruption: [drop_pixel, one_patch], method: [base, both], seed: [0]}
overrides: {drop_pixel: {lambda_z: 2.0}, both: {nz: 3}, both drop_pixel: {nz: 4, lambda_y: 5}}
"""


def test_overrides_hold_where_all_their_values_are_and_the_last_wins(profile):
    runs = load_profile(profile(OVERRIDES))
    found = [(r.lambda_z, r.nz, r.lambda_y) for r in runs]
    assert found == [(2, 8, 10), (2, 4, 5), (1, 8, 10), (1, 3, 10)]


def test_run_of_a_profile_has_its_overrides_and_the_changes_the_last_word(profile):
    path = profile(OVERRIDES)
    for run in load_profile(path):
        assert run_of_profile(path, run.corruption, run.method, run.seed) == run
    other = run_of_profile(path, "drop_pixel", "both", 7, {"nz": 6})  # not in the matrix
    assert (other.seed, other.nz, other.lambda_z, other.lambda_y) == (7, 6, 2, 5)
    message = refusal(run_of_profile, path, "drop_pixel", "both", 0, {"nzz": 6})
    assert "unknown key 'nzz'" in message
    # what else the matrix has only one value of is part of every run
    path = profile("matrix: {dataset: [folder], method: [base]}")
    assert run_of_profile(path, "one_patch", "base").dataset == "folder"


def test_what_is_measured_on_is_listed_once_for_each_corruption():
    configs = evaluation_configs("smoke")
    assert [c.corruption for c in configs] == ["small_patch", "drop_pixel"]
    assert configs[0] == load_profile("smoke")[0].evaluation


@pytest.mark.parametrize("matrix", ["lambda_z: [1.0, 2.0]", "seed: [0, 1, 0]"])
def test_two_runs_of_one_name_are_refused(profile, matrix):
    path = profile(f"matrix: {{{matrix}}}")
    message = refusal(load_profile, path)
    assert path in message and "small_patch-both-seed0" in message


@pytest.mark.parametrize(
    "text, part",
    [
        ("steps: [", "not valid YAML"),
        ("steps: 3\nsteps: 4", "'steps' is there twice"),
        ("just words", "key: value"),
        ("- a\n- b\n", "key: value"),
        ("", "key: value"),
        ("matrix: [1, 2]", "matrix"),
        ("matrix: {seed: 3}", "matrix"),
        ("matrix: {method: []}", "method"),
        ("nokey: 3", "nokey"),
        ("matrix: {nokey: [1]}", "nokey"),
        ("matrix: {method: [base, nope]}", "nope"),
        ("overrides: 3\nmatrix: {method: [base]}", "overrides"),
        ("overrides: {base: 3}\nmatrix: {method: [base]}", "overrides"),
        ("overrides: {base: {nokey: 3}}\nmatrix: {method: [base]}", "nokey"),
        ("overrides: {base small_pach: {nz: 3}}\nmatrix: {method: [base]}", "small_pach"),
    ],
)
def test_wrong_profile_is_refused_naming_file_and_fault(profile, text, part):
    path = profile(text)
    message = refusal(load_profile, path)
    assert path in message and part in message


@pytest.mark.parametrize("path", sorted(paths.CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_profiles_of_the_repository_load(path):
    assert load_profile(path.stem)


def test_smoke_has_every_method_and_lacks_a_corruption_on_purpose():
    runs = load_profile("smoke")
    assert {r.method for r in runs} == METHODS.keys()
    assert len({r.corruption for r in runs}) == 2
