"""Progress for people and for logs: a bar in a terminal or a notebook, else a line now and then.

``PAPERLIB_PROGRESS=lines`` (the workflow) asks for lines even in a notebook, ``none`` for silence.
``PAPERLIB_RUN="3 of 24"`` says which run of a profile is at work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm.auto import tqdm as automatic_bar
from tqdm.std import tqdm as text_bar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 30.0
LINE = "{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left{postfix}"


def progress_bar(total: int, label: str, done: int = 0) -> Any:
    """A tqdm bar from ``done`` to ``total``; where nobody watches, a line every 30 seconds."""
    if run := os.environ.get("PAPERLIB_RUN"):
        label = f"{label} (run {run})"
    asked = os.environ.get("PAPERLIB_PROGRESS", "")
    about = {"total": total, "desc": label, "initial": done, "disable": asked == "none"}
    if asked != "lines" and (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return automatic_bar(dynamic_ncols=True, **about)
    return _Lines(bar_format=LINE, mininterval=SECONDS_BETWEEN_LINES, miniters=1, **about)


class _Lines(text_bar):
    """A bar whose every drawing is a line of its own: a log is not a terminal."""

    @staticmethod
    def status_printer(file: Any) -> Any:
        return lambda text: (file.write(f"{text}\n"), file.flush()) if text else None


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """``items``, with progress."""
    with progress_bar(total, label) as bar:
        for item in items:
            yield item
            bar.update()
