"""The page of a profile shows what the tables hold, loads nothing, and has dashes for the rest."""

import re

import pytest
from helpers import write_run
from PIL import Image

from paperlib import claims, paths, records, tables
from paperlib.__main__ import main
from paperlib.config import load_profile

PROFILE = "matrix: {corruption: [small_patch], method: [base, both, misgan]}"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a made-up profile of which misgan is missing, and the profile."""
    folder = tmp_path_factory.mktemp("report")
    path = folder / "made_up.yaml"
    path.write_text(PROFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RESULTS", folder / "results")
        patch.setattr(paths, "DATA", folder / "data")  # where nothing is prepared
        for k, config in enumerate(load_profile(str(path))[:2]):
            numbers = {"mse": 0.031 + k / 7, "std": 0.012, "FD-efflite0": 123.4, "energy": 0.3}
            run = write_run("made_up", config, numbers, date="2026-11-22T11:00:00")
            about = {"date": "2026-11-22T10:00:00", "commit": "c0ffee", "steps": 40}
            about |= {"hardware": {"processor": "<Abacus & Sons>"}}
            record = records.read_json(run / "record.json") | about
            records.write_json(run / "record.json", record)
            for step in (1, 2):
                records.append_log(run / "log.jsonl", {"step": step, "loss_d": 1.9, "loss_g": 0.1})
        out = folder / "results" / "made_up"
        (out / "notebooks").mkdir()
        (out / "notebooks" / "train-small_patch-base-seed0.ipynb").write_text("{}")
        Image.new("RGB", (8, 8)).save(out / "figure4.png")
        assert main(["report", str(path)]) == 0
        yield (out / "report.html").read_text(), str(path)


def cells(html):
    return [re.sub("<.*?>", "", cell) for cell in re.findall("<td[^>]*>(.*?)</td>", html)]


def test_every_cell_of_both_tables_and_of_the_claims_is_there(page):
    html, profile = page
    shown = set(cells(html))
    for table, labels in (
        (tables.table1(profile), tables.TABLE1),
        (tables.table2(profile), tables.TABLE2),
    ):
        for _, parts in tables.sections(table, labels):
            for cell in {c.replace("**", "") for part in parts for c in part.to_numpy().flat}:
                assert cell in shown
    assert "0.0310 [0.0279, 0.0341]" in shown
    judged = claims.claims_table(profile)
    for verdict in judged["verdict"]:
        assert verdict in shown


def test_the_page_loads_nothing(page):
    html, _ = page
    loaded = re.findall(r"(?:src|srcset|data)\s*=\s*\"([^\"]*)\"", html)
    assert len(loaded) == 3  # figure4 and the curves of two runs
    assert all(source.startswith("data:image/png;base64,") for source in loaded)
    assert not re.search(r"https?://|@import|url\(|<script|<link|<iframe", html)


def test_what_is_missing_is_a_dash_and_said(page):
    html, _ = page
    assert "2 of 3 runs are trained and evaluated" in html
    row = re.search(r"<tr><th>small_patch-misgan-seed0</th>(.*?)</tr>", html)[1]
    assert cells(row) == [tables.DASH] * 6
    assert f"small_patch-misgan-seed0: {tables.DASH}" in html
    unknown = re.search(r"<tr><th>small_patch-base-seed0</th>(.*?)</tr>", html)[1]
    assert cells(unknown)[:3] == ["40", tables.DASH, tables.DASH]


def test_links_lead_from_the_page_to_the_notebooks_that_are_there(page):
    html, _ = page
    links = re.findall(r'href="([^#"]+)"', html)
    assert links == ["notebooks/train-small_patch-base-seed0.ipynb"]


def test_the_environment_is_that_of_the_records_and_escaped(page):
    html, _ = page
    assert "c0ffee" in html and "2026-11-22" in html
    assert "&lt;Abacus &amp; Sons&gt;" in html and "<Abacus" not in html


def test_a_profile_without_any_result_has_a_page_of_dashes(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    path = tmp_path / "nothing.yaml"
    path.write_text(PROFILE)
    assert main(["report", str(path)]) == 0
    html = (tmp_path / "results" / "nothing" / "report.html").read_text()
    assert "0 of 3 runs" in html and "No run of nothing has been evaluated yet" in html
