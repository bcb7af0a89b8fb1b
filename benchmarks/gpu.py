"""Everything that wants a GPU, in one call: checks, timings, an estimate; one JSON file.

    python benchmarks/gpu.py              (about 8 minutes on a large GPU)
    python benchmarks/gpu.py --rehearse   (anywhere, with the tiny networks of `smoke`)

1. the tests that need a GPU: the fast path computes what eager float32 does;
2. ``step`` for `quick`, `celeba64` and `paper`, and ``throughput``;
3. how busy the GPU is in steps of `celeba64`: time in kernels over time on the clock;
4. how long every run of a seed of `celeba64` would take, from its own steps.

Writes results/bench/gpu.json beside the files of ``step`` and ``throughput``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import step
import throughput
import torch
from measure import Work, seconds
from step import STEPS, build, steps

from paperlib import paths, records
from paperlib.config import RunConfig
from paperlib.data.datasets import DATA_SETS
from paperlib.data.prepare import prepare
from paperlib.profiles import load_profile
from paperlib.training.device import Computation, default_device

TESTS = ("tests/test_device.py", "tests/test_processes.py")
SHARE_OF_MATRIX_RATE, SHARE_BUSY, MINUTES = 0.35, 0.90, 30  # what we ask of an H200
TURNS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="with tiny networks, on any device")
    rehearse = parser.parse_args().rehearse
    device = default_device()
    if device.type != "cuda" and not rehearse:
        print("error: torch sees no GPU here: try --rehearse", file=sys.stderr)
        return 2
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *TESTS, "-k", "gpu"], cwd=paths.ROOT
    )
    small, middle, large = ("smoke",) * 3 if rehearse else step.ON_GPU
    measured = {profile: step.measure(profile) for profile in dict.fromkeys([small, middle, large])}
    if not rehearse:
        throughput.main()
    share = measured[large]["share_of_matrix_product_rate"]
    busy = share_busy(middle, device)
    minutes = minutes_of_runs(middle, device)
    total = sum(minutes.values())
    result = records.provenance(step.configured(middle), "none: random images") | {
        "tests_pass": tests.returncode == 0,
        "share_of_matrix_product_rate": share,
        "share_busy": busy,
        "minutes_of_runs": minutes,
        "minutes": total,
    }
    records.write_json(paths.RESULTS / "bench" / "gpu.json", result)
    print(f"tests {'pass' if tests.returncode == 0 else 'FAIL'}")
    print(f"{large}: {share:.0%} of the matrix rate (asked: {SHARE_OF_MATRIX_RATE:.0%})")
    said = "no GPU" if busy is None else f"{busy:.0%}"
    print(f"{middle}: busy {said} (asked: {SHARE_BUSY:.0%})")
    print(f"{middle}: {len(minutes)} runs, {total:.0f} minutes (asked: {MINUTES})")
    return tests.returncode


def share_busy(profile: str, device: torch.device) -> float | None:
    """Time in kernels over time on the clock, of steps that have warmed up; None without a GPU."""
    if device.type != "cuda":
        return None
    config = step.configured(profile)
    turn = steps(build(config, device), device)
    turn(), turn()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
        on_the_clock = seconds(turn, device)
    in_kernels = sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6
    return in_kernels / on_the_clock


def minutes_of_runs(profile: str, device: torch.device) -> dict[str, float]:
    """For each run of the first seed: its steps times the time of one, without the evaluation."""
    runs = [run for run in load_profile(profile) if run.seed == 0]
    return {run.name: run.steps * seconds_a_step(run, device) / 60 for run in runs}


def seconds_a_step(config: RunConfig, device: torch.device) -> float:
    """Of a run on the device, batches read as in training, from Blue Marble where CelebA is not."""
    changes = {"dataset": "bluemarble", "source": None, "bands": 3}
    config = RunConfig(**config.model_dump() | changes)
    method, data = build(config, device), prepare(config.data)
    kind = DATA_SETS[method.learns_from]
    seen = kind(data, "training", method.p_m, config.mask_seed, device)
    if Computation.choose(config, device).keeps_resident(config, seen.nbytes):
        seen.keep_on_device()
    batches = seen.batches(config.batch_size, config.seed)
    generator = torch.Generator(device).manual_seed(0)

    def turn() -> None:
        for _ in range(STEPS):
            drawn = [next(batches) for _ in range(method.batches_per_step)]
            method.step(drawn, generator)

    return min(timed(turn, device)) / STEPS


def timed(turn: Work, device: torch.device) -> list[float]:
    """The seconds of some turns, after two that compile and warm up."""
    turn(), turn()
    return [seconds(turn, device) for _ in range(TURNS)]


if __name__ == "__main__":
    start = time.perf_counter()
    status = main()
    print(f"{time.perf_counter() - start:.0f} s")
    sys.exit(status)
