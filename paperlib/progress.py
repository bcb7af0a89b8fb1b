"""Progress for people and for logs: a bar in a terminal or a notebook, else a line now and then.

    training small_patch-both-seed0 (run 3 of 24): 120 of 700, 108 images/s, 2 min left, loss_d 1.85

``PAPERLIB_PROGRESS=lines`` (the workflow) asks for lines, ``none`` for silence: of many processes
the first alone speaks. ``PAPERLIB_RUN="3 of 24"`` says which run this is; see ``each_run``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm
from tqdm.notebook import tqdm as notebook_bar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 30.0
BAR = (
    "{desc}: {percentage:3.0f} %|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]"
)


def _bar(total: int, label: str, done: int) -> tqdm | None:
    """A bar where somebody watches."""
    if os.environ.get("PAPERLIB_PROGRESS") == "lines":
        return None
    how = {"total": total, "desc": label, "initial": done, "bar_format": BAR}
    if sys.stderr.isatty():
        return tqdm(dynamic_ncols=True, **how)
    if "ipykernel" in sys.modules:
        return notebook_bar(**how)
    return None


def duration(seconds: float) -> str:
    """Seconds as one reads them: 45 s, 3 min, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Counts up to ``total``; ``note`` may carry the latest numbers.

    In a terminal and in a notebook a tqdm bar; elsewhere (a log, the workflow) one line on standard
    error after the first count, one every 30 seconds and one at the end.

    Args:
        total: of what is counted, e.g. steps.
        label: the stage, and of what: "training small_patch-both-seed0".
        done: counted before, by an earlier process.
        images: that one count stands for; 0: say nothing of images a second.
        clock: seconds.
    """

    def __init__(
        self,
        total: int,
        label: str,
        done: int = 0,
        images: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        run = os.environ.get("PAPERLIB_RUN")
        self.label = f"{label} (run {run})" if run else label
        self.total, self.done, self.images, self.clock = total, done, images, clock
        self.started = clock()
        self.last = (self.started, done)  # time and count of the last line
        self.said = False
        self.mute = os.environ.get("PAPERLIB_PROGRESS") == "none"
        self.bar = None if self.mute else _bar(total, self.label, done)

    def update(self, n: int = 1, note: str = "") -> None:
        """Count ``n`` more."""
        self.done += n
        if self.mute:
            return
        if self.bar is not None:
            rate = self.bar.format_dict["rate"]  # smoothed
            self.bar.set_postfix_str(", ".join(self._speed(rate) + [note] * bool(note)), False)
            self.bar.update(n)
            return
        now = self.clock()
        since, counted = self.last
        if self.said and now - since < SECONDS_BETWEEN_LINES and self.done < self.total:
            return
        rate = (self.done - counted) / (now - since) if now > since else None
        parts = [f"{self.done} of {self.total}", *self._speed(rate)]
        if self.done >= self.total:
            parts.append(f"{duration(now - self.started)} in all")
        elif rate:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        if note:
            parts.append(note)
        print(f"{self.label}: {', '.join(parts)}", file=sys.stderr, flush=True)
        self.last, self.said = (now, self.done), True

    def _speed(self, rate: float | None) -> list[str]:
        if not rate or not self.images:
            return []
        images = rate * self.images
        return [f"{images:,.0f} images/s" if images >= 1000 else f"{images:.3g} images/s"]

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


def each_run(runs: Sequence[T]) -> Iterator[T]:
    """``runs`` one after the other; meanwhile all progress says which of how many is at work."""
    before = os.environ.get("PAPERLIB_RUN")
    try:
        for number, run in enumerate(runs, 1):
            if len(runs) > 1:
                os.environ["PAPERLIB_RUN"] = f"{number} of {len(runs)}"
            yield run
    finally:
        os.environ.pop("PAPERLIB_RUN", None)
        if before is not None:
            os.environ["PAPERLIB_RUN"] = before
