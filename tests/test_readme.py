"""What the README and its pages say can be done can be done: code, commands, files, links."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import load_script

from paperlib import paths
from paperlib.__main__ import main
from paperlib.core.baselines import METHODS
from paperlib.core.corruption import CORRUPTIONS
from paperlib.data.sources import SOURCES
from paperlib.records import read_json

README = paths.ROOT / "README.md"
publish = load_script("publish")
PAGES = pytest.mark.parametrize(
    "page", [README, *sorted((paths.ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
EXTENDING = paths.ROOT / "docs" / "extending.md"


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def test_a_method_a_corruption_and_a_data_set_are_added_as_the_pages_say(
    empty_workspace, monkeypatch
):
    monkeypatch.setitem(METHODS, "smooth", None)  # so that it is gone after the test
    monkeypatch.setitem(CORRUPTIONS, "columns", None)
    monkeypatch.setitem(SOURCES, "rows", None)
    monkeypatch.setattr(paths, "ROOT", empty_workspace)
    (empty_workspace / "data").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (60, 40, 33, 3), dtype=np.uint8)
    np.save(empty_workspace / "data/mine.npy", images)
    names = {}
    for block in python_blocks(EXTENDING):
        exec(compile(block, EXTENDING.name, "exec"), names)
    run = names["run"]
    config = read_json(run / "config.json")
    assert (config["method"], config["corruption"]) == ("smooth", "columns")
    assert "roughness" in (run / "log.jsonl").read_text()
    assert np.isfinite(read_json(run / "evaluation.json")["metrics"]["mse_missing"]["value"])
    prepared = names["prepare"](names["config"].data)
    assert np.array_equal(prepared.images()[7], images[7, :32, :32])
    assert set(python_blocks(README)) <= set(python_blocks(EXTENDING))


@PAGES
def test_links_and_files_named_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE) if anchor else []
        slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
        assert not anchor or anchor in slugs, target
    places = r"(?:benchmarks|notebooks|paperlib|scripts|tests|docs)/[\w/.-]*\w|profiles/\w+"
    for name in re.findall(rf"(?<![\w/.])(?:{places})", re.sub(r"https?://\S+", "", text)):
        assert (paths.ROOT / name).exists() or (page.parent / name).exists(), name


@PAGES
def test_commands_targets_and_profiles_exist(page):
    text = page.read_text()
    for command in {*re.findall(r"(?:python -m |-m -- )paperlib (\w+)", text)}:
        assert main([command, "--help"]) == 0
    targets = re.findall(r"^([\w-]+):", (paths.ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", text, flags=re.MULTILINE)) <= set(targets)
    named = set(re.findall(r"(?:PROFILE|profile)=(\w+)", text))
    named |= set(re.findall(r"configs/(\w+)\.yaml", text)) - {"mine"}  # mine: the reader's own
    assert all(paths.config(profile).is_file() for profile in named), named


def test_the_table_of_notebooks_is_complete():
    listed = re.findall(r"^\| `(\d\d_\w+)` \|", README.read_text(), flags=re.MULTILINE)
    assert listed == sorted(p.stem for p in paths.NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.parametrize("profile", publish.published())
def test_published_numbers_follow_from_the_committed_records(profile):
    folder = publish.PUBLISHED / profile
    records = publish.committed(profile)
    for name, text in publish.texts(profile, records).items():
        assert (folder / name).read_text() == text
    if page := publish.PAGES.get(profile):
        assert publish.TABLE.search(page.read_text())[0] == publish.short_table(profile, records)
