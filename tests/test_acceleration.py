"""The fast path against eager float32: what is chosen, and that it computes the same."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import awake, changed, images, observations, tiny
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from paperlib import acceleration, records, seeds, training
from paperlib.acceleration import LateLog, ahead, choose, keeps_resident, later
from paperlib.algorithm1 import Algorithm1
from paperlib.config import ConfigurationError, RunConfig
from paperlib.corruption import ObservedMasks
from paperlib.data import (
    Observations,
    PairedCompleteImages,
    UnpairedCompleteImages,
    law_of,
    load_prepared,
)
from paperlib.divergence import Watch
from paperlib.methods import METHODS, build_method, plain_generator
from paperlib.records import RunError
from paperlib.training import RunningAverage, train

KINDS = ["both", "paired", "misgan"]  # one of each kind of step


def batches_of(config: RunConfig, step: int, device: str) -> Iterator[tuple[Tensor, ...]]:
    """Endless batches, a function of the step and of their number in it."""
    number = 0
    while True:
        batch = observations(config.corruption, seed=1000 * step + 10 * number)
        if config.method in ("unpaired", "paired"):
            batch += (images(number),)
        yield tuple(tensor.to(device) for tensor in batch)
        number += 1


def course(config: RunConfig, steps: int = 20, device: str = "cpu") -> list[tuple[dict, dict]]:
    """The losses and the networks' gradients, as one vector each, of every step."""
    torch.manual_seed(0)
    method = build_method(config, device)
    awake(method.nets)
    taken = []
    for step in range(steps):
        generator = seeds.generator("step", step, device=device)
        log = method.step(batches_of(config, step, device), generator)
        gradients = {
            name: torch.cat([p.grad.flatten() for p in net.parameters()]).clone()
            for name, net in vars(method.nets).items()
            if next(net.parameters()).grad is not None  # base has no use for E
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


def small(method: str, **changes) -> RunConfig:
    return tiny(method=method, critic_steps=2, **changes)


@functools.cache
def eager(method: str, precision: str = "float32") -> list:
    """20 steps without anything else; in float32 the reference."""
    return course(small(method, precision=precision))


# The same losses and gradients over 20 steps, each path on its own weights from the second on


@pytest.mark.parametrize("method", KINDS)
def test_eager_float32_repeats_itself_to_the_bit(method):
    assert distances(course(small(method)), eager(method)) == (0, 0)


@pytest.mark.parametrize("method, of_losses, of_gradients", [("both", 1e-5, 1e-3), ("paired", 1e-5, 1e-3), ("misgan", 1e-3, 0.1)])  # fmt: skip
def test_fused_adam_computes_the_same(method, of_losses, of_gradients):
    # MisGAN's penalty is steep where a gradient is near 0: rounding grows there
    fast = course(small(method, fused_adam=True))
    losses, gradients = distances(fast, eager(method))
    assert 0 < losses < of_losses and gradients < of_gradients


@pytest.mark.parametrize("method", KINDS)
def test_bfloat16_computes_nearly_the_same(method):
    losses, gradients = distances(course(small(method, precision="bfloat16")), eager(method))
    assert 1e-4 < losses < 0.06  # 8 bits are 0.004
    assert 1e-3 < gradients < 0.5


@pytest.mark.parametrize("method, precision", [("both", "float32"), ("both", "bfloat16"), ("misgan", "float32")])  # fmt: skip
def test_compiled_networks_compute_the_same(method, precision, monkeypatch):
    # The graphs that torch.compile would translate, run as they are: what is captured is right
    compile_module = nn.Module.compile
    compiled = []

    def captured(net, **options):
        compiled.append(type(net).__name__)
        compile_module(net, backend="eager", fullgraph=True, **options)

    monkeypatch.setattr(nn.Module, "compile", captured)
    fast = course(small(method, precision=precision, compile=True))
    assert distances(fast, eager(method, precision)) == (0, 0)
    nets = {"misgan": ["Generator", "DataGenerator"]}  # its critics are differentiated twice
    assert compiled == nets.get(method, ["Generator", "Discriminator", "Encoder"])


@pytest.mark.skipif(
    "PAPERLIB_TEST_INDUCTOR" not in os.environ,
    reason="minutes on two cores; set PAPERLIB_TEST_INDUCTOR to run it",
)
def test_networks_compiled_to_machine_code_compute_the_same():
    losses, gradients = distances(course(small("both", compile=True)), eager("both"))
    assert losses < 1e-3 and gradients < 1e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", KINDS)
def test_all_of_the_fast_path_on_a_gpu(method):
    slow = small(method, precision="float32", compile=False, fused_adam=False)
    fast = small(method, compile=True)
    assert choose(fast, "cuda").fused_adam
    losses, gradients = distances(course(fast, device="cuda"), course(slow, device="cuda"))
    assert losses < 0.06 and gradients < 0.5


# What is float32 under bfloat16


def test_products_are_bfloat16_and_spectral_norms_outputs_and_losses_float32():
    torch.manual_seed(0)
    method = Algorithm1(tiny(precision="bfloat16"))
    types, networks = set(), vars(method.nets)
    for net in networks.values():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda m, _, out: types.add(out.dtype))
            if isinstance(module, parametrize.ParametrizationList):
                module.register_forward_hook(lambda m, _, out: types.add(("norm", out.dtype)))
    p = method.forward(observations(), seeds.generator("s"))
    for loss, log in (method.discriminator_loss(p), method.generator_loss(p)):
        loss.backward()
        assert all(value.dtype == torch.float32 for value in log.values())
    assert types == {torch.bfloat16, ("norm", torch.float32)}
    tensors = [value for value in vars(p).values() if isinstance(value, Tensor)] + [*p.z_enc]
    assert len(tensors) == 11 and all(t.dtype == torch.float32 for t in tensors)
    for net in networks.values():
        assert all(t.dtype == torch.float32 for t in net.parameters())
        assert all(p.grad.dtype == torch.float32 for p in net.parameters())


