"""Configurations and profiles, and the lists of dependencies that must agree."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from paperlib import paths
from paperlib.config import BOOKKEEPING, ConfigurationError, DataConfig, RunConfig, load_profile
from paperlib.methods import METHODS

ROOT = paths.ROOT


def faults(values: dict) -> str:
    """The one line that a wrong configuration is refused with."""
    with pytest.raises(ConfigurationError) as error:
        RunConfig.parse(values)
    assert "\n" not in str(error.value)
    return str(error.value)


# Keys


def test_unknown_key_is_named_and_the_known_ones_listed():
    message = faults({"lamda_y": 3})
    assert "unknown key 'lamda_y'" in message
    assert "lambda_y" in message and "batch_size" in message


@pytest.mark.parametrize(
    "key, value",
    [
        ("steps", "many"),
        ("steps", 2.5),
        ("steps", 0),
        ("steps", True),
        ("lr_g", "fast"),
        ("lr_g", 0),
        ("lambda_y", -1.0),
        ("lambda_y", float("nan")),
        ("ema", 1.0),
        ("batch_size", 1),
        ("d_sees_y_hat", "perhaps"),
        ("discriminator_sees", "everything"),
        ("g_channels", "wide"),
        ("g_channels", [16, "x"]),
        ("norm", "l3"),
        ("split", "alphabetical"),
        ("validation", -0.1),
        ("seed", -1),
        ("source", 3),
    ],
)
def test_wrong_value_is_refused_naming_key_and_value(key, value):
    message = faults({key: value})
    assert f"'{key}" in message  # g_channels.1 names the element
    assert repr(value[-1] if isinstance(value, list) else value) in message


def test_all_wrong_keys_are_named_at_once():
    message = faults({"lr_g": "fast", "lamda_y": 1, "steps": -4})
    assert all(part in message for part in ("lr_g", "lamda_y", "steps"))


def test_unknown_corruption_and_method_name_the_known_ones():
    assert "one_patch, small_patch, drop_pixel" in faults({"corruption": "blur"})
    assert "'encoding_z'" in faults({"method": "gan"})


@pytest.mark.parametrize("key", ["lr_g", "lambda_y", "validation", "checkpoint_seconds"])
def test_whole_numbers_are_taken_where_decimals_are_meant(key):
    value = getattr(RunConfig.parse({key: 3}), key)
    assert value == 3.0 and isinstance(value, float)


def test_scientific_notation_is_taken_as_a_number():
    # YAML 1.1 reads 4e-4 as a string (it wants 4.0e-4): whoever writes it means the number.
    assert RunConfig.parse(yaml.safe_load("lr_g: 4e-4")).lr_g == 4e-4


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
    message = faults({"d_channels": [8], "e_channels": [8]} | values)
    assert f"size {values['size']} is not supported" in message and "multiple of" in message


@pytest.mark.parametrize("net", ["g_channels", "d_channels", "e_channels"])
def test_networks_without_channels_are_refused(net):
    for channels in ([], [0], [8, -8]):
        assert net in faults({net: channels})


@pytest.mark.parametrize("size, attention", [(32, 8), (64, 16), (128, 32), (64, 0)])
def test_sizes_of_the_paper_are_supported(size, attention):
    assert RunConfig.parse({"size": size, "attention": attention}).size == size


def test_attention_on_a_map_that_the_networks_do_not_have_is_refused_with_those_they_have():
    message = faults({"size": 64, "attention": 8})
    assert "attention 8" in message and "0, 16" in message


def test_configuration_survives_json_and_cannot_be_changed():
    config = RunConfig.parse({"seed": 3, "lr_g": 1e-3})
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 4


def test_bookkeeping_keys_exist():
    assert set(RunConfig.model_fields) > BOOKKEEPING


# Data


def test_data_of_a_run_are_its_data_keys():
    config = RunConfig.parse(
        {"dataset": "folder", "source": "x", "size": 64, "test": 0.2, "attention": 0}
    )
    expected = {"dataset": "folder", "source": "x", "size": 64, "test": 0.2}
    assert config.data == DataConfig(**expected)


def test_each_source_size_and_split_has_its_own_folder():
    changes = [
        {},
        {"size": 64},
        {"dataset": "celeba"},
        {"source": "a"},
        {"source": "b"},
        {"split_seed": 1},
        {"split": "random"},
        {"test": 0.2},
    ]
    folders = [DataConfig(**change).folder for change in changes]
    assert len(set(folders)) == len(folders)
    assert folders[0] == "bluemarble-32"
    assert RunConfig(seed=5, steps=3).data.folder == folders[0]  # the rest does not matter


def test_runs_of_a_product_have_their_own_names():
    names = {
        RunConfig(corruption=c, method=m, seed=s).name
        for c in ("one_patch", "drop_pixel")
        for m in ("base", "both")
        for s in (0, 1)
    }
    assert len(names) == 8


# What D sees

MASKED = ["own_mask", "both_masks"]


@pytest.mark.parametrize("method", METHODS)
def test_d_sees_the_paper_s_observation_and_both_masks_in_mask_aware_alone(method):
    config = RunConfig.parse({"method": method})
    assert config.discriminator_sees is None
    assert config.sees == ("both_masks" if method == "mask_aware" else "observation")
    assert config.row == method and config.name == f"small_patch-{method}-seed0"


@pytest.mark.parametrize("method", ["base", "encoding_z", "encoding_y", "both", "misgan"])
@pytest.mark.parametrize("sees", MASKED)
def test_another_view_of_d_makes_another_row_and_another_run(method, sees):
    config = RunConfig.parse({"method": method, "discriminator_sees": sees, "seed": 3})
    assert config.sees == sees and config.row == f"{method}-{sees}"
    assert config.name == f"small_patch-{method}-{sees}-seed3"


def test_the_method_s_own_view_of_d_may_be_said():
    for method, sees in (("both", "observation"), ("paired", "observation"), ("mask_aware", "both_masks")):  # fmt: skip
        config = RunConfig.parse({"method": method, "discriminator_sees": sees})
        assert config.sees == sees and config.row == method


@pytest.mark.parametrize("sees", ["observation", "own_mask"])
def test_mask_aware_with_another_view_is_refused_naming_the_key(sees):
    message = faults({"method": "mask_aware", "discriminator_sees": sees})
    assert "mask_aware" in message and "discriminator_sees: both_masks" in message


@pytest.mark.parametrize("method", ["unpaired", "paired"])
@pytest.mark.parametrize("sees", MASKED)
def test_masks_for_a_d_of_complete_images_are_refused_naming_the_key(method, sees):
    message = faults({"method": method, "discriminator_sees": sees})
    assert "discriminator_sees" in message and f"{method} is judged by complete" in message


def test_method_that_is_no_name_is_refused_in_one_line():
    with pytest.raises(ConfigurationError, match="key 'method'"):
        RunConfig.parse({"method": ["base"]})


def test_losses_of_a_method_hang_on_the_method_and_not_on_what_d_sees():
    losses = {m: (RunConfig(method=m).encodes_z, RunConfig(method=m).encodes_y) for m in METHODS}
    assert losses == dict.fromkeys(METHODS, (False, False)) | {
        "encoding_z": (True, False), "encoding_y": (False, True),
        "both": (True, True), "mask_aware": (True, True),
    }  # fmt: skip
    config = RunConfig(method="base", discriminator_sees="both_masks")
    assert not config.encodes_z and not config.encodes_y


# Profiles


@pytest.fixture
def profile(tmp_path):
    """A function that writes a profile and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_unknown_profile_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match="no profile 'nope'.*known: .*smoke") as error:
        load_profile("nope")
    assert "\n" not in str(error.value)


