"""What a run's result can depend on: nothing but what its method may see.

The training set that unsupervised methods learn from holds observations alone. So random garbage
in place of every missing pixel must leave their runs as they are, to the bit; the supervised
baselines are the counterpart that shows that the garbage is there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import assert_same_run, changed, put_garbage_under_the_missing_pixels, weights
from PIL import Image

from paperlib.config import DataConfig, RunConfig
from paperlib.core.baselines import METHODS
from paperlib.data.prepare import load_prepared, prepare
from paperlib.training.loop import train

SUPERVISED = ["unpaired", "paired"]
UNSUPERVISED = [name for name in METHODS if name not in SUPERVISED]
RUNS = [(method, "small_patch") for method in UNSUPERVISED]
RUNS += [("both", "one_patch"), ("both", "drop_pixel"), ("misgan", "drop_pixel")]


@pytest.fixture(scope="module")
def cheap(tiny_config) -> RunConfig:
    # minimax: a hinge that is sure of its few complete images learns nothing from them
    return changed(tiny_config, critic_steps=2, steps=2, adversarial="minimax")


@pytest.fixture
def original(workspace, cheap):
    """A function that trains a method on the data as they are."""

    def run(method: str, corruption: str = "small_patch") -> tuple[RunConfig, Path]:
        config = changed(cheap, method=method, corruption=corruption)
        train(config, workspace / "original")
        return config, workspace / "original"

    return run


def garbage_in_the_other_splits(config: RunConfig) -> None:
    data, rng = load_prepared(config.data), np.random.default_rng(1)
    images = np.load(data.folder / "images.npy", mmap_mode="r+")
    for split in ("validation", "test"):
        rows = data.indices(split)
        images[rows] = rng.integers(0, 256, images[rows].shape, dtype=np.uint8)
    images.flush()


def garbage_under_the_masks(config: RunConfig, which: slice = slice(None)) -> None:
    """Of the training images ``which``."""
    data = load_prepared(config.data)
    before, rows = data.images().copy(), data.indices("training")[which]
    n = put_garbage_under_the_missing_pixels(config, rows, np.random.default_rng(1))
    assert (data.images() != before).any(-1).sum() > 0.9 * n > 0  # the garbage is there


@pytest.mark.parametrize("method, corruption", RUNS)
def test_training_sees_neither_what_is_missing_nor_another_split(
    workspace, original, method, corruption
):
    config, before = original(method, corruption)
    garbage_under_the_masks(config)
    garbage_in_the_other_splits(config)
    train(config, workspace / "garbage")
    assert_same_run(before, workspace / "garbage")


@pytest.mark.parametrize("method", UNSUPERVISED)
def test_training_does_see_what_is_observed(workspace, original, method):
    # The counterpart, without which the first test could pass for want of any influence.
    config, before = original(method)
    data = load_prepared(config.data)
    images = np.load(data.folder / "images.npy", mmap_mode="r+")
    images[data.indices("training")] ^= 1  # the last bit of each pixel
    images.flush()
    train(config, workspace / "changed")
    assert weights(before) != weights(workspace / "changed")


@pytest.mark.parametrize("method", SUPERVISED)
def test_supervised_training_does_see_what_is_missing_but_no_other_split(
    workspace, original, method
):
    config, before = original(method)
    garbage_in_the_other_splits(config)
    if method == "unpaired":  # nor what is missing of the half of the images that it observes
        garbage_under_the_masks(config, slice(0, None, 2))
    train(config, workspace / "others")
    assert_same_run(before, workspace / "others")
    garbage_under_the_masks(config, slice(1, None, 2))
    train(config, workspace / "garbage")
    assert weights(before) != weights(workspace / "garbage")


def write_incomplete_files(folder: Path, rule: str, garbage: int) -> None:
    """Eight files of which the same pixels are observed; under the holes garbage of its seed."""
    folder.mkdir()
    rng, hidden = np.random.default_rng(0), np.random.default_rng(garbage)
    for i in range(8):
        values = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        observed = (rng.random((8, 8)) < 0.7).repeat(4, 0).repeat(4, 1)
        values[~observed] = hidden.integers(0, 256, (int((~observed).sum()), 3), dtype=np.uint8)
        if rule == "alpha":
            rgba = np.dstack([values, observed * np.uint8(255)])
            Image.fromarray(rgba).save(folder / f"{i}.png")
        else:  # NaN in one band is enough to miss a pixel; the others may hold anything
            floats = values / np.float32(255)
            floats[~observed, 0] = np.nan
            np.save(folder / f"{i}.npy", floats)


@pytest.mark.parametrize("rule", ["alpha", "nan"])
def test_preparing_incomplete_images_lets_nothing_under_the_holes_through(empty_workspace, rule):
    about = {"dataset": "incomplete", "size": 16, "missing": rule, "test": 0}
    one, other = (empty_workspace / name for name in ("one", "other"))
    for garbage, folder in enumerate((one, other)):
        write_incomplete_files(folder, rule, garbage)
    first, second = (prepare(DataConfig(**about, source=str(f))) for f in (one, other))
    assert first.checksum == second.checksum  # over all that training reads: images, masks, splits
    images, masks = first.images(), first.masks()
    assert 0 < masks.mean() < 1 and images[masks].std() > 10 and not images[~masks].any()
