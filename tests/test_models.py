"""The networks: shapes, starting points, and what they must not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from paperlib import seeds
from paperlib.algorithm1 import build_networks
from paperlib.config import RunConfig
from paperlib.corruption import CORRUPTIONS, corrupt, mask_law
from paperlib.models import (
    Discriminator,
    Encoder,
    Generator,
    LatentNorm,
    ResBlock,
    SelfAttention,
    laplacian,
    pyramid_fill,
    relaxation_steps,
)

NZ = 4


@pytest.fixture(autouse=True)
def _same_weights_in_every_run():
    torch.manual_seed(0)


def generator(size=32, channels=(8, 8, 16), patch=2, attention=4, **changes) -> Generator:
    return Generator(size, channels, NZ, patch, attention, **changes)


def inputs(size=32, batch=3, law="small_patch"):
    """y (B, 3, H, W), m (B, 1, H, W), z (B, nz)."""
    g = seeds.generator("inputs", size)
    levels = torch.randint(256, (batch, 3, size, size), generator=g)
    m = mask_law(law).sample(batch, size, g)
    return corrupt(levels / 127.5 - 1, m), m, torch.randn(batch, NZ, generator=g)


def train_a_little(net: nn.Module) -> None:
    """Move every parameter off its starting point."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# Shapes


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("z_injection", ["norm", "bottleneck"])
def test_generator_maps_an_image_to_an_image(size, patch, z_injection):
    G = generator(size, patch=patch, attention=8, z_injection=z_injection)
    y, m, z = inputs(size, batch=2)
    assert G(y, m, z).shape == (2, 3, size, size)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("patch", [1, 2])
def test_discriminator_gives_one_score_an_image(size, patch):
    D = Discriminator(size, (8, 8, 16), patch, attention=8)
    assert D(inputs(size, batch=2)[0]).shape == (2,)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("patch", [1, 2])
def test_encoder_gives_mean_and_log_variance(size, patch):
    E = Encoder(size, (8, 8, 16), NZ, patch)
    mean, log_variance = E(*inputs(size, batch=2)[:2])
    assert mean.shape == log_variance.shape == (2, NZ)
    assert not torch.equal(mean, log_variance)


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_networks_of_a_run_fit_its_images(name):
    config = RunConfig(corruption=name)
    nets = build_networks(config)
    y, m, _ = inputs(config.size, law=name)
    assert nets.G(y, m, torch.zeros(3, config.nz)).shape == y.shape
    assert nets.D(y).shape == (3,) and nets.E(y, m)[0].shape == (3, config.nz)
    assert nets.G.border == CORRUPTIONS[name].interior_border(config.size)


# G


@pytest.mark.parametrize("start_from_fill", [True, False])
def test_output_of_the_generator_lies_strictly_within_the_range(start_from_fill):
    G = generator(start_from_fill=start_from_fill)
    y, m, z = inputs()
    for extreme in (y, y.sign(), torch.ones_like(y)):
        x = G(extreme, m, z)
        assert x.abs().max() < 1 and x.isfinite().all()


def test_generator_ignores_z_at_the_start_and_not_for_good():
    # No variant is to be given diversity by its initialisation.
    G = generator(z_injection="norm", start_from_fill=False)
    y, m, z = inputs()
    assert_close(G(y, m, z), G(y, m, -3 * z))
    for layer in (module for module in G.modules() if isinstance(module, LatentNorm)):
        assert not layer.scale_shift.weight.any() and not layer.scale_shift.bias.any()
    train_a_little(G)
    assert (G(y, m, z) - G(y, m, -3 * z)).abs().max() > 1e-2


def test_maps_from_z_start_as_far_from_0_as_they_are_told():
    G = generator(z_injection="norm", z_start=0.1)
    maps = [p.flatten() for n, p in G.named_parameters() if "scale_shift.weight" in n]
    assert torch.cat(maps).std().item() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("z_injection", ["norm", "bottleneck"])
