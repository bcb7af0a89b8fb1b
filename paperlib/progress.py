"""Progress for people and for logs: a bar in a terminal or a notebook, else a line now and then.

``PAPERLIB_PROGRESS=lines`` (the workflow) asks for lines even in a notebook, ``none`` for silence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm as automatic_bar
from tqdm.std import tqdm as text_bar

LINE = "{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left{postfix}"


class _Lines(text_bar):
    """A bar whose every drawing is a line of its own: a log is not a terminal."""

    def display(self, *_: Any, **__: Any) -> None:
        print(self, file=sys.stderr, flush=True)


def progress_bar(total: int, label: str, done: int = 0, items: Iterable[Any] | None = None) -> Any:
    """A tqdm bar from ``done`` to ``total``; where nobody watches, a line every 30 seconds."""
    asked = os.environ.get("PAPERLIB_PROGRESS", "")
    about = {"total": total, "desc": label, "initial": done, "disable": asked == "none"}
    if asked != "lines" and (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return automatic_bar(items, dynamic_ncols=True, **about)
    return _Lines(items, bar_format=LINE, mininterval=30.0, miniters=1, **about)


def track(items: Iterable[Any], total: int, label: str) -> Any:
    """``items``, with progress."""
    return progress_bar(total, label, items=items)
