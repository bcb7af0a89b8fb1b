"""One run of the whole smoke profile, through Snakemake, papermill and the notebooks.

Its results stay in the session's folder: the notebooks that nbval runs afterwards show them.
"""

import json
import math
import re
import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from PIL import Image

from paperlib import paths
from paperlib.config import load_profile


def snakemake(*arguments: str) -> str:
    command = [sys.executable, "-m", "snakemake", *arguments, "--cores", "2"]
    done = subprocess.run(
        [*command, "--config", "profile=smoke"],
        cwd=paths.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def smoke():
    for config in load_profile("smoke"):  # other tests may have prepared the data
        shutil.rmtree(paths.DATA / config.data.folder, ignore_errors=True)
    snakemake()
    return paths.RESULTS / "smoke"


def test_every_run_leaves_a_record_with_its_provenance(smoke):
    for config in load_profile("smoke"):
        record = json.loads((smoke / "runs" / config.name / "record.json").read_text())
        assert record["config"] == config.model_dump()
        assert record["steps"] == config.steps
        for key in ("seed", "commit", "versions", "hardware", "data_checksum", "date", "seconds"):
            assert key in record


def test_every_notebook_was_executed_and_kept(smoke):
    executed = {path.stem.split("-")[0] for path in (smoke / "notebooks").glob("*.ipynb")}
    numbers = {name.split("_")[0] for name in executed}
    assert numbers == {"01", "train", "04", "05", "06"}
    for path in (smoke / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert all(c.execution_count for c in cells if c.cell_type == "code")


def test_the_table_shows_what_the_notebooks_computed(smoke):
    table = pd.read_csv(smoke / "table1.csv")
    run = smoke / "runs" / "drop_pixel-both-seed0"
    record = json.loads((run / "evaluation.json").read_text())
    row = table.query("corruption == 'drop_pixel' and method == 'both' and metric == 'mse'")
    assert row["value"].item() == pytest.approx(record["metrics"]["mse"]["value"])
    assert table.query("corruption == 'one_patch'")["value"].isna().all()  # not in the profile


def test_table_2_shows_the_references_and_the_baselines(smoke):
    table = pd.read_csv(smoke / "table2.csv").query("corruption == 'small_patch'")
    values = table[table["metric"].isin(["FID", "FD-efflite0"])].set_index("method")["value"]
    assert values.drop("uair").notna().all() and math.isnan(values["uair"])
    record = json.loads((smoke / "references" / "small_patch-biharmonic.json").read_text())
    row = table.query("method == 'biharmonic' and metric == 'mse'")
    assert row["value"].item() == pytest.approx(record["metrics"]["mse"]["value"])


def test_every_claim_has_a_verdict(smoke):
    claims = pd.read_csv(smoke / "claims.csv")
    assert set(claims["claim"]) == set(range(1, 9))
    assert set(claims["verdict"]) <= {"reproduced", "not reproduced", "inconclusive"}
    one_patch = claims.query("corruption == 'one_patch'")
    assert (one_patch["outcome"] == "open").all()  # not in the profile


def test_the_baselines_were_trained_by_their_own_notebook(smoke):
    notebook = nbformat.read(smoke / "notebooks" / "train-small_patch-misgan-seed0.ipynb", 4)
    assert notebook.cells[0].source.startswith("# 3. The baselines")
    notebook = nbformat.read(smoke / "notebooks" / "train-small_patch-both-seed0.ipynb", 4)
    assert notebook.cells[0].source.startswith("# 2. Train")


def test_figures_4_and_5_are_pictures_of_ten_observations(smoke):
    for name in ("figure4", "figure5"):
        picture = Image.open(smoke / f"{name}.png").convert("RGB")
        assert picture.width > 1.4 * picture.height  # ten columns, six rows
        assert len(picture.getcolors(1 << 24)) > 100
        assert (smoke / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_report_has_the_tables_and_links_to_executed_notebooks(smoke):
    html = (smoke / "report.html").read_text()
    record = json.loads((smoke / "runs" / "drop_pixel-both-seed0" / "evaluation.json").read_text())
    assert f"{record['metrics']['mse']['value']:.4f}" in html
    links = re.findall(r'href="(notebooks/[^"]+)"', html)
    assert "notebooks/train-drop_pixel-both-seed0.ipynb" in links
    assert all((smoke / link).is_file() for link in links)


def test_done_runs_are_not_run_again(smoke):
    assert "Nothing to be done" in snakemake()


def test_a_deleted_evaluation_is_made_again_without_training(smoke):
    run = smoke / "runs" / "small_patch-base-seed0"
    trained = (run / "record.json").read_bytes()
    measured = json.loads((run / "evaluation.json").read_text())["metrics"]
    (run / "evaluation.json").unlink()
    snakemake(str(run / "evaluation.json"))
    assert (run / "record.json").read_bytes() == trained
    assert json.loads((run / "evaluation.json").read_text())["metrics"] == measured