def test_matrix_is_the_product_in_its_order(profile):
    runs = load_profile(
        profile("steps: 7\nmatrix:\n  corruption: [drop_pixel, one_patch]\n  seed: [1, 0, 2]\n")
    )
    assert [(r.corruption, r.seed) for r in runs] == [
        (c, s) for c in ("drop_pixel", "one_patch") for s in (1, 0, 2)
    ]
    assert all(r.steps == 7 for r in runs)


def test_profile_without_matrix_is_one_run(profile):
    (run,) = load_profile(profile("seed: 4\n"))
    assert run == RunConfig(seed=4)


def test_overrides_apply_to_the_runs_with_that_value_only(profile):
    runs = load_profile(
        profile(
            "lambda_z: 1.0\nmatrix:\n  corruption: [drop_pixel, one_patch]\n  method: [base, both]\n"
            "overrides:\n  drop_pixel: {lambda_z: 2.0}\n  both: {nz: 3}\n"
        )
    )
    assert [(r.lambda_z, r.nz) for r in runs] == [(2.0, 8), (2.0, 3), (1.0, 8), (1.0, 3)]


def test_overrides_of_two_values_apply_where_both_are_and_the_last_wins(profile):
    runs = load_profile(
        profile(
            "matrix:\n  corruption: [drop_pixel, one_patch]\n  method: [base, both]\n"
            "overrides:\n  both: {nz: 3}\n  both drop_pixel: {nz: 4}\n"
        )
    )
    assert [r.nz for r in runs] == [8, 4, 8, 3]


