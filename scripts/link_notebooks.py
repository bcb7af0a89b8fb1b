"""Make the links from each notebook to the one before and the one after.

    python scripts/link_notebooks.py

Notebooks are ordered by the number that begins their names; a link says the notebook's title. The
links are two cells of their own, after the title and at the end; everything else is left as it is.
Run it again after a notebook was added, renamed or given another title: it changes what is wrong.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
IDS = ("links-above", "links-below")


def title(notebook: NotebookNode) -> str:
    """The heading of its first cell."""
    return notebook.cells[0].source.partition("\n")[0].removeprefix("# ").strip()


def links(paths: list[Path], titles: list[str], place: int) -> str:
    """The text of the links of the notebook at ``place``."""
    parts = []
    if place > 0:
        parts.append(f"← [{titles[place - 1]}]({paths[place - 1].name})")
    if place + 1 < len(paths):
        parts.append(f"[{titles[place + 1]}]({paths[place + 1].name}) →")
    return " | ".join(parts)


def linked(folder: Path) -> dict[Path, NotebookNode]:
    """Every numbered notebook of a folder as it should be."""
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    titles = [title(notebook) for notebook in notebooks]
    for place, notebook in enumerate(notebooks):
        body = [cell for cell in notebook.cells if cell.get("id") not in IDS]
        text = links(paths, titles, place)
        above, below = (nbformat.v4.new_markdown_cell(text, id=name) for name in IDS)
        notebook.cells = [body[0], above, *body[1:], below]
    return dict(zip(paths, notebooks, strict=True))


def main() -> None:
    for path, notebook in linked(NOTEBOOKS).items():
        if notebook != nbformat.read(path, as_version=4):
            nbformat.write(notebook, path)
            print(path)


if __name__ == "__main__":
    main()
