"""Writing so that nothing is lost: a file or folder is complete or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from paperlib.errors import DiskFull

NO_ROOM = ("No space left on device", "Disk quota exceeded", " requested and ")  # NumPy's


@contextmanager
def _draft_of(path: Path) -> Iterator[Path]:
    """A name beside ``path``: what is made there, flushed to disk, takes its place at the end."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        for file in draft.iterdir() if draft.is_dir() else [draft]:
            flush(file)
        if draft.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        os.replace(draft, path)
    except Exception as error:
        if not any(words in str(error) for words in NO_ROOM):
            raise
        raise DiskFull(f"{path} could not be written: the disk is full: make room") from error
    finally:
        _remove(draft)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file that then takes the place of ``path``.

    Whatever fails, ``path`` stays what it was; DiskFull where there is no room.
    """
    with _draft_of(path) as draft:
        write(draft)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda draft: draft.write_text(text, encoding="utf-8"))


@contextmanager
def folder_atomically(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` at the end of the block; as above."""
    with _draft_of(folder) as draft:
        draft.mkdir()
        yield draft


def flush(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def remove_drafts(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half-written of ``name``; call it while that is locked."""
    for draft in folder.glob(f".{name}.*.draft"):
        _remove(draft)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
