"""A full disk: said in one line that names the file; nothing is lost, and the run goes on after."""

from __future__ import annotations

import errno
import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import yaml
from helpers import MeanAndSpread, assert_same_run, changed
from safetensors.torch import save_file

from paperlib import acceleration, data, evaluation, files, paths, plots, records
from paperlib.__main__ import main
from paperlib.config import RunConfig
from paperlib.data import load_prepared, prepare
from paperlib.evaluation import evaluate_run
from paperlib.files import DiskFull, naming_a_full_disk, write_atomically
from paperlib.records import append_log, read_json, write_json
from paperlib.training import train

pytestmark = pytest.mark.usefixtures("own_signal_handlers")


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_said(error: pytest.ExceptionInfo, path: Path) -> None:
    said = str(error.value)
    assert said.startswith(f"{path} could not be written: the disk is full") and "\n" not in said
    assert "make room and run it again" in said


# By injected failures


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_failed_write_names_the_file_and_leaves_the_earlier_one(tmp_path, monkeypatch, number):
    write_json(tmp_path / "x.json", {"a": 1})
    monkeypatch.setattr(files, "flush", lambda path: (_ for _ in ()).throw(OSError(number, "")))
    with pytest.raises(DiskFull) as error:
        write_json(tmp_path / "x.json", {"a": 2})
    assert_said(error, tmp_path / "x.json")
    assert read_json(tmp_path / "x.json") == {"a": 1} and len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), ValueError("else")])
def test_other_faults_are_not_taken_for_a_full_disk(tmp_path, error):
    with pytest.raises(type(error)) as raised, naming_a_full_disk(tmp_path):
        raise error
    assert raised.value is error


def train_and_evaluate(config: RunConfig, run: Path) -> dict:
    train(config, run)
    return evaluate_run(run)["metrics"]


class FailingOnce:
    """In the place of ``files.flush``: at its call of a number there is no room."""

    def __init__(self, number: int, run: Path) -> None:
        self.left, self.run = number, run
        self.before: dict[str, bytes] = {}

    def __call__(self, path: Path) -> None:
        self.left -= 1
        if self.left == 0:
            self.before = content(self.run)
            no_room()


