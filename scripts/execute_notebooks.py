"""Execute notebooks in place and keep what they show, so that one sees it without running them.

    python scripts/execute_notebooks.py [NOTEBOOK ...]        all, where none is named

They show the results of quick where these are. Each code cell notes the source that its output came
from (``metadata.executed``, a digest), which a test compares: after a change, execute again.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import sys
from pathlib import Path

import nbformat
import papermill
from PIL import Image

LANGUAGE = {"name": "python"}  # and no version of it, nor what only this machine has
MOST_BYTES = 60_000  # of a picture
ROOT = Path(__file__).resolve().parents[1]


def digest(source: str) -> str:
    """What ``metadata.executed`` of a cell with this source is to be."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def small(png: str) -> str:
    """A picture in base64, of fewer colours, and if need be pixels, until it is small enough."""
    whole = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    for colours, width in ((64, whole.width), (16, whole.width), (16, 600), (16, 400)):
        picture, buffer = whole.copy(), io.BytesIO()
        picture.thumbnail((width, whole.height))
        picture.quantize(colours).save(buffer, "png", optimize=True)
        if len(buffer.getvalue()) < MOST_BYTES:
            break
    return base64.b64encode(buffer.getvalue()).decode()


def execute(path: Path) -> None:
    """Execute a notebook with its default parameters, and write it with its outputs."""
    notebook = papermill.execute_notebook(path, None, kernel_name="python3", progress_bar=False)
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": LANGUAGE}
    for cell in notebook.cells:
        for key in ("papermill", "execution"):  # times of this machine
            cell.metadata.pop(key, None)
        if cell.metadata.get("tags") == []:  # papermill adds it
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            cell.metadata["executed"] = digest(cell.source)
            for output in cell.outputs:
                if png := output.get("data", {}).get("image/png"):
                    output.data["image/png"] = small(png)
                if "text" in output:  # folders as one sees them from the repository
                    output.text = output.text.replace(f"{ROOT}/", "")
    nbformat.write(notebook, path)


if __name__ == "__main__":
    os.environ["PAPERLIB_PROGRESS"] = "none"
    for name in sys.argv[1:] or sorted((ROOT / "notebooks").glob("*.ipynb")):
        print(f"executing {name}", flush=True)
        execute(Path(name))
