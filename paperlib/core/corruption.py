"""The measurement process F and its mask distributions p_M (paper, sections 2.1 and 3.2).

- images ``x``: (B, C, H, W) float32 in [-1, 1], made from 8 bits by ``u8 / 127.5 - 1``;
- masks ``m``: (B, 1, H, W) float32, 1 = observed, 0 = missing, shared by the channels.

Every mask is computed from random integers, drawn in one of two ways:

- ``sample``: fresh masks (Algorithm 1, line 3) from a ``torch.Generator``, on its device;
- ``for_ids``: the mask with which an image was corrupted *once*, a pure function of (seed, id)
  in 64-bit integer arithmetic, hence the same on every device, in every batch order and for any
  number of workers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAPER_SIZE = 128  # the paper states k and the border for 128 x 128 images
RANDOM_BITS = 40  # of each random integer; leaves room to append a pixel index within 63 bits


def corrupt(x: Tensor, m: Tensor, tau: float = 0.0) -> Tensor:
    """F(x; m) = x * m + tau * (1 - m), equation 1; ValueError if the mask's shape does not fit.

    Images x are (B, C, H, W) in [-1, 1], masks m (B, 1, H, W), 1 = observed. Selects rather than
    multiplies, so that observed values pass to the bit and whatever lies under the mask (NaN
    included) has no influence at all.
    """
    check_mask(x, m)
    return torch.where(m > 0, x, tau)


def composite(generated: Tensor, y: Tensor, m: Tensor) -> Tensor:
    """x~ = G(y, z) * (1 - m) + y, equation 4: observed pixels pass unchanged, to the bit.

    ``generated``, the generator's output, and y are (B, C, H, W), the masks m of y (B, 1, H, W),
    1 = observed; ValueError if their shape does not fit.
    """
    check_mask(y, m)
    return torch.where(m > 0, y, generated)


def check_mask(x: Tensor, m: Tensor) -> None:
    """Raise ValueError unless ``m`` is (B, 1, H, W) for images ``x`` of (B, C, H, W)."""
    if x.ndim != 4 or m.shape != (x.shape[0], 1, *x.shape[2:]):
        shapes = f"mask of shape {tuple(m.shape)} and images of shape {tuple(x.shape)}"
        raise ValueError(f"{shapes}: expected (B, 1, H, W) and (B, C, H, W)")


def recover_mask(y: Tensor, tau: float = 0.0) -> Tensor:
    """T(y), Algorithm 1 line 5: a pixel is missing where all its channels equal ``tau``.

    Exact for 8-bit images scaled to [-1, 1] and tau = 0, because u8 / 127.5 - 1 is never 0.

    Observations y (B, C, H, W) in [-1, 1] give masks (B, 1, H, W) float32, 1 = observed.

    Raises:
        ValueError: the answer would be ambiguous: ``tau`` is itself an 8-bit level, the values are
            not 8-bit levels scaled to [-1, 1] (images in [0, 1] have black at 0), or only some
            channels of a pixel equal ``tau``.
    """
    level = (tau + 1) * 127.5
    if -1 <= tau <= 1 and abs(level - round(level)) < 1e-3:
        raise ValueError(f"tau = {tau} is a level of observed 8-bit pixels too")
    missing = y == tau  # (B, C, H, W)
    if (missing.any(1) != missing.all(1)).any():
        raise ValueError(f"some pixels equal tau = {tau} in part of their channels only: ambiguous")
    levels = (y[~missing].double() + 1) * 127.5
    whole = ((levels - levels.round()).abs() < 1e-3) & (levels > -0.5) & (levels < 255.5)
    if not whole.all():
        raise ValueError(
            "values are not 8-bit levels scaled to [-1, 1] by u8 / 127.5 - 1, so a pixel equal to "
            "tau may be observed: pass the stored mask instead"
        )
    return (~missing.all(1, keepdim=True)).float()


class MaskLaw(ABC):
    """A mask distribution p_M."""

    @abstractmethod
    def sample(
        self, n: int, size: int, generator: torch.Generator, own: Tensor | None = None
    ) -> Tensor:
        """Draw ``n`` fresh masks (n, 1, size, size) float32 (Algorithm 1, line 3).

        Args:
            n: how many.
            size: image side, pixels.
            generator: source of the randomness; the masks are on its device.
            own: the masks of the images that the fresh ones are for, (n, 1, size, size); a law
                of masks that were really observed never draws an image's own.
        """

    def interior_border(self, size: int) -> int:
        """Width in pixels of the border that no mask observes: none, if a law does not say."""
        return 0


@dataclass(frozen=True)
class ComputedMasks(MaskLaw):
    """A distribution whose masks are computed from random integers, which subclasses do."""

    def sample(
        self, n: int, size: int, generator: torch.Generator, own: Tensor | None = None
    ) -> Tensor:
        shape = (n, self._integers_per_mask(size))
        bits = torch.randint(
            2**RANDOM_BITS, shape, generator=generator, device=generator.device, dtype=torch.int64
        )
        return self._masks(bits, size)

    def for_ids(
        self, ids: Sequence[int] | Tensor, size: int, seed: int, device: torch.device | str = "cpu"
    ) -> Tensor:
        """The masks (B, 1, size, size) of the images ``ids``, each a pure function of (seed, id).

        ``ids`` are B integers below 2**63; the masks are the same on every device.
        """
        ids = torch.as_tensor(ids, dtype=torch.int64, device=device)
        return self._masks(_hashed_integers(ids, seed, self._integers_per_mask(size)), size)

    @abstractmethod
    def _integers_per_mask(self, size: int) -> int: ...

    @abstractmethod
    def _masks(self, bits: Tensor, size: int) -> Tensor:
        """Masks (B, 1, size, size) from integers (B, n) uniform in [0, 2**RANDOM_BITS)."""


@dataclass(frozen=True)
class Patch(ComputedMasks):
    """Patch(n, k): n patches of k x k pixels are KEPT, all else is missing (section 3.2).

    Top-left corners are uniform over the places where the patch lies inside the image less a
    border that is never observed; patches may overlap.

    Args:
        n: number of patches.
        k: side of a patch in pixels of a 128 x 128 image; scales with the size, rounded up.
        border: width of the border in pixels of a 128 x 128 image; scales with the size.
    """

    n: int
    k: int
    border: int = 4

    def pixels_at(self, size: int) -> tuple[int, int]:
        """(k, border) in pixels of a ``size`` x ``size`` image."""
        border = round(self.border * size / PAPER_SIZE)
        return min(math.ceil(self.k * size / PAPER_SIZE), size - 2 * border), border

    def interior_border(self, size: int) -> int:
        return self.pixels_at(size)[1]

    def _integers_per_mask(self, size: int) -> int:
        return 2 * self.n

    def _masks(self, bits: Tensor, size: int) -> Tensor:
        k, border = self.pixels_at(size)
        corner = border + bits % (size - 2 * border - k + 1)  # (B, 2n)
        top, left = corner.chunk(2, dim=1)  # (B, n) each
        # A patch is +1 at two of its corners and -1 at the two others, in an image one pixel
        # larger; the integral image of these marks counts the patches that cover each pixel.
        side = size + 1
        start, end = top * side + left, (top + k) * side + left
        place = torch.cat([start, end + k, start + k, end], dim=1)  # (B, 4n)
        mark = torch.ones_like(place, dtype=torch.int32)
        mark[:, 2 * self.n :] = -1
        marks = torch.zeros(len(bits), side * side, dtype=torch.int32, device=bits.device)
        marks.scatter_add_(1, place, mark)
        covered = marks.view(-1, 1, side, side).cumsum(2).cumsum(3)  # (B, 1, size + 1, size + 1)
        return (covered[:, :, :size, :size] > 0).float()


@dataclass(frozen=True)
class DropPixel(ComputedMasks):
    """DropPixel(p): exactly round(p * H * W) pixels are dropped, uniformly (section 3.2).

    Args:
        p: the share of pixels DROPPED (the paper's setting is 0.9).
    """

    p: float

    def _integers_per_mask(self, size: int) -> int:
        return size * size

    def _masks(self, bits: Tensor, size: int) -> Tensor:
        pixels = size * size
        dropped = round(self.p * pixels)
        if dropped == 0:
            return torch.ones(len(bits), 1, size, size, device=bits.device)
        # The pixel's index in the low digits makes the keys distinct: exactly `dropped` fall.
        keys = bits * pixels + torch.arange(pixels, device=bits.device)  # (B, H*W)
        threshold = keys.kthvalue(dropped, dim=1, keepdim=True).values  # (B, 1)
        return (keys > threshold).float().view(-1, 1, size, size)


CORRUPTIONS: dict[str, MaskLaw] = {
    "one_patch": Patch(n=1, k=32),
    "small_patch": Patch(n=90, k=10),
    "drop_pixel": DropPixel(p=0.9),
}
"""The paper's three settings (section 3.5) by the names of its Table 1."""


def mask_law(name: str) -> MaskLaw:
    """The mask distribution called ``name``; ValueError names the known ones."""
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}: choose one of {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name]


