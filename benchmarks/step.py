"""How much of the processor a training step uses, and what drawing masks costs.

    make bench        (nothing else should run meanwhile; about a minute)

Measured in one process, in turns, so that a noisy machine disturbs all alike; medians over the
rounds. FLOPs are counted by torch's own counter. Writes results/bench/step-CORRUPTION.json.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from itertools import repeat

import torch
from torch.utils.flop_counter import FlopCounterMode

from paperlib import paths, records, seeds
from paperlib.algorithm1 import Algorithm1
from paperlib.config import load_profile
from paperlib.corruption import corrupt

ROUNDS = 9
SIDE = 2048  # of the square matrices


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(profile: str = "quick") -> None:
    """Measure the steps of a profile's `both` runs, one for each corruption."""
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    for config in (run for run in load_profile(profile) if run.row == "both" and run.seed == 0):
        measure(config, a, b)


def measure(config, a: torch.Tensor, b: torch.Tensor) -> None:
    """Print and write the medians for one configuration."""
    method = Algorithm1(config)
    generator = seeds.generator("bench")
    x = torch.rand(config.batch_size, 3, config.size, config.size, generator=generator) * 2 - 1
    m = method.p_m.sample(config.batch_size, config.size, generator)
    y = corrupt(x, m).contiguous(memory_format=torch.channels_last)
    ids = torch.arange(config.batch_size)
    work = {
        "matrix_product": lambda: a @ b,
        "step": lambda: method.step(repeat((y, m)), generator),
        "fresh_masks": lambda: method.p_m.sample(config.batch_size, config.size, generator),
        "masks_of_ids": lambda: method.p_m.for_ids(ids, config.size, 0),
    }
    for call in work.values():
        call(), call()  # warm up
    with FlopCounterMode(display=False) as counter:
        work["step"]()
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, call in work.items():
            times[name].append(seconds(call))
    median = {name: statistics.median(values) for name, values in times.items()}
    product_rate = 2 * SIDE**3 / median["matrix_product"]
    step_rate = counter.get_total_flops() / median["step"]
    masks = (median["fresh_masks"] + median["masks_of_ids"]) / median["step"]
    result = records.provenance(config, "none: random images") | {
        "medians_seconds": median,
        "flops_per_step": counter.get_total_flops(),
        "step_flop_per_second": step_rate,
        "matrix_product_flop_per_second": product_rate,
        "share_of_matrix_product_rate": step_rate / product_rate,
        "masks_share_of_step": masks,
        "images_per_second": config.batch_size * config.accumulate / median["step"],
    }
    records.write_json(paths.RESULTS / "bench" / f"step-{config.corruption}.json", result)
    print(
        f"{config.corruption}: step {median['step']:.3f} s, "
        f"{counter.get_total_flops() / 1e9:.0f} GFLOP, {step_rate / 1e9:.0f} GFLOP/s; "
        f"matrix product {product_rate / 1e9:.0f} GFLOP/s; share {step_rate / product_rate:.0%}; "
        f"masks {masks:.2%} of a step; {result['images_per_second']:.0f} images/s"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
