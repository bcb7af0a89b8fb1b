"""What notebooks need to teach: a check of the reader's answers, and the library's own source."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from IPython.display import Code, display
from torch import as_tensor


def check(what: str, yours: Any, expected: Any, within: float = 0.0) -> None:
    """Print whether an answer is right, and what was expected; for None nothing of it.

    Answers are numbers, texts or arrays; ``within`` is how far a number, or any entry, may be off.
    Of an array the largest difference is printed, and where it is wrong the mean or the shape.
    """
    if yours is None:
        print(f"{what}: no answer yet. Replace None, and run both cells again.")
        return
    found, wanted = (v.item() if getattr(v, "ndim", 1) == 0 else v for v in (yours, expected))
    shape, wanted_shape = (tuple(getattr(v, "shape", ())) for v in (found, wanted))
    if shape != wanted_shape:
        what, found, wanted = f"{what}, shape", shape, wanted_shape
    elif shape:
        found, wanted = (as_tensor(v).double() for v in (found, wanted))
        off = (found - wanted).abs().max().item()
        means = "" if off <= within else f", mean {found.mean():.3g} for {wanted.mean():.3g}"
        what, found, wanted = f"{what}{means}, difference", off, 0.0
    numbers = isinstance(found, int | float) and isinstance(wanted, int | float)
    right = abs(found - wanted) <= within if numbers else found == wanted  # of NaN it is not
    shown = [f"{v:.3g}" if isinstance(v, float) else repr(v) for v in (wanted, found)]
    print(f"{what}: expected {shown[0]}, yours {shown[1]}: {'right' if right else 'look again'}")


def show_source(*objects: Callable[..., Any] | type) -> None:
    """Display the source of functions or classes as highlighted Python."""
    for item in objects:
        display(Code(textwrap.dedent(inspect.getsource(item)), language="python"))
