"""A training that diverges stops, names where, saves nothing of it, and can go back."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from helpers import assert_same_run, changed, log_without_times
from safetensors.torch import load_file
from test_training import interrupt_at

from paperlib import algorithm1, paths, records
from paperlib.__main__ import main
from paperlib.algorithm1 import Algorithm1
from paperlib.config import ConfigurationError, RunConfig
from paperlib.divergence import Diverged, Watch
from paperlib.records import RunError
from paperlib.selection import search
from paperlib.training import snapshot_path, train

pytestmark = pytest.mark.usefixtures("own_signal_handlers")


@pytest.fixture
def config(tiny_config) -> RunConfig:
    return changed(tiny_config, checkpoint_seconds=1e-9)  # a checkpoint at every step


@pytest.fixture
def faulty(monkeypatch) -> Callable[..., list]:
    """A function that lets ``times`` calls of ``latent_error`` from the ``first`` on go wrong."""

    def install(first: int, spoil: Callable = lambda error: error * math.nan, times: int = 10**9):
        original, calls = algorithm1.latent_error, []

        def error_of_z(*arguments):
            calls.append(1)
            error = original(*arguments)
            return spoil(error) if first <= len(calls) < first + times else error

        monkeypatch.setattr(algorithm1, "latent_error", error_of_z)
        return calls

    return install


def infinite(error: torch.Tensor) -> torch.Tensor:
    return error + math.inf


def infinite_gradient(error: torch.Tensor) -> torch.Tensor:
    """The same value, whose derivative is that of a root at 0."""
    return error + (error - error.detach()).sqrt()


def assert_finite(run: Path) -> int:
    """All that is saved is finite; the step of the last checkpoint."""

    def look(value) -> None:
        if isinstance(value, dict):
            [look(v) for v in value.values()]
        elif isinstance(value, torch.Tensor):
            assert value.isfinite().all()

    for path in run.glob("checkpoint-*"):
        look(torch.load(path, weights_only=True))
    for path in run.rglob("*.safetensors"):
        look(load_file(path))
    assert all(math.isfinite(v) for line in records.read_log(run) for v in line.values())
    return records.load_checkpoint(run)["step"]


# Stop


@pytest.mark.parametrize(
    "spoil, terms",
    [
        (lambda error: error * math.nan, "loss_g, error_z, gradient_G, gradient_E"),
        (infinite, "loss_g, error_z"),
        (infinite_gradient, "gradient_G, gradient_E"),
    ],
)
def test_run_stops_and_names_step_terms_and_the_last_good_checkpoint(
    workspace, config, faulty, spoil, terms
):
    run = workspace / "run"
    faulty(3, spoil)
    with pytest.raises(RunError) as error:
        train(config, run)
    said = str(error.value)
    assert isinstance(error.value, Diverged) and "\n" not in said
    assert f"run diverged at step 3: {terms} not finite" in said
    assert "the last good checkpoint is that of step 2" in said
    assert assert_finite(run) == 2
    assert [line["step"] for line in records.read_log(run)] == [1, 2]
    assert not (run / "record.json").exists() and not (run / "lock").exists()


def test_run_goes_on_from_the_last_good_checkpoint(workspace, config, faulty):
    train(config, workspace / "whole")
    calls = faulty(3, times=1)
    with pytest.raises(Diverged):
        train(config, workspace / "run")
    assert len(calls) == 3
    train(config, workspace / "run")
    assert_same_run(workspace / "run", workspace / "whole")


@pytest.mark.parametrize("log_every", [3, 50])
def test_it_is_found_at_the_latest_before_anything_is_saved(
    workspace, tiny_config, faulty, log_every
):
    config = changed(tiny_config, steps=9, log_every=log_every, snapshots=1)
    faulty(2, times=1)  # what follows is finite no more, but the step named is where it began
    with pytest.raises(Diverged, match=r"diverged at step 2: .*no checkpoint yet"):
        train(config, workspace / "run")
    assert [path.name for path in (workspace / "run").iterdir()] == ["config.json"]


def test_snapshot_of_what_diverged_is_not_kept(workspace, tiny_config, faulty):
    faulty(2)
    with pytest.raises(Diverged):
        train(changed(tiny_config, log_every=50, snapshots=1), workspace / "run")
    assert not snapshot_path(workspace / "run", 2).exists()


def test_interruption_saves_nothing_of_what_diverged(workspace, tiny_config, faulty, monkeypatch):
    faulty(2)
    step, calls = Algorithm1.step, []

    def pressed(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(Algorithm1, "step", pressed)
    with pytest.raises(Diverged, match="at step 2"):
        train(changed(tiny_config, log_every=50), workspace / "run")
    assert not [*(workspace / "run").glob("checkpoint-*")]


def test_an_earlier_batch_or_critic_counts_too(workspace, config, faulty):
    faulty(3, times=1)  # of two batches a step: the first of step 2, whose own loss is not logged
    with pytest.raises(Diverged, match="at step 2: gradient_G, gradient_E not finite"):
        train(changed(config, accumulate=2), workspace / "run")


def test_watch_names_the_first_step_of_each_number():
    watch = Watch("run", 4, [])
    watch.check()
    one = torch.ones(())
    for step, (a, b) in enumerate([(1, 1), (1, 1), (1, -math.inf), (math.nan, 1)], start=5):
        watch.note(step, {"a": a * one, "b": b * one})
        if step < 7:
            early = watch.look()
    early()  # what it saw was finite
    with pytest.raises(Diverged, match="at step 7: b not finite; .* step 4"):
        watch.check()


# Go back


def test_rollback_goes_on_with_other_random_numbers_and_the_record_says_so(
    workspace, config, faulty
):
    train(config, workspace / "whole")
    faulty(3, times=1)
    record = train(config, workspace / "run", on_nan="rollback")
    (back,) = record["rollbacks"]
    assert back == {"at": 3, "to": 2, "terms": ["loss_g", "error_z", "gradient_G", "gradient_E"]}
    assert records.read_json(workspace / "run" / "record.json") == record
    assert "rollbacks" not in records.read_json(workspace / "whole" / "record.json")
    whole, run = (log_without_times(workspace / name) for name in ("whole", "run"))
    assert [line["step"] for line in run] == [1, 2, 3, 4]
    assert run[:2] == whole[:2] and run[2] != whole[2]
    assert_finite(workspace / "run")


def test_rollback_without_a_checkpoint_begins_again(workspace, tiny_config, faulty):
    faulty(2, times=1)
    record = train(tiny_config, workspace / "run", on_nan="rollback")
    assert [back["to"] for back in record["rollbacks"]] == [0] and record["steps"] == 4
    assert [line["step"] for line in records.read_log(workspace / "run")] == [1, 2, 3, 4]


def test_run_that_went_back_is_resumed_to_the_bit(workspace, config, faulty, monkeypatch):
    faulty(2, times=1)
    whole = train(config, workspace / "whole", on_nan="rollback")
    monkeypatch.undo()
    monkeypatch.setattr(paths, "DATA", workspace / "data")
    faulty(2, times=1)
    with pytest.raises(KeyboardInterrupt):
        train(config, workspace / "parts", on_log=interrupt_at(3), on_nan="rollback")
    parts = train(config, workspace / "parts")
    assert parts["rollbacks"] == whole["rollbacks"]
    assert_same_run(workspace / "whole", workspace / "parts")


def test_it_goes_back_three_times_and_no_more(workspace, config, faulty):
    calls = faulty(3)
    with pytest.raises(Diverged, match="at step 3: .* 3 rollbacks did not help") as error:
        train(config, workspace / "run", on_nan="rollback")
    assert len(calls) == 2 + 4 and [b["to"] for b in error.value.rollbacks] == [2, 2, 2]
    assert assert_finite(workspace / "run") == 2


# Where it is asked for


def command(workspace: Path, config: RunConfig, *more: str) -> int:
    profile = workspace / "p.yaml"
    profile.write_text(yaml.safe_dump(config.model_dump() | {"matrix": {"seed": [0]}}))
    return main(["train", str(profile), *more])


def test_command_line_says_it_in_one_line(workspace, config, faulty, capsys):
    faulty(3)
    assert command(workspace, config) == 2
    (line,) = [e for e in capsys.readouterr().err.splitlines() if "error:" in e]
    assert line.startswith(f"error: {config.name} diverged at step 3") and "--on-nan" in line


@pytest.mark.parametrize("how", ["option", "environment"])
def test_rollback_can_be_asked_for(workspace, config, faulty, monkeypatch, how):
    faulty(3, times=1)
    if how == "environment":  # which reaches notebooks and the workflow
        monkeypatch.setenv("PAPERLIB_ON_NAN", "rollback")
    assert command(workspace, config, *(["--on-nan", "rollback"] * (how == "option"))) == 0
    record = json.loads((paths.runs("p") / config.name / "record.json").read_text())
    assert len(record["rollbacks"]) == 1


def test_other_wishes_are_refused(workspace, config, monkeypatch):
    monkeypatch.setenv("PAPERLIB_ON_NAN", "ignore")
    with pytest.raises(ConfigurationError, match="one of stop, rollback, got 'ignore'"):
        train(config, workspace / "run")


def test_candidate_that_diverges_is_left_out_of_a_search(workspace, tiny_config, faulty, capsys):
    faulty(1, times=1)
    (found,) = search(changed(tiny_config, steps=1), {"lambda_y": [1, 2]}, workspace / "search")
    assert found["name"] == "lambda_y=2"
    assert "left out: lambda_y=1 diverged at step 1" in capsys.readouterr().err
