"""The runs that come with the package."""

from __future__ import annotations

import json
import tomllib

import pytest
import torch

from paperlib import paths
from paperlib.beyond import pretrained
from paperlib.config import DataConfig
from paperlib.data.prepare import prepare
from paperlib.data.sources import open_source
from paperlib.errors import RunError
from paperlib.profiles import load_profile
from paperlib.records import read_json
from paperlib.run import Run


@pytest.mark.parametrize("name", pretrained.names())
def test_they_are_runs_of_quick_and_of_its_published_table(name):
    published = json.loads((paths.ROOT / "docs/results/quick/records.json").read_text())
    run = Run(pretrained.run(name))
    assert read_json(run.folder / "record.json") == published["runs"][name]["training"]
    (config,) = [c for c in load_profile("quick") if c.name == name]
    assert run.config == config
    assert run.generator().nz == config.nz  # loads, and is what the record vouches for


def test_an_unknown_one_is_refused_with_the_known_names():
    with pytest.raises(RunError, match="drop_pixel-both-seed0"):
        pretrained.run("large")


def test_neither_run_has_seen_the_images_which_are_tiles_of_the_test_split(empty_workspace):
    data = prepare(DataConfig(size=32))
    tiles = [data.manifest["ids"][row] for row in data.indices("test")]
    assert set(pretrained.IMAGES.values()) <= set(tiles)
    tile = torch.tensor(open_source(DataConfig(size=32)).read(pretrained.IMAGES["Qatar"]))
    image = pretrained.images()["Qatar"]
    assert torch.equal((image * 127.5 + 127.5).round().byte(), tile.permute(2, 0, 1))


def test_the_package_includes_every_file_of_them():
    setup = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = pretrained.RUNS.parents[1]
    patterns = setup["package-data"]["paperlib"]
    included = {file for pattern in patterns for file in package.glob(pattern)}
    assert {file for file in pretrained.RUNS.rglob("*") if file.is_file()} <= included
