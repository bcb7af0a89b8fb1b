"""Writing so that nothing is lost: a file is complete or absent, and a full disk is said plainly."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
# What safetensors and NumPy raise has no errno
FULL_IN_WORDS = re.compile(r"No space left on device|\d+ requested and \d+ written")


class DiskFull(OSError):
    """There is no room for a file; the message names it and says what to do."""


@contextmanager
def naming_a_full_disk(path: Path) -> Iterator[None]:
    """Within, what is raised for want of room becomes DiskFull, which names ``path``."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in FULL or FULL_IN_WORDS.search(str(error)):
            raise DiskFull(
                f"{path} could not be written: the disk is full, or your share of it. What was "
                "there before is as it was: make room and run it again"
            ) from error
        raise


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, and rename it.

    Raises:
        DiskFull: there is no room. As with any other failure, ``path`` stays what it was.
    """
    draft = draft_of(path)
    try:
        with naming_a_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(draft)
            flush(draft)
            os.replace(draft, path)
            flush(path.parent)  # its new name, too
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda draft: draft.write_text(text, encoding="utf-8"))


@contextmanager
def folder_atomically(folder: Path) -> Iterator[Path]:
    """A temporary folder to be filled, which takes the place of ``folder`` at the end of the block.

    Drafts of it whose processes were killed are removed.

    Raises:
        DiskFull: there is no room. As with any other failure, ``folder`` stays what it was.
    """
    draft = draft_of(folder)
    remove_stale_drafts(folder.parent, folder.name)
    try:
        with naming_a_full_disk(folder):
            draft.mkdir(parents=True)
            yield draft
            for path in (*draft.iterdir(), draft):
                flush(path)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(draft, folder)
            flush(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if not (path.is_dir() and error.errno == errno.EINVAL):  # some file systems cannot
            raise
    finally:
        os.close(file)


def draft_of(path: Path) -> Path:
    """The temporary name of what this process writes: .NAME.HOST.PID beside it."""
    return path.with_name(f".{path.name}.{_host()}.{os.getpid()}")


def remove_stale_drafts(folder: Path, name: str = "*") -> None:
    """Remove the drafts of ``name`` in ``folder`` whose processes, of this host, were killed."""
    for draft in folder.glob(f".{name}.{_host()}.*"):
        pid = draft.name.rpartition(".")[2]
        if pid.isdecimal() and not is_running(int(pid)):
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether a process of this host, other than this one, has the number."""
    if pid == os.getpid():
        return False
    with suppress(PermissionError):  # it is somebody else's
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True


def _host() -> str:
    return platform.node().partition(".")[0]
