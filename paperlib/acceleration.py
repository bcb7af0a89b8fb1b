"""The fast path: the same steps, computed faster than by eager float32, which is the reference.

Four keys of the configuration, ``auto`` by default; each can be switched on or off:

    precision   bfloat16 for the networks' convolutions and products, where the GPU has units for
                it; parameters, spectral norms, losses, averages and metrics stay float32
    compile     the networks by torch.compile, on a GPU, for a run long enough to earn it back
    fused_adam  one kernel for all parameters, on a GPU
    resident    the training set in the GPU's memory where it fits; else streamed from the disk

On the CPU ``auto`` is eager float32. The first three change results, if only by rounding; the last
does not (``config.BOOKKEEPING``). A fifth key, ``deterministic``, gives some of the speed back for
a GPU's results that repeat to the bit.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paperlib.config import RunConfig
from paperlib.records import append_log

UPDATES_WORTH_COMPILING = 1000  # fewer take less time than compiling them, a minute or two
SHARE_FOR_DATA = 0.25  # of the GPU's free memory


@dataclass(frozen=True)
class Acceleration:
    """How a run's steps are computed. By default the reference: eager, float32, plain Adam."""

    device: torch.device
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    fused_adam: bool = False

    def __str__(self) -> str:
        form, adam = "compiled" if self.compile else "eager", "fused " * self.fused_adam + "Adam"
        return f"{self.precision}, {form}, {adam}"

    def prepare(self, net: nn.Module, compilable: bool = True) -> None:
        """Move a network to the device, and make it compute so.

        ``compilable`` is False for one that is differentiated twice, which torch.compile cannot.
        """
        net.to(self.device).to(memory_format=torch.channels_last)
        if self.precision == "bfloat16":
            compute_in_bfloat16(net, self.device.type)
        if self.compile and compilable:
            torch.compiler.reset()  # the graphs of earlier runs count against torch's limit
            net.compile(dynamic=False)

    def adam(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float]
    ) -> torch.optim.Adam:
        """Adam; None leaves torch its own choice of the implementation."""
        return torch.optim.Adam(parameters, lr, betas, fused=self.fused_adam or None)


def choose(config: RunConfig, device: torch.device | str) -> Acceleration:
    """What the configuration asks for; for ``auto``, what the device is good at."""
    device = torch.device(device)
    gpu = device.type == "cuda"
    precision, compiled, fused = config.precision, config.compile, config.fused_adam
    if precision == "auto":
        fast = gpu and torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere and later
        precision = "bfloat16" if fast else "float32"
    if compiled == "auto":
        long = config.steps * config.accumulate >= UPDATES_WORTH_COMPILING
        compiled = gpu and long and importlib.util.find_spec("triton") is not None
    return Acceleration(device, precision, compiled, gpu if fused == "auto" else fused)


@contextmanager
def deterministic_algorithms(asked: bool) -> Iterator[None]:
    """Within, if ``asked``, every operation gives the same bits each time, on a GPU too.

    One that cannot raises RuntimeError. On the CPU they all do so anyway.
    """
    if not asked:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]


def compute_in_bfloat16(net: nn.Module, device_type: str) -> None:
    """Autocast what a network computes to bfloat16, but neither its spectral norms nor its outputs.

    Losses then are float32 without their code knowing.
    """
    forward = net.forward

    def autocast_forward(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        with torch.autocast(device_type, torch.bfloat16):
            outputs = forward(*inputs)
        if isinstance(outputs, Tensor):
            return outputs.float()
        return tuple(output.float() for output in outputs)

    net.forward = autocast_forward
    for module in list(net.modules()):
        if isinstance(module, parametrize.ParametrizationList):
            for norm in module:  # the power iteration
                norm.forward = torch.autocast(device_type, enabled=False)(norm.forward)


def keeps_resident(asked: Literal["auto"] | bool, size: int, device: torch.device | str) -> bool:
    """Whether a training set of ``size`` bytes is kept on the device.

    ``auto``: where it fits the GPU. On the CPU the system's file cache does the same unasked.
    """
    if asked != "auto":
        return asked
    device = torch.device(device)
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return size <= SHARE_FOR_DATA * free


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """``tensor`` of the CPU on the device; to a GPU by pinned memory, without waiting for it."""
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def ahead(batches: Iterator[tuple[Tensor, ...]], device: torch.device) -> Iterator[tuple]:
    """The same endless batches; a thread reads the next one while one is used.

    On a GPU it also copies it there, on a stream of its own: double buffering.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def read() -> tuple[tuple[Tensor, ...], torch.cuda.Event | None]:
        if stream is None:
            return next(batches), None
        with torch.cuda.stream(stream):
            return next(batches), stream.record_event()

    with ThreadPoolExecutor(1, "batches") as thread:
        following = thread.submit(read)
        while True:
            batch, copied = following.result()
            following = thread.submit(read)
            if copied is not None:
                current = torch.cuda.current_stream(device)
                current.wait_event(copied)
                for tensor in batch:
                    tensor.record_stream(current)  # its memory is not the other stream's to reuse
            yield batch


def later(tensor: Tensor) -> Callable[[], list]:
    """A function that returns the values that a tensor has now.

    From a GPU they are copied meanwhile: the function waits for them, not for what came after.
    """
    if tensor.device.type != "cuda":
        return tensor.tolist
    values = torch.empty_like(tensor, device="cpu", pin_memory=True)
    values.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> list:
        copied.synchronize()
        return values.tolist()

    return read


class LateLog:
    """A log whose lines are written a step late, so that nothing waits for the device's numbers.

    Of several processes one ``writes``; ``write`` returns the line in all.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self.held: tuple[dict[str, Any], list[str], Callable[[], list], Callable] | None = None

    def hold(
        self,
        line: dict[str, Any],
        scalars: dict[str, Tensor],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep a line, and the scalars on the device that belong to it.

        ``check`` raises what is to be raised instead of writing it.
        """
        self.held = line, [*scalars], later(torch.stack([*scalars.values()])), check

    def write(self) -> dict[str, Any]:
        """Write the line that is held, and return it; {} if there is none."""
        if self.held is None:
            return {}
        (line, names, read, check), self.held = self.held, None
        check()
        line = line | dict(zip(names, read(), strict=True))
        if self.writes:
            append_log(self.path, line)
        return line
