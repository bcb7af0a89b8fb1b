"""How cost grows: time with the batch, memory with the number of steps and of images.

    make bench        (nothing else should run meanwhile; five minutes)

- a step of `quick` with batches of 8 to 64 images: the time should be a line through 0;
- 20,000 steps of tiny networks: the resident memory should not grow;
- training on 4 times as many images: it should not either (they are read from a memory map, whose
  pages the system may count as resident but can drop: anonymous memory is what counts).

Writes results/bench/growth.json.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from measure import in_a_process, in_turns
from PIL import Image
from step import STEPS, build, configured, steps

from paperlib import paths, records
from paperlib.config import RunConfig
from paperlib.data.prepare import prepare
from paperlib.training.loop import train

BATCHES = (8, 16, 32, 64)
MANY_STEPS = 20_000
SETTLED = 1_000  # steps after which nothing should be allocated any more
FEW, MANY = 2_000, 8_000  # images
TINY = {
    "size": 8, "patch": 2, "attention": 0, "nz": 2, "batch_size": 2, "log_every": 100,
    "g_channels": [4, 4], "d_channels": [4, 4], "e_channels": [4, 4], "threads": 1,
}  # fmt: skip


def main() -> None:
    cpu = torch.device("cpu")
    config = configured("quick")
    turns = {str(b): steps(build(configured(f"quick:{b}"), cpu), cpu) for b in BATCHES}
    medians = {int(b): s / STEPS for b, s in in_turns(turns).items()}
    print("a step:", ", ".join(f"{b} images {s * 1e3:.0f} ms" for b, s in medians.items()))
    few, grown = alone(FEW, MANY_STEPS)
    many, _ = alone(MANY, SETTLED)
    print(f"{MANY_STEPS:,} steps: {grown / 1e6:+.1f} MB")
    print(f"{FEW} images: {few / 1e6:.0f} MB, {MANY}: {many / 1e6:.0f} MB")
    result = records.provenance(config, "none: random images") | {
        "seconds_a_step_by_batch": medians,
        "steps": MANY_STEPS,
        "bytes_grown_in_steps": grown,
        "bytes_by_images": {FEW: few, MANY: many},
    }
    records.write_json(paths.RESULTS / "bench" / "growth.json", result)


def alone(images: int, steps: int) -> tuple[int, int]:
    """``own`` in a process of its own."""
    settled, grown = in_a_process(__file__, images, steps)
    return settled, grown


def own(images: int, steps: int) -> None:
    """Train so long on so many images; print the bytes after ``SETTLED`` steps, and those since."""
    with tempfile.TemporaryDirectory(prefix="paperlib-bench-") as temporary:
        folder = Path(temporary)
        paths.DATA = folder / "data"
        rng = np.random.default_rng(0)
        (folder / "images").mkdir()
        for i in range(images):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{i:05d}.png")
        config = RunConfig(**TINY, dataset="folder", source=str(folder / "images"), steps=steps)
        prepare(config.data)
        seen: dict[int, int] = {}
        train(
            config, folder / "run", "cpu", lambda line, _: seen.update({line["step"]: anonymous()})
        )
    print(seen[SETTLED], seen[steps] - seen[SETTLED])


def anonymous() -> int:
    """Bytes of this process that are resident and no file's (Linux)."""
    fields = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(f.split()[1]) for f in fields if f.startswith("RssAnon"))


if __name__ == "__main__":
    own(*map(int, sys.argv[1:])) if sys.argv[1:] else main()
