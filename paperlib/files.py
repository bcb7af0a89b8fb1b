"""Writing so that nothing is lost: a file is complete or absent, and one process writes it."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from paperlib.errors import DiskFull, RunError

# What safetensors and NumPy raise for want of room has no errno
FULL_IN_WORDS = re.compile(r"No space left on device|\d+ requested and \d+ written")


@contextmanager
def naming_a_full_disk(path: Path) -> Iterator[None]:
    """Within, what is raised for want of room becomes DiskFull, which names ``path``."""
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or FULL_IN_WORDS.search(str(error)):
            raise DiskFull(
                f"{path} could not be written: the disk is full, or your share of it. What was "
                "there before is as it was: make room and run it again"
            ) from error
        raise


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, and rename it.

    Whatever fails, ``path`` stays what it was; DiskFull where there is no room.
    """
    draft = _draft_of(path)
    try:
        with naming_a_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(draft)
            flush(draft)
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda draft: draft.write_text(text, encoding="utf-8"))


@contextmanager
def folder_atomically(folder: Path) -> Iterator[Path]:
    """A temporary folder to be filled, which takes the place of ``folder`` at the end of the block.

    Whatever fails, ``folder`` stays what it was; DiskFull where there is no room.
    """
    draft = _draft_of(folder)
    try:
        with naming_a_full_disk(folder):
            draft.mkdir(parents=True)
            yield draft
            for path in draft.iterdir():
                flush(path)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def locked(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Within, no other process holds the lock file ``path``; it ends with its owner.

    Where another one does, ``wait`` for it, or raise RunError that says ``what`` is in use.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming_a_full_disk(path):
            lock = FileLock(path).acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise RunError(f"{what} is in use by another process: wait, or stop it") from None
    with lock:
        yield


def remove_drafts(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half-written of ``name``; call it while that is locked."""
    for draft in folder.glob(f".{name}.*.draft"):
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.draft")
