"""What notebooks need to teach: a check of the reader's answers, and the library's own source."""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Callable
from typing import Any

from IPython.display import Code, display
from torch import Tensor

Answer = bool | float | str | Tensor


def check(what: str, yours: Answer | None, expected: Answer, within: float = 0.0) -> None:
    """Print whether an answer is right, and what was expected; nothing of it before an answer.

    ``within`` is how far a number, or any entry of a tensor, may be off. Of a tensor the largest
    difference is printed, which is NaN for one of another shape.
    """
    if yours is None:
        print(f"{what}: no answer yet. Replace None, and run both cells again.")
        return
    if isinstance(expected, Tensor):
        difference = math.nan
        if isinstance(yours, Tensor) and yours.shape == expected.shape:
            difference = (yours - expected).abs().max().item()
        what, yours, expected = f"{what}, difference", difference, 0.0
    right = yours == expected
    if isinstance(yours, int | float) and isinstance(expected, int | float):
        right = abs(yours - expected) <= within  # of NaN it is not
    shown = [f"{v:.3g}" if isinstance(v, float) else v for v in (expected, yours)]
    print(f"{what}: expected {shown[0]}, yours {shown[1]}: {'right' if right else 'look again'}")


def show_source(*objects: Callable[..., Any] | type) -> None:
    """Display the source of functions or classes as highlighted Python."""
    for item in objects:
        display(Code(textwrap.dedent(inspect.getsource(item)), language="python"))
