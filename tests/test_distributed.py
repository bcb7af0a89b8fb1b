"""Many processes: two with half of each batch do what one does with the whole of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
import yaml
from helpers import awake, changed, tiny
from safetensors.torch import load_file

from paperlib import distributed, paths, records, seeds
from paperlib.config import ConfigurationError, RunConfig
from paperlib.corruption import ObservedMasks, corrupt, mask_law
from paperlib.divergence import Diverged, Watch
from paperlib.methods import build_method, optimizers
from paperlib.training import train

METHODS = ("base", "both", "mask_aware", "misgan")
STEPS = 3


# The step, in float64: Adam divides a gradient by its size, so that one that is 0 but for rounding
# (a bias before a BatchNorm) moves its weight by a learning rate in float32, whatever its sign.


def after_steps(config: RunConfig) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Parameters, buffers and log after a few steps on the own rows of made-up batches."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    method = build_method(config)
    for net in vars(awake(method.nets)).values():
        net.double()
    distributed.share(method, optimizers(method).values())
    own, law = distributed.own_rows(config.batch_size), mask_law(config.corruption)

    def batches():
        for number in range(10 * STEPS):
            draws = seeds.generator("x", number)
            x = torch.rand(config.batch_size, 3, config.size, config.size, generator=draws) * 2 - 1
            m = law.sample(config.batch_size, config.size, draws)
            m[: config.batch_size // 2, :, 4:] = 0  # as much unequal as can be
            yield corrupt(x, m)[own], m[own]

    drawn, log = batches(), []
    for step in range(STEPS):
        values = distributed.means(method.step(drawn, seeds.generator("step", step)))
        log.append({k: v.item() for k, v in values.items()})
    state = {
        f"{name}.{key}": tensor
        for name, net in vars(method.nets).items()
        for key, tensor in net.state_dict().items()
    }
    torch.set_default_dtype(torch.float32)
    return state, log


def config_of(method: str) -> RunConfig:
    return tiny(method=method, accumulate=1 if method == "misgan" else 2, critic_steps=2, nz_x=8)


def work(rank: int, folder: Path) -> None:
    """What each of two processes does."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (folder / "port").read_text()}
    with distributed.processes():
        found = {method: after_steps(config_of(method)) for method in METHODS}
        masks = torch.rand(7, 1, 8, 8, generator=seeds.generator("masks")) < 0.5
        law = ObservedMasks(masks, flips=True, shift=2)
        own = masks[[0, 1, 2, 3]].float()[distributed.own_rows(4)]
        found["masks"] = distributed.OwnRows(law).sample(2, 8, seeds.generator("m"), own)
        found["z"] = distributed.randn(2, 5, generator=seeds.generator("z"), device="cpu")
        with pytest.raises(ConfigurationError, match="batch_size 5"):
            distributed.own_rows(5)
        with pytest.raises(records.RunError, match="said by the first"):
            distributed.first(failing)
        found["highest"] = distributed.highest(rank, 5 - rank)
        watch = Watch("run", 3, [])
        for step, value in ((4, 0.0), (5, rank * torch.nan), (6, torch.nan)):
            watch.note(step, {"loss_g": torch.tensor(value), "loss_d": torch.tensor(0.0)})
        with pytest.raises(Diverged) as fault:
            watch.check()
        found["diverged"] = str(fault.value)
    torch.save(found, folder / f"{rank}.pt")


