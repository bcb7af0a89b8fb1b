"""A training step: its time, how much of the processor it uses, and what others would take.

    make bench                                (nothing else should run meanwhile)
    python benchmarks/step.py [PROFILE[:BATCH] ...]

For each profile's run `both` on Small Patch, in one process and in turns: a product of matrices of
the same type of numbers; our step; the step in the order of the paper's public code
(``public_order``); our step of the variant `encoding_y`, and beside it deepinv's UAIR trainer, which
makes the same two passes of G an update, if deepinv is installed; drawing masks. BATCH is that of the
profile by default; on a CPU the larger networks need a smaller one. Writes
results/bench/step-SIZE-DEVICE.json.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import torch
from measure import Work, flops, in_a_process, in_turns, matrix_product, own_peak
from public_order import PublicOrder

import paperlib.beyond  # noqa: F401, its method has a name too
from paperlib import paths, records, seeds
from paperlib.config import RunConfig
from paperlib.core.algorithm1 import Batch
from paperlib.core.baselines import METHODS
from paperlib.core.corruption import corrupt, mask_law
from paperlib.profiles import run_of_profile
from paperlib.training.device import Computation, default_device

ON_CPU = ("quick", "celeba64:8", "paper:2")
ON_GPU = ("quick", "celeba64", "paper")
STEPS = 2  # a turn
SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices


def configured(profile: str, method: str = "both") -> RunConfig:
    """A profile's run on Small Patch; "PROFILE:BATCH" for another size of batch, not accumulated."""
    name, _, batch = profile.partition(":")
    changes = {"steps": 10**6, "threads": 0}  # long enough for whatever is worth preparing
    if batch:
        changes |= {"batch_size": int(batch), "accumulate": 1}
    return run_of_profile(name, "small_patch", method, changes=changes)


def build(config: RunConfig, device: torch.device, kind: Any = None) -> Any:
    """A run's method on the device, as training computes it; or another class of it."""
    kind = kind or METHODS[config.method]
    computation, nets = Computation.choose(config, device), kind.build_networks(config)
    computation.prepare(nets, kind.differentiated_twice)
    return kind(config, nets, mask_law(config.corruption), computation.adam)


def observations(config: RunConfig, device: torch.device) -> Batch:
    """A batch of random images (y, m)."""
    generator = seeds.generator("bench", device=device)
    shape = (config.batch_size, config.bands, config.size, config.size)
    x = torch.rand(shape, generator=generator, device=device) * 2 - 1
    m = mask_law(config.corruption).sample(config.batch_size, config.size, generator)
    return corrupt(x, m).contiguous(memory_format=torch.channels_last), m


def steps(method: Any, device: torch.device) -> Work:
    """A turn: ``STEPS`` steps, on one batch."""
    batches = [observations(method.config, device)] * method.batches_per_step
    generator = seeds.generator("bench", device=device)
    return lambda: [method.step(batches, generator) for _ in range(STEPS)]


def deepinv_steps(config: RunConfig) -> Work | None:
    """A turn of deepinv's trainer on the same networks, or None without deepinv; on the CPU."""
    if importlib.util.find_spec("deepinv") is None:
        return None
    from uair import build_trainer

    y, m = observations(config, torch.device("cpu"))
    items = [{"y": y[i], "params": {"mask": m[i].expand_as(y[i])}} for i in range(len(y))]
    trainer = build_trainer(config, items * (STEPS + 1), STEPS)  # it leaves the last batch out
    return trainer.train


def measure(profile: str) -> dict:
    """Print, write and return the medians for one profile."""
    device = default_device()
    config, smaller = configured(profile), configured(profile, "encoding_y")
    method, computation = build(config, device), Computation.choose(config, device)
    dtype = getattr(torch, computation.precision)
    product, operations = matrix_product(SIDE[device.type], dtype, device)
    generator, ids = seeds.generator("bench", device=device), torch.arange(config.batch_size)
    turns = {
        "step": steps(method, device),
        "public_order": steps(build(config, device, PublicOrder), device),
        "encoding_y": steps(build(smaller, device), device),
    }
    if device.type == "cpu" and config.size == 32 and (peer := deepinv_steps(smaller)):
        turns["deepinv"] = peer
    masks = {
        "fresh_masks": lambda: method.p_m.sample(config.batch_size, config.size, generator),
        "masks_of_ids": lambda: method.p_m.for_ids(ids, config.size, 0, device),
    }
    medians = in_turns({"matrix_product": product} | turns | masks, device)
    medians |= {name: medians[name] / STEPS for name in turns}
    counted = {name: flops(turn) / STEPS for name, turn in turns.items()}
    rate = counted["step"] / medians["step"]
    of_products = operations / medians["matrix_product"]
    images = config.batch_size * config.accumulate
    result = records.provenance(config, "none: random images") | {
        "device": device.type,
        "computed": str(computation),
        "parameters": sum(
            p.numel() for net in vars(method.nets).values() for p in net.parameters()
        ),
        "medians_seconds": medians,
        "flops": counted,
        "step_flop_per_second": rate,
        "matrix_product_flop_per_second": of_products,
        "share_of_matrix_product_rate": rate / of_products,
        "masks_share_of_step": sum(medians[name] for name in masks) / medians["step"],
        "images_per_second": images / medians["step"],
        "times_public_order": medians["public_order"] / medians["step"],
        "peak_bytes": peak(profile, device),
    }
    if "deepinv" in medians:
        result["times_deepinv"] = medians["deepinv"] / medians["encoding_y"]
        per_flop = {name: medians[name] / counted[name] for name in ("deepinv", "encoding_y")}
        result["times_deepinv_per_flop"] = per_flop["deepinv"] / per_flop["encoding_y"]
    records.write_json(paths.RESULTS / "bench" / f"step-{config.size}-{device.type}.json", result)
    print(
        f"{profile}, {config.size} px, {images} images: step {medians['step']:.3f} s, "
        f"{counted['step'] / 1e9:.0f} GFLOP, {rate / 1e9:.0f} GFLOP/s, "
        f"{rate / of_products:.0%} of a matrix product's; {images / medians['step']:.1f} images/s, "
        f"{result['times_public_order']:.2f} times the public order's",
        flush=True,
    )
    return result


def peak(profile: str, device: torch.device) -> int:
    """The most bytes that training needs: of a process on the CPU, of the memory of a GPU."""
    if device.type == "cpu":
        (used,) = in_a_process(__file__, "--peak", profile)
        return used
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    steps(build(configured(profile), device), device)()
    return torch.cuda.max_memory_allocated(device)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--peak"]:
        cpu = torch.device("cpu")
        steps(build(configured(arguments[1]), cpu), cpu)()
        print(own_peak())
        return
    default = ON_GPU if default_device().type == "cuda" else ON_CPU
    for profile in arguments or default:
        measure(profile)


if __name__ == "__main__":
    main(sys.argv[1:])
