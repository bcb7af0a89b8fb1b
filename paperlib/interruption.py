"""Ctrl-C at a place of our choosing: between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from paperlib import distributed


class HeldInterrupt:
    """Within this block Ctrl-C (SIGINT) is only noted; at its end it raises KeyboardInterrupt.

    Outside the main thread, where Python delivers no signals, the block does nothing.

    Of several processes (``distributed``) one that left alone would make the others wait for ever:
    an interruption of any raises it in all, at the end of the same block. Between the blocks, and
    until ``release``, it is only noted, so that the checkpoint is written in peace.
    """

    def __init__(self) -> None:
        self.noted = self.holding = False

    def __enter__(self) -> HeldInterrupt:
        if not self.holding and threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self._note)
            self.holding = True
        return self

    def __exit__(self, failure: type | None, *_: object) -> None:
        if distributed.count() == 1:
            self.release()
        elif failure is not None:
            return  # the others are not here: torchrun will end them
        if distributed.any_process(self.noted):
            self.noted = False
            raise KeyboardInterrupt

    def release(self) -> None:
        """Let Ctrl-C do again what it did before."""
        if self.holding:
            signal.signal(signal.SIGINT, self.previous)
            self.holding = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = True
