"""How steps are computed: by eager float32, the reference, or on a GPU faster.

The keys ``precision`` (bfloat16 for convolutions and products; parameters, spectral norms, losses,
averages and metrics stay float32), ``compile`` (torch.compile), ``fused_adam`` and ``resident`` (the
training set in the GPU's memory) are ``auto`` by default, which on the CPU is the reference.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paperlib.config import RunConfig
from paperlib.records import cpuinfo


def default_device() -> torch.device:
    """The GPU where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Computation:
    """What the configuration asks for; for ``auto``, what the device is good at."""

    device: torch.device
    precision: str = "float32"
    compile: bool = False
    fused_adam: bool = False

    @classmethod
    def choose(cls, config: RunConfig, device: torch.device) -> Computation:
        """Resolve the keys precision, compile and fused_adam."""
        gpu = device.type == "cuda"
        precision, compiled, fused = config.precision, config.compile, config.fused_adam
        if precision == "auto":
            ampere = gpu and torch.cuda.get_device_capability(device) >= (8, 0)
            precision = "bfloat16" if ampere else "float32"
        if precision == "bfloat16" and not gpu and "bf16" not in (cpuinfo() or "bf16"):
            print("this processor lacks bfloat16: precision auto is far faster", file=sys.stderr)
        if compiled == "auto":
            long = config.steps * config.accumulate >= 1000  # fewer take less time than compiling
            compiled = gpu and long and importlib.util.find_spec("triton") is not None
        return cls(device, precision, compiled, gpu if fused == "auto" else fused)

    def __str__(self) -> str:
        form, adam = "compiled" if self.compile else "eager", "fused " * self.fused_adam + "Adam"
        return f"{self.precision}, {form}, {adam}"

    def prepare(self, nets: Any, differentiated_twice: tuple[str, ...] = ()) -> None:
        """Move networks to the device; torch.compile cannot take ``differentiated_twice`` ones."""
        for name, net in vars(nets).items():
            net.to(self.device).to(memory_format=torch.channels_last)
            if self.precision == "bfloat16":
                compute_in_bfloat16(net, self.device.type)
            if self.compile and name not in differentiated_twice:
                torch.compiler.reset()  # the graphs of earlier runs count against torch's limit
                net.compile(dynamic=False)

    @property
    def adam(self) -> Any:
        """The class of the optimisers; None leaves torch its own choice of the implementation."""
        return partial(torch.optim.Adam, fused=self.fused_adam or None)

    def keeps_resident(self, config: RunConfig, nbytes: int) -> bool:
        """Whether a training set of so many bytes is kept on the device; ``auto``: if it fits a GPU."""
        if config.resident != "auto" or self.device.type != "cuda":
            return config.resident is True
        return nbytes <= torch.cuda.mem_get_info(self.device)[0] / 4  # of what is free


def compute_in_bfloat16(net: nn.Module, device_type: str) -> None:
    """Autocast what a network computes to bfloat16, but neither its spectral norms nor its outputs."""
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


@contextmanager
def deterministic_algorithms(asked: bool) -> Iterator[None]:
    """Within, if ``asked``, every operation gives the same bits each time, on a GPU too."""
    before = torch.are_deterministic_algorithms_enabled()
    if asked:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
