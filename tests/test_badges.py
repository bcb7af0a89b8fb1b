"""The badges that a published copy of the repository gets."""

from __future__ import annotations

import shutil

import nbformat
import pytest
from helpers import load_script

from paperlib import paths


@pytest.fixture
def script():
    return load_script("add_badges")


def test_badges_open_the_tour_and_are_added_once(script, tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("README.md", script.TOUR):
        shutil.copy(paths.ROOT / name, tmp_path / name)
    before = (tmp_path / "README.md").read_text()
    tour_before = nbformat.read(tmp_path / script.TOUR, 4).cells
    for repository in ("somebody/else", "jane/in-painting"):
        script.add(repository, tmp_path)
    after = (tmp_path / "README.md").read_text()
    new = set(after.splitlines()) - set(before.splitlines())
    assert len(new) == 2 and len(after.splitlines()) == len(before.splitlines()) + 2
    assert all("jane/in-painting" in line and "notebooks/00_tour.ipynb" in line for line in new)
    cells = nbformat.read(tmp_path / script.TOUR, 4).cells
    added = [cell for cell in cells if cell not in tour_before]
    assert len(added) == 1 and "git+https://github.com/jane/in-painting" in added[0].source
    assert cells.index(added[0]) < min(i for i, c in enumerate(cells) if "import torch" in c.source)


@pytest.mark.parametrize("arguments", [[], ["name"], ["a/b/c"], ["a/b; rm"], ["a/b", "c"]])
def test_what_is_no_repository_is_refused(script, arguments, capsys):
    before = (paths.ROOT / "README.md").read_text()
    assert script.main(arguments) == 2
    assert "OWNER/REPOSITORY" in capsys.readouterr().err
    assert (paths.ROOT / "README.md").read_text() == before
