"""Generator G, discriminator D and encoder E (paper, section 2.4; after SAGAN, Zhang et al. 2019).

All work on a pyramid of feature maps. They are built from the configuration's keys

    size          image side, pixels
    bands         channels of an image
    g_channels, d_channels, e_channels   widths of the pyramid's levels, finest first
    nz            size of z
    patch         pixels per side that are folded into channels on the way in (pixel-unshuffle) and
                  unfolded on the way out: 1 for the paper's size, 2 for the laptop's, where thin
                  layers at full resolution waste the processor's time
    attention     side of the feature map that self-attention works on; 0 for none
    output_channels  width of two convolutions at full resolution behind the unfolding; 0 for none.
                  Without them each of the 2 x 2 unfolded pixels has weights of its own, and z, which
                  drives their normalisation, writes a grid of dots that E can read
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from paperlib.core.corruption import composite
from paperlib.core.fill import pyramid_fill


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
    """Conditional batch normalisation: z (B, nz) chooses the scale and shift of every channel.

    ``start`` is the standard deviation of the maps from z at the start. At 0 an untrained G ignores
    z, and no variant of the loss is given diversity by the initialisation; but E then has nothing
    to read, and where it sees little of an image, whether it ever starts is luck.
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
        self, c_in: int, c_out: int, resample: str = "same", nz: int = 0, norm: bool = True,
        spectral: bool = True, z_start: float = 0.0,
    ) -> None:  # fmt: skip
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


def output_layers(
    config: Any, c_beside: int, spectral: bool, last: bool
) -> tuple[nn.Sequential, nn.Sequential]:
    """What makes pixels of the finest features, up to the unfolding, and what follows behind it.

    Args:
        c_beside: channels of an image that the convolutions at full resolution see too.
        spectral, last: whether the first of these, and those that make pixels, are normalised.
    """
    channels, width = config.g_channels[0], config.output_channels
    unfolded = conv(channels, (width or config.bands) * config.patch**2, spectral=last)
    to_pixels = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), unfolded)
    if not width:
        return to_pixels, nn.Sequential()
    final = conv(width, config.bands, spectral=last)
    first = conv(width + c_beside, width, spectral=spectral)
    return to_pixels, nn.Sequential(first, nn.ReLU(), final)


def repeat_border(x: Tensor, border: int) -> Tensor:
    """``x`` (B, C, H, W) with its outermost ``border`` pixels repeated from those inside."""
    inside = x[:, :, border : x.shape[2] - border, border : x.shape[3] - border]
    return F.pad(inside, (border,) * 4, mode="replicate") if border else x


class Generator(nn.Module):
    """G(y, z): an image-to-image variant of SAGAN's generator with skip connections.

    Args:
        config: besides the keys above
            z_start: standard deviation of the maps from z to the normalisations at the start;
            repeated_border: width of the border about which no loss says anything; G repeats there
                the outermost pixels of x~ inside, rather than paint what chance left it;
            start_from_fill: a skip connection from ``pyramid_fill`` to the output, not the paper's;
            fill_sweeps: how far ``pyramid_fill`` is relaxed.
        spectral: spectral normalisation of the convolutions (off in the averaged copy, which
            holds the normalised weights themselves).
    """

    def __init__(self, config: Any, spectral: bool = True) -> None:
        super().__init__()
        c, channels = config, config.g_channels
        self.nz, self.patch, self.border = c.nz, c.patch, c.repeated_border
        self.start_from_fill, self.fill_sweeps = c.start_from_fill, c.fill_sweeps
        plain = partial(ResBlock, spectral=spectral)
        conditional = partial(ResBlock, nz=c.nz, z_start=c.z_start, spectral=spectral)
        pairs = list(zip(channels[:-1], channels[1:], strict=True))
        self.stem = conv((c.bands + 1) * c.patch**2, channels[0], spectral=spectral)
        self.encode = nn.ModuleList([plain(a, b, "down") for a, b in pairs])
        self.middle = conditional(channels[-1], channels[-1])
        # Where convolutions at full resolution follow, z enters at the coarse levels only
        finest = plain if c.output_channels else conditional
        levels = list(zip(pairs, [finest] + [conditional] * len(pairs), strict=False))
        self.decode = nn.ModuleList([kind(b, a, "up") for (a, b), kind in reversed(levels)])
        self.attend = nn.ModuleList()
        for level in reversed(range(len(channels))):
            here = c.size // c.patch >> level == c.attention
            self.attend.append(SelfAttention(channels[level], spectral) if here else nn.Identity())
        self.last = finest(channels[0], channels[0])
        last = spectral and not c.start_from_fill
        self.to_pixels, self.refine = output_layers(c, c.bands + 1, spectral, last)
        if c.start_from_fill:  # what is learned is added to the guess, from 0 on
            nn.init.zeros_([*self.to_pixels, *self.refine][-1].weight)

    def forward(self, y: Tensor, m: Tensor, z: Tensor) -> Tensor:
        """Complete images (B, C, H, W) in (-1, 1) of y (B, C, H, W), m (B, 1, H, W), z (B, nz)."""
        h = self.stem(F.pixel_unshuffle(torch.cat([y, m], dim=1), self.patch))
        skips = [h]
        for block in self.encode:
            skips.append(h := block(h))
        h = self.attend[0](self.middle(h, z))
        skips.pop()
        for block, attend in zip(self.decode, self.attend[1:], strict=True):
            h = attend(block(h, z) + skips.pop())
        h = F.pixel_shuffle(self.to_pixels(self.last(h, z)), self.patch)
        if self.refine:
            h = self.refine(torch.cat([h, y, m], dim=1))  # (B, C, H, W)
        if self.start_from_fill:
            with torch.autocast(y.device.type, enabled=False):  # the guess is in float32 always
                guess = pyramid_fill(y, m, sweeps=self.fill_sweeps)
                h = h + torch.atanh(guess.clamp(-0.98, 0.98))
        x = torch.tanh(h)
        return repeat_border(composite(x, y, m), self.border) if self.border else x


