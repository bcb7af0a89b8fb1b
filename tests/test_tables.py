"""Tables rest on records alone. The records here are made up."""

import math
import shutil

import pandas as pd
import pytest
import yaml
from helpers import measured, write_peer, write_reference, write_run

from paperlib import paths, records, tables
from paperlib.config import EvaluationConfig, RunConfig, evaluation_configs, load_profile
from paperlib.references import REFERENCES

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
        write_run("made_up", config, {"mse": mse, "std": std, "FD-efflite0": 100 * mse})
    return str(path)


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
    paper = cells.xs("paper's MSE", axis=1, level=1)
    assert (paper.loc["mask-aware (ours)"] == tables.DASH).all()  # the paper does not have it
    assert not paper.drop("mask-aware (ours)").isin([tables.DASH]).any().any()


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


def test_both_tables_are_written_in_three_formats(profile):
    csv, md, tex, *second = tables.write_tables(profile)
    assert [p.name for p in (csv, md, tex)] == ["table1.csv", "table1.md", "table1.tex"]
    assert [p.name for p in second] == ["table2.csv", "table2.md", "table2.tex"]
    assert value(pd.read_csv(csv), "both", "mse") == pytest.approx(0.012)
    assert "**0.0120** [" in md.read_text() and "500 test images" in md.read_text()
    assert r"\textbf{0.0120}" in tex.read_text() and r"\toprule" in tex.read_text()
    csv, md, tex = second
    assert value(pd.read_csv(csv), "both", "mse") == pytest.approx(0.012)
    assert "# Table 2" in md.read_text() and "0.0120 [" in md.read_text()
    assert "Navier-Stokes" in tex.read_text() and r"\toprule" in tex.read_text()


def test_a_record_of_another_configuration_is_refused_by_name(profile):
    config = load_profile(profile)[0]
    write_run("made_up", config.model_copy(update={"lambda_y": 77.0}), {"mse": 0.5})
    with pytest.raises(records.RunError, match=r"evaluation\.json.*lambda_y: 77\.0"):
        tables.table1(profile)


def test_a_run_trained_again_after_its_evaluation_is_refused(profile):
    config = load_profile(profile)[0]
    write_run("made_up", config, {"mse": 0.5}, checksum="another")
    with pytest.raises(records.RunError, match=config.name):
        tables.table1(profile)


@pytest.mark.parametrize("part", ["record.json", "evaluation.json"])
def test_a_record_on_other_data_is_refused_by_name(profile, part):
    run = paths.runs("made_up") / load_profile(profile)[0].name
    records.write_json(run / part, records.read_json(run / part) | {"data_checksum": "other"})
    with pytest.raises(records.RunError, match=rf"{run.name}.*other data"):
        tables.table1(profile)


def test_runs_on_different_data_are_refused_naming_both(profile):
    first, second = (paths.runs("made_up") / c.name for c in load_profile(profile)[:2])
    for path in (second / "record.json", second / "evaluation.json"):
        records.write_json(path, records.read_json(path) | {"data_checksum": "other"})
    with pytest.raises(records.RunError, match=rf"{second.name}.*other data.*{first.name}"):
        tables.table1(profile)


def test_a_record_on_data_that_were_prepared_otherwise_since_is_refused_by_name(
    profile, workspace, tiny_config
):
    path = workspace / "tiny.yaml"
    shared = {k: v for k, v in tiny_config.model_dump().items() if v != getattr(RunConfig(), k)}
    path.write_text(yaml.safe_dump(shared))
    config = load_profile(str(path))[0]
    run = write_run("tiny", config, {"mse": 0.5})
    with pytest.raises(records.RunError, match=rf"{run}.*other data than .*{config.data.folder}"):
        tables.table1(str(path))
    shutil.rmtree(paths.DATA)  # without it there is nothing to compare with
    tables.table1(str(path))


def test_a_record_of_other_weights_is_refused_by_name(profile):
    run = paths.runs("made_up") / load_profile(profile)[0].name
    (run / "generator.safetensors").write_bytes(b"other")
    with pytest.raises(records.RunError, match=rf"altered: {run}/generator\.safetensors"):
        tables.table1(profile)