def test_what_d_sees_may_be_in_the_matrix(profile):
    runs = load_profile(
        profile("matrix: {method: [base, both], discriminator_sees: [null, own_mask, both_masks]}")
    )
    assert [run.row for run in runs] == [
        "base", "base-own_mask", "base-both_masks", "both", "both-own_mask", "both-both_masks",
    ]  # fmt: skip
    assert len({run.name for run in runs}) == 6


@pytest.mark.parametrize(
    "matrix, name, points",
    [
        ("discriminator_sees: [null, observation]", "small_patch-both-seed0", ["None}", "'observation'}"]),
        ("lambda_z: [1.0, 2.0]", "small_patch-both-seed0", ["1.0}", "2.0}"]),
        ("seed: [1, 2, 1]", "small_patch-both-seed1", ["{'seed': 1} and {'seed': 1}"]),
    ],
)  # fmt: skip
def test_two_runs_of_one_name_are_refused_naming_both_points(profile, matrix, name, points):
    path = profile(f"matrix: {{{matrix}}}")
    with pytest.raises(ConfigurationError) as error:
        load_profile(path)
    message = str(error.value)
    assert path in message and name in message and "\n" not in message
    assert all(point in message for point in points)


@pytest.mark.parametrize(
    "text, part",
    [
        ("steps: [", "not valid YAML"),
        ("just words", "key: value"),
        ("- a\n- b\n", "key: value"),
        ("", "key: value"),
        ("matrix: [1, 2]", "matrix"),
        ("matrix: {seed: 3}", "matrix"),
        ("nokey: 3", "nokey"),
        ("matrix: {nokey: [1]}", "nokey"),
        ("matrix: {method: [base, nope]}", "nope"),
        ("overrides: 3\nmatrix: {method: [base]}", "overrides"),
        ("overrides: {base: 3}\nmatrix: {method: [base]}", "overrides"),
        ("overrides: {base: {nokey: 3}}\nmatrix: {method: [base]}", "nokey"),
        ("overrides: {bsae: {nz: 3}}\nmatrix: {method: [base]}", "bsae"),
        ("overrides: {base small_pach: {nz: 3}}\nmatrix: {method: [base]}", "small_pach"),
        ("matrix: {method: []}", "method"),
    ],
)
def test_wrong_profile_is_refused_naming_file_and_fault(profile, text, part):
    path = profile(text)
    with pytest.raises(ConfigurationError) as error:
        load_profile(path)
    assert path in str(error.value) and part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", sorted(paths.CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_profiles_of_the_repository_load(path):
    runs = load_profile(path.stem)
    assert runs
    names = [run.name for run in runs]
    assert len(set(names)) == len(names)  # no run overwrites another


def test_there_is_a_smoke_profile_that_lacks_a_corruption_on_purpose():
    runs = load_profile("smoke")
    assert {r.method for r in runs} == METHODS.keys()
    assert len({r.corruption for r in runs}) == 2


# Dependencies


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def direct_dependencies() -> list[str]:
    project = pyproject()
    return project["dependencies"] + project["optional-dependencies"]["dev"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    return normal(re.match(r"[A-Za-z0-9._-]+", requirement).group())


def test_environment_yml_has_the_dependencies_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert "-e ." in pip
    assert sorted(d for d in pip if d != "-e .") == sorted(direct_dependencies())
    assert f"python{pyproject()['requires-python']}" in conda and "pip" in conda


def locked() -> dict[str, list[str]]:
    """Package -> its lines in requirements.lock, e.g. "1.2.3" or "1.2.3 ; marker"."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and line[0] not in " #-":
            name, equals, version = line.partition("==")
            assert equals, f"{line!r} is not pinned exactly"
            found.setdefault(name_of(name), []).append(version)
    return found


@pytest.mark.parametrize("requirement", direct_dependencies(), ids=name_of)
def test_every_direct_dependency_is_locked_within_its_bounds(requirement):
    from packaging.requirements import Requirement

    versions = locked().get(name_of(requirement))
    assert versions, f"{requirement} is not in requirements.lock"
    for version in versions:
        number = version.split(";")[0].strip()
        assert Requirement(requirement).specifier.contains(number, prereleases=True)


def test_locked_torch_is_not_of_one_kind_of_machine():
    for package in ("torch", "torchvision"):
        for version in locked()[package]:
            assert "+" not in version  # such as +cpu, which no index but PyTorch's own has
