"""What the README and its pages say can be done can be done: code, commands, files, links."""

import re

import numpy as np
import pytest

from paperlib import config, corruption, methods, paths, sources
from paperlib.__main__ import main
from paperlib.corruption import mask_law
from paperlib.records import read_json

README = paths.ROOT / "README.md"
PAGES = [README, *sorted((paths.ROOT / "docs").glob("*.md"))]
LONGEST = 15  # lines of code of a walk-through


def code_blocks(heading: str) -> list[str]:
    """The fenced Python blocks of a section of the README, in order."""
    section = README.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture
def registries():
    """What a test adds to the registries is gone after it."""
    dictionaries = (methods.METHODS, corruption.CORRUPTIONS, sources.FROM_FILES)
    before, names = [dict(d) for d in dictionaries], list(config.METHOD_NAMES)
    yield
    for dictionary, entries in zip(dictionaries, before, strict=True):
        dictionary.clear()
        dictionary.update(entries)
    config.METHOD_NAMES[:] = names


def test_a_method_a_corruption_and_a_data_set_are_added_as_the_readme_says(
    empty_workspace, registries, monkeypatch
):
    monkeypatch.setattr(paths, "ROOT", empty_workspace)
    (empty_workspace / "data").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (60, 40, 33, 3), dtype=np.uint8)
    np.save(empty_workspace / "data/mine.npy", images)
    blocks = code_blocks("How to add a method, a corruption, a data set")
    assert len(blocks) == 4
    names = {}
    for block in blocks:
        lines = [line for line in block.splitlines() if line.strip()]
        assert len(lines) <= LONGEST, block
        exec(compile(block, "README.md", "exec"), names)

    run = names["run"]
    config_of_run = read_json(run / "config.json")
    assert (config_of_run["method"], config_of_run["corruption"]) == ("smooth", "columns")
    assert "roughness" in (run / "log.jsonl").read_text()
    assert np.isfinite(read_json(run / "evaluation.json")["metrics"]["mse_missing"]["value"])
    prepared = names["data"].prepare(names["config"].data)
    assert np.array_equal(prepared.images()[7], images[7, :32, :32])
    masks = mask_law("columns").for_ids(range(5), 32, seed=0)
    assert (masks.sum(dim=(1, 2, 3)) == 32 * 16).all()
    assert (masks == masks[:, :, :1]).all() and not (masks == masks[:1]).all()


def test_a_method_keeps_its_name():
    with pytest.raises(ValueError, match="'both' already"):
        methods.register("both", methods.METHODS["both"])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist(page, capsys):
    text = page.read_text()
    listed = re.search(r"python -m paperlib (\w+(?: \| \w+)+)", text)
    commands = {*re.findall(r"(?:python -m |-m -- )paperlib (\w+)", text)}
    commands |= set(listed.group(1).split(" | ")) if listed else set()
    for command in commands:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
    targets = re.findall(r"^([\w-]+):", (paths.ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", text, flags=re.MULTILINE)) <= set(targets)
    assert page is not README or {"prepare", "train", "select", "inpaint"} <= commands


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_profiles_exist(page):
    text = page.read_text()
    named = set(re.findall(r"(?:PROFILE|profile)=(\w+)", text))
    named |= set(re.findall(r"configs/(\w+)\.yaml", text)) - {"mine"}  # mine: the reader's own
    for profile in named:
        assert paths.config(profile).is_file(), profile


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_named_exist(page):
    places = r"(?:benchmarks|notebooks|paperlib|scripts|tests|docs)/[\w/.-]*\w|profiles/\w+"
    text = re.sub(r"https?://\S+", "", page.read_text())
    for name in re.findall(rf"(?<![\w/.])(?:{places})", text):
        assert (paths.ROOT / name).exists() or (page.parent / name).exists(), name


def test_the_table_of_notebooks_is_complete_and_every_module_named_exists():
    text = README.read_text()
    in_table = re.findall(r"^\| `(\d\d_\w+)` \|", text, flags=re.MULTILINE)
    assert in_table == sorted(p.stem for p in paths.NOTEBOOKS.glob("*.ipynb"))
    table = text.split("| `paperlib/` | |\n")[1].split("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines()[1:]]
    modules = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert modules <= {p.stem for p in (paths.ROOT / "paperlib").glob("*.py")}
