"""A training that has diverged: noticed without waiting for the device, and never saved."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from paperlib import distributed
from paperlib.acceleration import later
from paperlib.config import ConfigurationError
from paperlib.records import RunError

ON_NAN = ("stop", "rollback")
MOST_ROLLBACKS = 3
NEVER = 2**62  # a step that is not reached


class Diverged(RunError):
    """A loss or a gradient is NaN or infinite; the message names step, terms and what is left."""

    def __init__(self, run: str, step: int, terms: list[str], rollbacks: list[dict], good: int):
        self.step, self.terms, self.rollbacks, self.good = step, terms, rollbacks, good
        left = f"the last good checkpoint is that of step {good}" if good else "no checkpoint yet"
        what = "try a lower learning rate, or --on-nan rollback (PAPERLIB_ON_NAN=rollback)"
        if rollbacks:
            what = f"{len(rollbacks)} rollbacks did not help: try a lower learning rate"
        super().__init__(
            f"{run} diverged at step {step}: {', '.join(terms)} not finite; {left}; {what}"
        )

    def rolled_back(self) -> list[dict[str, Any]]:
        """The rollbacks with this one, as the record has them; raises itself after the third."""
        if len(self.rollbacks) == MOST_ROLLBACKS:
            raise self
        return [*self.rollbacks, {"at": self.step, "to": self.good, "terms": self.terms}]


def what_to_do(on_nan: str | None) -> str:
    """``on_nan``, else what the environment variable PAPERLIB_ON_NAN says, else "stop"."""
    on_nan = on_nan or os.environ.get("PAPERLIB_ON_NAN") or "stop"
    if on_nan not in ON_NAN:
        raise ConfigurationError(f"on_nan must be one of {', '.join(ON_NAN)}, got {on_nan!r}")
    return on_nan


class Watch:
    """Keeps, for each of a step's numbers, the first step at which it was not finite."""

    def __init__(self, run: str, good: int, rollbacks: list[dict[str, Any]]) -> None:
        self.run, self.rollbacks = run, rollbacks
        self.good = good  # the step of the last checkpoint
        self.terms: list[str] = []
        self.first: Tensor | None = None  # (terms,) int64, on the device; 0: finite so far

    def note(self, step: int, scalars: dict[str, Tensor]) -> None:
        """Look at the numbers of a step, 1, 2, ..., where they are: nothing waits for them."""
        values = torch.stack([*scalars.values()])
        if self.first is None:
            self.terms, self.first = [*scalars], torch.zeros_like(values, dtype=torch.int64)
        new = ~values.isfinite() & (self.first == 0)
        self.first = torch.where(new, step, self.first)

    def check(self) -> None:
        """Raise Diverged if a number up to now was not finite; waits for the device.

        Every process calls it, and ``look``'s function, at the same step: all raise it if one does.
        """
        self.look()()

    def look(self) -> Callable[[], None]:
        """As ``check``, in two parts: look now, and raise when the function is called."""
        if self.first is None:
            return lambda: None
        read = later(self.first)

        def raise_if_not_finite() -> None:
            # Of several processes the earliest step, the highest of the negative numbers
            first = [-n for n in distributed.highest(*(-(n or NEVER) for n in read()))]
            if (step := min(first)) < NEVER:
                terms = [t for t, n in zip(self.terms, first, strict=True) if n == step]
                raise Diverged(self.run, step, terms, self.rollbacks, self.good)

        return raise_if_not_finite
