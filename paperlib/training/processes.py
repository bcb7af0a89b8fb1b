"""One run on many processes, one a GPU (``torchrun``): the one place that speaks to the others.

    torchrun --nproc-per-node 4 -m -- paperlib train PROFILE --run NAME

Each process takes an equal share of the rows of every batch (``batch_size`` is the joint batch's)
and draws its own masks and z; gradients are averaged before every update, so that weights stay
equal everywhere. On GPUs BatchNorm takes its statistics over the joint batch. The first process
writes. Alone, without torchrun, nothing is exchanged.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from paperlib.errors import ConfigurationError


@contextmanager
def processes() -> Iterator[None]:
    """Within, this process is one of those that torchrun started, if it did."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what "cuda" means from here on
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    if rank() > 0:
        os.environ["PAPERLIB_PROGRESS"] = "none"
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  errors still go to sys.stderr
    try:
        yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    """How many processes share a batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This one's number; the first, 0, writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def first(make: Callable[[], Any]) -> Any:
    """``make()`` by the first process alone; its value in all. If it fails, torchrun ends them."""
    if count() == 1:
        return make()
    box: list[Any] = [make() if rank() == 0 else None]
    dist.broadcast_object_list(box)
    return box[0]


def highest(*numbers: int) -> tuple[int, ...]:
    """The highest of each over the processes: so all do the same at the same step."""
    if count() == 1:
        return numbers
    joint = torch.tensor(numbers)
    dist.all_reduce(joint, dist.ReduceOp.MAX)
    return tuple(joint.tolist())


def own_rows(batch_size: int) -> slice:
    """The own rows of a joint batch; ConfigurationError if it cannot be shared equally."""
    if batch_size % count():
        what = f"batch_size {batch_size} is the joint batch of {count()} processes"
        raise ConfigurationError(f"{what}: choose a multiple of {count()}")
    share = batch_size // count()
    return slice(rank() * share, (rank() + 1) * share)


def average_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Replace the gradients of an optimiser's parameters by their means over the processes."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    joint = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(joint)
    parts = (joint / count()).split([g.numel() for g in gradients])
    for gradient, values in zip(gradients, parts, strict=True):
        gradient.copy_(values.view_as(gradient))


def join(nets: Any, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Let networks and their optimisers work as parts of one run."""
    if count() == 1:
        return
    for name, net in vars(nets).items():
        if next(net.parameters()).is_cuda:  # torch has no SyncBatchNorm on the CPU
            setattr(nets, name, nn.SyncBatchNorm.convert_sync_batchnorm(net))
    for optimizer in optimizers:
        optimizer.register_step_pre_hook(average_gradients)
