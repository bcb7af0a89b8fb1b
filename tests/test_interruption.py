"""Nothing is lost: runs killed at any moment, interrupted, terminated."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import MeanAndSpread, changed
from processes import finish, start, wait_in_step, wait_until
from safetensors.torch import load_file

from paperlib import algorithm1, evaluation, files, paths, records, training
from paperlib.__main__ import main
from paperlib.config import RunConfig
from paperlib.evaluation import evaluate_run
from paperlib.interruption import HeldInterrupt, Terminated, exit_status
from paperlib.training import train

# All that may differ between equal runs: times, and checksums of what holds times
TIMES = {"seconds", "images_per_second", "date", "checksum", "files"}


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def outcome(run: Path) -> dict[str, Any]:
    """All that a run leaves, but times."""
    found = {path.name: without_times(records.read_json(path)) for path in run.glob("*.json")}
    found["log"] = without_times(records.read_log(run))
    for path in run.rglob("*.safetensors"):
        found[path.name] = {k: v.numpy().tobytes() for k, v in load_file(path).items()}
    last = records.load_checkpoint(run)
    del last["log_bytes"]  # there are times in the log
    found["checkpoint"] = json.dumps(without_times(last), default=lambda t: t.tolist())
    return found


# Killed: SIGKILL leaves no time for anything

STEPS = 26


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die(owner: Any, name: str, number: int = 1, after: bool = False, of: str = "") -> None:
    """Let this process be killed at a call of ``owner.name``, of which an argument ends in ``of``."""
    original, calls = getattr(owner, name), itertools.count(1)

    def deadly(*arguments: Any, **named: Any) -> Any:
        met = not of or any(str(a).endswith(of) for a in arguments)
        now = met and next(calls) == number
        if now and not after:
            kill_this_process()
        result = original(*arguments, **named)
        if now:
            kill_this_process()
        return result

    setattr(owner, name, deadly)


def die_half_way_through_a_checkpoint() -> None:
    def write_half(self: Path, content: bytes) -> None:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        kill_this_process()

    Path.write_bytes = write_half


def die_half_way_through_a_line_of_the_log(number: int) -> None:
    write, calls = training.LateLog.write, itertools.count(1)

    def write_half(self: training.LateLog) -> dict[str, Any]:
        if self.held is not None and next(calls) == number:
            with self.path.open("a") as file:
                file.write('{"step": 1')
            kill_this_process()
        return write(self)

    training.LateLog.write = write_half


def die_sometime(seconds: float) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which kills as surely
    signal.setitimer(signal.ITIMER_REAL, seconds)


IN_TRAINING: dict[str, Callable[[], None]] = {
    "before the first step": lambda: die(algorithm1.Algorithm1, "step"),
    "when D has moved and G not": lambda: die(torch.optim.Adam, "step", number=3, after=True),
    "within G's loss": lambda: die(algorithm1, "generator_loss", number=2),
    "when G has moved and its average not": lambda: die(training.RunningAverage, "update", 2),
    "before a line of the log": lambda: die(training.LateLog, "write", 3),
    "after a line of the log": lambda: die(training.LateLog, "write", 2, after=True),
    "within a line of the log": lambda: die_half_way_through_a_line_of_the_log(2),
    "before a checkpoint": lambda: die(records, "save_checkpoint", 2),
    "within a checkpoint": die_half_way_through_a_checkpoint,
    "before a checkpoint has its name": lambda: die(os, "replace", 2, of=".pt"),
    "after a checkpoint has its name": lambda: die(os, "replace", after=True, of=".pt"),
    "before an old checkpoint is removed": lambda: die(Path, "unlink", 2, of=".pt"),
    "after a checkpoint": lambda: die(records, "save_checkpoint", after=True),
    "before a snapshot": lambda: die(training, "_save_snapshot"),
    "before the log is cut": lambda: die(records, "truncate_log"),
    "when the directory is taken over": lambda: die(records, "claim_directory", after=True),
}
SOMETIME = {f"after {s} s": functools.partial(die_sometime, s) for s in (0.05, 0.1, 0.15)}
AT_THE_END: dict[str, Callable[[], None]] = {
    "before the averaged G is written": lambda: die(training, "_save_weights", of="r.safetensors"),
    "before the record": lambda: die(records, "write_json", of="record.json"),
    "within the evaluation": lambda: die(evaluation.EvaluationProtocol, "measure"),
    "before the evaluation has its name": lambda: die(os, "replace", of="evaluation.json"),
}


def train_and_evaluate(config: RunConfig, run: Path, data: Path, fault: str | None) -> None:
    paths.DATA = data
    evaluation.load_extractor = lambda device: MeanAndSpread()
    if fault:
        (SOMETIME | IN_TRAINING | AT_THE_END)[fault]()
    train(config, run)
    evaluate_run(run)


def test_run_killed_again_and_again_ends_as_one_that_never_was(workspace, tiny_config):
    config = changed(tiny_config, steps=STEPS, snapshots=2, checkpoint_seconds=1e-9)
    arguments = (paths.DATA, None)
    assert finish(start(train_and_evaluate, config, workspace / "whole" / "run", *arguments)) == 0
    shuffled = random.Random(0).sample(list(IN_TRAINING), len(IN_TRAINING))
    faults = [*SOMETIME, *shuffled, *AT_THE_END]
    assert len(faults) >= 20
    run = workspace / "parts" / "run"
    for fault in faults:
        status = finish(start(train_and_evaluate, config, run, paths.DATA, fault))
        assert status == (-signal.SIGALRM if fault in SOMETIME else -signal.SIGKILL), fault
        assert not (run / "record.json").exists() or fault in AT_THE_END
    assert finish(start(train_and_evaluate, config, run, *arguments)) == 0
    assert outcome(run) == outcome(workspace / "whole" / "run")
    left = {path.name for path in run.iterdir()}
    assert not any(name.startswith(".") or "lock" in name for name in left)
    assert sum(name.startswith("checkpoint-") for name in left) == records.CHECKPOINTS_KEPT


def test_drafts_of_the_killed_are_removed_and_those_of_others_are_not(workspace, tiny_config):
    run = workspace / "run"
    process = start(time.sleep, 0)
    finish(process)
    mine = files.draft_of(run / "generator.safetensors").name  # .generator.safetensors.HOST.PID
    host = mine.split(".")[-2]
    dead, alive = process.pid, os.getppid()
    (run / "snapshots").mkdir(parents=True)
    for folder in (run, run / "snapshots"):
        for name in (f".a.pt.{host}.{dead}", f".a.pt.{host}.{alive}", f".a.pt.elsewhere.{dead}"):
            (folder / name).write_text("half")
        (folder / f".a.pt.{host}.note").write_text("somebody's")
    train(changed(tiny_config, steps=1), run)
    expected = {f".a.pt.{host}.{alive}", f".a.pt.elsewhere.{dead}", f".a.pt.{host}.note"}
    for folder in (run, run / "snapshots"):
        assert {p.name for p in folder.iterdir() if p.name.startswith(".")} == expected


def test_log_that_lost_lines_is_said(workspace, tiny_config, capsys):
    run = workspace / "run"
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config, run, on_log=interrupt_at(3))
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    (run / "log.jsonl").write_text("".join(lines[1:]))
    train(tiny_config, run)
    assert f"warning: {run / 'log.jsonl'} is not as it was at step 3" in capsys.readouterr().err


def test_checkpoint_after_a_damaged_one_leaves_the_one_gone_on_from(workspace, tiny_config):
    # The damaged one must not take the place of the second good one.
    config, run = changed(tiny_config, checkpoint_seconds=1e-9), workspace / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config, run, on_log=interrupt_at(3))
    last, before = sorted(run.glob("checkpoint-*"), reverse=True)
    last.write_bytes(b"damaged")
    with pytest.raises(KeyboardInterrupt):
        train(
            changed(config, checkpoint_seconds=1000.0),
            run,
            on_log=interrupt_at(step_of(before) + 1),
        )
    kept = sorted(run.glob("checkpoint-*"), reverse=True)
    assert len(kept) == 2 and kept[1] == before and last not in kept
    kept[0].write_bytes(b"damaged, too")
    assert records.load_checkpoint(run)["step"] == step_of(before)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


# Interrupted and terminated


def interrupt_at(step: int):
    """An on_log that presses Ctrl-C after ``step``."""

    def on_log(line: dict[str, Any], *_: object) -> None:
        if line["step"] == step:
            raise KeyboardInterrupt

    return on_log


def in_workspace(workspace: Path, work: Callable[..., Any], *arguments: Any) -> Any:
    """``work``, which waits in its third step."""
    paths.DATA, paths.RESULTS = workspace / "data", workspace / "results"
    wait_in_step(3, workspace)
    return work(*arguments)


def send(number: int, process: Any, workspace: Path) -> int:
    """Send a signal in the third step, then let it go on; the exit status."""
    wait_until(lambda: (workspace / "waiting").exists())
    os.kill(process.pid, number)
    (workspace / "go").touch()
    return finish(process)


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_command_line_after_a_checkpoint(workspace, tiny_config, number, status):
    config = changed(tiny_config, steps=6)
    profile, output = workspace / "p.yaml", workspace / "output"
    profile.write_text(yaml.safe_dump(config.model_dump() | {"matrix": {"seed": [0]}}))
    run = paths.runs("p") / config.name
    arguments = (in_workspace, workspace, main, ["train", str(profile)])
    assert send(number, start(*arguments, output=output), workspace) == status
    assert [step_of(path) for path in run.glob("checkpoint-*")] == [3]  # that of the signal
    assert [line["step"] for line in records.read_log(run)] == [1, 2, 3]
    said = [line for line in output.read_text().splitlines() if "interrupted" in line]
    assert said == [f"{config.name}: interrupted at step 3; run it again to go on"]
    assert "Traceback" not in output.read_text() and not (run / "lock").exists()

    assert finish(start(*arguments)) == 0
    train(config, workspace / "whole")
    for name in ("log", "generator.safetensors", "checkpoint"):
        assert outcome(run)[name] == outcome(workspace / "whole")[name]


@pytest.mark.parametrize("stop, status", [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_command_interrupted_elsewhere_says_how_to_go_on(
    empty_workspace, monkeypatch, own_signal_handlers, capsys, stop, status
):
    def interrupted(run: Path) -> None:
        raise stop

    monkeypatch.setattr(evaluation, "evaluate_run", interrupted)
    assert main(["evaluate", "smoke"]) == status
    assert capsys.readouterr().out == "interrupted; run it again to go on\n"


def test_script_that_knows_of_no_signals_is_terminated_after_a_checkpoint(workspace, tiny_config):
    run = workspace / "run"
    process = start(in_workspace, workspace, train, tiny_config, run)
    # as if nothing had held it
    assert send(signal.SIGTERM, process, workspace) == -signal.SIGTERM
    assert [step_of(path) for path in run.glob("checkpoint-*")] == [3]
    assert not (run / "lock").exists()


def test_signals_are_noted_and_raised_at_the_end(own_signal_handlers):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number, kind in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)):
        with pytest.raises(KeyboardInterrupt) as stop, HeldInterrupt():
            signal.raise_signal(number)
            inside = True
        assert inside and type(stop.value) is kind
        assert exit_status(stop.value) == 128 + number
        assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


def test_interruption_while_a_line_is_written_loses_no_line(workspace, tiny_config, monkeypatch):
    append = records.append_log

    def pressed(path: Path, line: dict[str, Any]) -> None:
        if line["step"] == 2:
            signal.raise_signal(signal.SIGINT)
        append(path, line)

    with monkeypatch.context() as patch:
        patch.setattr("paperlib.acceleration.append_log", pressed)
        with pytest.raises(KeyboardInterrupt, match="run it again to go on"):
            train(tiny_config, workspace / "run")
    train(tiny_config, workspace / "run")
    assert [line["step"] for line in records.read_log(workspace / "run")] == [1, 2, 3, 4]