def test_gradient_reaches_the_parameters_that_z_enters_by(z_injection):
    G = generator(z_injection=z_injection, start_from_fill=False)
    G(*inputs()).square().sum().backward()
    maps = [p for n, p in G.named_parameters() if "scale_shift.weight" in n or "z_to" in n]
    assert maps and all(p.grad.abs().max() > 0 for p in maps)


def test_bottleneck_injection_is_the_only_one_of_its_generator():
    G = generator(z_injection="bottleneck")
    assert not any(isinstance(module, LatentNorm) for module in G.modules())
    assert generator(z_injection="norm").z_to_bottleneck is None


def test_generator_reads_the_mask():
    # Observed black-grey (0) and missing differ in the mask alone.
    G = generator(start_from_fill=False)
    y, m, z = inputs()
    assert (G(y, m, z) - G(y, 1 - m, z)).abs().max() > 1e-3


@pytest.mark.parametrize("border", [1, 2, 4])
def test_border_repeats_its_neighbour(border):
    G = generator(border=border)
    train_a_little(G)
    x = G(*inputs())
    b = border
    inside = x[:, :, b:-b, b:-b]
    assert inside.std() > 0.01  # there is something to repeat
    for i in range(b):
        for row, column in ((i, b), (-1 - i, -1 - b)):
            assert torch.equal(x[:, :, row, b:-b], x[:, :, column, b:-b])
            assert torch.equal(x[..., b:-b, row], x[..., b:-b, column])
    assert (x[:, :, :b, :b] == x[:, :, b : b + 1, b : b + 1]).all()  # a corner
    assert not torch.equal(x[:, :, b], x[:, :, b + 1])  # and no wider


def test_without_a_border_the_outermost_pixels_are_the_generators_own():
    G = generator(border=0)
    train_a_little(G)
    x = G(*inputs())
    assert not torch.equal(x[:, :, 0], x[:, :, 1]) and not torch.equal(x[..., 0], x[..., 1])


def test_self_attention_sits_at_the_side_asked_for():
    for attention, expected in ((16, 1), (8, 1), (4, 1), (0, 0)):
        G = generator(32, (8, 8, 16), patch=2, attention=attention)  # sides 16, 8, 4
        assert sum(isinstance(module, SelfAttention) for module in G.modules()) == expected
    D = Discriminator(32, (8, 8, 16), patch=2, attention=8)
    assert sum(isinstance(module, SelfAttention) for module in D.modules()) == 1


# The smooth guess that G may start from


def test_generator_that_starts_from_the_fill_is_the_fill_at_first():
    G = generator(start_from_fill=True)
    y, m, z = inputs()
    assert_close(G(y, m, z), pyramid_fill(y, m).clamp(-0.98, 0.98), 1e-4)
    plain = generator(start_from_fill=False)
    assert (plain(y, m, z) - pyramid_fill(y, m)).abs().max() > 0.1


def test_generator_that_starts_from_the_fill_leaves_it():
    G = generator(start_from_fill=True)
    train_a_little(G)
    y, m, z = inputs()
    assert (G(y, m, z) - pyramid_fill(y, m)).abs().mean() > 0.01


@pytest.mark.parametrize("size", [8, 24, 32, 36])
def test_fill_is_linear_in_the_observation_and_stays_within_its_range(size):
    y, m, _ = inputs(size)
    for sweeps in (0, 3):
        fill = pyramid_fill(y, m, sweeps=sweeps)
        assert fill.shape == y.shape
        assert_close(pyramid_fill(-0.5 * y, m, sweeps=sweeps), -0.5 * fill)
        ones = pyramid_fill(m.expand_as(y), m, sweeps=sweeps)
        assert_close(ones + fill, pyramid_fill(m + y, m, sweeps=sweeps))
    fill = pyramid_fill(y, m)
    assert fill.abs().max() <= y.abs().max() + 1e-6  # a weighted mean
    ones = pyramid_fill(m.expand_as(y), m)
    assert ones.min() >= 0 and ones.max() <= 1 + 1e-6


