"""The notebooks' links are what the script makes, and every notebook says what a reader must know."""

import re
import shutil

import nbformat
import pytest
from helpers import load_script

from paperlib import paths

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture(scope="module")
def script():
    return load_script("link_notebooks")


def test_the_links_in_the_repository_are_what_the_script_makes(script):
    made = script.linked(paths.NOTEBOOKS)
    assert list(made) == NOTEBOOKS
    for path, notebook in made.items():
        assert notebook == nbformat.read(path, as_version=4), (
            f"{path.name}: run scripts/link_notebooks.py"
        )


def test_links_lead_to_neighbours_by_number_and_by_title(script, tmp_path):
    for old, new in ((0, "00_first"), (1, "03_second"), (2, "10_third")):
        shutil.copy(NOTEBOOKS[old], tmp_path / f"{new}.ipynb")
    first, second, third = script.linked(tmp_path).values()
    title = script.title(nbformat.read(NOTEBOOKS[1], as_version=4))
    assert first.cells[1].source == first.cells[-1].source == f"[{title}](03_second.ipynb) →"
    assert re.findall(r"\((.*?)\)", second.cells[1].source) == ["00_first.ipynb", "10_third.ipynb"]
    assert third.cells[-1].source.startswith(f"← [{title}]")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_begins_with_what_how_long_and_what_for_and_ends_with_where_to_go(path):
    cells = nbformat.read(path, as_version=4).cells
    head, body_end = cells[0].source, cells[-2].source
    assert head.startswith("# ") and "**You will learn**" in head and "**Needs:**" in head
    time = re.search(r"\*\*Time:\*\*(.*?)(\*\*|\n|$)", head)
    assert time and re.search(r"\bcores?\b|GPU", time[1])  # of which machine
    assert "**Next:**" in body_end
    for target in re.findall(r"\]\(([^)#:]+\.ipynb)", "\n".join(c.source for c in cells)):
        assert (paths.NOTEBOOKS / target).is_file()
