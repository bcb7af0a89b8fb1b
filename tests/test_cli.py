"""The command line: every command does its work, in order, and says where it left what."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import MeanAndSpread
from image_files import holed

from paperlib import paths
from paperlib.__main__ import main
from paperlib.config import RunConfig
from paperlib.evaluation.references import ROWS
from paperlib.records import read_json

pytestmark = pytest.mark.usefixtures("own_signal_handlers")
BOTH = "small_patch-both-seed0"


@pytest.fixture
def tiny_profile(workspace, tiny_config):
    """A profile of two runs of ``tiny_config``, as a file."""
    changes = {k: v for k, v in tiny_config.model_dump().items() if v != getattr(RunConfig(), k)}
    path = workspace / "tiny.yaml"
    path.write_text(yaml.safe_dump(changes | {"steps": 2, "matrix": {"method": ["base", "both"]}}))
    return str(path)


def test_help_comes_at_once_and_one_line_says_what_is_wrong_from_any_folder(tmp_path):
    code = (
        "import sys; from paperlib.__main__ import main; main(['--help']); main(['train', '--help'])\n"
        "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(main(['train', 'nope']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert "prepare" in done.stdout and "--set KEY=VALUE" in done.stdout
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: no profile 'nope'")


def test_train_prepares_and_trains_every_run(tiny_profile):
    shutil.rmtree(paths.DATA)
    assert main(["train", tiny_profile]) == 0
    records = {p.parent.name: read_json(p) for p in paths.runs("tiny").glob("*/record.json")}
    assert records.keys() == {"small_patch-base-seed0", BOTH}
    assert all(record["steps"] == 2 for record in records.values())


def test_train_one_run_with_a_changed_key(tiny_profile):
    assert main(["train", tiny_profile, "--run", BOTH, "--set", "lr_g=1e-3"]) == 0
    assert [p.name for p in paths.runs("tiny").iterdir()] == [BOTH]
    assert read_json(paths.runs("tiny") / BOTH / "config.json")["lr_g"] == 1e-3


def test_prepare_says_what_it_has(tiny_profile, capsys):
    assert main(["prepare", tiny_profile]) == 0
    assert "60 images" in capsys.readouterr().out


def test_describe_says_what_it_found(empty_workspace, capsys):
    images, profile = empty_workspace / "mine", empty_workspace / "mine.yaml"
    images.mkdir()
    for k in range(12):
        image = holed(k, size=16)
        image.paste((0, 0, 0, 0), (0, 0, 1, 16))  # a dead column
        image.save(images / f"{k}.png")
    keys = {"dataset": "incomplete", "corruption": "observed", "size": 16, "attention": 0}
    profile.write_text(yaml.safe_dump(keys | {"source": str(images)}))
    assert main(["describe", str(profile)]) == 0
    assert "WARNING: 16 of 256 pixels are observed in no image" in capsys.readouterr().out


def test_references_leave_a_record_each(tiny_profile, monkeypatch):
    monkeypatch.setattr("paperlib.evaluation.protocol.load_extractor", lambda _: MeanAndSpread())
    assert main(["references", tiny_profile, "--corruption", "small_patch"]) == 0
    written = {path.name for path in (paths.RESULTS / "tiny" / "references").iterdir()}
    assert written == {f"small_patch-{name}.json" for name in ROWS}


def test_tables_names_every_file_that_it_writes(tiny_profile, capsys):
    assert main(["tables", tiny_profile]) == 0
    named = capsys.readouterr().out.split()
    written = {str(path) for path in (paths.RESULTS / "tiny").iterdir() if path.is_file()}
    kinds = {Path(name).name for name in named}
    assert set(named) == written and kinds >= {"table1.md", "table2.tex", "claims.csv"}


def test_select_trains_scores_and_lists_the_best_first(tiny_profile, capsys):
    shutil.rmtree(paths.DATA)  # prepares what it needs
    assert main(["select", tiny_profile, "--run", BOTH, "lambda_z=0.5,2", "steps=1"]) == 0
    *_, first, second, best = capsys.readouterr().out.splitlines()
    folder = paths.RESULTS / "tiny" / "selection" / BOTH
    listed = [line.split()[0] for line in (first, second)]
    assert set(listed) == {"lambda_z=0.5-steps=1", "lambda_z=2-steps=1"}
    assert best == f"best: {listed[0]}; records in {folder}"
    records = [read_json(folder / name / "selection.json") for name in listed]
    scores = [record["scores"]["energy"]["value"] for record in records]
    assert scores == sorted(scores) and f"{scores[0]:.4f}" in first
    assert not paths.runs("tiny").exists()  # the runs of the profile are others
