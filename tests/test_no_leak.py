"""What a run can have seen, and what its result can depend on: nothing but what it may.

The training set that unsupervised methods learn from holds observations alone. So random garbage
in place of every missing pixel must leave their runs as they are, to the bit; the supervised
baselines are the counterpart that shows that the garbage is there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import assert_same_run, changed, put_garbage_under_the_missing_pixels, weights
from PIL import Image

from paperlib import paths
from paperlib.config import RunConfig
from paperlib.corruption import CORRUPTIONS
from paperlib.data import load_prepared, prepare
from paperlib.methods import METHODS
from paperlib.training import train

SUPERVISED = [{"method": "unpaired"}, {"method": "paired"}]
TABLE_1 = [{"method": m} for m in ("base", "encoding_z", "encoding_y", "both", "mask_aware")]
WHAT_D_SEES = [
    {"method": method, "discriminator_sees": sees}
    for method in ("both", "misgan")
    for sees in ("own_mask", "both_masks")
]
UNSUPERVISED = [*TABLE_1, {"method": "misgan"}, *WHAT_D_SEES]
EVERY_CORRUPTION = [
    {"method": method, "corruption": corruption}
    for method in ("both", "mask_aware", "misgan")
    for corruption in CORRUPTIONS
    if corruption != "small_patch"  # which all of the others have
]


def label(changes: dict) -> str:
    return "-".join(map(str, changes.values()))


def test_every_method_is_one_or_the_other():
    assert {run["method"] for run in UNSUPERVISED + SUPERVISED} == METHODS.keys()


@pytest.fixture(scope="session")
def tiny_config(tiny_config) -> RunConfig:
    """Cheaper still."""
    return changed(tiny_config, critic_steps=2)


@pytest.fixture(scope="module")
def original(prepared_once, tmp_path_factory):
    """A function that trains a configuration on the data as they are, once, and gives its folder."""
    done: dict[str, Path] = {}

    def run(config: RunConfig) -> Path:
        key = config.model_dump_json()
        if key not in done:
            done[key] = tmp_path_factory.mktemp(config.name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(paths, "DATA", prepared_once)
                train(config, done[key])
        return done[key]

    return run


# Prepared images


@pytest.mark.parametrize("changes", [*UNSUPERVISED, *EVERY_CORRUPTION], ids=label)
def test_training_cannot_see_what_is_missing(workspace, tiny_config, original, changes):
    config = changed(tiny_config, **changes, steps=2)
    data = load_prepared(config.data)
    before = data.images().copy()
    n = put_garbage_under_the_missing_pixels(
        config, data.indices("training"), np.random.default_rng(1)
    )
    assert (data.images() != before).any(-1).sum() > 0.9 * n > 0  # the garbage is there
    train(config, workspace / "garbage")
    assert_same_run(original(config), workspace / "garbage")


@pytest.mark.parametrize("changes", SUPERVISED, ids=label)
def test_supervised_training_does_see_what_is_missing(workspace, tiny_config, original, changes):
    # minimax: a hinge that is sure of its few complete images learns nothing from them
    config = changed(tiny_config, **changes, steps=2, adversarial="minimax")
    rows = load_prepared(config.data).indices("training")
    put_garbage_under_the_missing_pixels(config, rows, np.random.default_rng(1))
    train(config, workspace / "garbage")
    assert weights(original(config)) != weights(workspace / "garbage")


def test_unpaired_training_cannot_see_what_is_missing_of_the_images_it_observes(
    workspace, tiny_config, original
):
    config = changed(tiny_config, method="unpaired", steps=2, adversarial="minimax")
    observed = load_prepared(config.data).indices("training")[::2]
    put_garbage_under_the_missing_pixels(config, observed, np.random.default_rng(1))
    train(config, workspace / "garbage")
    assert_same_run(original(config), workspace / "garbage")


@pytest.mark.parametrize("changes", UNSUPERVISED, ids=label)
def test_training_does_see_what_is_observed(workspace, tiny_config, original, changes):
    # The counterpart, without which the first test could pass for want of any influence.
    config = changed(tiny_config, **changes, steps=2)
    data = load_prepared(tiny_config.data)
    images = np.load(data.folder / "images.npy", mmap_mode="r+")
    images[data.indices("training")] ^= 1  # the last bit of each pixel
    images.flush()
    train(config, workspace / "changed")
    assert weights(original(config)) != weights(workspace / "changed")


@pytest.mark.parametrize("changes", [*UNSUPERVISED, *SUPERVISED], ids=label)
def test_no_training_reads_the_other_splits(workspace, tiny_config, original, changes):
    config = changed(tiny_config, **changes, steps=2)
    data, rng = load_prepared(config.data), np.random.default_rng(1)
    images = np.load(data.folder / "images.npy", mmap_mode="r+")
    for split in ("validation", "test"):
        rows = data.indices(split)
        images[rows] = rng.integers(0, 256, images[rows].shape, dtype=np.uint8)
    images.flush()
    train(config, workspace / "changed")
    assert_same_run(original(config), workspace / "changed")


# Files, before they are prepared


def write_incomplete_files(folder: Path, rule: str, garbage: int) -> None:
    """Eight files of which the same pixels are observed; under the holes garbage of its seed."""
    folder.mkdir()
    rng, hidden = np.random.default_rng(0), np.random.default_rng(garbage)
    for i in range(8):
        values = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        observed = (rng.random((8, 8)) < 0.7).repeat(4, 0).repeat(4, 1)
        values[~observed] = hidden.integers(0, 256, (int((~observed).sum()), 3), dtype=np.uint8)
        mask = observed * np.uint8(255)
        if rule == "alpha":
            Image.fromarray(np.dstack([values, mask])).save(folder / f"{i}.png")
        elif rule == "mask":
            Image.fromarray(values).save(folder / f"{i}.png")
            Image.fromarray(mask).save(folder / f"{i}.mask.png")
        else:  # NaN in one band is enough to miss a pixel; the others may hold anything
            floats = values / np.float32(255)
            floats[~observed, 0] = np.nan
            np.save(folder / f"{i}.npy", floats)


@pytest.mark.parametrize("rule", ["alpha", "mask", "nan"])
@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_preparing_incomplete_images_lets_nothing_under_the_holes_through(
    empty_workspace, rule, fit
):
    checksums = []
    for garbage in (1, 2):
        folder = empty_workspace / str(garbage)
        write_incomplete_files(folder, rule, garbage)
        config = incomplete_config(folder, missing=rule, fit=fit)
        prepared = prepare(config.data)
        checksums.append(prepared.checksum)
    assert checksums[0] == checksums[1]  # it is over images, masks and splits


def incomplete_config(folder: Path, **changes) -> RunConfig:
    return RunConfig(
        **{"dataset": "incomplete", "source": str(folder), "corruption": "observed", "size": 16}
        | {"attention": 0, "g_channels": [8, 8], "d_channels": [8, 8], "e_channels": [8, 8]}
        | {"steps": 2, "batch_size": 4, "threads": 1, "test": 0}
        | changes
    )


@pytest.mark.parametrize("changes", UNSUPERVISED, ids=label)
def test_training_on_incomplete_images_cannot_see_what_lies_under_their_holes(
    empty_workspace, changes
):
    for garbage in (1, 2):
        folder = empty_workspace / f"files{garbage}"
        write_incomplete_files(folder, "alpha", garbage)
        config = incomplete_config(folder, **changes)
        prepare(config.data)
        train(config, empty_workspace / f"run{garbage}")
    assert_same_run(empty_workspace / "run1", empty_workspace / "run2")


# Where and how a run is computed


def test_two_processes_at_once_compute_what_one_does(workspace, tiny_config, original):
    # They read the same data, and fight for the cores.
    runs = [changed(tiny_config, method=method) for method in ("both", "misgan")]
    shared = {k: v for k, v in tiny_config.model_dump().items() if v != getattr(RunConfig(), k)}
    profile = workspace / "tiny.yaml"
    profile.write_text(yaml.safe_dump(shared | {"matrix": {"method": [r.method for r in runs]}}))
    places = {"PAPERLIB_DATA": str(paths.DATA), "PAPERLIB_RESULTS": str(paths.RESULTS)}
    other = subprocess.Popen(
        [sys.executable, "-m", "paperlib", "train", str(profile)],
        env=os.environ | places,
        stderr=subprocess.DEVNULL,
    )
    while other.poll() is None:
        for config in runs:
            shutil.rmtree(workspace / "here", ignore_errors=True)
            train(config, workspace / "here")
            assert_same_run(original(config), workspace / "here")
    assert other.returncode == 0
    for config in runs:
        assert_same_run(original(config), paths.runs("tiny") / config.name)


@pytest.mark.parametrize("changes", [*UNSUPERVISED, *SUPERVISED], ids=label)
def test_deterministic_algorithms_change_no_bit_on_the_cpu(
    workspace, tiny_config, original, changes
):
    config = changed(tiny_config, **changes, steps=2)
    train(changed(config, deterministic=True), workspace / "b")
    assert_same_run(original(config), workspace / "b")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("changes", [*UNSUPERVISED, *SUPERVISED], ids=label)
def test_deterministic_runs_on_a_gpu_are_identical_to_the_bit(
    workspace, tiny_config, changes, corruption
):
    config = changed(tiny_config, **changes, corruption=corruption, deterministic=True)
    for name in ("a", "b"):
        train(config, workspace / name, device="cuda")
    assert_same_run(workspace / "a", workspace / "b")