def test_sweeps_make_the_fill_less_bent():
    y, m, _ = inputs()
    bent = [
        laplacian(torch.where(m > 0, y, pyramid_fill(y, m, sweeps=n))).square().sum()
        for n in (0, 2, 8, 32)
    ]
    assert bent == sorted(bent, reverse=True) and bent[-1] < 0.9 * bent[0]


@pytest.mark.parametrize("sweeps", [1, 2, 5, 8])
def test_relaxation_shrinks_every_error_that_matters_as_chebyshev_promises(sweeps):
    eigenvalues = torch.linspace(0.3, 64, 1000, dtype=torch.float64)
    left = torch.ones_like(eigenvalues)
    for step in relaxation_steps(sweeps):
        left = left * (1 - step * eigenvalues)
    ratio = (64 + 0.3) / (64 - 0.3)
    assert left.abs().max() == pytest.approx(1 / np.cosh(sweeps * np.arccosh(ratio)), rel=1e-3)


def test_fill_of_what_was_observed_densely_is_close_to_it():
    # 0.02 of a pixel's weight is the coarser guess
    y = torch.full((1, 3, 32, 32), 0.6)
    assert (pyramid_fill(y, torch.ones(1, 1, 32, 32)) - 0.6).abs().max() < 0.6 * 0.02


@pytest.mark.parametrize("name, better_than", [("drop_pixel", 0.3), ("small_patch", 0.3), ("one_patch", 1.0)])  # fmt: skip
def test_fill_beats_a_grey_one_on_smooth_images(name, better_than):
    line = torch.linspace(0, 3, 32)
    x = 0.8 * torch.sin(line[:, None] + 0.7 * line[None, :]).expand(8, 3, 32, 32)
    m = mask_law(name).sample(8, 32, seeds.generator("fill"))
    missing = (1 - m).expand_as(x) > 0
    error = (pyramid_fill(corrupt(x, m), m) - x)[missing].square().mean()
    assert error < better_than * x[missing].square().mean()


# Self-attention


def test_self_attention_is_the_identity_at_the_start():
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(SelfAttention(16)(x), x)


@pytest.mark.parametrize("spectral", [True, False])
def test_self_attention_equals_a_loop_over_places(spectral):
    layer = SelfAttention(16, spectral).eval()  # power iterations stand still
    with torch.no_grad():
        layer.gamma.fill_(1.0)
        for conv in (layer.query_key, layer.value, layer.out):
            conv.bias.normal_()
    x = torch.randn(2, 16, 3, 5)

    def at(conv, vector):  # a 1 x 1 convolution at one place
        return conv.weight[:, :, 0, 0] @ vector + conv.bias

    expected = torch.zeros_like(x)
    for b in range(2):
        places = [x[b, :, i, j] for i in range(3) for j in range(5)]
        qk = [at(layer.query_key, p) for p in places]
        values = torch.stack([at(layer.value, p) for p in places])
        keys = torch.stack([v[layer.inner :] for v in qk])
        for n, (place, v) in enumerate(zip(places, qk, strict=True)):
            attention = torch.softmax(keys @ v[: layer.inner] / layer.inner**0.5, dim=0)
            expected[b, :, n // 5, n % 5] = place + at(layer.out, attention @ values)
    assert_close(layer(x), expected)


# D


def test_discriminator_has_no_batch_norm():
    D = Discriminator(32, (8, 8, 16), 2, attention=8)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in D.modules())


def test_score_of_an_image_does_not_depend_on_the_others():
    D = Discriminator(32, (8, 8, 16), 2, attention=8).eval()
    train_a_little(D)  # so that attention takes part
    y = inputs(batch=6)[0]
    together = D(y)
    assert together.std() > 1e-3
    assert_close(D(y[2:3]), together[2:3], 1e-4)
    assert_close(D(torch.cat([y[:2], 100 * y[3:]]))[:2], together[:2], 1e-4)


