"""Ctrl-C at a place of our choosing: between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class HeldInterrupt:
    """Within this block Ctrl-C (SIGINT) is only noted; at its end it raises KeyboardInterrupt.

    Outside the main thread, where Python delivers no signals, the block does nothing.
    """

    def __enter__(self) -> HeldInterrupt:
        self.noted = False
        self.in_main_thread = threading.current_thread() is threading.main_thread()
        if self.in_main_thread:
            self.previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self.in_main_thread:
            signal.signal(signal.SIGINT, self.previous)
        if self.noted:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = True
