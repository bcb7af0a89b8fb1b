"""Say where the repository is: the badges that start the tour, and what they need.

    python scripts/add_badges.py OWNER/REPOSITORY      (on GitHub; once, or again after a move)

Puts the badges of Binder and Colab into the README, and into the tour a cell that installs the
library where it is missing, as on Colab. Binder builds environment.yml.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
TOUR = Path("notebooks/00_tour.ipynb")
CELL = "install"
LICENCE = "[![MIT licence]"  # the badges come before it
BADGES = re.compile(r"\[!\[(Binder|Colab)\].*\n")


def badges(repository: str) -> str:
    """The lines of the README."""
    binder, colab = "https://mybinder.org", "https://colab.research.google.com"
    return (
        f"[![Binder]({binder}/badge_logo.svg)]({binder}/v2/gh/{repository}/HEAD?labpath={TOUR})\n"
        f"[![Colab]({colab}/assets/colab-badge.svg)]({colab}/github/{repository}/blob/HEAD/{TOUR})\n"
    )


def install(repository: str) -> str:
    """The source of the tour's cell."""
    return (
        "import importlib.util\n\n"
        'if importlib.util.find_spec("paperlib") is None:  # on Colab\n'
        f"    %pip install --quiet git+https://github.com/{repository}"
    )


def add(repository: str, root: Path = ROOT) -> None:
    """Change README and tour; a second time changes only what differs."""
    readme = root / "README.md"
    text = BADGES.sub("", readme.read_text())
    readme.write_text(text.replace(LICENCE, badges(repository) + LICENCE, 1))
    tour = nbformat.read(root / TOUR, as_version=4)
    cells = [cell for cell in tour.cells if cell.get("id") != CELL]
    first_code = next(i for i, cell in enumerate(cells) if cell.cell_type == "code")
    cells.insert(first_code, nbformat.v4.new_code_cell(install(repository), id=CELL))
    tour.cells = cells
    nbformat.write(tour, root / TOUR)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not re.fullmatch(r"[\w.-]+/[\w.-]+", arguments[0]):
        print("error: give OWNER/REPOSITORY, as on GitHub", file=sys.stderr)
        return 2
    add(arguments[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
