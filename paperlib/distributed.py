"""One run on many processes, one a GPU (``torchrun``): the one place that speaks to the others.

    torchrun --nproc-per-node 4 -m -- paperlib train PROFILE --run NAME

Each process takes an equal share of the rows of every batch; ``batch_size`` is the joint batch's.
The result is that of one process with the joint batch, up to the order of sums, because

- fresh masks, z and all other random numbers are drawn for the joint batch, of which each process
  keeps its own rows;
- BatchNorm takes its statistics over the joint batch;
- gradients are averaged before every update, and every loss is a mean over equal shares; where it
  is one over observed entries, whose number differs, they are counted over the joint batch.

Weights so stay equal everywhere. Records, log, checkpoints and prints come from the first process.
Alone, without torchrun, nothing is exchanged and every function gives back what it was given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from paperlib.config import ConfigurationError
from paperlib.corruption import MaskLaw

T = TypeVar("T")


@contextmanager
def processes() -> Iterator[None]:
    """Within, this process is one of those that torchrun started, if it did.

    A ConfigurationError then is printed by the first one alone, and ends all with status 2.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what "cuda" means from here on
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend)  # address, port and rank are in torchrun's environment
    if rank() > 0:
        os.environ["PAPERLIB_PROGRESS"] = "none"
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  errors still go to sys.stderr
    try:
        yield
    except ConfigurationError as error:  # all have it alike: one says it, and then all leave
        message = f"error: {error}"
        first(lambda: print(message, file=sys.stderr, flush=True))
        raise SystemExit(2) from None
    finally:
        dist.destroy_process_group()


def count() -> int:
    """How many processes share a batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This one's number; the first, 0, writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def first(make: Callable[[], T]) -> T:
    """``make()`` by the first process alone; its value, or what it raised, in all."""
    if count() == 1:
        return make()
    box: list[Any] = [None]
    if rank() == 0:
        try:
            box = [(make(), None)]
        except Exception as fault:
            box = [(None, fault)]
    dist.broadcast_object_list(box)
    value, error = box[0]
    if error is not None:
        raise error
    return value


def highest(*numbers: int) -> tuple[int, ...]:
    """The highest of each over the processes. Numbers of the CPU's: no GPU waits for them."""
    if count() == 1:
        return numbers
    joint = torch.tensor(numbers)
    dist.all_reduce(joint, dist.ReduceOp.MAX)
    return tuple(joint.tolist())


# Rows


def own_rows(batch_size: int) -> slice:
    """The own rows of a joint batch; ConfigurationError if it cannot be shared equally."""
    if batch_size % count():
        raise ConfigurationError(
            f"batch_size {batch_size} is the joint batch of all processes: {count()} cannot share "
            f"it equally, choose a multiple of {count()}"
        )
    share = batch_size // count()
    return slice(rank() * share, (rank() + 1) * share)


def randn(n: int, *shape: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """As torch.randn, (n, ...): the own rows of what the joint batch draws."""
    rows = own_rows(n * count())
    return torch.randn(n * count(), *shape, generator=generator, device=device)[rows]


def rand(n: int, *shape: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """As torch.rand, (n, ...): the own rows of what the joint batch draws."""
    rows = own_rows(n * count())
    return torch.rand(n * count(), *shape, generator=generator, device=device)[rows]


class OwnRows(MaskLaw):
    """A mask distribution of which a process keeps the own rows of the joint batch's masks."""

    def __init__(self, law: MaskLaw) -> None:
        self.law = law

    def sample(
        self, n: int, size: int, generator: torch.Generator, own: Tensor | None = None
    ) -> Tensor:
        if own is not None:  # a mask depends on its own row of these alone
            own = own.repeat(count(), 1, 1, 1)
        return self.law.sample(n * count(), size, generator, own)[own_rows(n * count())]

    def interior_border(self, size: int) -> int:
        return self.law.interior_border(size)


# Means over the processes


class _Mean(torch.autograd.Function):
    """The mean over the processes; back comes the mean of the gradients of all."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total / count()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Mean.forward(ctx, gradient)


def mean(value: Tensor) -> Tensor:
    """The mean over the processes, differentiable."""
    return value if count() == 1 else _Mean.apply(value)


def means(log: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scalars by name, each the mean over the processes."""
    return dict(zip(log, mean(torch.stack([*log.values()])), strict=True)) if count() > 1 else log


class JointBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the joint batch on the CPU, where torch's SyncBatchNorm cannot run."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        over = (0, 2, 3)
        average = mean(x.mean(over))  # (C,)
        centred = x - average[:, None, None]
        variance = mean(centred.square().mean(over))  # (C,)
        n = count() * x.numel() // x.shape[1]
        # BatchNorm2d leaves out what it was told not to track; ``join_norms`` takes whole ones
        assert self.num_batches_tracked is not None and self.momentum is not None
        assert self.running_mean is not None and self.running_var is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(average, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]


def join_norms(net: nn.Module) -> None:
    """Let every BatchNorm in ``net`` take its statistics over the joint batch; names stay."""
    for name, child in net.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            join_norms(child)
        elif child.weight.is_cuda:
            setattr(net, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            joint = JointBatchNorm(child.num_features, child.eps, child.momentum)
            for key, tensor in [*child.named_parameters(), *child.named_buffers()]:
                setattr(joint, key, tensor)  # the very tensors that the optimiser knows
            setattr(net, name, joint)


def average_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Replace the gradients of an optimiser's parameters by their means, in one message."""
    found = [p.grad for group in optimizer.param_groups for p in group["params"]]
    gradients = [g for g in found if g is not None]
    joint = mean(torch.cat([g.flatten() for g in gradients]))
    for gradient, values in zip(
        gradients, joint.split([g.numel() for g in gradients]), strict=True
    ):
        gradient.copy_(values.view(gradient.shape))


def share(method: Any, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Let a method's step work on the own rows of each batch, as part of the joint one."""
    if count() == 1:
        return
    method.p_m = OwnRows(method.p_m)
    for net in vars(method.nets).values():
        join_norms(net)
    for optimizer in optimizers:
        optimizer.register_step_pre_hook(average_gradients)
