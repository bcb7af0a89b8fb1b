"""How long the explorer takes to open, and to answer each thing that one can do in it.

    make bench        (or python benchmarks/explorer.py; ten seconds)

Seconds to open are from the import on. An answer is everything the kernel does between a change of
a widget and the new pictures, on one thread of the processor; the browser then has to draw them.
Prints one line each, median and slowest of 20, and writes results/bench/explorer.json.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

STARTED = time.perf_counter()

import torch  # noqa: E402

from paperlib import paths, records  # noqa: E402
from paperlib.beyond.explorer import Explorer  # noqa: E402
from paperlib.run import Run  # noqa: E402

TIMES = 20


def milliseconds(act: Callable[[int], None]) -> dict[str, float]:
    """Median and maximum of ``act(0)``, ``act(1)``, ..."""
    taken = []
    for k in range(TIMES):
        start = time.perf_counter()
        act(k)
        taken.append(1000 * (time.perf_counter() - start))
    return {"median": round(statistics.median(taken), 1), "slowest": round(max(taken), 1)}


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        explorer = Explorer(folder=Path(folder))
        opened = time.perf_counter() - STARTED
        images = list(explorer.images)

        def stroke(k: int) -> None:
            explorer.paint((3.0, k), (3.0, k))
            explorer.paint((3.0, k), (20.5, k + 5.0))
            explorer.end_stroke()

        def choose(widget, values: list) -> Callable[[int], None]:
            return lambda k: setattr(widget, "value", values[(k + 1) % len(values)])

        acts = {
            "move a slider of z": choose(explorer.z[0], [k / 10 for k in range(TIMES + 1)]),
            "another image": choose(explorer.image, images),
            "another corruption": choose(
                explorer.corruption, list(explorer.corruption.options)[:3]
            ),
            "a stroke": stroke,
            "another run": choose(explorer.run[0], list(explorer.runs)[:2]),
            "new samples": lambda _: explorer.draw_samples(),
            "save the picture": lambda _: explorer.save(),
        }
        results = {name: milliseconds(act) for name, act in acts.items()}
    print(f"open: {opened:.1f} s")
    for name, taken in results.items():
        print(f"{name}: {taken['median']:.0f} ms, slowest {taken['slowest']:.0f} ms")
    config = Run(explorer.runs[explorer.run[0].value]).config
    result = records.provenance(config, "none: one image at a time") | {
        "seconds_to_open": round(opened, 2),
        "milliseconds": results,
    }
    records.write_json(paths.RESULTS / "bench" / "explorer.json", result)


if __name__ == "__main__":
    main()
