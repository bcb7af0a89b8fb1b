"""Nothing is lost: runs killed at any moment, interrupted, terminated; notebooks, too."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import changed
from jupyter_client.manager import start_new_kernel
from processes import finish, start, wait_in_step, wait_until
from safetensors.torch import load_file

import paperlib.run
from paperlib import paths
from paperlib.__main__ import main
from paperlib.config import RunConfig
from paperlib.core.algorithm1 import Algorithm1
from paperlib.errors import Terminated
from paperlib.records import read_json
from paperlib.run import CHECKPOINTS_KEPT, Run
from paperlib.training.interruption import Interruption
from paperlib.training.loop import train

# All that may differ between equal runs: times, and checksums of what holds times
TIMES = {"seconds", "images_per_second", "date", "checksum", "files", "log_bytes"}


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but times."""
    found = {path.name: without_times(read_json(path)) for path in folder.glob("*.json")}
    for path in folder.rglob("*.safetensors"):
        found[path.name] = {k: v.numpy().tobytes() for k, v in load_file(path).items()}
    state = Run(folder).load_checkpoint()
    found["checkpoint"] = json.dumps(without_times(state), default=lambda t: t.tolist())
    return found | {"log": without_times(Run(folder).log())}


# Killed: SIGKILL leaves no time for anything


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die(owner: Any, name: str, number: int = 1, after: bool = False, of: str = "") -> None:
    """Let this process be killed at a call of ``owner.name``, of which an argument ends in ``of``."""
    original, calls = getattr(owner, name), itertools.count(1)

    def deadly(*arguments: Any, **named: Any) -> Any:
        now = any(str(a).endswith(of) for a in arguments) and next(calls) == number
        if now and not after:
            kill_this_process()
        result = original(*arguments, **named)
        if now:
            kill_this_process()
        return result

    setattr(owner, name, deadly)


