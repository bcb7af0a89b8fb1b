"""Ctrl-C and SIGTERM at a place of our choosing: between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Within, the numbers of Ctrl-C and SIGTERM are only noted, in the list.

    Outside the main thread Python delivers no signals.
    """
    noted: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [signal.SIGINT, signal.SIGTERM] if is_main else []
    before = {n: signal.signal(n, lambda number, _: noted.append(number)) for n in numbers}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
