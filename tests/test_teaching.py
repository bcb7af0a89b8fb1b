"""The checks of notebook 00, and the notebook itself with and without its reader's answers.

nbval leaves notebook 00 to this test, because its training takes minutes as it stands.
"""

from __future__ import annotations

import re

import nbformat
import papermill
import pytest
import torch

from paperlib import paths
from paperlib.beyond.teaching import check

TOUR = paths.NOTEBOOKS / "00_tour.ipynb"


@pytest.mark.parametrize(
    "yours, expected, within, verdict",
    [
        (0.5, 0.52, 0.05, "right"),
        (0.5, 0.62, 0.05, "look again"),
        ("both", "both", 0, "right"),
        ("both", 0.5, 1, "look again"),
        (torch.ones(2), torch.ones(2), 0, "right"),
        (torch.ones(2), torch.zeros(2), 0.5, "look again"),
        (torch.ones(3), torch.ones(2), 0, "look again"),
        (torch.tensor([1.0, torch.nan]), torch.ones(2), 0, "look again"),
    ],
)
def test_the_verdict(capsys, yours, expected, within, verdict):
    check("question", yours, expected, within)
    assert capsys.readouterr().out.strip().endswith(verdict)


def test_nothing_is_given_away_before_an_answer(capsys):
    check("share kept", None, 0.515)
    out = capsys.readouterr().out
    assert "no answer yet" in out and "0.515" not in out


def executed(notebook, folder) -> str:
    """Run it with four updates; what it printed."""
    nbformat.write(notebook, folder / "tour.ipynb")
    ran = papermill.execute_notebook(
        folder / "tour.ipynb", None, {"steps": 4}, kernel_name="python3", progress_bar=False
    )
    outputs = [o for cell in ran.cells if cell.cell_type == "code" for o in cell.outputs]
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")


def test_it_can_be_read_without_answering(tmp_path):
    printed = executed(nbformat.read(TOUR, as_version=4), tmp_path)
    assert "no answer yet" in printed and "look again" not in printed


def test_the_answers_that_it_gives_are_right(tmp_path):
    notebook = nbformat.read(TOUR, as_version=4)
    answered = 0
    for cell, after in zip(notebook.cells, notebook.cells[1:], strict=False):
        if "exercise" in cell.metadata.get("tags", []):
            (cell.source,) = re.findall(r"```python\n(.*?)```", after.source, re.DOTALL)
            answered += 1
    printed = executed(notebook, tmp_path)
    assert answered >= 8
    assert printed.count(": right") >= answered
    assert "no answer yet" not in printed and "look again" not in printed
