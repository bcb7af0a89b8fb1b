"""Configurations and profiles."""

from __future__ import annotations

import pytest
import yaml

from paperlib import paths
from paperlib.config import DataConfig, EvaluationConfig, RunConfig
from paperlib.core.baselines import METHODS
from paperlib.profiles import evaluation_configs, load_profile, run_of_profile


def test_numbers_are_taken_as_they_are_meant():
    # YAML 1.1 reads 4e-4 as a string (it wants 4.0e-4): whoever writes it means the number.
    config = RunConfig.parse(yaml.safe_load("lr_g: 4e-4\nlambda_y: 3\nbatch_size: 8.0"))
    assert (config.lr_g, config.lambda_y, config.batch_size) == (4e-4, 3.0, 8)
    assert isinstance(config.lambda_y, float) and isinstance(config.batch_size, int)


def test_parts_of_a_run_are_its_keys_of_data_and_evaluation():
    about = {"dataset": "folder", "source": "x", "test": 0.2}
    config = RunConfig(**about, corruption="one_patch", eval_images=9, seed=5, steps=3)
    assert config.data == DataConfig(**about)
    assert config.evaluation == EvaluationConfig(**about, corruption="one_patch", eval_images=9)
    assert config.name == "one_patch-both-seed5"
    smoke = load_profile("smoke")  # two corruptions, several methods
    assert evaluation_configs("smoke") == [smoke[0].evaluation, smoke[-1].evaluation]


def test_each_source_size_and_split_has_its_own_folder_and_the_one_it_had_before():
    changes = [{}, {"size": 64}, {"dataset": "lsun"}, {"source": "a"}, {"source": "b"}]
    changes += [{"split_seed": 1}, {"split": "random"}, {"test": 0.2}]
    folders = [DataConfig(**{"dataset": "celeba"} | change).folder for change in changes]
    assert len(set(folders)) == len(folders) and folders[0] == "celeba-32"
    # other ones would prepare every data set anew, and evaluate with other codes
    run = RunConfig(dataset="celeba", source="a", seed=1)
    assert (run.data.folder, run.evaluation_seed) == ("celeba-32-dc4faa", 1820906261106485909)


# Profiles


@pytest.fixture
def profile(tmp_path):
    """A function that writes a profile and returns its path."""

    def write(text: str) -> str:
        (tmp_path / "mine.yaml").write_text(text)
        return str(tmp_path / "mine.yaml")

    return write


def test_matrix_is_the_product_in_its_order(profile):
    runs = load_profile(profile("matrix: {corruption: [drop_pixel, one_patch], seed: [1, 0]}"))
    found = [(r.corruption, r.seed) for r in runs]
    assert found == [("drop_pixel", 1), ("drop_pixel", 0), ("one_patch", 1), ("one_patch", 0)]
    assert load_profile(profile("steps: 4")) == [RunConfig(steps=4)]  # without one: one run


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
    # what else the matrix has only one value of is part of every run
    path = profile("matrix: {dataset: [folder], method: [base]}")
    assert run_of_profile(path, "one_patch", "base").dataset == "folder"


def test_a_profile_like_another_takes_over_what_it_does_not_change(profile):
    runs = load_profile(profile("like: smoke\nsteps: 9\nmatrix: {seed: [4]}"))
    changed = {"steps": 9, "seed": 4}
    assert runs == [RunConfig(**run.model_dump() | changed) for run in load_profile("smoke")]


@pytest.mark.parametrize("path", sorted(paths.CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_profiles_of_the_repository_load(path):
    runs = load_profile(path.stem)
    assert path.stem != "smoke" or len({r.corruption for r in runs}) == 2  # one lacks on purpose
    assert {r.method for r in runs} <= METHODS.keys()