def test_every_write_of_a_run_may_fail(workspace, tiny_config, monkeypatch):
    # config.json, snapshot, checkpoints, weights, records: the first, the second, ...
    config = changed(tiny_config, steps=2, snapshots=1, checkpoint_seconds=1e-9)
    monkeypatch.setattr(evaluation, "load_extractor", lambda device: MeanAndSpread())
    metrics, named = train_and_evaluate(config, workspace / "whole"), set()
    for number in itertools.count(1):
        run = workspace / str(number)
        flush = FailingOnce(number, run)
        with monkeypatch.context() as patch:
            patch.setattr(files, "flush", flush)
            patch.setattr(records, "flush", flush)
            try:
                assert train_and_evaluate(config, run) == metrics
                break
            except DiskFull as error:
                path = Path(str(error).split(" could not")[0])
        named.add(path.relative_to(run).parts[0].split("-")[0])
        after = content(run)
        assert after.items() <= flush.before.items()  # nothing is altered
        gone = {Path(name).name for name in flush.before.keys() - after.keys()}
        assert all(name.startswith(".") or name.endswith("lock") for name in gone)
        train(config, run)
        assert_same_run(workspace / "whole", run)
    expected = {"config.json", "log.jsonl", "snapshots", "checkpoint", "generator.safetensors"}
    assert named == expected | {"record.json", "evaluation.json"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_line_of_the_log_for_which_there_is_no_room():
    with pytest.raises(DiskFull) as error:
        append_log(Path("/dev/full"), {"step": 1})
    assert_said(error, Path("/dev/full"))


def test_half_a_line_of_the_log_does_no_harm(workspace, tiny_config, monkeypatch):
    config = changed(tiny_config, checkpoint_seconds=1e-9)
    train(config, workspace / "whole")
    run = workspace / "run"

    def half(path: Path, line: dict) -> None:
        if line["step"] == 3:
            path.write_text(path.read_text() + '{"step": 3, "sec')
            with naming_a_full_disk(path):
                no_room()
        append_log(path, line)

    with monkeypatch.context() as patch:
        patch.setattr(acceleration, "append_log", half)
        with pytest.raises(DiskFull) as error:
            train(config, run)
    assert_said(error, run / "log.jsonl")
    assert [line["step"] for line in records.read_log(run)] == [1, 2]  # the half is not read
    train(config, run)
    assert_same_run(workspace / "whole", run)


def test_data_set_prepared_before_stays(workspace, tiny_config, image_folder, monkeypatch):
    config = changed(tiny_config, source=str(shutil.copytree(image_folder, workspace / "images")))
    folder = prepare(config.data).folder
    before = content(folder)
    (workspace / "images" / "000.png").unlink()  # so that it is to be prepared anew
    with monkeypatch.context() as patch:
        patch.setattr(data.np, "savez", no_room)
        with pytest.raises(DiskFull) as error:
            prepare(config.data)
    assert_said(error, folder)
    assert content(folder) == before
    assert not [p for p in paths.DATA.iterdir() if p.name.startswith(".")]
    assert (
        prepare(config.data).manifest["count"] == load_prepared(config.data).manifest["count"] == 59
    )


def test_command_line_says_it_in_one_line(workspace, tiny_config, monkeypatch, capsys):
    profile = workspace / "p.yaml"
    profile.write_text(yaml.safe_dump(tiny_config.model_dump() | {"matrix": {"seed": [0]}}))
    monkeypatch.setattr(files.os, "fsync", no_room)
    assert main(["train", str(profile)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    (line,) = lines
    assert line.startswith(f"error: {paths.runs('p') / tiny_config.name / 'config.json'} could not")


# On a disk that is full


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB, where the tests may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave(room: int, disk: Path) -> None:
    """Fill the disk but for so many bytes."""
    (disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(disk).free - room))


def figure_of_noise(path: Path) -> None:
    figure, ax = plt.subplots()
    ax.imshow(np.random.default_rng(0).random((300, 300)))
    plots.save_figure(figure, path)
    plt.close(figure)


def save_array(save: Callable[..., None], path: Path) -> None:
    with path.open("wb") as file:
        save(file, np.zeros(10_000))


WRITERS = {
    "figure.png": figure_of_noise,
    "figure.pdf": figure_of_noise,
    "weights.safetensors": lambda path: write_atomically(
        path, lambda draft: save_file({"a": torch.zeros(10_000)}, draft)
    ),
    "array.npy": lambda path: write_atomically(path, lambda draft: save_array(np.save, draft)),
    "arrays.npz": lambda path: write_atomically(path, lambda draft: save_array(np.savez, draft)),
    "record.json": lambda path: write_json(path, {"a": [0] * 10_000}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_says_that_the_disk_is_full(small_disk, name):
    path = small_disk / name
    path.write_text("before")
    leave(9_000, small_disk)
    with pytest.raises(DiskFull) as error:
        WRITERS[name](path)
    assert_said(error, path)
    assert path.read_text() == "before"
    (small_disk / "ballast").unlink()
    WRITERS[name](path)
    assert path.stat().st_size > 9_000
    assert {p.name for p in small_disk.iterdir()} == {name}


def test_data_set_is_prepared_after_room_is_made(small_disk, workspace, tiny_config, monkeypatch):
    checksum = load_prepared(tiny_config.data).checksum
    monkeypatch.setattr(paths, "DATA", small_disk / "data")
    leave(100_000, small_disk)
    with pytest.raises(DiskFull) as error:
        prepare(tiny_config.data)
    assert_said(error, small_disk / "data" / tiny_config.data.folder)
    assert not [*(small_disk / "data").iterdir()]
    (small_disk / "ballast").unlink()
    assert prepare(tiny_config.data).checksum == checksum


def test_run_on_a_full_disk_goes_on_to_the_same_bits_after_room_is_made(
    small_disk, workspace, tiny_config
):
    config = changed(tiny_config, checkpoint_seconds=1e-9)
    train(config, workspace / "whole")
    largest = max(p.stat().st_size for p in (workspace / "whole").iterdir())
    run = small_disk / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config, run, on_log=interrupted_at_2)
    before = weights_of_checkpoints(run)
    for room in (0, 20_000, largest // 2):
        leave(room, small_disk)
        with pytest.raises(DiskFull, match=f"{run}.* could not be written: the disk is full"):
            train(config, run)
        assert before.items() <= weights_of_checkpoints(run).items()
        (small_disk / "ballast").unlink()
    train(config, run)
    assert_same_run(workspace / "whole", run)


def interrupted_at_2(line: dict, *_: object) -> None:
    if line["step"] == 2:
        raise KeyboardInterrupt


def weights_of_checkpoints(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.glob("checkpoint-*")}
