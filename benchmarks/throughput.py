"""Images a second of what surrounds the step: reading batches, evaluating, filling in.

    make bench        (nothing else should run meanwhile; two minutes on a CPU)

With the networks of `quick` (Small Patch, `both`), random weights: what they compute does not change
the time. Batches are read from the prepared Blue Marble tiles. Writes
results/bench/throughput-DEVICE.json.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from measure import in_turns, seconds
from PIL import Image
from step import STEPS, build, configured, steps

from paperlib import paths, records
from paperlib.beyond.inpaint import inpaint
from paperlib.config import RunConfig
from paperlib.data.datasets import Observations, law_of
from paperlib.data.prepare import Prepared, prepare
from paperlib.evaluation.protocol import EvaluationProtocol
from paperlib.evaluation.sampling import sampler
from paperlib.run import plain_generator
from paperlib.training.loop import default_device, train

BATCHES = 20  # a turn
PICTURES, SIDE, SAMPLES = 4, 256, 5  # to fill in: how many, pixels a side, samples of each


def main() -> None:
    device = default_device()
    config = configured("quick")
    data = prepare(config.data)
    with tempfile.TemporaryDirectory(prefix="paperlib-bench-") as temporary:
        folder = Path(temporary)
        rates = reading(config, data, device)
        rates |= evaluating(config, device)
        rates |= filling_in(config, folder, device)
    result = records.provenance(config, data.checksum) | {"device": device.type} | rates
    records.write_json(paths.RESULTS / "bench" / f"throughput-{device.type}.json", result)
    print("; ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in rates.items()))


def reading(config: RunConfig, data: Prepared, device: torch.device) -> dict[str, float]:
    """Observations read from the memory map, masked, in [-1, 1]; and the share of a step it takes."""
    law = law_of(config)
    seen = Observations(data, "training", law, config.mask_seed, device)
    batches = seen.batches(config.batch_size, config.seed, 0)
    medians = in_turns(
        {
            "read": lambda: [next(batches) for _ in range(BATCHES)],
            "steps": steps(build(config, device), device),
        },
        device,
    )
    a_batch = medians["read"] / BATCHES
    return {
        "images_read_per_second": config.batch_size / a_batch,
        "reading_share_of_step": a_batch / (medians["steps"] / STEPS),
    }


def evaluating(config: RunConfig, device: torch.device) -> dict[str, float]:
    """Images evaluated a second: ten samples each, every metric, originals' features kept."""
    protocol = EvaluationProtocol(config, device)
    G = plain_generator(config).to(device)
    reconstruct = sampler(G, config.eval_samples, config.seed)
    protocol.measure(reconstruct, "once")  # the originals' features are kept on disk
    took = seconds(lambda: protocol.measure(reconstruct, "evaluating"), device)
    return {"images_evaluated_per_second": protocol.count / took}


def filling_in(config: RunConfig, folder: Path, device: torch.device) -> dict[str, float]:
    """Megapixels a second through ``inpaint``: files read, tiles, five samples, files written."""
    rng = np.random.default_rng(0)
    for name in range(PICTURES):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
        pixels[..., 3] = 255 * (rng.random((SIDE, SIDE)) < 0.5)
        (folder / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "in" / f"{name}.png")
    run = folder / "run"
    train(config.model_copy(update={"steps": 1, "batch_size": 2}), run, device)
    took = seconds(lambda: inpaint(run, folder / "in", folder / "out", SAMPLES), device)
    return {"megapixels_of_samples_per_second": PICTURES * SAMPLES * SIDE**2 / 1e6 / took}


if __name__ == "__main__":
    main()
