"""What the notebooks show of the library: its own source, beside the equation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from IPython.display import Code, display


def show_source(*objects: Callable[..., Any] | type) -> None:
    """Display the source of functions or classes as highlighted Python."""
    for item in objects:
        display(Code(inspect.getsource(item), language="python"))
