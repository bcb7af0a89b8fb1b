"""What the benchmarks share: work taken in turns, medians, matrix products, peaks of memory."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], object]


def seconds(work: Work, device: torch.device | str = "cpu") -> float:
    """Wall-clock time of one call, until the device has done it."""
    start = time.perf_counter()
    work()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


FEWEST_ROUNDS, MOST_ROUNDS = 3, 9


def in_turns(
    work: dict[str, Work], device: torch.device | str = "cpu", budget: float = 60.0
) -> dict[str, float]:
    """The median seconds of each; in turns, so that a noisy machine disturbs all alike.

    3 to 9 rounds, as many as fit ``budget`` seconds.
    """
    for call in work.values():
        call()  # warm up
    once = sum(seconds(call, device) for call in work.values())
    rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(budget / once)))
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            times[name].append(seconds(call, device))
    return {name: statistics.median(values) for name, values in times.items()}


def flops(work: Work) -> int:
    """Floating-point operations of the products and convolutions in one call, by torch's counter."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def matrix_product(side: int, dtype: torch.dtype, device: torch.device | str) -> tuple[Work, int]:
    """The product of two square matrices of random numbers, and its operations."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b, 2 * side**3


def in_a_process(script: str, *arguments: Any) -> list[int]:
    """The numbers in the last line that ``python script arguments`` prints, in a process alone."""
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [int(number) for number in done.stdout.splitlines()[-1].split()]


def own_peak() -> int:
    """The most bytes that this process has had resident."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
