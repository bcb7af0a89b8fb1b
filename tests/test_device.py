"""The fast path against eager float32, and the GPU that a run is given."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_same_run, awake, changed, images, observations, tiny
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paperlib import paths, seeds
from paperlib.config import RunConfig
from paperlib.core.baselines import METHODS
from paperlib.core.corruption import mask_law
from paperlib.training.device import Computation, default_device
from paperlib.training.loop import train

CPU = torch.device("cpu")
KINDS = ["both", "paired", "misgan"]  # one of each kind of step
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def method_of(config: RunConfig, device: torch.device = CPU):
    """A method as the loop makes it."""
    torch.manual_seed(0)
    build, computation = METHODS[config.method], Computation.choose(config, device)
    nets = awake(build.build_networks(config))
    computation.prepare(nets, build.differentiated_twice)
    return build(config, nets, mask_law(config.corruption), computation.adam)


def course(device: torch.device = CPU, **changes) -> torch.Tensor:
    """The losses of five steps, (5, terms)."""
    config = tiny(critic_steps=2, **changes)
    method, losses = method_of(config, device), []
    for step in range(5):
        batches = []
        for number in range(method.batches_per_step):
            batch = observations(seed=1000 * step + 10 * number)
            batch += (images(number),) if config.method == "paired" else ()
            batches.append(tuple(tensor.to(device) for tensor in batch))
        log = method.step(batches, seeds.generator("step", step, device=device))
        losses.append(torch.stack([*log.values()]))
    return torch.stack(losses).cpu()


def distance(fast: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest, relative to 1 + loss."""
    return ((fast - reference).abs() / (1 + reference.abs())).max().item()


def test_on_the_cpu_auto_is_the_reference_and_each_choice_can_be_switched_on():
    config = RunConfig(steps=100_000)
    chosen = Computation.choose(config, CPU)
    assert str(chosen) == "float32, eager, Adam" and not chosen.keeps_resident(config, nbytes=1)
    eager = {"precision": "float32", "compile": False, "fused_adam": False}
    assert torch.equal(course(method="both"), course(method="both", **eager))  # to the bit
    config = RunConfig(precision="bfloat16", compile=True, fused_adam=True, resident=True)
    chosen = Computation.choose(config, CPU)
    assert str(chosen) == "bfloat16, compiled, fused Adam"
    assert chosen.keeps_resident(config, nbytes=10**15)


@pytest.mark.parametrize("method", KINDS)
def test_bfloat16_and_fused_adam_compute_nearly_the_same(method):
    reference = course(method=method)
    assert distance(course(method=method, fused_adam=True), reference) < 1e-3
    # 8 bits are 0.004
    assert 1e-4 < distance(course(method=method, precision="bfloat16"), reference) < 0.06


def test_products_are_bfloat16_and_spectral_norms_outputs_and_losses_float32():
    method, types = method_of(tiny(precision="bfloat16")), set()
    for module in [m for net in vars(method.nets).values() for m in net.modules()]:
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, _, out: types.add(out.dtype))
        if isinstance(module, parametrize.ParametrizationList):
            module.register_forward_hook(lambda m, _, out: types.add(("norm", out.dtype)))
    p = method.forward(*observations(), generator=seeds.generator("s"))
    for loss, log in (method.discriminator_loss(p), method.generator_loss(p)):
        loss.backward()
        assert all(value.dtype == torch.float32 for value in [loss, *log.values()])
    assert types == {torch.bfloat16, ("norm", torch.float32)}
    tensors = [value for value in vars(p).values() if isinstance(value, Tensor)]
    assert len(tensors) == 11 and all(t.dtype == torch.float32 for t in tensors)
    for net in vars(method.nets).values():
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in net.parameters())


@needs_gpu
@pytest.mark.parametrize("method", KINDS)
def test_on_a_gpu_auto_is_fast_and_computes_nearly_the_same(method):
    gpu = default_device()
    chosen = Computation.choose(config := RunConfig(steps=999), gpu)
    assert chosen.fused_adam and not chosen.compile  # which takes longer than so few steps
    assert chosen.keeps_resident(config, 10**6) and not chosen.keeps_resident(config, 10**13)
    slow = course(gpu, method=method, precision="float32", compile=False, fused_adam=False)
    assert distance(course(gpu, method=method, compile=True), slow) < 0.06


@needs_gpu
@pytest.mark.parametrize("method", [*KINDS, "mask_aware"])
def test_deterministic_runs_on_a_gpu_are_identical_to_the_bit(workspace, tiny_config, method):
    config = changed(tiny_config, method=method, deterministic=True)
    for resident in (False, True):
        train(changed(config, resident=resident), workspace / str(resident), device="cuda")
    assert_same_run(workspace / "False", workspace / "True")


# Which GPU a run is given

SHOW = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(1)"


def placed(count: int, gpus: int, runs: int, folder: Path, visible: str = "") -> list[str]:
    """What ``count`` commands at once print, each of which holds its GPU for a second."""
    environment = os.environ | {"TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": visible}
    command = [sys.executable, paths.ROOT / "scripts" / "on_a_gpu.py", str(gpus), str(runs)]
    command += [sys.executable, "-c", SHOW]
    how: Any = {"env": environment, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **how) for _ in range(count)]
    return sorted(process.communicate(timeout=60)[0].strip() for process in started)


def test_each_run_has_a_gpu_of_its_own_and_waits_for_one(tmp_path):
    begun = time.monotonic()
    assert {*placed(3, 2, 1, tmp_path)} == {"0", "1"}
    assert time.monotonic() - begun > 2  # the third waited for one of them


def test_small_runs_share_the_visible_gpus_evenly(tmp_path):
    assert placed(4, 2, 2, tmp_path, visible="3,5,6") == ["3", "3", "5", "5"]