def _hashed_integers(ids: Tensor, seed: int, count: int) -> Tensor:
    """Integers uniform in [0, 2**RANDOM_BITS), (B, count), a pure function of (seed, id, column).

    Two rounds of the SplitMix64 finaliser (Steele, Lea and Flood, 2014); int64 products wrap
    around, on every device alike.
    """
    stream = _mix64(_mix64(ids ^ _wrap(seed * 0x9E3779B97F4A7C15)))  # (B,)
    column = torch.arange(1, count + 1, device=ids.device) * _wrap(0x9E3779B97F4A7C15)  # (count,)
    mixed = _mix64(stream[:, None] + column[None, :])  # (B, count)
    return (mixed >> (64 - RANDOM_BITS)) & (2**RANDOM_BITS - 1)


def _mix64(v: Tensor) -> Tensor:
    v = (v ^ _shift(v, 30)) * _wrap(0xBF58476D1CE4E5B9)
    v = (v ^ _shift(v, 27)) * _wrap(0x94D049BB133111EB)
    return v ^ _shift(v, 31)


def _shift(v: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch's shifts of int64 keep the sign)."""
    return (v >> bits) & (2 ** (64 - bits) - 1)


def _wrap(n: int) -> int:
    """The signed 64-bit integer congruent to ``n``."""
    return (n + 2**63) % 2**64 - 2**63
