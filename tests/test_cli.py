"""The command line: one clear line and exit status 2 for bad input, and the work in order."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from helpers import MeanAndSpread
from PIL import Image

from paperlib import paths
from paperlib.__main__ import main
from paperlib.config import RunConfig
from paperlib.records import read_json
from paperlib.references import REFERENCES

pytestmark = pytest.mark.usefixtures("own_signal_handlers")


@pytest.fixture
def error_of(empty_workspace, capsys):
    """A function that runs a command, expects it to fail properly, and returns its one line."""

    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")
        return lines[0]

    return run


@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "nope"],
        ["train", "nope"],
        ["evaluate", "nope"],
        ["references", "nope"],
        ["tables", "nope"],
        ["select", "nope", "--run", "a", "lambda_z=1"],
    ],
    ids=" ".join,
)
def test_unknown_profile(error_of, command):
    line = error_of(*command)
    assert "'nope'" in line and "smoke" in line


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_unknown_key(error_of, command):
    assert "unknown key 'nokey'" in error_of(command, "smoke", "--set", "nokey=1")


@pytest.mark.parametrize(
    "assignment, part",
    [
        ("steps=many", "steps"),
        ("steps", "KEY=VALUE"),
        ("size=36", "size 36 is not supported"),
        ("corruption=blur", "one_patch"),
        ("method=gan", "encoding_z"),
        ("g_channels=[8", "g_channels"),
        ("lr_g={", "lr_g"),
    ],
)
def test_wrong_value(error_of, assignment, part):
    assert part in error_of("train", "smoke", "--set", assignment)


def test_unknown_dataset(error_of):
    assert "'nope'" in error_of("prepare", "smoke", "--set", "dataset=nope")


def test_source_that_does_not_exist(error_of, empty_workspace):
    missing = str(empty_workspace / "nowhere")
    line = error_of("prepare", "smoke", "--set", "dataset=folder", "--set", f"source={missing}")
    assert missing in line


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_folder_without_images(error_of, empty_workspace, command):
    (empty_workspace / "empty").mkdir()
    line = error_of(
        command, "smoke", "--set", "dataset=folder", "--set", f"source={empty_workspace}/empty"
    )
    assert "no images" in line and "empty" in line


@pytest.mark.parametrize("content", ["steps: [", "- a list", "nokey: 1", ""])
def test_broken_profile(error_of, empty_workspace, content):
    path = empty_workspace / "mine.yaml"
    path.write_text(content)
    assert str(path) in error_of("train", str(path))


def test_run_that_is_not_of_the_profile(error_of):
    line = error_of("train", "smoke", "--run", "blur-base-seed0")
    assert "blur-base-seed0" in line and "drop_pixel-base-seed0" in line


def test_evaluating_an_untrained_run(error_of):
    line = error_of("evaluate", "smoke", "--run", "drop_pixel-base-seed0")
    assert "drop_pixel-base-seed0" in line


def test_references_on_a_corruption_that_is_not_of_the_profile(error_of):
    line = error_of("references", "smoke", "--corruption", "blur")
    assert "'blur'" in line and "drop_pixel" in line and "small_patch" in line


def test_bad_images_stop_a_strict_preparation(error_of, empty_workspace, image_folder):
    images = empty_workspace / "images"
    images.mkdir()
    for source in image_folder.iterdir():  # twice: 1 bad one of 120 would be tolerated
        for name in (source.name, f"again-{source.name}"):
            (images / name).write_bytes(source.read_bytes())
    (images / "005.png").write_bytes(b"broken")
    line = error_of(
        "prepare", "smoke", "--strict", "--set", "dataset=folder", "--set", f"source={images}"
    )
    assert "005.png" in line


@pytest.fixture
def tiny_profile(workspace, tiny_config):
    """A profile of two runs of ``tiny_config``, as a file."""
    changes = {
        key: value
        for key, value in tiny_config.model_dump().items()
        if value != getattr(RunConfig(), key)
    }
    path = workspace / "tiny.yaml"
    path.write_text(yaml.safe_dump(changes | {"steps": 2, "matrix": {"method": ["base", "both"]}}))
    return str(path)


def test_train_prepares_and_trains_every_run(tiny_profile):
    assert main(["train", tiny_profile]) == 0
    runs = paths.runs("tiny")
    assert {p.name for p in runs.iterdir()} == {"small_patch-base-seed0", "small_patch-both-seed0"}
    for run in runs.iterdir():
        assert read_json(run / "record.json")["steps"] == 2


def test_train_one_run_with_a_changed_key(tiny_profile):
    run = "small_patch-both-seed0"
    assert main(["train", tiny_profile, "--run", run, "--set", "lr_g=1.0e-3"]) == 0
    assert [p.name for p in paths.runs("tiny").iterdir()] == [run]
    assert read_json(paths.runs("tiny") / run / "config.json")["lr_g"] == 1e-3


def test_run_of_another_configuration(tiny_profile, capsys):
    assert main(["train", tiny_profile]) == 0
    capsys.readouterr()
    assert main(["train", tiny_profile, "--set", "lambda_y=3"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and "lambda_y" in error[0]


def test_prepare_says_what_it_has(tiny_profile, capsys):
    assert main(["prepare", tiny_profile]) == 0
    assert "60 images" in capsys.readouterr().out


def test_describe_says_what_it_found_and_leaves_a_picture(empty_workspace, capsys):
    rng = np.random.default_rng(0)
    (empty_workspace / "mine").mkdir()
    for k in range(12):
        values = rng.integers(1, 256, (16, 16, 4), dtype=np.uint8)
        values[..., 3] = 255 * (rng.random((16, 16)) < 0.7)
        values[:, 0, 3] = 0  # a dead column
        Image.fromarray(values).save(empty_workspace / "mine" / f"{k}.png")
    keys = {"dataset": "incomplete", "corruption": "observed", "size": 16, "attention": 0}
    source = {"source": str(empty_workspace / "mine")}
    (empty_workspace / "mine.yaml").write_text(yaml.safe_dump(keys | source))
    assert main(["describe", str(empty_workspace / "mine.yaml")]) == 0
    said, picture = capsys.readouterr().out, paths.RESULTS / "mine" / "observed-by.png"
    assert "WARNING: 16 of 256 pixels are observed in no image" in said
    assert str(picture) in said and Image.open(picture).format == "PNG"


@pytest.mark.parametrize("chosen", [["--corruption", "small_patch"], []])
def test_references_leave_a_record_each_and_prepare_what_they_need(
    tiny_profile, monkeypatch, chosen
):
    monkeypatch.setattr("paperlib.evaluation.load_extractor", lambda device: MeanAndSpread())
    shutil.rmtree(paths.DATA)
    assert main(["references", tiny_profile, *chosen]) == 0
    written = {path.name for path in paths.references("tiny").iterdir()}
    assert written == {f"small_patch-{name}.json" for name in REFERENCES}


def test_tables_names_every_file_that_it_writes(tiny_profile, capsys):
    assert main(["tables", tiny_profile]) == 0
    named = capsys.readouterr().out.split()
    written = [path for path in (paths.RESULTS / "tiny").iterdir() if path.is_file()]
    assert sorted(named) == sorted(map(str, written)) and len(named) == 8


SELECT = ["--run", "small_patch-both-seed0"]


def test_select_trains_scores_and_lists_the_best_first(tiny_profile, capsys):
    shutil.rmtree(paths.DATA)  # prepares what it needs
    assert main(["select", tiny_profile, *SELECT, "lambda_z=0.5,2", "steps=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    folder = paths.RESULTS / "tiny" / "selection" / "small_patch-both-seed0"
    header, first, second, best = lines[-4:]
    assert "energy score" in header
    listed = [line.split()[-1] for line in (first, second)]
    assert set(listed) == {"lambda_z=0.5-steps=1", "lambda_z=2-steps=1"}
    assert best == f"best: {listed[0]}; records in {folder}"
    scores = [
        read_json(folder / name / "selection.json")["scores"]["energy"]["value"] for name in listed
    ]
    assert scores == sorted(scores) and float(first.split()[0]) == round(scores[0], 4)
    assert not paths.runs("tiny").exists()  # the runs of the profile are others


@pytest.mark.parametrize(
    "values, part",
    [
        (["lambda_z"], "KEY=V1,V2,..., got 'lambda_z'"),
        (["lambda_z="], "KEY=V1,V2,..., got 'lambda_z='"),
        (["lambda_z=[1"], "not YAML"),
        (["lambda_z=1", "lambda_z=2"], "lambda_z is given twice"),
        (["lambda_z=1,-1"], "lambda_z"),
        (["nokey=1"], "unknown key 'nokey'"),
        (["=1"], "KEY=V1,V2,..., got '=1'"),
        (["size=32,64"], "size cannot vary"),
    ],
)
def test_wrong_values_to_select_from(error_of, values, part):
    assert part in error_of("select", "smoke", "--run", "drop_pixel-both-seed0", *values)
    assert not paths.RESULTS.exists() and not paths.DATA.exists()


def test_selecting_for_a_run_that_is_not_of_the_profile(error_of):
    line = error_of("select", "smoke", "--run", "blur-base-seed0", "lambda_z=1")
    assert "blur-base-seed0" in line and "drop_pixel-base-seed0" in line


def test_selecting_needs_a_profile_a_run_and_values(empty_workspace, capsys):
    for arguments in (["smoke", *SELECT], ["smoke", "lambda_z=1"]):
        with pytest.raises(SystemExit) as stop:
            main(["select", *arguments])
        assert stop.value.code == 2
    assert "required" in capsys.readouterr().err


def test_selecting_without_a_hold_out(tiny_profile, capsys):
    with open(tiny_profile, "a") as file:
        file.write("validation: 0\n")
    assert main(["select", tiny_profile, *SELECT, "lambda_z=0.5,2"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "validation split" in error[0] and "empty" in error[0]
    assert not (paths.RESULTS / "tiny").exists()


def test_interrupted_selection_is_reported_by_its_own_status(tiny_profile, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("paperlib.selection.train", interrupted)
    assert main(["select", tiny_profile, *SELECT, "lambda_z=0.5"]) == 130


def test_interruption_is_reported_by_its_own_status(tiny_profile, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("paperlib.training.train", interrupted)
    assert main(["train", tiny_profile]) == 130


def test_module_can_be_run_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "paperlib", "train", "nope"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: no profile 'nope'")
    assert len(done.stderr.splitlines()) == 1
