"""Generator G, discriminator D and encoder E (paper, section 2.4; after SAGAN, Zhang et al. 2019).

All three work on a pyramid of feature maps. ``patch`` folds patch x patch pixels into channels on
the way in (pixel-unshuffle) and unfolds them on the way out (pixel-shuffle): 1 for the paper's
size, 2 for the laptop's, where thin layers at full resolution waste the processor's time.
``channels`` gives the width of each level of the pyramid, finest first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


def pyramid_fill(y: Tensor, m: Tensor, trust: float = 0.02, sweeps: int = 0) -> Tensor:
    """A smooth guess of the missing pixels, without parameters: pull-push on a Gaussian pyramid.

    Observed values and the mask are both halved in size with the binomial filter (1, 3, 3, 1),
    level by level; then, from the coarsest level on, the weighted mean of what was observed near
    a pixel is mixed with the coarser guess, which counts as ``trust`` observed pixels (Gortler et
    al., The Lumigraph, 1996).

    ``sweeps`` relax each level towards the biharmonic equation: slopes then go on into a hole,
    where pull-push alone flattens. From coarse to fine few are needed (a cascadic multigrid,
    Bornemann and Deuflhard 1996).

    Args:
        y: observations, (B, C, H, W), 0 where missing.
        m: masks, (B, 1, H, W), 1 = observed.
        trust: weight of the coarser level, in observed pixels.
        sweeps: relaxations a level; 0 for pull-push alone.

    Returns:
        (B, C, H, W).
    """
    taps = torch.full((4,), 3 / 8, device=y.device)
    taps[::3] = 1 / 8  # made there: nothing waits for a copy
    levels = [torch.cat([y, m], dim=1)]  # (B, C + 1, H, W): values times weights, weights
    kernel = torch.outer(taps, taps).expand(levels[0].shape[1], 1, 4, 4)
    while levels[-1].shape[-1] > 2 and levels[-1].shape[-1] % 2 == 0:
        finer = levels[-1]
        levels.append(F.conv2d(finer, kernel, stride=2, padding=1, groups=finer.shape[1]))
    guess = torch.zeros_like(levels[-1][:, :-1])
    for level in reversed(levels):
        if guess.shape[-1] < level.shape[-1]:
            guess = F.interpolate(guess, scale_factor=2, mode="bilinear")
        values, weights = level[:, :-1], level[:, -1:]
        guess = (values + trust * guess) / (weights + trust)
        for step in relaxation_steps(sweeps):
            guess = guess - step * laplacian(laplacian(guess))
            guess = (values + trust * guess) / (weights + trust)
    return guess


def relaxation_steps(sweeps: int, steepest: float = 64.0, flattest: float = 0.3) -> list[float]:
    """Chebyshev's steps for so many relaxations by the squared Laplacian: all errors fall together.

    Args:
        sweeps: how many; some tens at most, or rounding errors grow.
        steepest: the largest eigenvalue, 8 squared.
        flattest: the smallest that still matters; smoother errors are the coarser level's to mend.

    Returns:
        the steps, small and large in turn.
    """
    middle, half = (steepest + flattest) / 2, (steepest - flattest) / 2
    roots = [middle + half * math.cos(math.pi * (k + 0.5) / sweeps) for k in range(sweeps)]
    pairs = zip(roots[: (sweeps + 1) // 2], reversed(roots), strict=False)  # descending, ascending
    return [1 / root for pair in pairs for root in pair][:sweeps]


def laplacian(u: Tensor) -> Tensor:
    """Sum of the differences to the four neighbours; beyond the border the image goes on level.

    (B, C, H, W) to (B, C, H, W).
    """
    p = F.pad(u, (1, 1, 1, 1), mode="replicate")
    beside = p[..., 1:-1, :-2] + p[..., 1:-1, 2:]
    return p[..., :-2, 1:-1] + p[..., 2:, 1:-1] + beside - 4 * u


def conv(c_in: int, c_out: int, kernel: int = 3, spectral: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size, spectrally normalised (Miyato et al. 2018) by default."""
    layer = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
    nn.init.orthogonal_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    if spectral:
        spectral_norm(layer)
    return layer


