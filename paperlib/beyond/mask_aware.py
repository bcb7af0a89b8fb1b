"""The method ``mask_aware``, which is not in the paper: ``both``, whose D sees masks too.

D compares the triples (y~, m~, m) and (y, m, m'), with m' ~ p_M independent of y. Where it cannot
tell them apart, x~ is independent of the mask m of the observation that it came from; then x~ given
y is the posterior (notebook 08 has the proof).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paperlib.core.algorithm1 import Algorithm1, Pass


@dataclass(kw_only=True)
class MaskAwarePass(Pass):
    """A pass of Algorithm 1, and m'."""

    m_real: Tensor  # (B, 1, H, W)  m', masks independent of y


class MaskAware(Algorithm1):
    """Algorithm 1 with both encodings, whose D judges an observation beside two masks."""

    encodes_z = encodes_y = True

    @staticmethod
    def judged_channels(config: Any) -> int:
        return config.bands + 2

    def forward(self, y: Tensor, m: Tensor, *, generator: torch.Generator) -> MaskAwarePass:
        """Lines 3 to 11, then m'."""
        p = super().forward(y, m, generator=generator)
        m_real = self.p_m.sample(len(y), y.shape[-1], generator, m)
        return MaskAwarePass(**vars(p), m_real=m_real)

    def judged(self, p: MaskAwarePass, name: str) -> Tensor:
        """What D is shown, (B, C + 2, H, W): an observation, its own mask, its source's mask.

        The source of y~ is y, and that of y^ is y~: what they were filled in from. A real
        observation has no source: it is shown m'.
        """
        masks = {"y": (p.m, p.m_real), "y_tilde": (p.m_tilde, p.m), "y_hat": (p.m, p.m_tilde)}
        return torch.cat([getattr(p, name), *masks[name]], dim=1)