def failing() -> None:
    assert distributed.rank() == 0
    raise records.RunError("said by the first")


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("two")
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    (folder / "port").write_text(str(store.port))
    del store
    mp.spawn(work, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_learn_what_one_does(two, method):
    state, log = after_steps(config_of(method))
    assert log[0] != pytest.approx(log[-1], rel=1e-2)  # something was learned
    for rank in (0, 1):
        theirs, their_log = two[rank][method]
        assert theirs.keys() == state.keys()
        for key in state:
            torch.testing.assert_close(theirs[key], state[key], rtol=1e-8, atol=1e-9, msg=key)
        for ours, lines in zip(log, their_log, strict=True):
            assert lines == pytest.approx(ours, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_both_processes_hold_the_same_weights_to_the_bit(two, method):
    (first, _), (second, _) = (found[method] for found in two)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_two_processes_draw_the_masks_and_codes_of_one(two):
    masks = torch.rand(7, 1, 8, 8, generator=seeds.generator("masks")) < 0.5
    law = ObservedMasks(masks, flips=True, shift=2)
    joint = law.sample(4, 8, seeds.generator("m"), masks[:4].float())
    assert torch.equal(torch.cat([found["masks"] for found in two]), joint)
    z = torch.randn(4, 5, generator=seeds.generator("z"))
    assert torch.equal(torch.cat([found["z"] for found in two]), z)


def test_two_processes_agree_on_what_to_do(two):
    assert [found["highest"] for found in two] == [(1, 5), (1, 5)]


def test_two_processes_stop_where_one_diverged(two):
    for found in two:
        assert "run diverged at step 5: loss_g not finite" in found["diverged"]


def test_alone_nothing_is_changed():
    config = tiny()
    method = build_method(config)
    law, modules = method.p_m, [type(m) for m in method.nets.G.modules()]
    distributed.share(method, optimizers(method).values())
    assert method.p_m is law and [type(m) for m in method.nets.G.modules()] == modules
    assert distributed.own_rows(7) == slice(0, 7)
    log = {"a": torch.ones(())}
    assert distributed.means(log) is log
    assert distributed.highest(3, 0) == (3, 0)


# The whole loop, started by torchrun, in float32


def torchrun(
    workspace: Path, config: RunConfig, code: str = ""
) -> subprocess.CompletedProcess[str]:
    """Train ``config`` in results/many/runs with two processes; ``code`` runs first in each."""
    profile = workspace / "many.yaml"
    profile.write_text(yaml.safe_dump(config.model_dump() | {"matrix": {"seed": [0]}}))
    script = workspace / "script.py"
    script.write_text(f"{code}\nfrom paperlib.__main__ import main\nraise SystemExit(main())\n")
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        + ["--nproc-per-node=2", str(script), "train", str(profile)],
        env=os.environ
        | {"PAPERLIB_DATA": str(paths.DATA), "PAPERLIB_RESULTS": str(paths.RESULTS)}
        | {"PYTHONPATH": str(paths.ROOT), "PAPERLIB_PROGRESS": "lines"},
        capture_output=True,
        text=True,
        timeout=240,
    )


INTERRUPT = """
import os, signal
from paperlib.algorithm1 import Algorithm1
step, steps = Algorithm1.step, []
def stepped(*arguments):
    steps.append(None)
    if os.environ["RANK"] == "1" and len(steps) == 2:  # not in the process that writes
        os.kill(os.getpid(), signal.SIGINT)
    return step(*arguments)
Algorithm1.step = stepped
"""


def test_torchrun_is_interrupted_and_goes_on_alone(workspace, tiny_config):
    config = changed(tiny_config, steps=4, snapshots=1)
    run = paths.runs("many") / config.name
    done = torchrun(workspace, config, code=INTERRUPT)
    assert f"{config.name}: interrupted at step 2" in done.stdout
    assert done.stdout.count("interrupted at step") == 1
    assert [path.name[:19] for path in run.glob("checkpoint-*")] == ["checkpoint-00000002"]
    assert [line["step"] for line in records.read_log(run)] == [1, 2]
    assert not (run / "record.json").exists()

    assert "processes" not in train(config, run)  # a checkpoint of two, continued by one
    whole = workspace / "whole"
    train(config, whole)
    assert_alike(run, whole, config)


def test_torchrun_trains_from_start_to_end_and_goes_on_with_what_one_began(workspace, tiny_config):
    config = changed(tiny_config, steps=4)
    run = paths.runs("many") / config.name

    def stop(line, *_):
        if line["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, run, on_log=stop)
    done = torchrun(workspace, config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count(f"{config.name}: 4 of 4") == 1  # one of them speaks
    record = records.read_json(run / "record.json")
    assert record["processes"] == 2 and record["steps"] == 4
    assert [line["step"] for line in records.read_log(run)] == [1, 2, 3, 4]
    whole = workspace / "whole"
    train(config, whole)
    assert_alike(run, whole, config)


def test_a_batch_that_cannot_be_shared_is_said_in_a_line(workspace, tiny_config):
    done = torchrun(workspace, changed(tiny_config, batch_size=5))
    assert done.returncode != 0
    line = "error: batch_size 5 is the joint batch of all processes: 2 cannot share"
    assert done.stderr.count(line) == done.stderr.count("error: ") == 1  # one of them speaks


def assert_alike(a: Path, b: Path, config: RunConfig) -> None:
    """Of one training in float32: logs and weights are equal within 1e-5, relative or absolute.

    Biases have the gradient 0 but for rounding where a BatchNorm follows; see the note on Adam.
    """
    ours, theirs = ({line["step"]: line for line in records.read_log(run)} for run in (a, b))
    assert ours.keys() <= theirs.keys() and max(ours) == config.steps
    for step in ours:
        for key in theirs[step].keys() - {"seconds", "images_per_second"}:
            assert ours[step][key] == pytest.approx(theirs[step][key], rel=1e-5, abs=1e-5)
    ours, theirs = (load_file(run / "generator.safetensors") for run in (a, b))
    for key, value in theirs.items():
        moved = config.steps * config.lr_g if key.endswith(("bias", "running_mean")) else 0.0
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-5 + 2 * moved, msg=key)
