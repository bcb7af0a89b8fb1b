"""Where things are: anchored at the repository, or without one at the current folder.

A wheel brings the profiles along inside the package. The environment variables ``PAPERLIB_DATA``
and ``PAPERLIB_RESULTS`` move what is written elsewhere, e.g. to a larger disk.
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
CHECKOUT = _PACKAGE.parent if (_PACKAGE.parent / "Snakefile").is_file() else None  # None: a wheel
ROOT = CHECKOUT or Path.cwd()
CONFIGS = (CHECKOUT or _PACKAGE) / "configs"  # pyproject.toml puts them into the wheel
NOTEBOOKS = ROOT / "notebooks"
DATA = Path(os.environ.get("PAPERLIB_DATA", ROOT / "data")).resolve()
RESULTS = Path(os.environ.get("PAPERLIB_RESULTS", ROOT / "results")).resolve()


def config(profile: str) -> Path:
    """The file of a profile."""
    return CONFIGS / f"{profile}.yaml"


def runs(profile: str) -> Path:
    """The folder of a profile's run directories."""
    return RESULTS / profile / "runs"


def from_root(path: str | Path) -> Path:
    """``path`` itself if absolute, else relative to ``ROOT``."""
    return ROOT / Path(path).expanduser()
