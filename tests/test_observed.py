"""Data sets of really incomplete images: their tiles and masks, their limits, what is described."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from holed_images import picture, write
from PIL import Image

from paperlib import paths
from paperlib.beyond.incomplete import describe
from paperlib.config import RunConfig
from paperlib.data.datasets import Observations, law_of
from paperlib.data.prepare import prepare
from paperlib.errors import DataError
from paperlib.training.loop import train

SIZE = 16


@pytest.fixture
def folder(empty_workspace) -> Path:
    (place := empty_workspace / "mine").mkdir()
    return place


def write_scenes(folder: Path) -> None:
    """Eight RGBA files of six tiles each; the colours under the holes are garbage."""
    for i in range(8):
        write(folder / f"s {i}é.png", picture(32, 48, seed=i))


def config(folder: Path, **changes) -> RunConfig:
    return RunConfig(
        **{"dataset": "incomplete", "source": str(folder), "corruption": "observed", "size": SIZE}
        | {"attention": 0, "g_channels": [8, 8], "d_channels": [8, 8], "e_channels": [8, 8]}
        | {"steps": 2, "batch_size": 4, "threads": 1, "test": 0.0}
        | changes
    )


def test_tiles_hold_what_was_observed_and_nothing_else(folder):
    write_scenes(folder)
    every, half = np.ones((32, 48), bool), np.indices((SIZE, 2 * SIZE))[1] >= SIZE
    write(folder / "clear.png", picture(32, 48), observed=every)  # an observation like any other
    write(folder / "half.png", picture(SIZE, 2 * SIZE), observed=half)  # of a tile nothing is seen
    prepared = prepare(config(folder).data)
    manifest = prepared.manifest
    assert manifest["count"] == 9 * 6 + 1
    assert not manifest["failed"] and manifest["limits"] == [[0, 255]] * 3
    assert manifest["ids"].index("half.png#0,0") not in np.concatenate(
        [*manifest["splits"].values()]
    )
    for name, levels, seen in zip(
        manifest["ids"], prepared.images(), prepared.masks(), strict=True
    ):
        file, _, place = name.rpartition("#")
        top, left = map(int, place.split(","))
        whole = np.asarray(Image.open(folder / file))[top : top + SIZE, left : left + SIZE]
        assert (seen == (whole[..., 3] > 0)).all()
        assert (levels[seen] == whole[seen][:, :3]).all() and not levels[~seen].any()


@pytest.mark.parametrize("bands", [1, 5])
def test_bands_are_scaled_by_limits_that_manifest_and_record_keep(folder, bands):
    for i in range(6):
        values = 12 * picture(SIZE, SIZE, bands, np.float32, seed=i) - 3
        values[0, i], values[1, 0], values[2, 0] = np.nan, -3, 9
        np.save(folder / f"{i}.npy", values)
    run = config(folder, bands=bands)
    prepared = prepare(run.data)
    assert prepared.manifest["limits"] == [[-3.0, 9.0]] * bands
    rows = prepared.indices("training")
    y, m = Observations(prepared, "training", law_of(run), 0, "cpu").batch(np.arange(len(rows)))
    assert y.shape[1] == bands
    file = prepared.manifest["ids"][rows[0]].rpartition("#")[0]
    expected = (np.load(folder / file) + 3) / 6 - 1
    error = np.nan_to_num(expected) - y[0].permute(1, 2, 0).numpy()
    assert np.abs(error[m[0, 0].numpy() > 0]).max() <= 1 / 255
    assert train(run, paths.RESULTS / "run")["limits"] == [[-3.0, 9.0]] * bands


def test_a_bad_file_is_named_once_not_once_for_each_of_its_tiles(folder, monkeypatch):
    write_scenes(folder)
    (folder / "cut é.png").write_bytes((folder / "s 0é.png").read_bytes()[:-900])
    data = config(folder).data
    with pytest.raises(DataError, match="cut é.png: cannot be read"):
        prepare(data)
    monkeypatch.setattr("paperlib.data.prepare.TOLERATED_FAILURES", 0.9)
    prepared = prepare(data)
    assert list(prepared.manifest["failed"]) == ["cut é.png#0,0"]
    assert prepared.manifest["count"] == 8 * 6


def test_band_of_one_value_is_named_and_nothing_half_written_is_left(folder):
    write(folder / "a.npy", np.ones((SIZE, SIZE, 1), np.float32), "nan")
    with pytest.raises(DataError, match="a.npy#0,0: .*mine: .*a band has one value"):
        prepare(config(folder, bands=1, validation=0.0).data)
    assert not list(paths.DATA.glob("incomplete-*"))


@pytest.mark.parametrize("dependent", [False, True])
def test_a_description_counts_and_tests(folder, dependent):
    rng = np.random.default_rng(2)
    for i in range(60):  # in the dependent ones more is missing where it is brighter
        hidden = 1 + i % (SIZE - 4)
        level = 60 + 10 * hidden if dependent else rng.integers(60, 190)
        observed = np.ones((SIZE, SIZE), bool)
        observed[:hidden] = observed[:, 0] = False  # a dead column
        values = np.full((SIZE, SIZE, 3), level, np.uint8)
        write(folder / f"{i}.png", values, observed=observed)
    text, observed_by = describe(prepare(config(folder, validation=0.0).data))
    assert (observed_by[:, 0] == 0).all() and (observed_by[-1, 1:] == 1).all()
    shares = np.array([(SIZE + (SIZE - 1) * (1 + i % (SIZE - 4))) / SIZE**2 for i in range(60)])
    assert f"60 images, {SIZE - 4} different masks" in text
    assert f"missing: {shares.mean():.1%} of an image, from {shares.min():.1%}" in text
    assert f"{2 * SIZE - 1} of {SIZE**2} pixels are observed in no image" in text  # and row 0
    assert ("look dependent" in text) == dependent
