"""The table of what ``make bench`` measured: results/bench/table.md, from its records alone.

What was not measured (a GPU, say, or a peer that is not installed) is a dash.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from paperlib import paths, records
from paperlib.files import write_text

SIZES, DEVICES = (32, 64, 128), ("cpu", "cuda")
DASH = "–"
GIGA = 1e9

STEP: dict[str, Callable[[dict[str, Any]], str]] = {
    "networks": lambda r: f"{r['parameters'] / 1e6:.3g} M parameters",
    "numbers": lambda r: r["computed"],
    "batch": lambda r: str(r["config"]["batch_size"] * r["config"]["accumulate"]),
    "step, ms": lambda r: f"{1e3 * r['medians_seconds']['step']:.0f}",
    "images/s": lambda r: f"{r['images_per_second']:.3g}",
    "GFLOP a step": lambda r: f"{r['flops']['step'] / GIGA:.0f}",
    "GFLOP/s": lambda r: f"{r['step_flop_per_second'] / GIGA:.0f}",
    "of the matrix rate": lambda r: f"{r['share_of_matrix_product_rate']:.0%}",
    "masks, of a step": lambda r: f"{r['masks_share_of_step']:.1%}",
    "peak memory, GB": lambda r: f"{r['peak_bytes'] / GIGA:.2f}",
    "faster than the public order": lambda r: f"{r['times_public_order']:.2f} x",
    "than deepinv's trainer": lambda r: f"{r['times_deepinv']:.2f} x",
    "the same, per FLOP": lambda r: f"{r['times_deepinv_per_flop']:.2f} x",
}
AROUND = {
    "images_read_per_second": "images read a second",
    "reading_share_of_step": "reading, share of a step",
    "images_evaluated_per_second": "images evaluated a second",
    "megapixels_of_samples_per_second": "megapixels of samples filled in a second",
}


def main() -> None:
    folder = paths.RESULTS / "bench"
    text = f"{step_table(folder)}\n\n{table_around(folder)}\n"
    write_text(folder / "table.md", text)
    print(text)


def step_table(folder: Path) -> str:
    """A column for each size and device."""
    columns = {}
    for device in DEVICES:
        for size in SIZES:
            found = record(folder / f"step-{size}-{device}.json")
            columns[f"{size} px, {device}"] = {
                name: shown(found, show) for name, show in STEP.items()
            }
    return as_markdown(pd.DataFrame(columns))


def table_around(folder: Path) -> str:
    """Reading, evaluation, filling in: a column for each device."""
    columns = {}
    for device in DEVICES:
        found = record(folder / f"throughput-{device}.json")
        columns[device] = {
            title: shown(found, lambda r, key=key: f"{r[key]:.3g}") for key, title in AROUND.items()
        }
    return as_markdown(pd.DataFrame(columns))


def record(path: Path) -> dict[str, Any] | None:
    return records.read_json(path) if path.is_file() else None


def shown(found: dict[str, Any] | None, show: Callable[[dict[str, Any]], str]) -> str:
    try:
        return DASH if found is None else show(found)
    except KeyError:  # a peer that was not installed
        return DASH


def as_markdown(table: pd.DataFrame) -> str:
    lines = [["", *table.columns], ["---"] * (1 + len(table.columns))]
    lines += [[str(name), *row] for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
