"""The running average of a generator, which is what is kept and evaluated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class RunningAverage:
    """Exponential moving average of a generator's effective weights and BatchNorm statistics.

    Effective means spectrally normalised: the average is a plain network. The decay grows to
    ``decay`` as min(decay, (1 + step) / (10 + step)), so that the random start is forgotten.
    """

    def __init__(self, source: nn.Module, model: Any, decay: float) -> None:
        self.source, self.model, self.decay = source, model, decay  # model: a plain copy of source
        with torch.no_grad():
            for target, value in self._pairs():
                target.copy_(value)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` updates."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = [(t, v) for t, v in self._pairs() if t.is_floating_point()]
        targets, values = map(list, zip(*pairs, strict=True))
        torch._foreach_lerp_(targets, values, 1 - decay)

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """(tensor of the average, effective tensor of the source)."""
        self.source.eval()  # reading a normalised weight must not advance its power iteration
        pairs = []
        for name, target in self.model.state_dict().items():
            owner, _, leaf = name.rpartition(".")
            pairs.append((target, getattr(self.source.get_submodule(owner), leaf)))
        self.source.train()
        return pairs
