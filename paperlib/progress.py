"""Progress for people and for logs: a bar in a terminal or a notebook, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts up to ``total``; ``note`` may carry the latest numbers.

    In a terminal a tqdm bar on standard error; elsewhere (a log, papermill) one line at the start
    of the work, one every 15 seconds and one at its end, on standard output.
    """

    def __init__(self, total: int, label: str, done: int = 0) -> None:
        self.total, self.label, self.done, self.first = total, label, done, done
        self.started = time.monotonic()
        self.last_line = 0.0
        self.bar = tqdm(total=total, desc=label, initial=done) if sys.stderr.isatty() else None

    def update(self, n: int = 1, note: str = "") -> None:
        self.done += n
        if self.bar is not None:
            if note:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(n)
            return
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES or self.done >= self.total:
            self.last_line = now
            elapsed = now - self.started
            rate = (self.done - self.first) / max(elapsed, 1e-9)
            left = (self.total - self.done) / rate if rate else float("nan")
            text = f"{self.label}: {self.done}/{self.total}, {elapsed:.0f} s, {left:.0f} s left"
            print(f"{text}, {note}" if note else text, flush=True)

    def close(self) -> None:
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
