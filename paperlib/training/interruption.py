"""Ctrl-C and SIGTERM at a place of our choosing: between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from paperlib.errors import Terminated


class Interruption:
    """Within, Ctrl-C and SIGTERM are only noted, in ``signal``: raise ``error`` after a step.

    Outside the main thread Python delivers no signals.
    """

    def __init__(self) -> None:
        self.signal = 0  # the number of the last one noted; 0: none
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def error(self, message: str) -> KeyboardInterrupt:
        """What the signal means."""
        kind = Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt
        return kind(message)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
