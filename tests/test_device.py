"""The fast path against eager float32, and the GPU that a run is given."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time

import pytest
import torch
from helpers import assert_same_run, awake, changed, images, observations, tiny
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paperlib import paths, seeds
from paperlib.config import RunConfig
from paperlib.core.baselines import METHODS
from paperlib.core.corruption import CORRUPTIONS, mask_law
from paperlib.run import plain_generator
from paperlib.training.averages import RunningAverage
from paperlib.training.device import Computation, default_device
from paperlib.training.loop import train

CPU = torch.device("cpu")
KINDS = ["both", "paired", "misgan"]  # one of each kind of step
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def small(method: str, **changes) -> RunConfig:
    return tiny(method=method, critic_steps=2, **changes)


def method_of(config: RunConfig, device: torch.device):
    """A method as the loop makes it."""
    torch.manual_seed(0)
    build, computation = METHODS[config.method], Computation.choose(config, device)
    nets = awake(build.build_networks(config))
    computation.prepare(nets, build.differentiated_twice)
    return build(config, nets, mask_law(config.corruption), computation.adam)


def batches_of(config: RunConfig, count: int, step: int, device: torch.device) -> list:
    """The batches of a step, a function of its number."""
    batches = []
    for number in range(count):
        batch = observations(config.corruption, seed=1000 * step + 10 * number)
        batch += (images(number),) if config.method in ("unpaired", "paired") else ()
        batches.append(tuple(tensor.to(device) for tensor in batch))
    return batches


def course(config: RunConfig, steps: int = 10, device: torch.device = CPU) -> list:
    """The losses and the networks' gradients, as one vector each, of every step."""
    method, taken = method_of(config, device), []
    for step in range(steps):
        batches = batches_of(config, method.batches_per_step, step, device)
        log = method.step(batches, seeds.generator("step", step, device=device))
        gradients = {
            name: torch.cat([p.grad.flatten() for p in net.parameters()]).clone()
            for name, net in vars(method.nets).items()
            if next(net.parameters()).grad is not None  # paired has no use for E
        }
        taken.append(({name: value.item() for name, value in log.items()}, gradients))
    return taken


def distances(fast: list, reference: list) -> tuple[float, float]:
    """Of losses, relative to 1 + loss; and of gradients, relative to their norm: the largest."""
    losses, gradients = [], []
    for (log, grads), (log_of_reference, true_grads) in zip(fast, reference, strict=True):
        assert log.keys() == log_of_reference.keys() and grads.keys() == true_grads.keys()
        losses += [abs(log[k] - v) / (1 + abs(v)) for k, v in log_of_reference.items()]
        gradients += [((grads[k] - v).norm() / v.norm()).item() for k, v in true_grads.items()]
    return max(losses), max(gradients)


@functools.cache
def eager(method: str) -> list:
    """The reference."""
    return course(small(method))


# What is chosen


def test_on_the_cpu_auto_is_the_reference():
    config = RunConfig(steps=100_000)
    computation = Computation.choose(config, CPU)
    assert computation == Computation(CPU, "float32", compile=False, fused_adam=False)
    assert str(computation) == "float32, eager, Adam"
    assert not computation.keeps_resident(config, nbytes=1)


def test_each_choice_can_be_switched_on():
    config = RunConfig(precision="bfloat16", compile=True, fused_adam=True, resident=True)
    computation = Computation.choose(config, CPU)
    assert str(computation) == "bfloat16, compiled, fused Adam"
    assert computation.keeps_resident(config, nbytes=10**15)


@needs_gpu
def test_on_a_gpu_auto_is_what_it_is_good_at():
    gpu = default_device()
    ampere = torch.cuda.get_device_capability() >= (8, 0)
    chosen = Computation.choose(RunConfig(steps=999), gpu)
    assert (chosen.precision == "bfloat16") == ampere and chosen.fused_adam
    assert not chosen.compile  # it would take longer than so few steps
    assert chosen.keeps_resident(RunConfig(), 10**6)
    assert not chosen.keeps_resident(RunConfig(), 10**13)
    off = RunConfig(precision="float32", compile=False, fused_adam=False, resident=False)
    assert str(Computation.choose(off, gpu)) == "float32, eager, Adam"


# The same losses and gradients, each path on its own weights from the second step on


def test_eager_float32_repeats_itself_to_the_bit():
    assert distances(course(small("both")), eager("both")) == (0, 0)


@pytest.mark.parametrize("method", KINDS)
def test_fused_adam_computes_the_same(method):
    losses, gradients = distances(course(small(method, fused_adam=True)), eager(method))
    assert losses < 1e-3
    # MisGAN's penalty is steep where a gradient is near 0: rounding grows there
    assert gradients < (0.1 if method == "misgan" else 1e-3)


