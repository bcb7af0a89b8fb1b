"""The notebooks' form; that they run is shown by nbval and by the smoke profile."""

from __future__ import annotations

import ast

import nbformat
import pytest
from helpers import load_script

from paperlib import paths
from paperlib.config import RunConfig
from paperlib.core.baselines import BASELINES
from paperlib.errors import ConfigurationError
from paperlib.profiles import load_profile, run_of_profile, trained_profile
from paperlib.run import Run

execute_notebooks = load_script("execute_notebooks")
NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
RUN = {"profile", "corruption", "method", "seed", "changes"}
GIVEN = {  # by the Snakefile, or by hand; papermill only warns of one that a notebook does not have
    "01_prepare_data": RUN,
    "02_train": RUN | {"steps"},
    "03_baselines": RUN | {"steps"},
    "04_evaluate": {"profile", "run"},
    "05_figures": {"profile", "method", "images", "samples"},
    "06_tables": {"profile"},
}


def cell(name: str, wanted: str) -> str:
    """The source of the cell with this id, or this tag."""
    cells = nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    (found,) = [c for c in cells if wanted in (c.id, *c.metadata.get("tags", []))]
    return found.source


def parameters(name: str) -> dict:
    """The literals of a notebook's parameters cell; ast.literal_eval fails on anything else."""
    statements = ast.parse(cell(name, "parameters")).body
    return {s.targets[0].id: ast.literal_eval(s.value) for s in statements}


def configured(name: str, **changed) -> RunConfig:
    """What a training notebook makes of its parameters."""
    names = {"paths": paths, "Run": Run, "run_of_profile": run_of_profile}
    names |= {"trained_profile": trained_profile}
    names |= parameters(name) | changed
    exec(cell(name, "configuration"), names)
    return names["config"]


@EACH
def test_kernel_exists_on_every_machine(path):
    assert nbformat.read(path, as_version=4).metadata.kernelspec.name == "python3"


@EACH
def test_outputs_come_from_the_cells_beside_them(path):
    for code in nbformat.read(path, as_version=4).cells:
        if code.cell_type == "code":
            digest = execute_notebooks.digest(code.source)
            assert code.metadata.get("executed") == digest, f"{code.id} changed: make notebooks"


def test_outputs_are_small():
    for path in NOTEBOOKS:
        for code in nbformat.read(path, as_version=4).cells:
            for output in code.get("outputs", []):
                png = output.get("data", {}).get("image/png", "")
                assert len(png) * 3 / 4 <= 60_000, f"{path.name}, cell {code.id}"
    assert sum(path.stat().st_size for path in NOTEBOOKS) <= 4_000_000


@EACH
def test_one_short_parameters_cell_of_literals(path):
    assert parameters(path.stem)
    assert len(cell(path.stem, "parameters").splitlines()) <= 12


@EACH
def test_no_notebook_redefines_the_library(path):
    def defined(nodes):
        return {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}

    modules = (paths.ROOT / "paperlib").rglob("*.py")
    library = set().union(*(defined(ast.parse(p.read_text()).body) for p in modules))
    for code in nbformat.read(path, as_version=4).cells:
        if code.cell_type == "code" and "exercise" not in code.metadata.get("tags", []):
            assert not defined(ast.walk(ast.parse(code.source))) & library


@pytest.mark.parametrize("name", GIVEN)
def test_parameters_have_the_names_that_are_given_and_leave_the_profile_open(name):
    assert parameters(name).keys() == GIVEN[name]
    assert parameters(name)["profile"] is None


@pytest.mark.parametrize("name", ["02_train", "03_baselines"])
def test_the_training_notebooks_train_a_run_of_the_profile_with_changes(name):
    default = configured(name)
    assert default in load_profile("smoke")
    assert (default.method in BASELINES) == (name == "03_baselines")
    changed = configured(name, seed=7, steps=3, changes={"lambda_z": 0.5})
    assert changed.model_dump() == default.model_dump() | {"seed": 7, "steps": 3, "lambda_z": 0.5}
    with pytest.raises(ConfigurationError, match="unknown key 'lambda_q'"):
        configured(name, changes={"lambda_q": 1.0})
