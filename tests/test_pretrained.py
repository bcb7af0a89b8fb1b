"""The runs that come with the package."""

import json
import shutil
import tomllib

import pytest
import torch

from paperlib import paths, pretrained
from paperlib.config import load_profile
from paperlib.data import _split
from paperlib.records import RunError, load_config, read_json
from paperlib.sources import BlueMarble
from paperlib.training import load_generator


@pytest.mark.parametrize("name", pretrained.names())
def test_they_are_runs_of_the_published_table(name):
    published = json.loads((paths.ROOT / "docs/results/quick/records.json").read_text())
    record = read_json(pretrained.run(name) / "record.json")
    assert record == published["runs"][name]["training"]


@pytest.mark.parametrize("name", pretrained.names())
def test_they_are_runs_of_quick_as_it_stands(name):
    (config,) = [c for c in load_profile("quick") if c.name == name]
    assert load_config(pretrained.run(name)) == config


def test_an_altered_one_is_refused(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(pretrained.run(pretrained.names()[0]), run)
    weights = bytearray((run / "generator.safetensors").read_bytes())
    weights[-1] ^= 1
    (run / "generator.safetensors").write_bytes(weights)
    with pytest.raises(RunError, match="not the file that its record"):
        load_generator(run)


def test_an_unknown_one_is_refused_with_the_known_names():
    with pytest.raises(RunError, match="drop_pixel-both-seed0"):
        pretrained.run("large")


def test_neither_run_has_seen_the_images():
    source = BlueMarble(pretrained.SIZE)
    splits = _split(load_config(pretrained.run(pretrained.names()[0])).data, source, source.ids)
    assert set(pretrained.IMAGES.values()) <= {source.ids[row] for row in splits["test"]}


def test_the_images_are_the_tiles_scaled():
    tile = BlueMarble(pretrained.SIZE).read(pretrained.IMAGES["Qatar"])
    image = pretrained.images()["Qatar"]
    assert torch.equal((image * 127.5 + 127.5).round().byte(), torch.tensor(tile).permute(2, 0, 1))


def test_the_package_includes_every_file_of_them():
    setup = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = paths.ROOT / "paperlib"
    included = {f for pattern in setup["package-data"]["paperlib"] for f in package.glob(pattern)}
    assert {f for f in pretrained.RUNS.rglob("*") if f.is_file()} <= included
