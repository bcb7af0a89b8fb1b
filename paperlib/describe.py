"""What a set of incomplete images holds, and whether the method's assumptions look right.

The method needs that every pixel is observed in some image (what no mask ever shows cannot be
learned), and that masks do not depend on what they hide (section 2.1: M independent of X).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from paperlib.data import Prepared
from paperlib.image_source import DataError

SUSPICIOUS = 0.01  # p-value below which masks are said to look dependent on content


@dataclass(frozen=True)
class Description:
    """What was found in a prepared data set of incomplete images."""

    images: int
    missing: float  # mean share of missing pixels
    spread: float  # its standard deviation over images
    least: float
    most: float
    distinct: int  # different masks
    observed_by: np.ndarray  # (size, size) share of the images that observe each pixel
    correlation: float  # Spearman's, of the missing share with the brightness of what is observed
    p_value: float

    @property
    def never_observed(self) -> int:
        """Pixels that no image observes."""
        return int((self.observed_by == 0).sum())

    @property
    def looks_dependent(self) -> bool:
        return self.p_value < SUSPICIOUS

    def __str__(self) -> str:
        lines = [
            f"{self.images} images, {self.distinct} different masks",
            f"missing: {self.missing:.1%} of the pixels on average (standard deviation over images "
            f"{self.spread:.1%}, from {self.least:.1%} to {self.most:.1%})",
        ]
        if self.never_observed:
            lines.append(
                f"WARNING: {self.never_observed} of {self.observed_by.size} pixels are observed in "
                "no image at all: no method can learn what is there, and what it paints there means "
                "nothing"
            )
        else:
            lines.append(
                f"every pixel is observed somewhere, the rarest by {self.observed_by.min():.1%} of "
                "the images"
            )
        test = (
            f"Spearman's correlation {self.correlation:+.2f} between how much of an image is missing "
            f"and how bright the rest is, p = {self.p_value:.2g}"
        )
        lines.append(
            f"WARNING: masks look dependent on content ({test}): what is hidden may differ from "
            "what is seen, which the method takes to be alike"
            if self.looks_dependent
            else f"no sign that masks depend on content ({test})"
        )
        return "\n".join(lines)


def describe(data: Prepared, split: str = "training", block: int = 1024) -> Description:
    """Describe a split of a prepared data set of incomplete images.

    The test is simple and can miss much: it asks whether images of which more is missing are
    brighter or darker in what is left, by rank correlation, two-sided.

    Raises:
        DataError: the split is empty, or the data set has no masks of its own.
    """
    rows = data.indices(split)
    images, masks = data.images(), data.masks()
    if masks is None:
        raise DataError(f"{data.folder} holds complete images: there is nothing to describe")
    missing, brightness, distinct = [], [], set()
    observed = np.zeros(masks.shape[1:])
    for start in range(0, len(rows), block):  # bounds the memory
        chunk = np.sort(rows[start : start + block])
        m = masks[chunk]  # (n, size, size) bool
        levels = images[chunk].mean(axis=3)  # (n, size, size), 0 where missing
        observed += m.sum(axis=0)
        seen = m.sum(axis=(1, 2))
        missing.append(1 - seen / m[0].size)
        brightness.append((levels * m).sum(axis=(1, 2)) / seen)
        distinct |= {np.packbits(mask).tobytes() for mask in m}
    share, bright = np.concatenate(missing), np.concatenate(brightness)
    varies = np.ptp(share) > 0 and np.ptp(bright) > 0
    correlation, p_value = stats.spearmanr(share, bright) if varies else (0.0, 1.0)
    return Description(
        images=len(rows),
        missing=float(share.mean()),
        spread=float(share.std()),
        least=float(share.min()),
        most=float(share.max()),
        distinct=len(distinct),
        observed_by=observed / len(rows),
        correlation=float(correlation),
        p_value=float(p_value),
    )
