"""Tables rest on records alone. The records here are made up."""

import io
import math

import pandas as pd
import pytest
from helpers import measured, write_run

from paperlib import paths
from paperlib.paper import tables
from paperlib.profiles import evaluation_configs, load_profile
from paperlib.records import write_json

PROFILE = """
matrix:
  corruption: [small_patch]
  method: [base, both, misgan]
  seed: [0, 1]
"""
BASE, BOTH = (0.030, 0.034), (0.010, 0.014)  # MSE of the two seeds


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """A profile of which base and both have records, of two seeds; its path."""
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    path = tmp_path / "made_up.yaml"
    path.write_text(PROFILE)
    for config in load_profile(str(path)):
        if config.method == "misgan":
            continue
        mse = {"base": BASE, "both": BOTH}[config.method][config.seed]
        std = {"base": 0.01, "both": 0.025}[config.method]
        numbers = {"mse": mse, "std": std, "FD-efflite0": 100 * mse, "energy": 10 * mse}
        write_run("made_up", config, numbers)
    return str(path)


def long(profile):
    return tables.table(tables.load_records(profile))


def value(table, method, metric, column="value", corruption="small_patch"):
    row = table.query("corruption == @corruption and method == @method and metric == @metric")
    return row[column].item()


def test_mean_and_student_interval_over_seeds(profile):
    table = long(profile)
    assert value(table, "both", "mse") == pytest.approx(0.012)
    # t(0.975, 1 degree of freedom) = 12.7062, standard error = 0.002
    assert value(table, "both", "mse", "high") == pytest.approx(0.012 + 12.7062 * 0.002, rel=1e-4)
    assert value(table, "both", "mse", "seeds") == 2


def test_a_missing_run_shows_a_dash_and_nothing_else_does(profile):
    for run in paths.runs("made_up").glob("*base*"):
        (run / "evaluation.json").unlink()
    cells = tables.cells(long(profile), ["mse"], tables.TABLE1, {})
    assert cells.loc["base (eq. 5)", "Small Patch: MSE"] == tables.DASH
    assert cells.loc["both (eq. 8)", "Small Patch: MSE"] == "**0.0120**"
    rows = [label for method, label in tables.TABLE1.items() if method not in tables.OPTIONAL]
    assert (cells.loc[rows, "One Patch: MSE"] == tables.DASH).all()


def test_the_paper_s_numbers_stand_in_rows_of_their_own(profile):
    table = long(profile)
    assert value(table, "both", "mse", "paper") == 0.059
    assert value(table, "encoding_z", "std", "paper", "drop_pixel") == 0.074
    assert math.isnan(value(table, "encoding_z", "std"))  # no record: none of ours
    cells = tables.cells(table, ["FD-efflite0", "mse", "std"], tables.TABLE1, {})
    papers = cells.loc["encoding z (eq. 6), the paper"]
    assert papers["Drop Pixel: std"] == "0.074" and papers["One Patch: FD-efflite0"] == "56.38"
    assert not {"scored (ours), the paper", "mask-aware (ours)"} & {*cells.index}


def test_the_best_error_is_bold_and_no_std_is(profile):
    cells = tables.cells(long(profile), ["FD-efflite0", "mse", "std"], tables.TABLE1, {})
    both, base = cells.loc["both (eq. 8)"], cells.loc["base (eq. 5)"]
    assert (both["Small Patch: MSE"], base["Small Patch: MSE"]) == ("**0.0120**", "0.0320")
    assert both["Small Patch: std"] == "0.0250"
    assert both["Small Patch: FD-efflite0"] == "**1.2**"


def test_a_method_worse_than_its_start_is_marked(profile):
    config = evaluation_configs(profile)[0]
    about = {"config": config.model_dump(), "data_checksum": "def"}
    start = about | {"metrics": measured({"mse": 0.02, "energy": 0.2, "std": 0.0})}
    write_json(paths.RESULTS / "made_up" / "references" / "small_patch-start.json", start)
    records = tables.load_records(profile)
    marked = tables.marks(tables.table(records), records)
    assert marked["small_patch", "base"] == tables.WORSE  # .32 against .20; both has .12
    assert marked["small_patch", "both"] == marked["small_patch", "start"] == ""
    assert "3.2 †" in tables.rendered("made_up", records)["table1.md"]  # behind the first cell


@pytest.mark.parametrize("last, mark", [(0.3, tables.STILL_FALLING), (0.5, "")])
def test_misgan_whose_error_still_falls_is_marked(last, mark):
    course = [{"mse_missing": 0.4}, {"mse_missing": last}]
    records = {("one_patch", "misgan"): [{"metrics": {}, "course": course}]}
    assert tables.marks(tables.table(records), records) == {("one_patch", "misgan"): mark}


def test_tables_are_written_in_three_formats(profile):
    texts = tables.rendered("made_up", tables.load_records(profile))
    assert texts.keys() == {f"{stem}.{suffix}" for stem in ("table1", "table2", "beyond")
                            for suffix in ("csv", "md", "tex")}  # fmt: skip
    assert value(pd.read_csv(io.StringIO(texts["table2.csv"])), "both", "mse") == 0.012
    assert "**0.0120**" in texts["table1.md"] and "500 test images" in texts["table1.md"]
    assert r"\textbf{0.0120}" in texts["table1.tex"] and r"\toprule" in texts["table1.tex"]
    assert "Navier-Stokes" in texts["table2.md"] and "energy score" in texts["beyond.md"]