def test_power_iteration_is_that_of_float32_to_the_bit(monkeypatch):
    product, autocast, pairs = torch.mv, set(), []

    def spied(*arguments):  # on the CPU autocast leaves it alone, on a GPU it would not
        autocast.add(torch.is_autocast_enabled("cpu"))
        return product(*arguments)

    monkeypatch.setattr(torch, "mv", spied)
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        D = Algorithm1(tiny(precision=precision)).nets.D
        D(images())
        D(images())
        pairs.append({name: v for name, v in D.state_dict().items() if name.endswith(("_u", "_v"))})
    assert autocast == {False}
    assert len(pairs[0]) > 5
    assert all(torch.equal(value, pairs[1][name]) for name, value in pairs[0].items())


def test_smooth_guess_under_the_output_is_that_of_float32_to_the_bit():
    outputs = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        G = Algorithm1(tiny(precision=precision, start_from_fill=True)).nets.G  # adds 0 at first
        outputs.append(G(*observations(), torch.zeros(4, 8)))
    assert torch.equal(*outputs)


def test_average_is_a_plain_network_of_float32():
    config = tiny(precision="bfloat16", start_from_fill=False)
    method = Algorithm1(config)
    average = RunningAverage(method.nets.G, plain_generator(config), 0.9)
    method.step(batches_of(config, 0, "cpu"), seeds.generator("s"))
    average.update(1)
    y, m = observations()
    z = torch.zeros(4, config.nz)
    assert all(v.dtype != torch.bfloat16 for v in average.model.state_dict().values())
    with torch.no_grad():
        exact = average.model(y, m, z)
        assert not torch.equal(exact, exact.bfloat16().float())


# Choices