class Discriminator(nn.Module):
    """D(y): SAGAN's, with spectral norm, self-attention and global sum pooling; no BatchNorm.

    Args:
        config: the keys above.
        c_in: channels of what is judged; those of an observation by default.
        spectral: spectral normalisation; off for a critic that a gradient penalty holds instead.
    """

    def __init__(self, config: Any, c_in: int | None = None, spectral: bool = True) -> None:
        super().__init__()
        channels, self.patch = config.d_channels, config.patch
        self.stem = conv((c_in or config.bands) * self.patch**2, channels[0], spectral=spectral)
        blocks: list[nn.Module] = []
        for level, (a, b) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            blocks.append(ResBlock(a, b, "down", norm=False, spectral=spectral))
            if config.size // self.patch >> (level + 1) == config.attention:
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

    def __init__(self, config: Any) -> None:
        super().__init__()
        channels, self.patch = config.e_channels, config.patch
        pairs = zip(channels[:-1], channels[1:], strict=True)
        self.stem = conv((config.bands + 1) * self.patch**2, channels[0], spectral=False)
        self.blocks = nn.Sequential(*[ResBlock(a, b, "down", spectral=False) for a, b in pairs])
        self.norm = nn.BatchNorm2d(channels[-1])
        side = config.size // self.patch >> (len(channels) - 1)
        self.mean = nn.Linear(channels[-1] * side**2, config.nz)
        self.log_variance = nn.Linear(channels[-1] * side**2, config.nz)

    def forward(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, (B, nz) each, of z given masked images (B, C, H, W)."""
        h = self.blocks(self.stem(F.pixel_unshuffle(torch.cat([y, m], dim=1), self.patch)))
        h = F.relu(self.norm(h)).flatten(1)
        return self.mean(h), self.log_variance(h).clamp(-10, 4)


class DataGenerator(nn.Module):
    """G_x(z) of MisGAN: complete images from noise, by the decoder of ``Generator`` (SAGAN's G).

    Args: as of ``Generator``; the size of its code is ``config.nz_x``.
    """

    def __init__(self, config: Any, spectral: bool = True) -> None:
        super().__init__()
        c, channels = config, config.g_channels
        self.nz, self.patch, self.border = c.nz_x, c.patch, c.repeated_border
        self.side = c.size // c.patch >> (len(channels) - 1)
        self.start = nn.Linear(self.nz, channels[-1] * self.side**2)
        blocks: list[nn.Module] = []
        for level, width in reversed(list(enumerate(channels[:-1]))):
            blocks.append(ResBlock(channels[level + 1], width, "up", spectral=spectral))
            if c.size // c.patch >> level == c.attention:
                blocks.append(SelfAttention(width, spectral))
        self.blocks = nn.Sequential(*blocks)
        self.to_pixels, self.refine = output_layers(c, 0, spectral, spectral)

    def forward(self, z: Tensor) -> Tensor:
        """Complete images (B, C, H, W) in (-1, 1) from codes (B, nz)."""
        h = self.start(z).view(len(z), -1, self.side, self.side)
        h = h.contiguous(memory_format=torch.channels_last)
        h = F.pixel_shuffle(self.to_pixels(self.blocks(h)), self.patch)
        return repeat_border(torch.tanh(self.refine(h)), self.border)