@pytest.mark.parametrize("net", ["D", "G"])
def test_spectral_norm_brings_every_convolution_to_norm_one(net):
    model = {
        "D": lambda: Discriminator(32, (8, 8, 16), 2, attention=8),
        "G": lambda: generator(start_from_fill=False),
    }[net]()
    train_a_little(model)
    y, m, z = inputs(batch=2)
    with torch.no_grad():
        for _ in range(300):  # one power iteration each
            model(y) if net == "D" else model(y, m, z)
    model.eval()
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    layers += [model.score] if net == "D" else []
    for layer in layers:
        assert parametrize.is_parametrized(layer, "weight")
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
        assert largest == pytest.approx(1, abs=0.02)
        raw = layer.parametrizations.weight.original.flatten(1)
        assert torch.linalg.matrix_norm(raw, 2).item() > 1.1  # so it had something to do


def test_discriminator_sums_over_places():
    # Global SUM pooling: the score of a constant map grows with the number of places.
    torch.manual_seed(0)
    D = Discriminator(32, (8, 8), 1).eval()
    for p in D.score.parameters():
        if p.ndim == 1:
            nn.init.zeros_(p)
    small, large = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 64, 64), 0.5)
    # the rim is another value (zero padding), hence not 16 exactly
    assert (D(large) / D(small)).item() == pytest.approx(16, rel=0.5)


# E and the blocks


def test_encoder_has_batch_norm_and_reads_the_mask():
    E = Encoder(32, (8, 8, 16), NZ, 2)
    assert any(isinstance(m, nn.BatchNorm2d) for m in E.modules())
    y, m, _ = inputs()
    assert (E(y, m)[0] - E(y, 1 - m)[0]).abs().max() > 1e-4


def test_log_variance_is_bounded():
    E = Encoder(16, (8, 8), NZ, 2)
    nn.init.constant_(E.log_variance.bias, 1e4)
    log_variance = E(torch.zeros(2, 3, 16, 16), torch.zeros(2, 1, 16, 16))[1]
    assert log_variance.exp().isfinite().all() and log_variance.max() < 20


def test_encoder_reads_where_things_are():
    # Linear heads on the flattened map, not pooled: a shift changes the code.
    E = Encoder(32, (8, 8, 16), NZ, 2).eval()
    y, m, _ = inputs()
    codes = [E(image, mask)[0] for image, mask in ((y, m), (y.roll(16, 3), m.roll(16, 3)))]
    assert (codes[0] - codes[1]).abs().max() > 1e-3


@pytest.mark.parametrize("resample, side", [("same", 8), ("down", 4), ("up", 16)])
@pytest.mark.parametrize("c_out", [8, 12])
def test_residual_block_resamples(resample, side, c_out):
    block = ResBlock(8, c_out, resample)
    assert block(torch.randn(2, 8, 8, 8)).shape == (2, c_out, side, side)


@pytest.mark.parametrize("resample", ["same", "down", "up"])
def test_residual_block_without_its_residual_is_the_skip(resample):
    block = ResBlock(8, 8, resample, spectral=False).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 8, 8, 8)
    expected = {
        "same": x,
        "down": (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4,
        "up": x.repeat_interleave(2, 2).repeat_interleave(2, 3),
    }[resample]
    assert_close(block(x), expected)


def test_conditional_batch_norm_by_hand():
    layer = LatentNorm(3, NZ)
    nn.init.normal_(layer.scale_shift.weight)
    x, z = torch.randn(5, 3, 4, 4), torch.randn(5, NZ)
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    normal = (x - mean) / (variance + 1e-5).sqrt()
    maps = z @ layer.scale_shift.weight.T  # (B, 2C)
    expected = normal * (1 + maps[:, :3, None, None]) + maps[:, 3:, None, None]
    assert_close(layer(x, z), expected, 1e-4)
