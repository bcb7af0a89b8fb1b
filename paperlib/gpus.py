"""Run a command on a GPU that no other run has: ``python -m paperlib.gpus GPUS RUNS COMMAND ...``.

The Snakefile puts it before training and evaluation where ``--resources gpu=GPUS`` is given. Each
GPU has RUNS places (1, or more where small runs are to share one), each a locked file: the lock
ends with the command, however it ends, and holds between workflows of one machine. The command
finds its GPU in CUDA_VISIBLE_DEVICES. Without a free place it waits.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from pathlib import Path


def devices(count: int) -> list[str]:
    """The names of the first ``count`` GPUs, of those that CUDA_VISIBLE_DEVICES leaves, if set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    if len(names) < count:
        raise SystemExit(f"error: {count} GPUs asked for, CUDA_VISIBLE_DEVICES has {visible}")
    return names[:count]


def claim(names: list[str], runs: int, folder: Path) -> tuple[str, int] | None:
    """(a GPU with a free place, its lock's file), the emptiest GPU first; None if all are taken."""
    folder.mkdir(exist_ok=True)
    for place in range(runs):
        for name in names:
            file = os.open(folder / f"{name}.{place}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            return name, file
    return None


def main(arguments: list[str]) -> None:
    count, runs, *command = arguments
    folder = Path(tempfile.gettempdir()) / f"paperlib-gpus-{os.getuid()}"
    while (claimed := claim(devices(int(count)), int(runs), folder)) is None:
        time.sleep(1)
    name, file = claimed
    os.environ["CUDA_VISIBLE_DEVICES"] = name
    os.set_inheritable(file, True)  # the lock stays with the command
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
