"""Run a command on a GPU that no other run has: ``python scripts/on_a_gpu.py GPUS RUNS CMD``.

The Snakefile puts it before training and evaluation where ``--resources gpu=GPUS`` is given. Each
GPU has RUNS places (1, or more where small runs are to share one), each a locked file; the lock
ends with the command, however it ends. The command finds its GPU in CUDA_VISIBLE_DEVICES. Without
a free place it waits.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import sys
import tempfile
import time


def main(gpus: int, runs: int, command: list[str]) -> None:
    """Become the command, on the emptiest GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    places = [*itertools.product(range(runs), visible.split(",")[:gpus])]
    while True:
        for place, gpu in places:
            name = f"paperlib-{os.getuid()}-gpu{gpu}.{place}"
            file = os.open(f"{tempfile.gettempdir()}/{name}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            os.set_inheritable(file, True)  # the lock stays with the command
            os.execvp(command[0], command)
        time.sleep(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
