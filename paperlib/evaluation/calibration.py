"""Are samples as spread as the truth is uncertain? Coverage of intervals, and the energy score."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

# the faster way, by matrix products, loses the small differences between similar samples
_distance = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")


def coverage(samples: Tensor, x: Tensor, missing: Tensor, level: float) -> Tensor:
    """Share of the missing entries of x inside the samples' central interval, (B,).

    S samples divide the line into S + 1 gaps, into each of which the truth falls equally often if
    it has the samples' own law. The interval is the central ``level`` of these gaps; where it ends
    within one, the gap counts in part. A truth that equals samples, as on a black background, lies
    in each of the gaps beside them in equal parts (the randomised rank of Czado, Gneiting and Held,
    2009, in expectation). So samples of the truth's own law, be it continuous or not, are expected
    to cover ``level`` exactly. NaN where nothing is missing.

    Args:
        samples, x: (S, B, C, H, W), and the truth, (B, C, H, W).
        missing: true where it is measured, (B, 1, H, W) or (B, C, H, W).
        level: of the interval, in (0, 1).
    """
    gaps = len(samples) + 1
    end = (1 - level) / 2 * gaps
    covered = torch.arange(gaps + 1.0, device=x.device).clamp(end, gaps - end)  # by the first gaps
    first, after = (samples < x).sum(dim=0), (samples <= x).sum(dim=0) + 1  # (B, C, H, W)
    inside = (covered[after] - covered[first]) / (after - first)
    missing = missing.expand_as(x)
    return (inside * missing).sum(dim=(1, 2, 3)) / missing.sum(dim=(1, 2, 3))


def energy_score(samples: Tensor, x: Tensor, missing: Tensor) -> Tensor:
    """E |X - x| - E |X - X'| / 2 over missing entries, by root mean square, (B,).

    A proper score of the whole law: least, on average over truths, for samples X of the truth's
    own law (Gneiting and Raftery 2007). The second mean is over pairs of different samples, so
    that its expectation does not depend on their number. For one sample, repeated, it is the error.
    In units of x; NaN where nothing is missing. Args as of ``coverage``; at least two samples.
    """
    count, batch = samples.shape[:2]
    missing = missing.expand_as(x)
    s = torch.where(missing, samples, 0).reshape(count, batch, -1).transpose(0, 1)  # (B, S, n)
    truth = torch.where(missing, x, 0).reshape(batch, 1, -1)
    error = _distance(s, truth).mean(dim=(1, 2))
    spread = _distance(s, s).sum(dim=(1, 2)) / (count * (count - 1))
    return (error - spread / 2) / missing.sum(dim=(1, 2, 3)).to(x.dtype).sqrt()