class SelfAttention(nn.Module):
    """SAGAN's self-attention: x + gamma * attention(x), gamma starting at 0."""

    def __init__(self, channels: int, spectral: bool = True) -> None:
        super().__init__()
        self.inner = max(channels // 8, 8)  # SAGAN's reduction
        self.query_key = conv(channels, 2 * self.inner, 1, spectral)
        self.value = conv(channels, channels // 2, 1, spectral)
        self.out = conv(channels // 2, channels, 1, spectral)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k = self.query_key(x).flatten(2).transpose(1, 2).chunk(2, dim=2)  # (B, HW, inner) each
        v = self.value(x).flatten(2).transpose(1, 2)  # (B, HW, C/2)
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, HW, C/2)
        mixed = mixed.transpose(1, 2).reshape(b, -1, h, w)
        return x + self.gamma * self.out(mixed)


class LatentNorm(nn.Module):
    """Conditional batch normalisation: z chooses the scale and shift of every channel.

    Args:
        channels: of the feature map.
        nz: size of z.
        start: standard deviation of the maps from z at the start. At 0 an untrained G ignores z,
            and no variant of the loss is given diversity by the initialisation; but E then has
            nothing to read, and where it sees little of an image, whether it ever starts is luck.
    """

    def __init__(self, channels: int, nz: int, start: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.scale_shift = nn.Linear(nz, 2 * channels)
        nn.init.normal_(self.scale_shift.weight, std=start)
        nn.init.zeros_(self.scale_shift.bias)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        scale, shift = self.scale_shift(z)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class ResBlock(nn.Module):
    """Twice (BatchNorm, ReLU, 3x3 convolution), pre-activation, beside a skip (section 2.4).

    Args:
        c_in, c_out: channels.
        resample: "down" averages 2 x 2 between the convolutions, "up" pixel-shuffles out of the
            first one, "same" keeps the size.
        nz: size of the z that conditions the normalisations; 0 for plain BatchNorm.
        z_start: standard deviation of the maps from z at the start.
        norm: False for D, where BatchNorm would couple the real and the fake batch.
        spectral: spectral normalisation of the convolutions.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        resample: str = "same",
        nz: int = 0,
        norm: bool = True,
        spectral: bool = True,
        z_start: float = 0.0,
    ) -> None:
        super().__init__()
        self.resample, self.conditional = resample, nz > 0
        make_norm = (lambda c: LatentNorm(c, nz, z_start)) if nz else nn.BatchNorm2d
        c_mid = c_in if resample == "down" else c_out
        self.norm1 = make_norm(c_in) if norm else nn.Identity()
        self.norm2 = make_norm(c_mid) if norm else nn.Identity()
        self.conv1 = conv(c_in, 4 * c_mid if resample == "up" else c_mid, spectral=spectral)
        self.conv2 = conv(c_mid, c_out, spectral=spectral)
        self.skip = conv(c_in, c_out, 1, spectral) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        conditions = (z,) if self.conditional else ()
        h = self.conv1(F.relu(self.norm1(x, *conditions)))
        if self.resample == "up":
            h = F.pixel_shuffle(h, 2)
        h = F.relu(self.norm2(h, *conditions))
        if self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        x = self.skip(x)
        if self.resample == "up":
            # nearest; after the 1x1 convolution, which is cheaper on the small map
            x = F.interpolate(x, scale_factor=2)
        return x + self.conv2(h)


def repeat_border(x: Tensor, border: int) -> Tensor:
    """``x`` (B, C, H, W) with its outermost ``border`` pixels repeated from those inside."""
    if not border:
        return x
    inside = x[:, :, border:-border, border:-border]
    return F.pad(inside, (border,) * 4, mode="replicate")


class Generator(nn.Module):
    """G(y, z): an image-to-image variant of SAGAN's generator with skip connections.

    Args:
        channels: widths of the pyramid's levels, finest first.
        nz: size of z.
        patch: pixels folded per side.
        attention: side of the feature map that self-attention works on; 0 for none.
        size: image side, pixels.
        z_injection: "norm" (conditional BatchNorm in the decoder) or "bottleneck".
        border: width of the border that no mask observes. Nothing can be learned there, so G
            repeats its outermost learnable pixels, rather than paint what chance left it.
        z_start: standard deviation of the maps from z to the normalisations at the start.
        start_from_fill: a skip connection from ``pyramid_fill`` to the output (not in the paper).
        fill_sweeps: how far ``pyramid_fill`` is relaxed.
        bands: channels of an image.
        spectral: spectral normalisation of the convolutions (off in the averaged copy, which
            holds the normalised weights themselves).
    """

    def __init__(
        self,
        size: int,
        channels: Sequence[int],
        nz: int,
        patch: int = 1,
        attention: int = 0,
        z_injection: str = "norm",
        border: int = 0,
        z_start: float = 0.0,
        start_from_fill: bool = True,
        fill_sweeps: int = 0,
        bands: int = 3,
        spectral: bool = True,
    ) -> None:
        super().__init__()
        self.nz, self.patch, self.border = nz, patch, border
        self.start_from_fill, self.fill_sweeps = start_from_fill, fill_sweeps
        sn = {"spectral": spectral}
        conditional = partial(
            ResBlock, nz=nz if z_injection == "norm" else 0, z_start=z_start, spectral=spectral
        )
        pairs = list(zip(channels[:-1], channels[1:], strict=True))
        sides = [size // patch >> level for level in range(len(channels))]
        self.stem = conv((bands + 1) * patch**2, channels[0], **sn)
        self.encode = nn.ModuleList([ResBlock(a, b, "down", **sn) for a, b in pairs])
        self.z_to_bottleneck = nn.Linear(nz, channels[-1]) if z_injection == "bottleneck" else None
        self.middle = conditional(channels[-1], channels[-1])
        self.decode = nn.ModuleList([conditional(b, a, "up") for a, b in reversed(pairs)])
        self.attend = nn.ModuleList(
            [
                SelfAttention(c, **sn) if side == attention else nn.Identity()
                for c, side in reversed(list(zip(channels, sides, strict=True)))
            ]
        )
        self.last = conditional(channels[0], channels[0])
        to_pixels = conv(channels[0], bands * patch**2, spectral=spectral and not start_from_fill)
        self.to_pixels = nn.Sequential(nn.BatchNorm2d(channels[0]), nn.ReLU(), to_pixels)
        if start_from_fill:  # what is learned is added to the guess, from 0 on
            nn.init.zeros_(to_pixels.weight)

    def forward(self, y: Tensor, m: Tensor, z: Tensor) -> Tensor:
        """Complete images (B, C, H, W) in (-1, 1) from y (B, C, H, W), m (B, 1, H, W), z (B, nz)."""
        h = self.stem(F.pixel_unshuffle(torch.cat([y, m], dim=1), self.patch))
        skips = [h]
        for block in self.encode:
            skips.append(h := block(h))
        if self.z_to_bottleneck is not None:
            h = h + self.z_to_bottleneck(z)[:, :, None, None]
        h = self.attend[0](self.middle(h, z))
        skips.pop()
        for block, attend in zip(self.decode, self.attend[1:], strict=True):
            h = attend(block(h, z) + skips.pop())
        h = self.to_pixels(self.last(h, z))
        h = F.pixel_shuffle(h, self.patch)
        if self.start_from_fill:
            with torch.autocast(y.device.type, enabled=False):  # the guess is in float32 always
                guess = pyramid_fill(y, m, sweeps=self.fill_sweeps)
                h = h + torch.atanh(guess.clamp(-0.98, 0.98))
        return repeat_border(torch.tanh(h), self.border)


class Discriminator(nn.Module):
    """D(y): SAGAN's, with spectral norm, self-attention and global sum pooling; no BatchNorm.

    Args:
        channels: widths of the pyramid's levels, finest first.
        patch: pixels folded per side.
        attention: side of the feature map that self-attention works on; 0 for none.
        c_in: channels of the images that are judged.
        spectral: spectral normalisation; off for a critic that a gradient penalty holds instead.
    """

    def __init__(
        self,
        size: int,
        channels: Sequence[int],
        patch: int = 1,
        attention: int = 0,
        c_in: int = 3,
        spectral: bool = True,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.stem = conv(c_in * patch**2, channels[0], spectral=spectral)
        blocks: list[nn.Module] = []
        for level, (a, b) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            blocks.append(ResBlock(a, b, "down", norm=False, spectral=spectral))
            if size // patch >> (level + 1) == attention:
                blocks.append(SelfAttention(b, spectral))
        top = ResBlock(channels[-1], channels[-1], norm=False, spectral=spectral)
        self.blocks = nn.Sequential(*blocks, top)
        score = nn.Linear(channels[-1], 1)
        self.score = spectral_norm(score) if spectral else score

    def forward(self, y: Tensor) -> Tensor:
        """Scores (B,), one an image, from observations (B, c_in, H, W)."""
        h = self.blocks(self.stem(F.pixel_unshuffle(y, self.patch)))
        return self.score(F.relu(h).sum(dim=(2, 3))).squeeze(1)


class Encoder(nn.Module):
    """E: a ResNet with BatchNorm, then two linear heads on the flattened map (section 2.4)."""

    def __init__(
        self, size: int, channels: Sequence[int], nz: int, patch: int = 1, bands: int = 3
    ) -> None:
        super().__init__()
        self.patch = patch
        pairs = zip(channels[:-1], channels[1:], strict=True)
        self.stem = conv((bands + 1) * patch**2, channels[0], spectral=False)
        self.blocks = nn.Sequential(*[ResBlock(a, b, "down", spectral=False) for a, b in pairs])
        self.norm = nn.BatchNorm2d(channels[-1])
        side = size // patch >> (len(channels) - 1)
        self.mean = nn.Linear(channels[-1] * side**2, nz)
        self.log_variance = nn.Linear(channels[-1] * side**2, nz)

    def forward(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, (B, nz) each, of z given masked images (B, C, H, W)."""
        h = self.blocks(self.stem(F.pixel_unshuffle(torch.cat([y, m], dim=1), self.patch)))
        h = F.relu(self.norm(h)).flatten(1)
        return self.mean(h), self.log_variance(h).clamp(-10, 4)


class DataGenerator(nn.Module):
    """G_x(z) of MisGAN: complete images from noise, by the decoder of ``Generator`` (SAGAN's G).

    Args: as of ``Generator``.
    """

    def __init__(
        self,
        size: int,
        channels: Sequence[int],
        nz: int,
        patch: int = 1,
        attention: int = 0,
        border: int = 0,
        bands: int = 3,
        spectral: bool = True,
    ) -> None:
        super().__init__()
        self.nz, self.patch, self.border = nz, patch, border
        self.side = size // patch >> (len(channels) - 1)
        self.start = nn.Linear(nz, channels[-1] * self.side**2)
        blocks: list[nn.Module] = []
        for level, c in reversed(list(enumerate(channels[:-1]))):
            blocks.append(ResBlock(channels[level + 1], c, "up", spectral=spectral))
            if size // patch >> level == attention:
                blocks.append(SelfAttention(c, spectral))
        self.blocks = nn.Sequential(*blocks)
        self.to_pixels = nn.Sequential(
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
            conv(channels[0], bands * patch**2, spectral=spectral),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Complete images (B, C, H, W) in (-1, 1) from codes (B, nz)."""
        h = self.start(z).view(len(z), -1, self.side, self.side)
        h = h.contiguous(memory_format=torch.channels_last)
        x = torch.tanh(F.pixel_shuffle(self.to_pixels(self.blocks(h)), self.patch))
        return repeat_border(x, self.border)