def gpu_of(monkeypatch, capability: tuple[int, int], triton: bool = True) -> None:
    """Make believe that there is a GPU."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = object() if triton else None
    monkeypatch.setattr(acceleration.importlib.util, "find_spec", lambda name: found)


def test_on_the_cpu_auto_is_the_reference():
    assert str(choose(RunConfig(steps=100_000), "cpu")) == "float32, eager, Adam"


@pytest.mark.parametrize("capability, steps, triton, expected", [
    ((9, 0), 1000, True, "bfloat16, compiled, fused Adam"),
    ((8, 0), 999, True, "bfloat16, eager, fused Adam"),
    ((7, 5), 1000, True, "float32, compiled, fused Adam"),
    ((9, 0), 1000, False, "bfloat16, eager, fused Adam"),
])  # fmt: skip
def test_on_a_gpu_auto_is_what_it_is_good_at(monkeypatch, capability, steps, triton, expected):
    gpu_of(monkeypatch, capability, triton)
    assert str(choose(RunConfig(steps=steps), "cuda")) == expected


@pytest.mark.parametrize("change, expected", [
    ({"precision": "float32"}, "float32, compiled, fused Adam"),
    ({"compile": False}, "bfloat16, eager, fused Adam"),
    ({"fused_adam": False}, "bfloat16, compiled, Adam"),
])  # fmt: skip
def test_each_choice_can_be_switched_off(monkeypatch, change, expected):
    gpu_of(monkeypatch, (9, 0))
    assert str(choose(RunConfig(steps=5000, **change), "cuda")) == expected


def test_each_choice_can_be_switched_on():
    config = RunConfig(precision="bfloat16", compile=True, fused_adam=True)
    assert str(choose(config, "cpu")) == "bfloat16, compiled, fused Adam"


@pytest.mark.parametrize("key, value", [("precision", "float16"), ("compile", "yes"), ("fused_adam", 1), ("resident", "never")])  # fmt: skip
def test_other_values_are_refused_by_name(key, value):
    with pytest.raises(ConfigurationError, match=key):
        RunConfig.parse({key: value})


def test_what_was_chosen_is_said_in_one_line_and_recorded(workspace, tiny_config, capsys):
    config = changed(tiny_config, resident=True, fused_adam=True)
    record = train(config, workspace / "run")
    lines = [line for line in capsys.readouterr().err.splitlines() if "Adam" in line]
    assert lines == ["run: float32, eager, fused Adam, data on the device (0.139 MB)"]
    assert record["computed"] == "float32, eager, fused Adam"


# Interruption and continuation


def interrupted(config: RunConfig, run: Path) -> None:
    """Train up to step 2."""

    def press_ctrl_c(line, _):
        if line["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, run, on_log=press_ctrl_c)


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"compile": True}, {"fused_adam": True}])  # fmt: skip
def test_what_changes_results_may_not_change_in_a_run(workspace, tiny_config, change):
    interrupted(tiny_config, workspace / "run")
    with pytest.raises(RunError, match=next(iter(change))):
        train(changed(tiny_config, **change), workspace / "run")


def test_precision_of_a_run_does_not_change_with_the_device(workspace, tiny_config, monkeypatch):
    interrupted(tiny_config, workspace / "run")
    good_at_it = acceleration.Acceleration(torch.device("cpu"), "bfloat16")
    monkeypatch.setattr(acceleration, "choose", lambda *_: good_at_it)
    with pytest.raises(RunError, match="begun in float32 and would go on in bfloat16"):
        train(tiny_config, workspace / "run")


def test_run_in_bfloat16_is_resumed_to_the_bit(workspace, tiny_config):
    config = changed(tiny_config, precision="bfloat16")
    train(config, workspace / "whole")
    interrupted(config, workspace / "parts")
    train(config, workspace / "parts")
    whole, parts = (workspace / name / "generator.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_run_begun_before_these_keys_existed_goes_on(workspace, tiny_config):
    interrupted(tiny_config, workspace / "run")
    path = workspace / "run" / "config.json"
    keys = ("precision", "compile", "fused_adam", "resident")
    older = {k: v for k, v in records.read_json(path).items() if k not in keys}
    records.write_json(path, older)
    with pytest.raises(RunError, match="precision"):
        train(changed(tiny_config, precision="bfloat16"), workspace / "run")
    assert train(tiny_config, workspace / "run")["steps"] == tiny_config.steps


# The data


@pytest.mark.parametrize("kind", [Observations, PairedCompleteImages, UnpairedCompleteImages])
def test_resident_data_are_those_that_are_read(workspace, tiny_config, kind):
    data = load_prepared(tiny_config.data)
    read, kept = (
        kind(data, "training", law_of(tiny_config), 0, "cpu", resident).batches(4, seed=1)
        for resident in (False, True)
    )
    for _ in range(30):  # more than an epoch
        for a, b in zip(next(read), next(kept), strict=True):
            assert torch.equal(a, b) and a.stride() == b.stride()


def test_resident_data_are_the_training_set_alone(workspace, tiny_config):
    data = load_prepared(tiny_config.data)
    seen = Observations(data, "training", law_of(tiny_config), 0, "cpu", resident=True)
    assert seen.resident and seen.nbytes == len(seen) * (32 * 32 * 3 + 8)
    files = np.load(data.folder / "images.npy", mmap_mode="r+")
    before = seen.batch(np.arange(4))
    files[:] = 0  # they lie elsewhere now
    assert torch.equal(before[0], seen.batch(np.arange(4))[0])


@pytest.mark.parametrize("size, expected", [(25, True), (26, False)])
def test_auto_keeps_on_a_gpu_what_fits(monkeypatch, size, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    assert keeps_resident("auto", size, "cuda") is expected
    assert keeps_resident(True, size, "cuda") and not keeps_resident(False, size, "cuda")
    assert not keeps_resident("auto", size, "cpu")


def test_batches_read_ahead_are_the_same(workspace, tiny_config):
    data = load_prepared(tiny_config.data)
    seen = Observations(data, "training", law_of(tiny_config), 0, "cpu")
    early = ahead(seen.batches(4, seed=1), torch.device("cpu"))
    plain = seen.batches(4, seed=1)
    for _ in range(30):
        assert all(map(torch.equal, next(early), next(plain)))
    early.close()


def test_fault_while_reading_ahead_is_raised():
    def faulty():
        yield (torch.zeros(1),)
        raise OSError("disk gone")

    batches = ahead(faulty(), torch.device("cpu"))
    next(batches)
    with pytest.raises(OSError, match="disk gone"):
        next(batches)


# Nothing waits for the device


class NothingIsRead(TorchDispatchMode):
    """Fail where a tensor's value is asked for, or a shape depends on one."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal"), name
        return function(*args, **kwargs or {})


