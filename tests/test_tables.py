"""Tables rest on records alone. The records here are made up."""

import math

import pandas as pd
import pytest

from paperlib import paths, records, tables
from paperlib.config import load_profile

PROFILE = """
matrix:
  corruption: [small_patch]
  method: [base, both]
  seed: [0, 1]
"""
BASE, BOTH = (0.030, 0.034), (0.010, 0.014)  # MSE of the two seeds


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """A profile of four runs with records; its path."""
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    path = tmp_path / "made_up.yaml"
    path.write_text(PROFILE)
    for config in load_profile(str(path)):
        mse = {"base": BASE, "both": BOTH}[config.method][config.seed]
        std = {"base": 0.01, "both": 0.025}[config.method]
        write_records(config, {"mse": mse, "std": std, "FD-efflite0": 100 * mse})
    return str(path)


def write_records(config, metrics, checksum="abc"):
    run = paths.runs("made_up") / config.name
    measured = {
        name: {"value": v, "low": v * 0.9, "high": v * 1.1, "images": 500}
        for name, v in metrics.items()
    }
    records.write_json(run / "record.json", {"generator_checksum": "abc"})
    records.write_json(
        run / "evaluation.json",
        {
            "config": config.model_dump(),
            "rests_on": {"generator_checksum": checksum},
            "metrics": measured,
        },
    )


def value(table, method, metric, column="value", corruption="small_patch"):
    row = table[
        (table.corruption == corruption) & (table.method == method) & (table.metric == metric)
    ]
    return row[column].item()


def test_mean_and_student_interval_over_seeds(profile):
    table = tables.table1(profile)
    assert value(table, "both", "mse") == pytest.approx(0.012)
    # t(0.975, 1 degree of freedom) = 12.7062, standard error = 0.002
    assert value(table, "both", "mse", "high") == pytest.approx(0.012 + 12.7062 * 0.002, rel=1e-4)
    assert value(table, "both", "mse", "seeds") == 2


def test_bootstrap_interval_of_a_single_seed(profile):
    one = tables.load_evaluations(profile).query("seed == 0")
    summary = tables.summarise(one).set_index(["method", "metric"])
    assert summary.loc[("base", "mse"), ["value", "low", "high"]].tolist() == pytest.approx(
        [0.030, 0.027, 0.033]
    )


def test_a_missing_run_shows_a_dash_and_nothing_else_does(profile):
    for run in paths.runs("made_up").glob("*base*"):
        (run / "evaluation.json").unlink()
    cells = tables.wide(tables.table1(profile), ["mse"], "{}", "")
    assert cells.loc["base (eq. 5)", ("Small Patch", "MSE")] == tables.DASH
    assert cells.loc["both (eq. 8)", ("Small Patch", "MSE")] == "0.0120"
    assert (cells["One Patch", "MSE"] == tables.DASH).all()
    assert not cells.xs("paper's MSE", axis=1, level=1).isin([tables.DASH]).any().any()


def test_best_is_bold_lower_for_error_higher_for_diversity(profile):
    cells = tables.wide(tables.table1(profile), ["FD-efflite0", "mse", "std"], "**{}**", "")
    both, base = cells.loc["both (eq. 8)", "Small Patch"], cells.loc["base (eq. 5)", "Small Patch"]
    assert (both["MSE"], base["MSE"]) == ("**0.0120**", "0.0320")
    assert (both["std"], base["std"]) == ("**0.0250**", "0.0100")
    assert both["FD-efflite0"] == "**1.2**"


def test_the_paper_s_numbers_stand_in_columns_of_their_own(profile):
    table = tables.table1(profile)
    assert value(table, "both", "mse", "paper") == 0.059
    assert value(table, "encoding_z", "std", "paper", "drop_pixel") == 0.074
    assert math.isnan(value(table, "encoding_z", "std"))  # no record: none of ours


def test_diversity_over_base(profile):
    ratios = tables.diversity(tables.table1(profile))
    assert ratios.loc[("small_patch", "both"), "std / base"] == pytest.approx(2.5)
    assert ratios.loc[("drop_pixel", "both"), "paper's std / base"] == pytest.approx(0.109 / 0.026)


def test_three_formats_are_written(profile):
    csv, md, tex = tables.write_tables(profile)
    assert value(pd.read_csv(csv), "both", "mse") == pytest.approx(0.012)
    assert "**0.0120** [" in md.read_text() and "500 test images" in md.read_text()
    assert r"\textbf{0.0120}" in tex.read_text() and r"\toprule" in tex.read_text()


def test_a_record_of_another_configuration_is_refused_by_name(profile):
    config = load_profile(profile)[0]
    write_records(config.model_copy(update={"lambda_y": 77.0}), {"mse": 0.5})
    with pytest.raises(records.RunError, match=r"evaluation\.json.*lambda_y: 77\.0"):
        tables.table1(profile)


def test_a_run_trained_again_after_its_evaluation_is_refused(profile):
    config = load_profile(profile)[0]
    write_records(config, {"mse": 0.5}, checksum="another")
    with pytest.raises(records.RunError, match=config.name):
        tables.table1(profile)
