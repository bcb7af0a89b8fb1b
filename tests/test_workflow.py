"""One run of the whole smoke profile, through Snakemake, papermill and the notebooks.

The fixture ``workflow`` begins it before the first test. Its results stay in the session's folder:
the notebooks that nbval runs afterwards show them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from conftest import SNAKEMAKE

from paperlib import paths
from paperlib.profiles import load_profile
from paperlib.records import read_json, read_record


def snakemake(*targets: Path) -> str:
    command = [*SNAKEMAKE, *map(str, targets), "--config", "profile=smoke"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def smoke(workflow) -> Path:
    process, output = workflow
    assert process.wait() == 0, output.read_text()
    return paths.RESULTS / "smoke"


def test_every_run_leaves_a_record_with_its_provenance(smoke):
    for config in load_profile("smoke"):
        record = read_record(smoke / "runs" / config.name / "record.json")
        assert record["config"] == config.model_dump() and record["steps"] == config.steps
        told = ("seed", "commit", "versions", "hardware", "data_checksum", "date", "seconds")
        assert not {*told} - record.keys()
        depends_on = (smoke / "parameters" / f"{config.name}.yaml").read_text()
        assert yaml.safe_load(depends_on) == config.model_dump()  # trained again if it changes


def test_every_notebook_was_executed_and_kept_the_baselines_in_their_own(smoke):
    titles = {}
    for path in (smoke / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert all(c.execution_count for c in cells if c.cell_type == "code"), path
        titles[path.stem] = cells[0].source[:4]
    assert {name[:2] for name in titles} == {"01", "tr", "04", "05", "06"}
    assert titles["train-small_patch-misgan-seed0"] == "# 3."
    assert titles["train-small_patch-both-seed0"] == "# 2."


def test_tables_and_page_show_what_the_notebooks_computed(smoke):
    record = read_record(smoke / "runs" / "drop_pixel-both-seed0" / "evaluation.json")
    ours = record["metrics"]["mse"]["value"]
    assert f"{ours:.4f}" in (smoke / "report.html").read_text()
    table1 = pd.read_csv(smoke / "table1.csv").set_index(["corruption", "method", "metric"])
    assert table1["value"]["drop_pixel", "both", "mse"] == pytest.approx(ours)
    assert table1["value"]["one_patch"].isna().all()  # not in the profile
    reference = read_record(smoke / "references" / "small_patch-biharmonic.json")["metrics"]["mse"]
    table2 = pd.read_csv(smoke / "table2.csv").query("corruption == 'small_patch'")
    row = table2.query("method == 'biharmonic' and metric == 'mse'")
    assert row["value"].item() == pytest.approx(reference["value"])
    measured = table2.dropna(subset="value")["method"]
    assert set(table2["method"]) - set(measured) == {"uair", "unpaired"}  # no record


def test_every_claim_is_judged(smoke):
    claims = pd.read_csv(smoke / "claims.csv")
    assert set(claims["claim"]) == set(range(1, 9))
    assert set(claims["outcome"]) <= {"holds", "fails", "open", "untestable"}
    assert (claims.query("corruption == 'one_patch'")["outcome"] == "untestable").all()  # no run
    assert "# The paper's claims" in (smoke / "claims.md").read_text()


def test_only_what_changed_is_run_again(smoke):
    assert "Nothing to be done" in snakemake()
    run = smoke / "runs" / "small_patch-base-seed0"
    trained = (run / "record.json").read_bytes()
    measured = read_json(run / "evaluation.json")["metrics"]
    (run / "evaluation.json").unlink()
    snakemake(run / "evaluation.json")
    assert (run / "record.json").read_bytes() == trained
    assert read_json(run / "evaluation.json")["metrics"] == measured