def test_drawing_observed_masks_reads_no_value():
    masks = torch.rand(9, 1, 8, 8, generator=seeds.generator("observed")) < 0.5
    law, generator = ObservedMasks(masks, flips=True, shift=2), seeds.generator("s")
    with NothingIsRead():
        law.sample(30, 8, generator, masks[:1].float().expand(30, 1, 8, 8))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("corruption", ["one_patch", "small_patch", "drop_pixel"])
def test_no_step_reads_a_value(method, corruption):
    # fused: the other Adam counts its steps in a tensor of the CPU, which it reads
    config = tiny(method=method, corruption=corruption, fused_adam=True, start_from_fill=True)
    method = build_method(config)
    average = RunningAverage(method.nets.G, plain_generator(config), 0.9)
    batches = batches_of(config, 0, "cpu")
    watch = Watch("run", 0, [])
    with NothingIsRead():
        scalars = method.step(batches, seeds.generator("s"))
        average.update(1)
        norms = training._gradient_norms(method)
        watch.note(1, scalars | norms)
        watch.note(2, scalars | norms)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            norms["gradient_G"].item()


def test_line_of_the_log_is_written_a_step_late(tmp_path):
    log = LateLog(tmp_path / "log.jsonl")
    assert log.write() == {}
    log.hold({"step": 1}, {"a": torch.tensor(0.1), "b": torch.tensor(-2.0)})
    assert not log.path.exists()
    line = {"step": 1, "a": float(torch.tensor(0.1)), "b": -2.0}
    assert log.write() == line and records.read_log(tmp_path) == [line]
    assert log.write() == {} and records.read_log(tmp_path) == [line]


def test_values_read_later_are_those_of_their_time():
    tensor = torch.tensor([1.0, 2.0])
    read = later(tensor)
    tensor = tensor + 1
    assert read() == [1.0, 2.0] and later(tensor)() == [2.0, 3.0]


def test_line_that_is_not_to_be_written_is_not(tmp_path):
    def refuse():
        raise RunError("diverged")

    log = LateLog(tmp_path / "log.jsonl")
    log.hold({"step": 1}, {"a": torch.tensor(0.1)}, refuse)
    with pytest.raises(RunError, match="diverged"):
        log.write()
    assert not log.path.exists() and log.write() == {}


@pytest.mark.parametrize("step", [1, 2, 3])
def test_ctrl_c_inside_a_step_loses_no_line(workspace, tiny_config, monkeypatch, step):
    original, calls = Algorithm1.step, []

    def pressed(self, *arguments):
        calls.append(1)
        if len(calls) == step:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(Algorithm1, "step", pressed)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config, workspace / "run")
    assert [line["step"] for line in records.read_log(workspace / "run")] == [*range(1, step + 1)]
    train(tiny_config, workspace / "run")
    assert [line["step"] for line in records.read_log(workspace / "run")] == [1, 2, 3, 4]


def test_kill_after_a_checkpoint_loses_no_line(workspace, tiny_config, monkeypatch):
    config, original, calls = changed(tiny_config, checkpoint_seconds=1e-9), Algorithm1.step, []

    def killed_in_the_third_step(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise SystemExit
        return original(self, *arguments)

    monkeypatch.setattr(Algorithm1, "step", killed_in_the_third_step)
    with pytest.raises(SystemExit):
        train(config, workspace / "run")
    train(config, workspace / "run")
    assert [line["step"] for line in records.read_log(workspace / "run")] == [1, 2, 3, 4]
