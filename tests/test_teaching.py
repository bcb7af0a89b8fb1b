"""The checks of notebook 00, and the notebook itself with and without its reader's answers.

nbval leaves notebook 00 to this test, because its training takes minutes as it stands.
"""

from __future__ import annotations

import re

import nbformat
import numpy as np
import papermill
import pytest
import torch

from paperlib import paths
from paperlib.beyond.teaching import check

TOUR = paths.NOTEBOOKS / "00_tour.ipynb"


@pytest.mark.parametrize(
    "yours, expected, within, said",
    [
        (0.5, 0.52, 0.05, "right"),
        (0.5, 0.62, 0.05, "look again"),
        ("both", "both", 0, "right"),
        ("both", 0.5, 1, "look again"),
        (0.0263, "0.0263", 0, "expected '0.0263', yours 0.0263: look again"),
        (0.5, torch.tensor(0.5), 0, "right"),
        (torch.ones(2), torch.ones(2), 0, "right"),
        (np.ones(2), torch.ones(2), 0, "right"),
        (np.full(2, 8), np.ones(2), 0, "mean 8 for 1, difference: expected 0, yours 7: look again"),
        (torch.ones(2, 1), torch.ones(2), 0, "shape: expected (2,), yours (2, 1): look again"),
        (torch.tensor([1.0, torch.nan]), torch.ones(2), 0, "look again"),
    ],
)
def test_what_is_said_of_an_answer(capsys, yours, expected, within, said):
    check("question", yours, expected, within)
    assert capsys.readouterr().out.strip().endswith(said)


def test_nothing_is_given_away_before_an_answer(capsys):
    check("share kept", None, 0.515)
    out = capsys.readouterr().out
    assert "no answer yet" in out and "0.515" not in out


def test_the_tour_can_be_read_without_answering_and_its_answers_are_right(tmp_path):
    """One run with four updates, in which each question is checked unanswered, then answered."""
    notebook = nbformat.read(TOUR, as_version=4)
    cells, answers = [], []
    for cell in notebook.cells:
        found = re.findall(r"```python\n(.*?)```", cell.source, re.DOTALL)
        if cell.cell_type == "markdown" and "<summary>Answer" in cell.source:
            answers += found
        cells.append(cell)
        if cell.cell_type == "code" and "check(" in cell.source and answers:
            again = "\n".join(line for line in cell.source.splitlines() if "check(" in line)
            cells.append(nbformat.v4.new_code_cell("\n".join([*answers, again])))
    notebook.cells = cells
    nbformat.write(notebook, tmp_path / "tour.ipynb")
    ran = papermill.execute_notebook(
        tmp_path / "tour.ipynb", None, {"steps": 4}, kernel_name="python3", progress_bar=False
    )
    outputs = [o for cell in ran.cells if cell.cell_type == "code" for o in cell.outputs]
    said = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    assert len(answers) >= 8
    assert said.count("no answer yet") >= len(answers) and said.count(": right") >= len(answers)
    assert "look again" not in said
    fresh = {cell.id: cell for cell in ran.cells}
    for cell in (c for c in notebook.cells if "# NBVAL_CHECK_OUTPUT" in c.source):  # pieces joined
        assert "".join(o.text for o in fresh[cell.id].outputs) == cell.outputs[0].text, cell.id
