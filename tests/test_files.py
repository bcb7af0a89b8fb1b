"""Nothing half-written: files, folders, full disks, and one process at a time."""

from __future__ import annotations

import errno
import itertools
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_same_run, changed
from processes import finish, start, wait_until

from paperlib import files, run
from paperlib.errors import DiskFull, RunError
from paperlib.files import folder_atomically, write_atomically, write_text
from paperlib.run import Run
from paperlib.training.loop import train

FULL = "could not be written: the disk is full"


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_file_is_what_it_was_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "new folder" / "x.txt"
    write_text(path, "before")

    def fails(draft: Path) -> None:
        draft.write_text("half")
        assert path.read_text() == "before"
        raise OSError(errno.EACCES, "Permission denied")  # which is not taken for a full disk

    with pytest.raises(PermissionError):
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
    with pytest.raises(DiskFull), folder_atomically(folder) as draft:
        (draft / "c").write_text("half")
        raise no_room()
    assert content(tmp_path) == {"data/b": b"b"} and [*tmp_path.iterdir()] == [folder]


# A full disk


def no_room() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
@pytest.mark.parametrize("write", [np.zeros(9000).tofile, lambda path: path.write_text("x")])
def test_full_disk_is_said_naming_the_file(tmp_path, write):
    (tmp_path / "x").write_text("before")
    with pytest.raises(DiskFull, match=f"^{tmp_path / 'x'} {FULL}"):
        write_atomically(tmp_path / "x", lambda _: write(Path("/dev/full")))
    assert content(tmp_path) == {"x": b"before"}


def test_every_write_of_a_run_may_fail(workspace, tiny_config, monkeypatch):
    """The first, the second, ...: nothing is altered, and the run goes on after."""
    config = changed(tiny_config, steps=2, snapshots=1, checkpoint_seconds=1e-9)
    train(config, workspace / "whole")
    folder, before = workspace / "run", dict[str, bytes]()
    for number in itertools.count(1):
        calls = itertools.count(1)

        def fails_at(path: Path, number: int = number, calls: itertools.count = calls) -> None:
            if next(calls) == number:
                before.clear()
                before.update(content(folder))
                raise no_room()

        shutil.rmtree(folder, ignore_errors=True)
        with monkeypatch.context() as patch:
            patch.setattr(files, "flush", fails_at)
            patch.setattr(run, "flush", fails_at)
            try:
                train(config, folder)
                break  # it had no such write
            except OSError as error:
                assert "No space left" in str(error) or FULL in str(error)
        after = content(folder)
        assert after.items() <= before.items()
        assert all(Path(name).name.startswith(".") for name in before.keys() - after.keys())
        train(config, folder)
        assert_same_run(workspace / "whole", folder)
    assert number > 8  # configuration, snapshot, log and checkpoint twice, generator, record


def hold(folder: Path) -> None:
    with Run(folder).lock():
        (folder / "held").touch()
        time.sleep(600)


def test_run_in_use_is_refused_and_not_touched_until_its_owner_is_killed(workspace, tiny_config):
    folder = workspace / "run"
    other = start(hold, folder)
    wait_until((folder / "held").exists)
    before = content(folder)
    for _ in range(2):  # the refused one has not broken the lock
        with pytest.raises(RunError, match=f"^{folder} is in use by another process"):
            train(tiny_config, folder)
    assert content(folder) == before
    other.kill()
    assert finish(other) == -signal.SIGKILL
    with pytest.raises(ZeroDivisionError), Run(folder).lock():
        1 / 0  # noqa: B018
    train(changed(tiny_config, steps=1), folder)
