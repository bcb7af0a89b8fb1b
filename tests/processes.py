"""Processes of a test's own: each a fork of one that has imported torch, so that it starts at once."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_forks = multiprocessing.get_context("forkserver")  # a fork of the tests' own process might hang
_forks.set_forkserver_preload(["pytest", "paperlib.evaluation.protocol", "paperlib.paper.figures"])


def start(work: Callable[..., Any], *arguments: Any, output: Path | None = None) -> Any:
    """Begin ``work(*arguments)`` in a process, which writes what it says to ``output``."""
    process = _forks.Process(target=_work, args=(work, arguments, output), daemon=True)
    process.start()
    return process


def finish(process: Any, seconds: float = 120) -> int:
    """Wait for it; its exit status, or the negative number of the signal that killed it."""
    process.join(seconds)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def wait_until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def _work(work: Callable[..., Any], arguments: tuple, output: Path | None) -> None:
    import torch

    torch.set_num_threads(1)
    target = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    status = work(*arguments)
    sys.stdout.flush()
    if isinstance(status, int):
        sys.exit(status)
