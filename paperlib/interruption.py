"""Ctrl-C and SIGTERM at a place of our choosing: between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

HELD = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which interrupts as Ctrl-C does."""


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """A handler of SIGTERM."""
    raise Terminated


def exit_status(stop: KeyboardInterrupt) -> int:
    """As a shell has it: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


@contextmanager
def terminated_in_order() -> Iterator[None]:
    """Within, SIGTERM raises Terminated where it would end the process at once; then it ends it.

    Where the caller has a handler of its own, or outside the main thread, nothing is changed.
    """
    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    except Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class HeldInterrupt:
    """Within this block Ctrl-C and SIGTERM are only noted, in ``signal``; at its end they are raised.

    ``raise_noted`` raises sooner, where it does no harm. Outside the main thread, where Python
    delivers no signals, the block does nothing.
    """

    def __init__(self) -> None:
        self.signal = 0  # the number of the last one noted; 0: none
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> HeldInterrupt:
        if _in_main_thread():
            self.before = {number: signal.signal(number, self._note) for number in HELD}
        return self

    def __exit__(self, failure: type | None, *_: object) -> None:
        for number, handler in self.before.items():
            if handler is not None:  # None: not one of Python's, which cannot be put back
                signal.signal(number, handler)
        if failure is None:
            self.raise_noted(self.signal)

    def raise_noted(self, number: int) -> None:
        """Raise what the signal means, and forget it; nothing for 0."""
        self.signal = 0
        if number:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
