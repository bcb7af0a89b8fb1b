"""The loop: determinism, going on, snapshots, averages, divergence, and what a run leaves."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_same_run, changed, observations, tiny, weights
from safetensors.torch import load_file

from paperlib import paths, progress, seeds
from paperlib.config import RunConfig
from paperlib.core import algorithm1
from paperlib.core.algorithm1 import Algorithm1
from paperlib.core.corruption import mask_law
from paperlib.data.prepare import load_prepared
from paperlib.errors import Diverged, RunError
from paperlib.records import file_checksum, read_record
from paperlib.run import CHECKPOINTS_KEPT, Run, plain_generator
from paperlib.training.averages import RunningAverage
from paperlib.training.loop import train


def press_ctrl_c_after(step: int):
    """An on_log that sends SIGINT after ``step``: training stops after the next."""

    def on_log(line, *_):
        if line["step"] == step:
            signal.raise_signal(signal.SIGINT)

    return on_log


def interrupted(config: RunConfig, folder: Path, step: int = 2) -> Path:
    """Train, but stop with a checkpoint of ``step``, at least 2."""
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


# Determinism


@pytest.mark.parametrize("change", [{"seed": 1}, {"mask_seed": 1}, {"method": "base"}, {"lambda_z": 2.0}])  # fmt: skip
def test_what_determines_a_run_does_change_it(workspace, whole, tiny_config, change):
    # Otherwise the identity of equal runs would mean nothing.
    train(changed(tiny_config, **change), workspace / "other")
    assert weights(whole) != weights(workspace / "other")


def test_nothing_else_changes_a_run(workspace, whole, tiny_config):
    torch.manual_seed(77)  # the caller's generators, which stay as they are
    np.random.seed(77)
    before = np.random.get_state()[1].copy()
    others = {"snapshots": 2, "deterministic": True, "resident": True, "checkpoint_seconds": 1e-9}
    train(changed(tiny_config, **others), workspace / "other")
    assert_same_run(whole, workspace / "other")
    assert (np.random.get_state()[1] == before).all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_every_step_draws_its_own_masks_and_codes(workspace, tiny_config, monkeypatch):
    # m~ and z are fresh at every step (Algorithm 1, lines 3 and 4); m belongs to the image.
    forward, passes = Algorithm1.forward, []

    def kept(self, *batch, generator):
        passes.append(forward(self, *batch, generator=generator))
        return passes[-1]

    monkeypatch.setattr(Algorithm1, "forward", kept)
    train(changed(tiny_config, steps=3, accumulate=2), workspace / "run")
    assert len(passes) == 6
    masks = torch.cat([p.m_tilde for p in passes]).flatten(1)
    codes = torch.cat([p.z for p in passes])
    assert len(masks.unique(dim=0)) == len(codes.unique(dim=0)) == 24
    m = torch.cat([p.m for p in passes]).flatten(1)
    assert not (masks[:, None] == m[None]).all(-1).any()
    data = load_prepared(tiny_config.data)
    ids = data.mask_ids()[data.indices("training")]
    stored = mask_law(tiny_config.corruption).for_ids(ids, 32, tiny_config.mask_seed).flatten(1)
    assert (m[:, None] == stored[None]).all(-1).any(1).all()


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
    assert snapshots(workspace / "whole") == snapshots(run) and len(snapshots(run)) == 2


def snapshots(folder: Path) -> dict[str, dict[str, bytes]]:
    """Their weights, without the times that they carry."""
    return {
        path.name: {name: v.numpy().tobytes() for name, v in load_file(path).items()}
        for path in (folder / "snapshots").iterdir()
    }


def test_run_interrupted_again_and_again_with_other_bookkeeping(workspace, tiny_config):
    config, folder = changed(tiny_config, steps=6), workspace / "parts"
    train(config, workspace / "whole")
    interrupted(changed(config, resident=True), folder, 2)
    interrupted(changed(config, checkpoint_seconds=7.0), folder, 4)
    train(changed(config, log_every=2, threads=0), folder)
    assert weights(workspace / "whole") == weights(folder)
    assert [line["step"] for line in Run(folder).log()] == [1, 2, 3, 4, 6]


def test_trained_run_is_not_trained_again(workspace, whole, tiny_config):
    folder = workspace / "run"
    record = train(tiny_config, folder)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}
    assert train(tiny_config, folder, on_log=lambda *_: pytest.fail("again")) == record
    for path, (written, content) in before.items():
        assert path.read_bytes() == content
        assert path.stat().st_mtime_ns == written or path.name in ("config.json", "lock")


def other_data(config: RunConfig) -> None:
    manifest = paths.DATA / config.data.folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"checksum": "0" * 64}))


def test_run_does_not_go_on_with_other_data(workspace, tiny_config):
    interrupted(tiny_config, workspace / "run")
    other_data(tiny_config)
    with pytest.raises(RunError, match=f"{workspace / 'run'} was begun on other data"):
        train(tiny_config, workspace / "run")


def test_trained_run_of_other_data_is_refused_and_kept(workspace, tiny_config):
    config = changed(tiny_config, steps=1)
    record = train(config, workspace / "run")
    other_data(config)
    with pytest.raises(RunError, match="other data"):
        train(config, workspace / "run")
    assert Run(workspace / "run").record == record


def test_precision_of_a_run_does_not_change_with_the_device(workspace, tiny_config):
    folder = interrupted(tiny_config, workspace / "run")
    run = Run(folder)
    state = run.load_checkpoint()
    assert state.pop("precision") == "float32"
    run.save_checkpoint(state.pop("step"), state | {"precision": "bfloat16"})
    with pytest.raises(RunError, match="begun in bfloat16 and would go on in float32"):
        train(tiny_config, folder)


# What is left


def test_log_has_a_line_every_few_steps_and_one_at_the_end(workspace, tiny_config):
    seen = []
    config = changed(tiny_config, steps=5, log_every=2)
    train(config, workspace / "run", on_log=lambda line, _: seen.append(line))
    assert [line["step"] for line in seen] == [2, 4, 5]
    assert Run(workspace / "run").log() == seen
    expected = {"loss_d", "d_real", "d_fake", "loss_g", "adv_y_tilde", "adv_y_hat", "error_y"}
    expected |= {"error_z", "gradient_G", "gradient_D", "gradient_E"}
    for line in seen:
        assert expected <= line.keys() and all(map(math.isfinite, line.values()))


def test_record_says_where_the_run_comes_from(workspace, tiny_config):
    folder = workspace / "run"
    config = changed(tiny_config, snapshots=1, checkpoint_seconds=1e-9)
    interrupted(config, folder, 3)
    first = Run(folder).log()[-1]["seconds"]
    record = train(config, folder)
    assert read_record(folder / "record.json") == record
    assert RunConfig.parse(record["config"]) == config  # enough to run it again
    assert record["data_checksum"] == load_prepared(config.data).checksum
    assert record["steps"] == config.steps and record["processes"] == 1
    assert record["computed"] == "float32, eager, Adam"
    seconds = [line["seconds"] for line in Run(folder).log()]
    assert seconds == sorted(seconds) and record["seconds"] > first  # over both parts
    parameters = sum(p.numel() for p in Run(folder).generator().parameters())
    assert record["parameters"].keys() == {"G", "D", "E"}
    assert record["parameters"]["G"] == parameters
    assert record["generator_checksum"] == file_checksum(folder / "generator.safetensors")
    assert record["files"].keys() == {"log.jsonl", "snapshots/generator-00000002.safetensors"}
    # and nothing else is left, half-written or not
    names = {p.name for p in folder.iterdir()} - {"lock"}
    fixed = {"config.json", "log.jsonl", "generator.safetensors", "record.json", "snapshots"}
    assert fixed <= names and len(names - fixed) == CHECKPOINTS_KEPT
    assert all(n.startswith("checkpoint-0") and n.endswith(".pt") for n in names - fixed)
    assert [f.path.name for f in Run(folder).faults()] == ["evaluation.json"]  # it is missing


def test_misgan_leaves_both_its_generators(workspace, tiny_config):
    config = changed(tiny_config, method="misgan", nz_x=5, steps=1)
    record = train(config, workspace / "run")
    assert record["parameters"].keys() == {"G", "D", "G_x", "D_x"}
    G_x = Run(workspace / "run").generator(name="data_generator")
    assert sum(p.numel() for p in G_x.parameters()) == record["parameters"]["G_x"]
    with torch.inference_mode():
        assert G_x(torch.zeros(2, 5)).shape == (2, 3, 32, 32)


def test_snapshots_are_the_averages_of_their_steps(workspace, tiny_config):
    averages = {}

    def keep(line, G):
        averages[line["step"]] = {name: v.clone() for name, v in G.state_dict().items()}

    train(changed(tiny_config, snapshots=2), workspace / "run", on_log=keep)
    run = Run(workspace / "run")
    assert run.snapshots == [1, 2]
    kept = {step: run.snapshot(step).state_dict() for step in run.snapshots}
    kept[4] = run.generator().state_dict()
    for step, tensors in kept.items():
        assert all(torch.equal(v, averages[step][name]) for name, v in tensors.items())
    assert not torch.equal(kept[1]["stem.weight"], kept[2]["stem.weight"])
    assert 0 < run.snapshot_seconds(1) <= run.snapshot_seconds(2) <= run.record["seconds"]


# The running average


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


def moved(method: Algorithm1, step: int) -> None:
    """Change G, running statistics included, as a training step does."""
    method.step([observations(seed=10 * step)], seeds.generator("step", step))


def started(**changes) -> tuple[RunConfig, Algorithm1]:
    torch.manual_seed(0)
    config = tiny(lr_g=0.01, **changes)
    return config, Algorithm1(config, Algorithm1.build_networks(config), mask_law("small_patch"))


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.999])
def test_running_average_equals_one_by_hand(decay):
    config, method = started()
    G = method.nets.G
    average = RunningAverage(G, plain_generator(config), decay)
    names = [n for n, v in average.model.state_dict().items() if v.is_floating_point()]
    assert any(n.endswith("running_var") for n in names)
    expected = {n: effective(G, n).double() for n in names}
    for step in (1, 2, 3):
        moved(method, step)
        before = {n: v.clone() for n, v in G.state_dict().items()}
        average.update(step)
        # reading a normalised weight must not advance its power iteration
        assert all(torch.equal(v, before[n]) for n, v in G.state_dict().items())
        assert all(module.training for module in G.modules())
        d = min(decay, (1 + step) / (10 + step))  # the decay grows as the random start recedes
        for n in names:
            expected[n] = d * expected[n] + (1 - d) * effective(G, n).double()
    averaged = average.model.state_dict()
    for n in names:
        assert torch.allclose(averaged[n].double(), expected[n], rtol=1e-4, atol=1e-5), n


@pytest.mark.parametrize("start_from_fill", [False, True])
def test_average_of_a_standing_generator_computes_what_it_computes(start_from_fill):
    config, method = started(start_from_fill=start_from_fill)
    for step in range(3):
        moved(method, step)
    average = RunningAverage(method.nets.G, plain_generator(config), 0.9)
    y, m = observations()
    with torch.no_grad():
        z = torch.randn(len(y), config.nz)
        assert torch.allclose(average.model(y, m, z), method.nets.G.eval()(y, m, z), atol=1e-5)


# Divergence


@pytest.fixture
def faulty(monkeypatch):
    """A function that lets ``times`` calls of ``latent_error`` from the ``first`` on go wrong."""

    def install(first: int, spoil=lambda error: error * math.nan, times: int = 10**9) -> None:
        original, calls = algorithm1.latent_error, []

        def error_of_z(*arguments):
            calls.append(1)
            error = original(*arguments)
            return spoil(error) if first <= len(calls) < first + times else error

        monkeypatch.setattr(algorithm1, "latent_error", error_of_z)

    return install


def infinite_gradient(error: torch.Tensor) -> torch.Tensor:
    """The same value, whose derivative is that of a root at 0."""
    return error + (error - error.detach()).sqrt()


@pytest.mark.parametrize(
    "spoil, terms",
    [
        (lambda error: error * math.nan, ["loss_g", "error_z", "gradient_G", "gradient_E"]),
        (lambda error: error + math.inf, ["loss_g", "error_z"]),
        (infinite_gradient, ["gradient_G", "gradient_E"]),
    ],
)
def test_run_that_diverges_stops_and_goes_on_from_before(
    workspace, whole, tiny_config, faulty, spoil, terms
):
    config = changed(tiny_config, checkpoint_seconds=1e-9)  # a checkpoint at every step
    faulty(3, spoil, times=1)
    with pytest.raises(Diverged) as error:
        train(config, workspace / "run")
    said = str(error.value)
    assert f"run diverged at step 3: {', '.join(terms)} not finite" in said and "\n" not in said
    run = Run(workspace / "run")
    assert [line["step"] for line in run.log()] == [1, 2] and not run.is_trained
    assert run.load_checkpoint()["step"] == 2
    train(config, workspace / "run")  # the fault does not come again
    assert_same_run(whole, workspace / "run")


def test_nothing_is_kept_of_what_diverged_between_two_lines_of_the_log(
    workspace, tiny_config, faulty
):
    config = changed(tiny_config, steps=9, log_every=50, snapshots=1)
    faulty(2, times=1)  # every later loss is NaN, as the weights are
    with pytest.raises(Diverged, match="diverged at step 4"):  # at the snapshot, before it
        train(config, workspace / "run")
    left = {p.name for p in (workspace / "run").rglob("*")} - {"lock"}
    assert left <= {"config.json", "log.jsonl", "snapshots"}
    assert Run(workspace / "run").log() == []
    faulty(1)
    with pytest.raises(Diverged, match="step 4"):  # nor at Ctrl-C
        train(config, workspace / "run", on_log=press_ctrl_c_after(1))
    assert not [*(workspace / "run").glob("checkpoint-*")]


# Progress


def test_where_nobody_watches_progress_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setenv("PAPERLIB_PROGRESS", "lines")
    monkeypatch.setenv("PAPERLIB_RUN", "3 of 24")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.progress_bar(10, "training a", done=8) as bar:
        bar.set_postfix_str("loss_d 1.900", refresh=False)
        bar.update()
        bar.update()
    lines = list(filter(None, capsys.readouterr().err.splitlines()))
    assert len(lines) >= 2 and lines[0].startswith("training a (run 3 of 24): 8 of 10, ")
    assert lines[-1].startswith("training a (run 3 of 24): 10 of 10, ")
    assert "loss_d 1.900" in lines[-1] and not any("\r" in line for line in lines)


def test_progress_of_thousands_is_few_lines_or_none(monkeypatch, capsys):
    monkeypatch.delenv("PAPERLIB_RUN", raising=False)
    for asked, most in (("lines", 2), ("none", 0)):  # the first and the last
        monkeypatch.setenv("PAPERLIB_PROGRESS", asked)
        assert list(progress.track(range(5000), 5000, "x")) == list(range(5000))
        lines = list(filter(None, capsys.readouterr().err.splitlines()))
        assert len(lines) <= most and (asked == "none" or "5000 of 5000" in lines[-1])