@pytest.mark.parametrize("method", KINDS)
def test_bfloat16_computes_nearly_the_same(method):
    losses, gradients = distances(course(small(method, precision="bfloat16")), eager(method))
    assert 1e-4 < losses < 0.06  # 8 bits are 0.004
    assert 1e-3 < gradients < 0.5


@needs_gpu
@pytest.mark.parametrize("method", KINDS)
def test_all_of_the_fast_path_computes_nearly_the_same_on_a_gpu(method):
    slow = small(method, precision="float32", compile=False, fused_adam=False)
    fast = small(method, precision="bfloat16", compile=True, fused_adam=True)
    gpu = default_device()
    losses, gradients = distances(course(fast, device=gpu), course(slow, device=gpu))
    assert losses < 0.06 and gradients < 0.5


# What stays float32 under bfloat16


def test_products_are_bfloat16_and_spectral_norms_outputs_and_losses_float32():
    config = tiny(precision="bfloat16")
    method, types = method_of(config, CPU), set()
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


def test_power_iteration_and_smooth_guess_are_those_of_float32_to_the_bit():
    norms, guesses = [], []
    for precision in ("float32", "bfloat16"):
        nets = method_of(tiny(precision=precision, start_from_fill=True), CPU).nets
        for _ in range(2):
            nets.D(images())
        state = nets.D.state_dict()
        norms.append({name: v for name, v in state.items() if name.endswith(("_u", "_v"))})
        guesses.append(nets.G(*observations(), torch.zeros(4, 8)))  # to which G adds 0 at first
    assert len(norms[0]) > 5
    assert all(torch.equal(value, norms[1][name]) for name, value in norms[0].items())
    assert torch.equal(*guesses)


def test_average_of_a_bfloat16_network_is_a_plain_one_of_float32():
    config = tiny(precision="bfloat16")
    method = method_of(config, CPU)
    average = RunningAverage(method.nets.G, plain_generator(config), 0.9)
    method.step(batches_of(config, 1, 0, CPU), seeds.generator("s"))
    average.update(1)
    assert all(v.dtype != torch.bfloat16 for v in average.model.state_dict().values())
    y, m = observations()
    with torch.no_grad():
        exact = average.model(y, m, torch.zeros(4, config.nz))
        assert not torch.equal(exact, exact.bfloat16().float())


# Runs on a GPU


@needs_gpu
@pytest.mark.parametrize(
    "method, corruption",
    [(method, "small_patch") for method in KINDS]
    + [("mask_aware", corruption) for corruption in CORRUPTIONS],
)
def test_deterministic_runs_on_a_gpu_are_identical_to_the_bit(
    workspace, tiny_config, method, corruption
):
    config = changed(tiny_config, method=method, corruption=corruption, deterministic=True)
    for name in ("a", "b"):
        train(config, workspace / name, device="cuda")
    assert_same_run(workspace / "a", workspace / "b")


@needs_gpu
def test_resident_data_change_nothing_on_a_gpu(workspace, tiny_config):
    config = changed(tiny_config, deterministic=True)
    for resident in (False, True):
        train(changed(config, resident=resident), workspace / str(resident), device="cuda")
    assert_same_run(workspace / "False", workspace / "True")


# Which GPU a run is given

SHOW = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(1.5)"


def place(gpus: int, runs: int, folder: object, visible: str | None = None) -> subprocess.Popen:
    """A command that prints its GPU and holds it for a while."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    environment |= {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    return subprocess.Popen(
        [sys.executable, "-m", "paperlib.training.gpus", str(gpus), str(runs)]
        + [sys.executable, "-c", SHOW],
        cwd=paths.ROOT,
        env=environment | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def printed(process: subprocess.Popen) -> str:
    return process.communicate(timeout=60)[0].strip()


def test_each_run_has_a_gpu_of_its_own_and_waits_for_one(tmp_path):
    begun = time.monotonic()
    started = [place(2, 1, tmp_path) for _ in range(3)]
    assert sorted(set(map(printed, started))) == ["0", "1"]
    assert time.monotonic() - begun > 2 * 1.5  # the third waited for one of them


def test_small_runs_share_the_visible_gpus_evenly(tmp_path):
    started = [place(2, 2, tmp_path, visible="3,5,6") for _ in range(4)]
    assert sorted(map(printed, started)) == ["3", "3", "5", "5"]


def test_more_gpus_than_are_visible_are_refused(tmp_path):
    refused = place(4, 1, tmp_path, visible="3,5")
    assert "error: 4 GPUs asked for, CUDA_VISIBLE_DEVICES has 3,5" in refused.communicate()[1]
    assert refused.returncode == 1
