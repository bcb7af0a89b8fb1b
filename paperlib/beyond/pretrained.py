"""Two trained runs that come with the package, and images that neither has seen."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from paperlib.data.sources import open_source
from paperlib.errors import RunError
from paperlib.run import Run

RUNS = Path(__file__).with_name("pretrained_runs")
TEST_IMAGES = {
    "digits": ["7-03856", "4-02451", "5-02652", "9-04778", "0-00254", "6-03075", "2-01149"],
    "bluemarble": ["r030c108", "r018c082", "r009c060", "r010c068", "r025c118", "r046c150"],
}
"""Of the test split, by data set."""


def names() -> list[str]:
    """The runs that come with the package."""
    return sorted(path.parent.name for path in RUNS.glob("*/record.json"))


def run(name: str) -> Path:
    """The directory of one of them, as training left it; RunError names them for another name."""
    if name not in names():
        raise RunError(f"no pretrained run {name!r}: choose one of {', '.join(names())}")
    return RUNS / name


def images() -> dict[str, Tensor]:
    """Test images of the runs' data set by id, (C, H, W) each in [-1, 1]."""
    data = Run(run(names()[0])).config.data
    levels = {i: torch.tensor(open_source(data).read(i)) for i in TEST_IMAGES[data.dataset]}
    return {i: level.permute(2, 0, 1) / 127.5 - 1 for i, level in levels.items()}
