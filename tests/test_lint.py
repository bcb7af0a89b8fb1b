"""The tools that `make lint` and pre-commit run: the same versions, and notebooks kept as they are."""

import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output
from test_config import locked

from paperlib import paths

HOOKS = yaml.safe_load((paths.ROOT / ".pre-commit-config.yaml").read_text())["repos"]


@pytest.mark.parametrize("tool, place", [("ruff", "ruff-pre-commit"), ("nbstripout", "nbstripout")])
def test_pre_commit_has_the_locked_versions(tool, place):
    (repository,) = (r for r in HOOKS if r["repo"].endswith(f"/{place}"))
    assert [repository["rev"].removeprefix("v")] == locked()[tool]


def test_every_hook_is_pinned():
    assert all(any(c.isdigit() for c in repository["rev"]) for repository in HOOKS)


def nbstripout(*arguments) -> subprocess.CompletedProcess:
    pytest.importorskip("nbstripout")
    (hook,) = (h for r in HOOKS for h in r["hooks"] if h["id"] == "nbstripout")
    command = [sys.executable, "-m", "nbstripout", *hook["args"], *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_notebooks_are_stored_without_outputs():
    done = nbstripout("--verify", *sorted(paths.NOTEBOOKS.glob("*.ipynb")))
    assert done.returncode == 0, done.stdout


def test_stripping_keeps_the_parameters_tag_the_ids_and_outputs_marked_to_be_kept(tmp_path):
    output = new_output("stream", text="seen")
    cells = [
        new_code_cell("a = 1", id="first", metadata={"tags": ["parameters"]}, outputs=[output]),
        new_code_cell("b", id="second", metadata={"tags": ["keep_output"]}, outputs=[output]),
        new_code_cell("c", id="third", metadata={"keep_output": True}, outputs=[output]),
    ]
    path = tmp_path / "a.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    before = shutil.copy(path, tmp_path / "before.ipynb")
    assert nbstripout(path).returncode == 0
    stripped, before = (nbformat.read(p, as_version=4).cells for p in (path, before))
    assert [len(cell.outputs) for cell in stripped] == [0, 1, 1]
    assert [(c.id, c.metadata) for c in stripped] == [(c.id, c.metadata) for c in before]


def test_the_library_s_types_are_right():
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