def die_half_way_through_a_checkpoint() -> None:
    write = Path.write_bytes

    def write_half(self: Path, content: bytes) -> None:
        if ".pt" not in self.name:
            write(self, content)
            return
        write(self, content[: len(content) // 2])
        kill_this_process()

    Path.write_bytes = write_half


def die_half_way_through_a_line_of_the_log() -> None:
    def write_half(self: Run, values: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a") as file:
            file.write('{"step": 1')
        kill_this_process()

    Run.append_to_log = write_half


MOMENTS: dict[str, Callable[[], None]] = {
    "before the first step": lambda: die(Algorithm1, "step"),
    "when D has moved and G not": lambda: die(torch.optim.Adam, "step", number=3, after=True),
    "after a line of the log": lambda: die(Run, "append_to_log", 2, after=True),
    "within a line of the log": die_half_way_through_a_line_of_the_log,
    "before a snapshot has its name": lambda: die(os, "replace", of="00000004.safetensors"),
    "within a checkpoint": die_half_way_through_a_checkpoint,
    "before a checkpoint has its name": lambda: die(os, "replace", 2, of=".pt"),
    "before an old checkpoint is removed": lambda: die(Path, "unlink", 2, of=".pt"),
    "before the record": lambda: die(paperlib.run, "write_record", of="record.json"),
}


def train_until(moment: str, config: RunConfig, folder: Path, data: Path) -> None:
    paths.DATA = data
    MOMENTS[moment]()
    train(config, folder)


def test_run_killed_again_and_again_ends_as_one_that_never_was(workspace, tiny_config):
    config = changed(tiny_config, steps=8, snapshots=1, checkpoint_seconds=1e-9)
    train(config, workspace / "whole")
    folder = workspace / "parts"
    for moment in MOMENTS:
        status = finish(start(train_until, moment, config, folder, paths.DATA))
        assert status == -signal.SIGKILL, moment
        assert not Run(folder).is_trained
    train(config, folder)
    assert outcome(folder) == outcome(workspace / "whole")
    left = {path.name for path in folder.iterdir()}
    assert not any(name.startswith(".") for name in left)
    assert sum(name.startswith("checkpoint-") for name in left) == CHECKPOINTS_KEPT


# Interrupted and terminated


def test_signals_are_noted_and_raised_when_the_caller_likes(own_signal_handlers):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number, kind in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)):
        with Interruption() as interruption:
            assert not interruption.signal
            signal.raise_signal(number)
            assert interruption.signal == number
            assert type(interruption.error("stopped")) is kind
        assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


def in_workspace(workspace: Path, work: Callable[..., Any], *arguments: Any) -> Any:
    """``work``, which waits in its third step."""
    paths.DATA, paths.RESULTS = workspace / "data", workspace / "results"
    wait_in_step(3, workspace)
    return work(*arguments)


def step_of_the_only_checkpoint(folder: Path) -> int:
    (path,) = folder.glob("checkpoint-*")
    return int(path.name.split("-")[1])


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_command_line_after_a_checkpoint(
    workspace, tiny_config, own_signal_handlers, number, status
):
    config = changed(tiny_config, steps=6)
    profile, output = workspace / "p.yaml", workspace / "output"
    profile.write_text(yaml.safe_dump(config.model_dump() | {"matrix": {"seed": [0]}}))
    folder = paths.runs("p") / config.name
    process = start(in_workspace, workspace, main, ["train", str(profile)], output=output)
    wait_until((workspace / "waiting").exists)
    os.kill(process.pid, number)
    (workspace / "go").touch()
    assert finish(process) == status
    assert step_of_the_only_checkpoint(folder) == 3  # that of the signal
    assert [line["step"] for line in Run(folder).log()] == [1, 2, 3]
    said = [line for line in output.read_text().splitlines() if "interrupted" in line]
    assert said == [f"{config.name}: interrupted at step 3; run it again to go on"]
    assert "Traceback" not in output.read_text()

    assert main(["train", str(profile)]) == 0
    train(config, workspace / "whole")
    assert outcome(folder) == outcome(workspace / "whole")


def test_interruption_in_the_middle_of_a_step_does_no_harm(workspace, tiny_config, monkeypatch):
    # Ctrl-C almost always falls inside a step, where D has moved already and G not yet.
    config = changed(tiny_config, steps=3)
    train(config, workspace / "whole")
    original, calls = Algorithm1.generator_loss, itertools.count(1)

    def pressed(self, p):
        if next(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(self, p)

    with monkeypatch.context() as patch:
        patch.setattr(Algorithm1, "generator_loss", pressed)
        with pytest.raises(KeyboardInterrupt):
            train(config, workspace / "parts")
    assert step_of_the_only_checkpoint(workspace / "parts") == 2
    train(config, workspace / "parts")
    assert outcome(workspace / "parts") == outcome(workspace / "whole")


# A notebook whose kernel is interrupted (the square in JupyterLab)

PREPARE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import paperlib.beyond
from paperlib.config import RunConfig
from paperlib.training.loop import train
from processes import wait_in_step
wait_in_step(3, Path({workspace!r}))
config, folder = RunConfig(**{config!r}), Path({folder!r})
"""
TRAIN = "record = train(config, folder)"


def test_notebook_is_interrupted_and_goes_on_when_run_again(workspace, tiny_config, monkeypatch):
    monkeypatch.setenv("PAPERLIB_DATA", str(paths.DATA))
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    config, folder = changed(tiny_config, steps=6), workspace / "run"
    manager, client = start_new_kernel(kernel_name="python3", stderr=sys.stderr)

    def execute(source: str, interrupt: bool = False) -> dict[str, Any]:
        # after an error the kernel would refuse what comes at once, which a user never is
        message = client.execute(source, stop_on_error=False)
        if interrupt:
            wait_until((workspace / "waiting").exists)
            manager.interrupt_kernel()
            (workspace / "go").touch()
        while (reply := client.get_shell_msg(timeout=120))["parent_header"]["msg_id"] != message:
            pass
        return reply["content"]

    try:
        values = {"tests": str(Path(__file__).parent), "workspace": str(workspace)}
        values |= {"config": config.model_dump(), "folder": str(folder)}
        assert (reply := execute(PREPARE.format(**values)))["status"] == "ok", reply
        reply = execute(TRAIN, interrupt=True)
        assert reply.get("ename") == "KeyboardInterrupt", reply
        assert reply["evalue"] == "run: interrupted at step 3; run it again to go on"
        assert step_of_the_only_checkpoint(folder) == 3
        assert (reply := execute(TRAIN))["status"] == "ok", reply
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    train(config, workspace / "whole")
    assert outcome(folder) == outcome(workspace / "whole")
