"""Every method by its name, and what the loop around a step expects of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from paperlib.acceleration import Acceleration
from paperlib.algorithm1 import Algorithm1, build_generator
from paperlib.baselines import MisGAN, Paired, Unpaired, build_data_generator
from paperlib.config import METHOD_NAMES, RunConfig
from paperlib.data import Batches


class Method(Protocol):
    """What a method computes in a step, and all that has a state."""

    data_set: ClassVar[type[Batches]]  # what it may see
    nets: Any  # a dataclass of its networks; G is the one that fills in
    batches_per_step: int
    acceleration: Acceleration  # how it computes it

    def __init__(self, config: RunConfig, device: torch.device | str = "cpu") -> None: ...

    def step(
        self, batches: Iterator[tuple[Tensor, ...]], generator: torch.Generator
    ) -> dict[str, Tensor]: ...


METHODS: dict[str, type[Method]] = {
    "base": Algorithm1,
    "encoding_z": Algorithm1,
    "encoding_y": Algorithm1,
    "both": Algorithm1,
    "mask_aware": Algorithm1,
    "unpaired": Unpaired,
    "paired": Paired,
    "misgan": MisGAN,
}
BASELINES = ("unpaired", "paired", "misgan")

GENERATORS = {"generator": ("G", build_generator), "data_generator": ("G_x", build_data_generator)}
"""What is averaged, kept and evaluated: file name -> (network, what builds it)."""


def register(name: str, method: type[Method]) -> None:
    """Let configurations name a method of your own; a subclass of Algorithm1 starts as ``base``.

    Raises:
        ValueError: there is a method of this name.
    """
    if name in METHODS:
        raise ValueError(f"there is a method {name!r} already: choose another name")
    METHODS[name] = method
    METHOD_NAMES.append(name)


def build_method(config: RunConfig, device: torch.device | str = "cpu") -> Method:
    """The method that the configuration names, its networks randomly initialised."""
    return METHODS[config.method](config, device)


def optimizers(method: Method) -> dict[str, torch.optim.Optimizer]:
    """A method's optimisers by name."""
    return {k: v for k, v in vars(method).items() if isinstance(v, torch.optim.Optimizer)}


def plain_generator(config: RunConfig, name: str = "generator") -> Any:
    """A generator that holds normalised weights themselves, in evaluation mode, on the CPU."""
    net = GENERATORS[name][1](config, spectral=False)
    return net.to(memory_format=torch.channels_last).requires_grad_(False).eval()
