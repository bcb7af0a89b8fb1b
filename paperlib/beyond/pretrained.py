"""Trained runs that come with the package, and images that none of them has seen."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from paperlib.data.sources import open_source
from paperlib.run import Run

RUNS = Path(__file__).with_name("pretrained_runs")
TEST_IMAGES = ("7-03856", "4-02451", "5-02652", "9-04778", "0-00254", "6-03075", "2-01149")


def names() -> list[str]:
    """The runs that come with the package."""
    return sorted(path.parent.name for path in RUNS.glob("*/record.json"))


def run(name: str) -> Path:
    """The directory of one of them, as training left it."""
    return RUNS / name


def images() -> dict[str, Tensor]:
    """Images of the runs' test split by id, (C, H, W) each in [-1, 1]."""
    source = open_source(Run(run(names()[0])).config.data)
    levels = {name: torch.tensor(source.read(name)) for name in TEST_IMAGES}
    return {name: level.permute(2, 0, 1) / 127.5 - 1 for name, level in levels.items()}
