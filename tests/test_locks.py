"""One process at a time in a run's directory, however the one before ended."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from helpers import MeanAndSpread, changed
from processes import finish, start, wait_until

from paperlib import evaluation, paths
from paperlib.__main__ import main
from paperlib.evaluation import evaluate_run
from paperlib.locks import locked
from paperlib.records import RunError
from paperlib.training import train

pytestmark = pytest.mark.usefixtures("own_signal_handlers")


def hold(path: Path) -> None:
    with locked(path):
        time.sleep(600)


@pytest.fixture
def other(tmp_path):
    """Another process that holds ``tmp_path / "lock"``."""
    process = start(hold, tmp_path / "lock")
    wait_until(lambda: (tmp_path / "lock").exists() and (tmp_path / "lock").read_text())
    yield process
    process.kill()
    process.join()


def written_by(pid: int, host: str | None = None) -> str:
    return json.dumps({"pid": pid, "host": host or os.uname().nodename, "since": "yesterday"})


def test_second_process_is_refused_and_told_who_holds_it(tmp_path, other):
    before = (tmp_path / "lock").read_text()
    with pytest.raises(RunError) as error, locked(tmp_path / "lock"):
        pytest.fail("both hold it")
    said = str(error.value)
    assert str(tmp_path) in said and f"process {other.pid} on {os.uname().nodename}" in said
    assert json.loads(before)["since"] in said and "\n" not in said
    assert (tmp_path / "lock").read_text() == before


def test_lock_of_a_process_that_was_killed_is_taken_over(tmp_path, other):
    other.kill()
    assert finish(other) == -signal.SIGKILL
    assert f'"pid": {other.pid}' in (tmp_path / "lock").read_text()  # it could not remove it
    with locked(tmp_path / "lock"):
        assert f'"pid": {os.getpid()}' in (tmp_path / "lock").read_text()
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("left", ["", '{"pid": 1', "[]", written_by(os.getppid())])
def test_what_a_dead_owner_wrote_does_not_matter(tmp_path, left):
    # even if its number is that of a living process again
    (tmp_path / "lock").write_text(left)
    with locked(tmp_path / "lock"):
        pass
    assert not (tmp_path / "lock").exists()


def test_lock_of_another_host_is_kept_and_said(tmp_path):
    # Not every network file system shares its locks: whether that one runs cannot be known here.
    (tmp_path / "lock").write_text(written_by(7, "elsewhere"))
    said = pytest.raises(RunError, match=r"process 7 on elsewhere .*delete .*lock")
    with said, locked(tmp_path / "lock"):
        pytest.fail("taken")
    assert (tmp_path / "lock").read_text() == written_by(7, "elsewhere")


def test_one_process_that_locks_twice_is_refused_too(tmp_path):
    refused = pytest.raises(RunError, match=f"process {os.getpid()}")
    with locked(tmp_path / "lock"), refused, locked(tmp_path / "lock"):
        pytest.fail("both hold it")
    with locked(tmp_path / "lock"):
        pass  # and the refused one has not broken it


def test_lock_is_released_on_failure(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock"):
        1 / 0  # noqa: B018
    assert not (tmp_path / "lock").exists()


def test_lock_that_its_owner_removed_while_we_waited_is_made_anew(tmp_path, monkeypatch):
    path, lock, taken = tmp_path / "lock", fcntl.flock, []

    def removed_before(file: int, how: int) -> None:
        taken.append(file)
        if len(taken) == 1:
            path.unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    with locked(path):
        assert len(taken) == 2 and path.exists()


def test_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def has_none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", has_none)
    with locked(tmp_path / "lock"):
        pass
    assert (
        f"warning: the file system of {tmp_path / 'lock'} has no locks" in capsys.readouterr().err
    )


# Runs


def test_run_in_use_is_not_trained_and_not_touched(workspace, tiny_config, capsys):
    profile = workspace / "p.yaml"
    profile.write_text(yaml.safe_dump(tiny_config.model_dump() | {"matrix": {"seed": [0]}}))
    run = paths.runs("p") / tiny_config.name
    with locked(run / "lock"):
        capsys.readouterr()
        assert main(["train", str(profile)]) == 2
        (line,) = [e for e in capsys.readouterr().err.splitlines() if "decoding" not in e]
        assert line.startswith(f"error: {run} is in use by process {os.getpid()}")
        assert [path.name for path in run.iterdir()] == ["lock"]
    assert main(["train", str(profile)]) == 0
    assert (run / "record.json").exists() and not (run / "lock").exists()


def test_run_is_evaluated_by_one_process_at_a_time(workspace, tiny_config, monkeypatch):
    monkeypatch.setattr(evaluation, "load_extractor", lambda device: MeanAndSpread())
    run = workspace / "run"
    record = train(changed(tiny_config, steps=1), run)
    with locked(run / "evaluation.lock"):
        with pytest.raises(RunError, match="in use"):
            evaluate_run(run)
        assert train(changed(tiny_config, steps=1), run) == record  # which only reads it
    done = evaluate_run(run)
    with locked(run / "evaluation.lock"):
        assert evaluate_run(run) == done  # nothing is written
