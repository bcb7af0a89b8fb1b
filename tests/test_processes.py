"""One run on two processes (gloo): equal weights, mean gradients, and one of them writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import awake, changed, observations, tiny
from processes import finish, start
from torch.distributed import TCPStore

from paperlib import paths, seeds
from paperlib.config import RunConfig
from paperlib.core.algorithm1 import Algorithm1
from paperlib.core.corruption import mask_law
from paperlib.data.datasets import Observations, law_of
from paperlib.data.prepare import load_prepared
from paperlib.errors import ConfigurationError
from paperlib.run import Run
from paperlib.training import processes
from paperlib.training.loop import Training, train


def gradients_of_a_step(rank: int, joined: bool) -> dict[str, torch.Tensor]:
    """Of all networks' parameters, on a process's own batch, with D standing still."""
    torch.manual_seed(0)
    config = tiny(lr_d=1e-12)
    nets = awake(Algorithm1.build_networks(config))
    method = Algorithm1(config, nets, mask_law(config.corruption))
    if joined:
        processes.join(nets, method.optimizers.values())
    method.step([observations(seed=100 * rank)], seeds.generator("step", rank))
    return {
        f"{name}.{key}": p.grad.clone()
        for name, net in vars(nets).items()
        for key, p in net.named_parameters()
    }


def trained(config: RunConfig, folder: Path, pressed_at: int, found: dict[str, Any]) -> None:
    """Train; rank 1, which does not write, gets Ctrl-C at a step."""
    run = processes.first(lambda: Run.begin(folder, config))
    training = Training(config, run, load_prepared(config.data), torch.device("cpu"))
    method = training.method
    step, forward = method.step, method.forward

    def stepped(*arguments):
        if processes.rank() == 1 and training.step + 1 == pressed_at:
            signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    def passed(*batch, generator):
        p = forward(*batch, generator=generator)
        found.setdefault("passes", []).append((p.y, p.z, p.m_tilde))
        return p

    method.step, method.forward = stepped, passed
    try:
        training.loop(None)
    except KeyboardInterrupt as error:
        found["interrupted"] = str(error)
    found.setdefault("checkpoints", []).append(torch.load(folder / "checkpoint.pt")["step"])
    found["weights"] = [p.detach() for n in vars(method.nets).values() for p in n.parameters()]


def work(rank: int, workspace: Path, port: int, config: RunConfig) -> None:
    """What each of two processes does."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    paths.DATA = workspace / "data"
    found: dict[str, Any] = {}
    with processes.processes():
        assert processes.own_rows(6) == slice(3 * rank, 3 * rank + 3)
        assert processes.first(lambda: f"of {rank}") == "of 0"
        assert processes.highest(rank, 5 - rank) == (1, 5)
        with pytest.raises(ConfigurationError, match="batch_size 5 .*a multiple of 2"):
            processes.own_rows(5)
        found["alone"] = gradients_of_a_step(rank, joined=False)
        found["joined"] = gradients_of_a_step(rank, joined=True)
        trained(config, workspace / "run", 5, found)
        trained(config, workspace / "run", 0, found)
    torch.save(found, workspace / f"{rank}.pt")


@pytest.fixture(scope="module")
def two(tiny_config, prepared_once, tmp_path_factory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    workspace = tmp_path_factory.mktemp("two")
    (workspace / "data").symlink_to(prepared_once)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    del store
    arguments = (workspace, port, changed(tiny_config, steps=8))
    outputs = [workspace / f"output{rank}" for rank in (0, 1)]
    begun = [start(work, rank, *arguments, output=outputs[rank]) for rank in (0, 1)]
    assert [finish(process) for process in begun] == [0, 0], outputs[0].read_text()
    return [torch.load(workspace / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_gradients_are_the_means_of_the_processes(two):
    first, second = two
    assert first["joined"].keys() == first["alone"].keys()
    assert {key.split(".")[0] for key in first["joined"]} == {"G", "D", "E"}
    for key, gradient in first["joined"].items():
        assert torch.equal(gradient, second["joined"][key])
        mean = (first["alone"][key] + second["alone"][key]) / 2
        torch.testing.assert_close(gradient, mean, rtol=1e-4, atol=1e-6, msg=key)
    assert any(not torch.allclose(first["alone"][k], second["alone"][k]) for k in first["alone"])


def test_weights_are_equal_everywhere_to_the_bit(two):
    assert len(two[0]["weights"]) == len(two[1]["weights"]) > 20
    assert all(map(torch.equal, two[0]["weights"], two[1]["weights"]))


def test_each_process_takes_its_rows_and_draws_its_own_masks_and_codes(two, workspace, tiny_config):
    data = load_prepared(tiny_config.data)
    seen = Observations(data, "training", law_of(tiny_config), tiny_config.mask_seed, "cpu")
    batches = seen.batches(tiny_config.batch_size, tiny_config.seed)
    ours, theirs = (found["passes"] for found in two)
    assert len(ours) == len(theirs) == 8  # interrupted, and gone on with
    for (y, _), first, second in zip(batches, ours, theirs, strict=False):
        assert torch.equal(torch.cat([first[0], second[0]]), y)
    for drawn in (1, 2):  # fresh ones at every step (Algorithm 1, lines 3 and 4)
        every = torch.cat([p[drawn] for p in [*ours, *theirs]]).flatten(1)
        assert len(every.unique(dim=0)) == 8 * tiny_config.batch_size


def test_a_signal_to_one_stops_both_after_a_checkpoint(two):
    said = "run: interrupted at step 5; run it again to go on"
    assert [found["interrupted"] for found in two] == [said, said]
    assert [found["checkpoints"] for found in two] == [[5, 8], [5, 8]]


def test_torchrun_trains_a_profile_from_start_to_end(workspace, tiny_config):
    profile = workspace / "many.yaml"
    profile.write_text(yaml.safe_dump(tiny_config.model_dump() | {"matrix": {"seed": [0]}}))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", "-m", "--", "paperlib", "train", str(profile)],
        env=os.environ
        | {"PAPERLIB_DATA": str(paths.DATA), "PAPERLIB_RESULTS": str(paths.RESULTS)}
        | {"PYTHONPATH": str(paths.ROOT), "PAPERLIB_PROGRESS": "lines"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count(f"training {tiny_config.name}: 4 of 4") == 1  # one of them speaks
    run = Run(paths.runs("many") / tiny_config.name)
    assert run.record["processes"] == 2
    assert [line["step"] for line in run.log()] == [1, 2, 3, 4]
    assert train(tiny_config, run.folder) == run.record  # done, for one process too
    assert all(p.isfinite().all() for p in run.generator().parameters())
