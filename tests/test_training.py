"""The loop: determinism, going on, snapshots, averages, divergence, and what a run leaves."""

from __future__ import annotations

import itertools
import json
import math
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers import assert_same_run, changed, observations, state, tiny, weights

from paperlib import paths, progress, seeds
from paperlib.config import RunConfig
from paperlib.core import algorithm1
from paperlib.core.algorithm1 import Algorithm1
from paperlib.core.corruption import mask_law
from paperlib.data.prepare import load_prepared
from paperlib.errors import Diverged, RunError
from paperlib.records import file_checksum, read_record
from paperlib.run import Run, plain_generator
from paperlib.training.averages import RunningAverage
from paperlib.training.loop import train


def press_ctrl_c_after(step: int):
    """An on_log that sends SIGINT after ``step``: training stops after the next."""

    def on_log(line, *_):
        if line["step"] == step:
            signal.raise_signal(signal.SIGINT)

    return on_log


def test_it_trains_in_a_thread_too_where_python_allows_no_signal_handlers(workspace, tiny_config):
    with ThreadPoolExecutor(1) as pool:
        record = pool.submit(train, tiny_config, workspace / "run").result()
    assert record["steps"] == tiny_config.steps


def interrupted(config: RunConfig, folder: Path, step: int = 2) -> Path:
    """Train, but stop with a checkpoint of ``step``."""
    with pytest.raises(KeyboardInterrupt, match=f"interrupted at step {step}; run it again"):
        train(config, folder, on_log=press_ctrl_c_after(step - 1))
    assert not (folder / "record.json").exists()
    return folder