@pytest.mark.parametrize("part", ["record.json", "evaluation.json"])
def test_a_number_that_was_altered_in_a_record_is_refused_by_name(profile, part):
    path = paths.runs("made_up") / load_profile(profile)[0].name / part
    written = records.write_record(path, records.read_json(path))
    tables.table1(profile)
    records.write_json(path, written | {"seconds": 1.0})
    with pytest.raises(records.RunError, match=rf"altered: {path}"):
        tables.table1(profile)


@pytest.fixture
def switched(tmp_path, monkeypatch):
    """A profile with mask_aware, and both and misgan beside the same with another D."""
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    path = tmp_path / "made_up.yaml"
    path.write_text(
        "matrix: {method: [both, misgan], discriminator_sees: [null, own_mask, both_masks]}"
    )
    mse = {"both": 0.02, "both-own_mask": 0.3, "both-both_masks": 0.4, "misgan": 0.6}
    for config in load_profile(str(path)):
        samples = {"FD-efflite0": 50.0 if config.row == "misgan" else 70.0}
        more = {"data_generator": measured(samples)} if config.method == "misgan" else {}
        write_run("made_up", config, {"mse": mse.get(config.row, 0.7)}, **more)
    return str(path)


def test_a_run_whose_d_was_switched_is_not_taken_for_the_method_s_own(switched):
    for table in (tables.table1(switched), tables.table2(switched)):
        assert value(table, "both", "mse") == 0.02 and value(table, "both", "mse", "seeds") == 1
    table = tables.table2(switched)
    assert value(table, "misgan", "mse") == 0.6
    assert value(table, "ambientgan", "FD-efflite0") == 50.0
    every = tables.summarise(tables.load_evaluations(switched))
    assert value(every, "both-own_mask", "mse") == 0.3
    assert value(every, "ambientgan-both_masks", "FD-efflite0") == 70.0


def test_mask_aware_has_the_last_row_of_both_tables(profile, tmp_path):
    (tmp_path / "made_up.yaml").write_text(PROFILE.replace("misgan", "misgan, mask_aware"))
    for config in load_profile(profile):
        if config.method == "mask_aware":
            write_run("made_up", config, {"mse": 0.005, "std": 0.03})
    for table, labels in ((tables.table1(profile), tables.TABLE1), (tables.table2(profile), tables.TABLE2)):  # fmt: skip
        cells = tables.wide(table, ["mse"], "**{}**", "", labels)["Small Patch"]
        assert cells.index[-1] == "mask-aware (ours)"
        assert cells.iloc[-1].tolist() == ["**0.0050**", tables.DASH]
    ratios = tables.diversity(tables.table1(profile))
    assert ratios.loc[("small_patch", "mask_aware"), "std / base"] == pytest.approx(3.0)


# Table 2


@pytest.fixture
def config(profile) -> EvaluationConfig:
    """What the profile's references and peers are measured on."""
    (config,) = evaluation_configs(profile)
    return config


def second(profile, metrics=("mse",)) -> pd.DataFrame:
    """The formatted cells of Table 2, without intervals."""
    return tables.wide(tables.table2(profile), list(metrics), "{}", "", tables.TABLE2)


def test_rows_of_table_2_are_in_order_and_those_without_a_record_show_a_dash(profile, config):
    write_reference("made_up", config, "linear", {"mse": 0.5})
    cells = second(profile)
    references = ["mean fill", "linear interpolation", "biharmonic", "Telea", "Navier-Stokes"]
    assert cells.index.tolist()[:5] == references
    assert cells.index.tolist()[5:8] == ["Unpaired", "Paired", "MisGAN"]
    assert cells.index.str.startswith("AmbientGAN").tolist().index(True) == 8
    assert cells.index[9].startswith("UAIR") and cells.index[10:].tolist() == [
        "both (eq. 8)",
        "mask-aware (ours)",
    ]
    mse = cells["Small Patch", "MSE"]
    assert mse["linear interpolation"] == "0.5000" and mse["both (eq. 8)"] == "0.0120"
    assert (mse.drop(["linear interpolation", "both (eq. 8)"]) == tables.DASH).all()
    assert (cells["Drop Pixel", "MSE"] == tables.DASH).all()


