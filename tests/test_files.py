"""Nothing half-written: files, folders, full disks, and one process at a time."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_same_run, changed
from processes import finish, start, wait_until
from safetensors.torch import save_file

from paperlib import files, run
from paperlib.errors import DiskFull, RunError
from paperlib.files import folder_atomically, locked, remove_drafts, write_atomically, write_text
from paperlib.run import Run
from paperlib.training.loop import train


needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def said_of_a_full_disk(error: pytest.ExceptionInfo, path: Path) -> bool:
    said = str(error.value)
    return said.startswith(f"{path} could not be written: the disk is full") and "\n" not in said


# Complete or absent


def test_file_is_what_it_was_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "new folder" / "x.txt"
    write_text(path, "before")

    def fails(draft: Path) -> None:
        draft.write_text("half")
        assert path.read_text() == "before"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(path, fails)
    assert content(tmp_path) == {"new folder/x.txt": b"before"}
    write_text(path, "after")
    assert content(tmp_path) == {"new folder/x.txt": b"after"}


def test_folder_is_what_it_was_until_the_new_one_is_whole(tmp_path):
    folder = tmp_path / "data"
    for name in ("a", "b"):
        with folder_atomically(folder) as draft:
            (draft / name).write_text(name)
            assert not (folder / name).exists()
        assert content(tmp_path) == {f"data/{name}": name.encode()}  # none of the former one's
    with pytest.raises(KeyboardInterrupt), folder_atomically(folder) as draft:
        (draft / "c").write_text("half")
        raise KeyboardInterrupt
    assert content(tmp_path) == {"data/b": b"b"} and [*tmp_path.iterdir()] == [folder]


def killed_while_it_writes(folder: Path) -> None:
    with folder_atomically(folder / "data") as draft:
        (draft / "half").write_text("half")
        write_atomically(folder / "x", lambda draft: os.kill(os.getpid(), signal.SIGKILL))


def test_drafts_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".mine").write_text("somebody's")
    assert finish(start(killed_while_it_writes, tmp_path)) == -signal.SIGKILL
    assert "half" in {p.name for p in tmp_path.rglob("*")}
    remove_drafts(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".mine"]


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB, of which 9,000 bytes are left, where the tests may mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small disk")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


WRITERS: dict[str, Callable[[Path], object]] = {
    "weights.safetensors": lambda path: save_file({"a": torch.zeros(10_000)}, path),
    "array.npy": lambda path: np.save(path.open("wb"), np.zeros(10_000)),
    "arrays.npz": lambda path: np.savez(path.open("wb"), np.zeros(10_000)),
    "record.json": lambda path: path.write_text(json.dumps([0] * 10_000)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_is_said_naming_the_file_which_stays_what_it_was(small_disk, name):
    path, ballast = small_disk / name, small_disk / "ballast"
    path.write_text("before")
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 9_000))
    with pytest.raises(DiskFull) as error:
        write_atomically(path, WRITERS[name])
    assert said_of_a_full_disk(error, path)
    assert path.read_text() == "before"
    ballast.unlink()
    write_atomically(path, WRITERS[name])
    assert path.stat().st_size > 9_000 and [*small_disk.iterdir()] == [path]


@needs_dev_full
def test_folder_for_which_there_is_no_room_stays_what_it_was(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a").write_text("before")
    with pytest.raises(DiskFull) as error, folder_atomically(folder) as draft:
        (draft / "b").symlink_to("/dev/full")
        (draft / "b").write_text("after")
    assert said_of_a_full_disk(error, folder)
    assert content(tmp_path) == {"data/a": b"before"}


@needs_dev_full
def test_line_of_the_log_for_which_there_is_no_room(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(DiskFull) as error:
        Run(tmp_path).append_to_log({"step": 1})
    assert said_of_a_full_disk(error, tmp_path / "log.jsonl")


@pytest.mark.parametrize("fault", [OSError(errno.EACCES, "Permission denied"), ValueError("else")])
def test_other_faults_are_not_taken_for_a_full_disk(tmp_path, fault):
    def write(draft: Path) -> None:
        raise fault

    with pytest.raises(type(fault)) as raised:
        write_atomically(tmp_path / "x", write)
    assert raised.value is fault


def test_every_write_of_a_run_may_fail(workspace, tiny_config, monkeypatch):
    """The first, the second, ...: each is named, nothing is altered, and the run goes on after."""
    config = changed(tiny_config, steps=2, snapshots=1, checkpoint_seconds=1e-9)
    train(config, workspace / "whole")
    named = set()
    for number in itertools.count(1):
        folder, calls = workspace / str(number), itertools.count(1)
        before: dict[str, bytes] = {}

        def fails_at(path: Path, number=number, calls=calls, folder=folder, before=before) -> None:
            if next(calls) == number:
                before |= content(folder)
                no_room()

        with monkeypatch.context() as patch:
            patch.setattr(files, "flush", fails_at)
            patch.setattr(run, "flush", fails_at)
            try:
                train(config, folder)
                break  # it had no such write
            except DiskFull as error:
                path = Path(str(error).split(" could not")[0])
        named.add(path.relative_to(folder).parts[0].split("-")[0])
        after = content(folder)
        assert after.items() <= before.items()
        assert all(Path(name).name.startswith(".") for name in before.keys() - after.keys())
        train(config, folder)
        assert_same_run(workspace / "whole", folder)
    expected = {"config.json", "log.jsonl", "snapshots", "checkpoint", "generator.safetensors"}
    assert named == expected | {"record.json"}


# One process at a time


def hold(path: Path) -> None:
    with locked(path, "it"):
        path.with_name("held").touch()
        time.sleep(600)


def test_second_process_is_refused_until_the_first_is_killed(tmp_path):
    path = tmp_path / "run" / "lock"
    other = start(hold, path)
    wait_until((tmp_path / "run" / "held").exists)
    with pytest.raises(RunError) as error, locked(path, "the run"):
        pytest.fail("both hold it")
    assert str(error.value).startswith("the run is in use by another process")
    other.kill()
    assert finish(other) == -signal.SIGKILL
    with locked(path, "the run"):  # what the dead one left does not matter
        pass


def test_lock_is_released_on_failure_and_not_by_who_is_refused(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock", "it"):
        for _ in range(2):  # the refused one has not broken it
            with pytest.raises(RunError), locked(tmp_path / "lock", "it"):
                pytest.fail("both hold it")
        1 / 0  # noqa: B018
    with locked(tmp_path / "lock", "it"):
        pass


def test_run_in_use_is_not_trained_and_not_touched(workspace, tiny_config):
    folder = workspace / "run"
    with Run(folder).lock():
        before = content(folder)
        with pytest.raises(RunError, match=f"{folder} is in use"):
            train(tiny_config, folder)
        assert content(folder) == before
    train(changed(tiny_config, steps=1), folder)
