"""``base``, and beside it a proper score on pixels that were observed: our own, not in the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paperlib.core.algorithm1 import Algorithm1, Losses, Pass
from paperlib.core.corruption import corrupt


@dataclass
class ScoredPass(Pass):
    """A pass, and two fillings of what was hidden once more."""

    hidden: Tensor | None = None  # (B, 1, H, W)  observed, but not shown to G
    fillings: tuple[Tensor, ...] = ()  # (B, C, H, W) each, for two z


class Scored(Algorithm1):
    """Hide a part of y once more, fill it in twice, and descend the energy score of the two.

    G sees y on m * m~ and not on m * (1 - m~), where the answer is known; with ``hide_where:
    observed`` it is the reverse, for masks so sparse that m * m~ shows next to nothing. For two
    fillings x1, x2 the score

        (|x1 - y| + |x2 - y|) / 2 - |x1 - x2| / 2,    |.| root mean square over the hidden pixels

    is least, in expectation, for samples of the true conditional law (Gneiting and Raftery 2007).
    No complete image is needed, and no encoder. The loss of G is that of ``base`` plus
    ``lambda_score`` times the score.
    """

    def forward(self, y: Tensor, m: Tensor, *, generator: torch.Generator) -> Any:
        p = super().forward(y, m, generator=generator)
        shown, hidden = m * p.m_tilde, m * (1 - p.m_tilde)
        if self.config.hide_where == "observed":
            shown, hidden = hidden, shown
        again = corrupt(y, shown)
        z = torch.randn(2 * len(y), self.config.nz, generator=generator, device=y.device)
        both = self.nets.G(again.repeat(2, 1, 1, 1), shown.repeat(2, 1, 1, 1), z)
        return ScoredPass(**vars(p), hidden=hidden, fillings=both.chunk(2))

    def generator_loss(self, p: ScoredPass) -> Losses:
        loss, log = super().generator_loss(p)
        assert p.hidden is not None
        x1, x2 = p.fillings
        score = energy_score(x1, x2, p.y, p.hidden)
        loss = loss + self.config.lambda_score * score
        return loss, log | {"loss_g": loss, "energy": score}


def energy_score(x1: Tensor, x2: Tensor, y: Tensor, hidden: Tensor) -> Tensor:
    """The score of two fillings (B, C, H, W) against y, mean over images where any is hidden."""
    entries = hidden.sum(dim=(1, 2, 3)) * y.shape[1]  # (B,)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        squares = ((a - b).square() * hidden).sum(dim=(1, 2, 3)) / entries.clamp(min=1)
        return (squares + 1e-6).sqrt()  # a root has no slope at 0

    score = (distance(x1, y) + distance(x2, y) - distance(x1, x2)) / 2
    counts = (entries > 0).float()
    return (score * counts).sum() / counts.sum().clamp(min=1)
