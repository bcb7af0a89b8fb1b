"""Nothing is lost: runs killed at any moment, interrupted, terminated."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import assert_same_run, changed
from processes import finish, start

import paperlib.run
from paperlib import paths
from paperlib.__main__ import main
from paperlib.config import RunConfig
from paperlib.core.algorithm1 import Algorithm1
from paperlib.run import Run
from paperlib.training.loop import train

# Killed: SIGKILL leaves no time for anything


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die(owner: Any, name: str, number: int, of: str = "") -> None:
    """Let this process be killed at a call of ``owner.name``, of which an argument ends in ``of``."""
    original, calls = getattr(owner, name), itertools.count(1)

    def deadly(*arguments: Any, **named: Any) -> Any:
        if any(str(a).endswith(of) for a in arguments) and next(calls) == number:
            kill_this_process()
        return original(*arguments, **named)

    setattr(owner, name, deadly)


def die_half_way_through_a_checkpoint() -> None:
    write = Path.write_bytes

    def half(self: Path, content: bytes) -> None:
        write(self, content[: len(content) // 2] if ".pt" in self.name else content)
        if ".pt" in self.name:
            kill_this_process()

    Path.write_bytes = half


def die_half_way_through_a_line_of_the_log() -> None:
    def half(self: Run, values: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a") as file:
            file.write('{"step": 1')
        kill_this_process()

    Run.append_to_log = half


MOMENTS: dict[str, Callable[[], None]] = {
    "before the first step": lambda: die(Algorithm1, "step", 1),
    "when D has moved and G not": lambda: die(torch.optim.Adam, "step", 4),
    "after a line of the log": lambda: die(Run, "append_to_log", 3),
    "within a line of the log": die_half_way_through_a_line_of_the_log,
    "before a snapshot has its name": lambda: die(os, "replace", 1, of="00000004.safetensors"),
    "within a checkpoint": die_half_way_through_a_checkpoint,
    "before a checkpoint has its name": lambda: die(os, "replace", 2, of=".pt"),
    "before the record": lambda: die(paperlib.run, "write_record", 1, of="record.json"),
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
    assert_same_run(workspace / "whole", folder)
    left = {path.name for path in folder.iterdir()}
    assert not any(name.startswith(".") for name in left) and "checkpoint.pt" in left


# Interrupted and terminated, in the middle of a step


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_command_line_after_a_checkpoint(
    workspace, tiny_config, own_signal_handlers, monkeypatch, capsys, number, status
):
    config, profile = changed(tiny_config, steps=6), workspace / "p.yaml"
    profile.write_text(yaml.safe_dump(config.model_dump()))
    folder, step, calls = paths.runs("p") / config.name, Algorithm1.step, itertools.count(1)

    def interrupted(*given: Any) -> Any:
        if next(calls) == 3:
            signal.raise_signal(number)
        return step(*given)

    monkeypatch.setattr(Algorithm1, "step", interrupted)
    assert main(["train", str(profile)]) == status
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{config.name}: interrupted at step 3; run it again to go on"]
    assert torch.load(folder / "checkpoint.pt")["step"] == 3
    assert [line["step"] for line in Run(folder).log()] == [1, 2, 3]
    assert main(["train", str(profile)]) == 0
    train(config, workspace / "whole")
    assert_same_run(workspace / "whole", folder)
