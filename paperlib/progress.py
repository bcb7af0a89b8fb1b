"""Progress for people and for logs: a bar in a terminal or a notebook, else a line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm
from tqdm.notebook import tqdm as notebook_bar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 15.0


def _bar(total: int, label: str, done: int) -> tqdm | None:
    """A bar where somebody watches. ``PAPERLIB_PROGRESS=lines`` (the workflow) asks for lines."""
    if os.environ.get("PAPERLIB_PROGRESS") == "lines":
        return None
    if sys.stderr.isatty():
        return tqdm(total=total, desc=label, initial=done)
    if "ipykernel" in sys.modules:
        return notebook_bar(total=total, desc=label, initial=done)
    return None


class Progress:
    """Counts up to ``total``; ``note`` may carry the latest numbers.

    In a terminal and in a notebook a tqdm bar; elsewhere (a log, the workflow) one line on standard
    error at the start of the work, one every 15 seconds and one at its end. Nothing at all with
    ``PAPERLIB_PROGRESS=none``: of many processes the first alone speaks.
    """

    def __init__(self, total: int, label: str, done: int = 0) -> None:
        self.total, self.label, self.done, self.first = total, label, done, done
        self.started = time.monotonic()
        self.last_line = 0.0
        self.mute = os.environ.get("PAPERLIB_PROGRESS") == "none"
        self.bar = None if self.mute else _bar(total, label, done)

    def update(self, n: int = 1, note: str = "") -> None:
        """Count ``n`` more."""
        self.done += n
        if self.bar is not None:
            if note:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(n)
            return
        now = time.monotonic()
        if self.mute:
            return
        if now - self.last_line >= SECONDS_BETWEEN_LINES or self.done >= self.total:
            self.last_line = now
            elapsed = now - self.started
            rate = (self.done - self.first) / max(elapsed, 1e-9)
            text = f"{self.label}: {self.done}/{self.total}, {elapsed:.0f} s"
            if 0 < self.done < self.total:
                text += f", {(self.total - self.done) / rate:.0f} s left"
            print(f"{text}, {note}" if note else text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Put the bar away."""
        if self.bar is not None:
            self.bar.close()


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """``items``, with progress."""
    progress = Progress(total, label)
    try:
        for item in items:
            yield item
            progress.update()
    finally:
        progress.close()
