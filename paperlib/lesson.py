"""Checks of what a reader of notebook 00 predicts or writes: "expected ..., yours ..."."""

from __future__ import annotations

import torch
from torch import Tensor

Answer = bool | float | str | Tensor


def check(what: str, yours: Answer | None, expected: Answer, within: float = 0.0) -> None:
    """Print whether an answer is right, and what was expected; nothing of it before an answer.

    Args:
        what: the question, in a few words.
        yours: the reader's answer; None where there is none yet.
        expected: the right one. Of a tensor it is not printed: the largest difference is.
        within: how far a number, or any entry of a tensor, may be off.
    """
    if yours is None:
        print(f"{what}: no answer yet. Replace None, and run both cells again.")
    elif isinstance(expected, Tensor):
        print(f"{what}: {_compared(yours, expected, within)}")
    else:
        right = yours == expected
        if not isinstance(expected, bool | str) and isinstance(yours, int | float):
            right = abs(yours - expected) <= within
        print(f"{what}: expected {_shown(expected)}, yours {_shown(yours)}: {_verdict(right)}")


def _compared(yours: Answer, expected: Tensor, within: float) -> str:
    if not isinstance(yours, Tensor) or yours.shape != expected.shape:
        shape = tuple(yours.shape) if isinstance(yours, Tensor) else type(yours).__name__
        return f"expected the shape {tuple(expected.shape)}, yours {shape}: {_verdict(False)}"
    difference = (yours - expected).abs().max().item()  # NaN, if any, fails below
    right = bool(torch.isfinite(yours).all()) and difference <= within
    return f"expected a difference of 0, yours {difference:.3g}: {_verdict(right)}"


def _shown(value: Answer) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _verdict(right: bool) -> str:
    return "right" if right else "look again"