@pytest.fixture(scope="module")
def whole(tiny_config, prepared_once, tmp_path_factory) -> Path:
    """A run of ``tiny_config`` from start to end, to compare others with. Not to be changed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "DATA", prepared_once)
        train(tiny_config, folder)
    return folder


@pytest.mark.parametrize("change", [{"seed": 1}, {"mask_seed": 1}, {"lambda_z": 2.0}])
def test_what_determines_a_run_does_change_it(workspace, whole, tiny_config, change):
    # Otherwise the identity of equal runs would mean nothing.
    train(changed(tiny_config, **change), workspace / "other")
    assert weights(whole) != weights(workspace / "other")


def test_nothing_else_changes_a_run(workspace, whole, tiny_config):
    torch.manual_seed(77)  # the caller's generator
    others = {"snapshots": 2, "deterministic": True, "resident": True, "checkpoint_seconds": 1e-9}
    train(changed(tiny_config, **others), workspace / "other")
    assert_same_run(whole, workspace / "other")
    assert not torch.are_deterministic_algorithms_enabled()  # as before


# Going on


@pytest.mark.parametrize("method", ["both", "mask_aware", "unpaired", "paired", "misgan"])
def test_resumed_run_equals_an_uninterrupted_one(workspace, tiny_config, method):
    several = {"critic_steps": 2} if method == "misgan" else {"accumulate": 2}
    config = changed(tiny_config, method=method, snapshots=2, **several)
    train(config, workspace / "whole")
    run, resumed = interrupted(config, workspace / "parts"), []
    record = train(config, run, on_log=lambda line, _: resumed.append(line["step"]))
    assert resumed == [3, 4]  # goes on, does not start again
    assert record["steps"] == config.steps
    assert_same_run(workspace / "whole", run)
    for step in (1, 2):
        kept = (Run(folder).snapshot(step).state_dict() for folder in (workspace / "whole", run))
        assert all(map(torch.equal, *(tensors.values() for tensors in kept)))


@pytest.mark.parametrize(
    "steps, said", [(1, "trained on other data"), (4, "another data_checksum")]
)
def test_run_of_other_data_is_refused_and_kept_whether_trained_or_not(
    workspace, tiny_config, steps, said
):
    config, folder = changed(tiny_config, steps=steps), workspace / "run"
    train(config, folder) if steps == 1 else interrupted(config, folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    manifest = paths.DATA / config.data.folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"checksum": "0" * 64}))
    with pytest.raises(RunError, match=f"{folder} was .*{said}"):
        train(config, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


# What is left


def test_log_has_a_line_every_few_steps_and_one_at_the_end(workspace, tiny_config):
    seen, config = [], changed(tiny_config, steps=5, log_every=2)
    train(config, workspace / "run", on_log=lambda line, _: seen.append(line))
    assert [line["step"] for line in seen] == [2, 4, 5] and Run(workspace / "run").log() == seen
    expected = {"loss_d", "d_real", "d_fake", "loss_g", "error_y", "error_z", "gradient_E"}
    assert all(expected <= line.keys() for line in seen)


def test_record_says_where_the_run_comes_from_and_nothing_is_left_half_written(
    workspace, tiny_config
):
    folder, config = workspace / "run", changed(tiny_config, snapshots=1, checkpoint_seconds=1e-9)
    first = Run(interrupted(config, folder, 3)).log()[-1]["seconds"]
    record = train(config, folder)
    assert read_record(folder / "record.json") == record
    assert RunConfig.parse(record["config"]) == config  # enough to run it again
    assert record["data_checksum"] == load_prepared(config.data).checksum
    assert record["versions"]["torch"] in torch.__version__ and record["hardware"]["cores"] >= 1
    assert not (paths.ROOT / ".git").exists() or len(record["commit"].removesuffix("-dirty")) == 40
    assert record["seconds"] > first  # over both parts
    assert record["generator_checksum"] == file_checksum(folder / "generator.safetensors")
    left = {path.name for path in folder.iterdir()} - {"lock", "checkpoint.pt"}
    assert left == {"config.json", "log.jsonl", "generator.safetensors", "record.json", "snapshots"}
    Run(folder).check()
    # and it is not trained again
    assert train(config, folder, on_log=lambda *_: pytest.fail("again")) == record


def test_snapshots_are_the_averages_of_their_steps(workspace, tiny_config):
    averages = {}

    def keep(line, G):
        averages[line["step"]] = state(G)

    # a line of the log says when each was
    train(changed(tiny_config, snapshots=2, log_every=50), workspace / "run", on_log=keep)
    run = Run(workspace / "run")
    kept = {step: run.snapshot(step).state_dict() for step in run.snapshots}
    kept[4] = run.generator().state_dict()
    assert kept.keys() == averages.keys() == {1, 2, 4}
    for step, tensors in kept.items():
        assert all(torch.equal(v, averages[step][name]) for name, v in tensors.items())
    assert not torch.equal(kept[1]["stem.weight"], kept[2]["stem.weight"])


def effective(G: torch.nn.Module, name: str) -> torch.Tensor:
    """A tensor of G as it is used: divided by its largest singular value where normalised."""
    owner, _, leaf = name.rpartition(".")
    module = G.get_submodule(owner)
    if not hasattr(module, "parametrizations") or leaf != "weight":
        return getattr(module, leaf).detach().clone()
    original = module.parametrizations.weight.original.detach()
    norm = module.parametrizations.weight[0]
    sigma = torch.dot(norm._u, original.flatten(1) @ norm._v)  # as the power iteration has it
    return original / sigma


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.999])
def test_running_average_equals_one_by_hand(decay):
    torch.manual_seed(0)
    config = tiny(lr_g=0.01)
    method = Algorithm1(config, Algorithm1.build_networks(config), mask_law("small_patch"))
    G = method.nets.G
    average = RunningAverage(G, plain_generator(config), decay)
    names = [n for n, v in average.model.state_dict().items() if v.is_floating_point()]
    assert any(n.endswith("running_var") for n in names)
    expected = {n: effective(G, n).double() for n in names}
    for step in (1, 2, 3):
        method.step([observations(seed=10 * step)], seeds.generator("step", step))
        before = state(G)
        average.update(step)
        # reading a normalised weight must not advance its power iteration
        assert all(torch.equal(v, before[n]) for n, v in state(G).items()) and G.training
        d = min(decay, (1 + step) / (10 + step))  # the decay grows as the random start recedes
        for n in names:
            expected[n] = d * expected[n] + (1 - d) * effective(G, n).double()
    averaged = average.model.state_dict()
    for n in names:
        assert torch.allclose(averaged[n].double(), expected[n], rtol=1e-4, atol=1e-5), n


def spoil_latent_error(monkeypatch, number: int, spoil: Callable) -> None:
    original, calls = algorithm1.latent_error, itertools.count(1)

    def faulty(*arguments):
        error = original(*arguments)
        return spoil(error) if next(calls) == number else error

    monkeypatch.setattr(algorithm1, "latent_error", faulty)


DIVERGED = [
    (lambda error: error * math.nan, "loss_g, error_z, gradient_G, gradient_E"),
    (lambda error: error + math.inf, "loss_g, error_z"),
    # the same value, whose derivative is that of a root at 0
    (lambda error: error + (error - error.detach()).sqrt(), "gradient_G, gradient_E"),
]


@pytest.mark.parametrize("spoil, terms", DIVERGED)
def test_run_that_diverges_stops_and_goes_on_from_before(
    workspace, whole, tiny_config, monkeypatch, spoil, terms
):
    config = changed(tiny_config, checkpoint_seconds=1e-9)  # a checkpoint at every step
    spoil_latent_error(monkeypatch, 3, spoil)
    with pytest.raises(Diverged, match=f"run diverged at step 3: {terms} not finite"):
        train(config, workspace / "run")
    run = Run(workspace / "run")
    assert [line["step"] for line in run.log()] == [1, 2] and not run.is_trained
    assert run.load_checkpoint()["step"] == 2
    train(config, run.folder)  # the fault does not come again
    assert_same_run(whole, run.folder)


@pytest.mark.parametrize("on_log", [None, press_ctrl_c_after(2)])
def test_nothing_is_kept_of_what_diverged(workspace, tiny_config, monkeypatch, on_log):
    how = {"log_every": 2} if on_log else {"log_every": 50, "snapshots": 1}
    # every later loss is NaN, as the weights are
    spoil_latent_error(monkeypatch, 3 if on_log else 2, DIVERGED[0][0])
    # found at step 3, at the checkpoint of Ctrl-C, or at the snapshot
    with pytest.raises(Diverged, match="diverged at step 3"):
        train(changed(tiny_config, steps=6, **how), workspace / "run", on_log=on_log)
    assert not [p for p in (workspace / "run").rglob("*") if p.suffix in (".pt", ".safetensors")]


def test_where_nobody_watches_progress_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setenv("PAPERLIB_PROGRESS", "lines")
    with progress.progress_bar(5000, "training a", done=8) as bar:
        for _ in range(8, 5000):
            bar.set_postfix_str("loss_d 1.900", refresh=False)
            bar.update()
    first, last = filter(None, capsys.readouterr().err.splitlines())
    assert first.startswith("training a: 8 of 5000, ")
    assert last.startswith("training a: 5000 of 5000, ") and last.endswith("loss_d 1.900")