def test_columns_of_the_paper_in_table_2_are_those_of_its_table_2(profile):
    table = tables.table2(profile)
    assert value(table, "misgan", "mse", "paper") == 0.101
    assert value(table, "paired", "FD-efflite0", "paper", "one_patch") == 45.66
    assert math.isnan(value(table, "paired", "std", "paper"))
    assert value(table, "both", "mse", "paper") == 0.059  # "our model" of its Table 1
    assert math.isnan(value(table, "telea", "mse", "paper"))
    assert second(profile)["Small Patch", "paper's MSE"]["Telea"] == tables.DASH


def write_misgan(profile, **more) -> None:
    for run in load_profile(profile):
        if run.method == "misgan":
            write_run("made_up", run, {"mse": 0.2, "std": 0.01, "FD-efflite0": 30.0}, **more)


def test_samples_of_misgan_s_data_generator_have_a_row_with_distances_alone(profile):
    write_misgan(profile, data_generator=measured({"FD-efflite0": 50.0, "KID-efflite0": 0.3}))
    cells = second(profile, ["FD-efflite0", "KID-efflite0", "mse", "std"])["Small Patch"]
    (label,) = [name for name in cells.index if name.startswith("AmbientGAN")]
    row, misgan = cells.loc[label], cells.loc["MisGAN"]
    assert (row["FD-efflite0"], row["KID-efflite0"]) == ("50.0", "0.3000")
    assert row["MSE"] == row["std"] == tables.DASH
    assert (misgan["FD-efflite0"], misgan["MSE"], misgan["std"]) == ("30.0", "0.2000", "0.0100")


def test_misgan_without_samples_leaves_the_row_of_ambientgan_empty(profile):
    write_misgan(profile)
    assert math.isnan(value(tables.table2(profile), "ambientgan", "FD-efflite0"))
    assert value(tables.table2(profile), "misgan", "FD-efflite0") == 30.0


def test_references_enter_table_2_with_no_diversity_and_table_1_not_at_all(profile, config):
    for name in REFERENCES:
        write_reference("made_up", config, name, {"mse": 0.5})
    table = tables.table2(profile)
    for name in REFERENCES:
        assert [value(table, name, "std", c) for c in ("value", "low", "high")] == [0, 0, 0]
        assert value(table, name, "mse") == 0.5 and value(table, name, "mse", "seeds") == 1
    assert not set(REFERENCES) & set(tables.table1(profile).method)
    assert (second(profile, ["std"])["Small Patch", "std"].iloc[:5] == "0.0000").all()


def test_peers_enter_table_2_by_their_names(profile, config):
    write_peer("made_up", config, "uair", {"mse": 0.04, "std": 0.0}, seed=0)
    table = tables.table2(profile)
    assert value(table, "uair", "mse") == 0.04 and value(table, "uair", "mse", "seeds") == 1
    write_peer("made_up", config, "uair", {"mse": 0.06, "std": 0.0}, seed=1)
    table = tables.table2(profile)
    assert value(table, "uair", "mse") == pytest.approx(0.05)
    assert value(table, "uair", "mse", "seeds") == 2


def test_best_of_table_2_is_among_all_its_rows(profile, config):
    write_reference("made_up", config, "telea", {"mse": 0.001})
    table = tables.table2(profile)
    cells = tables.wide(table, ["mse"], "**{}**", "", tables.TABLE2)["Small Patch", "MSE"]
    assert (cells["Telea"], cells["both (eq. 8)"]) == ("**0.0010**", "0.0120")


@pytest.mark.parametrize("write, name", [(write_reference, "telea"), (write_peer, "uair")])
def test_a_record_of_what_was_measured_otherwise_is_refused_by_name(profile, config, write, name):
    other = config.model_copy(update={"mask_seed": 7})
    write("made_up", other, name, {"mse": 0.5})
    with pytest.raises(records.RunError, match=rf"small_patch-{name}.*\.json.*mask_seed: 7"):
        tables.table2(profile)
