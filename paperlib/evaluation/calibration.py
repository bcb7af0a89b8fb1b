"""Are samples as spread as the truth is uncertain? Coverage of intervals, and the energy score."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

# the faster way, by matrix products, loses the small differences between similar samples
_distance = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")


def coverage(samples: Tensor, x: Tensor, missing: Tensor, level: float) -> Tensor:
    """Share of the missing entries of x inside the samples' central interval, (B,).

    The interval reaches from the (1 - level) / 2 to the (1 + level) / 2 quantile, taken so that
    its expected coverage is ``level`` for any number S of samples of the truth's own law (Weibull's
    plotting positions), for levels up to (S - 1) / (S + 1). Where an end falls between two samples
    that is exact for a uniform law only; for normal ones and 10 samples 0.80 becomes 0.806.
    NaN where nothing is missing.

    Args:
        samples, x: (S, B, C, H, W), and the truth, (B, C, H, W).
        missing: true where it is measured, (B, 1, H, W) or (B, C, H, W).
        level: of the interval, in (0, 1).
    """
    count = len(samples)
    ordered = samples.sort(dim=0).values
    place = max((1 - level) / 2 * (count + 1) - 1, 0.0)  # from 0, between two of the order
    below = int(place)
    above = min(below + 1, count - 1)
    low = torch.lerp(ordered[below], ordered[above], place - below)
    high = torch.lerp(ordered[-1 - below], ordered[-1 - above], place - below)
    missing = missing.expand_as(x)
    inside = (low <= x) & (x <= high) & missing
    return inside.sum(dim=(1, 2, 3)) / missing.sum(dim=(1, 2, 3))


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
