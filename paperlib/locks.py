"""One process at a time: a lock file that ends with its owner, however that ends.

The lock is the operating system's (flock): it is gone when its owner is, also after SIGKILL, and
nothing hangs on process numbers, which are used again. What the file says is for people, and for
file systems that hosts share without sharing locks: there only the words of another host are seen.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paperlib.files import naming_a_full_disk
from paperlib.records import RunError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within, no other process holds the lock file ``path``, which is made, and removed after.

    Raises:
        RunError: another process holds it, or one of another host did not remove it; the message
            names process, host and since when, and says what to do.
    """
    file = _take(path)
    try:
        owner = {"pid": os.getpid(), "host": platform.node(), "since": _now()}
        with naming_a_full_disk(path):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(owner).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: see _take
        os.close(file)


def _take(path: Path) -> int:
    """The locked file that ``path`` names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with naming_a_full_disk(path):
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(file, path)
            # The owner before may have removed the file between our opening and our locking it
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.stat()):
                    _refuse_another_host(file, path)
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(
            f"{path.parent} is in use by {_described(_owner(file))}: wait for it, or stop it"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(
            f"warning: the file system of {path} has no locks ({error.strerror}): see to it that "
            "no other process works there",
            file=sys.stderr,
        )


def _refuse_another_host(file: int, path: Path) -> None:
    owner = _owner(file)  # of this host: it was killed, since its lock is gone
    if owner and owner.get("host") != platform.node():
        raise RunError(
            f"{path.parent} was last used by {_described(owner)}, which did not leave it properly: "
            f"if nothing runs there any more, delete {path} and run it again"
        )


def _owner(file: int) -> dict[str, Any]:
    """What the file says; {} where it is empty or half-written."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _described(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')} (since {owner.get('since')})"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
