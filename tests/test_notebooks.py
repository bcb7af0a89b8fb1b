"""The notebooks' form; that they run is shown by nbval and by the smoke profile."""

import ast

import nbformat
import pytest

from paperlib import paths
from paperlib.config import DataConfig, RunConfig, load_profile

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
PROFILES = sorted(path.stem for path in paths.CONFIGS.glob("*.yaml"))


def parameters(name: str) -> dict:
    """The literals of a notebook's parameters cell; ast.literal_eval fails on anything else."""
    notebook = nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    return {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(cell.source).body
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_kernel_exists_on_every_machine(path):
    assert nbformat.read(path, as_version=4).metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_one_parameters_cell_of_literals(path):
    assert parameters(path.stem)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_notebook_redefines_the_library(path):
    library = {p.stem for p in (paths.ROOT / "paperlib").glob("*.py")}
    names = set()
    for module in library:
        tree = ast.parse((paths.ROOT / "paperlib" / f"{module}.py").read_text())
        names |= {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            nodes = ast.walk(ast.parse(cell.source))
            defined = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
            assert not defined & names


def test_the_training_notebooks_have_every_key_and_the_library_s_defaults():
    # papermill only warns of a parameter that the notebook does not have
    assert parameters("02_train") == {"profile": "smoke"} | RunConfig().model_dump()
    misgan = {"profile": "smoke"} | RunConfig(method="misgan").model_dump()
    assert parameters("03_baselines") == misgan


@pytest.mark.parametrize("profile", PROFILES)
def test_every_key_of_every_profile_is_a_parameter(profile):
    for run in load_profile(profile):
        assert set(run.model_dump()) <= set(parameters("02_train"))


def test_the_data_notebook_has_every_key_and_the_library_s_defaults():
    assert parameters("01_prepare_data") == DataConfig().model_dump()


@pytest.mark.parametrize("name", ["04_evaluate", "05_figures", "06_tables"])
def test_the_notebooks_default_to_the_smoke_profile(name):
    assert parameters(name)["profile"] == "smoke"
