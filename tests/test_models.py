"""The networks and the smooth fill: shapes, starting points, and what they must not do."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from paperlib import seeds
from paperlib.core.corruption import corrupt, mask_law
from paperlib.core.fill import pyramid_fill
from paperlib.core.models import (
    DataGenerator,
    Discriminator,
    Encoder,
    Generator,
    LatentNorm,
    ResBlock,
    SelfAttention,
)
from paperlib.profiles import run_of_profile

NZ, NZ_X = 4, 3


@pytest.fixture(autouse=True)
def _same_weights_in_every_run():
    torch.manual_seed(0)


def config(**changes) -> SimpleNamespace:
    """The keys that networks are built from; maps of G have sides 16, 8, 4."""
    values = dict(size=32, bands=3, patch=2, attention=4, nz=NZ, nz_x=NZ_X, repeated_border=0)
    values |= dict.fromkeys(("g_channels", "d_channels", "e_channels"), (8, 8, 16))
    values |= dict(z_start=0.0, start_from_fill=False, fill_sweeps=0, output_channels=0)
    return SimpleNamespace(**values | changes)


def inputs(size=32, batch=3, law="small_patch", bands=3):
    """y (B, C, H, W), m (B, 1, H, W), z (B, nz)."""
    g = seeds.generator("inputs", size)
    levels = torch.randint(256, (batch, bands, size, size), generator=g)
    m = mask_law(law).sample(batch, size, g)
    return corrupt(levels / 127.5 - 1, m), m, torch.randn(batch, NZ, generator=g)


def moved(net: nn.Module) -> nn.Module:
    """The network, with every parameter off its starting point."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return net


def call(net: nn.Module) -> torch.Tensor:
    """What the network makes of inputs of its kind."""
    y, m, z = inputs()
    given = {Generator: (y, m, z), Discriminator: (y,), DataGenerator: (z[:, :NZ_X],)}
    return net(*given[type(net)])


def count(net: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in net.modules())


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# Shapes


@pytest.mark.parametrize("output_channels, bands", [(0, 3), (4, 1), (4, 5)])
@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_networks_fit_images_of_every_size(size, patch, output_channels, bands):
    about = {"attention": size // patch // 4, "output_channels": output_channels}
    c = config(size=size, patch=patch, bands=bands, **about)
    y, m, z = inputs(size, 2, bands=bands)
    assert Generator(c)(y, m, z).shape == y.shape
    assert Discriminator(c)(y).shape == (2,)
    assert Discriminator(c, c_in=bands + 4)(torch.zeros(2, bands + 4, size, size)).shape == (2,)
    mean, log_variance = Encoder(c)(y, m)
    assert mean.shape == log_variance.shape == (2, NZ) and not torch.equal(mean, log_variance)
    assert DataGenerator(c)(torch.zeros(2, NZ_X)).shape == y.shape


def test_papers_size_has_the_channels_of_sagan():
    c, seen = run_of_profile("paper", "small_patch", "both"), []
    with torch.device("meta"):  # shapes alone
        G, D, E = Generator(c, spectral=False), Discriminator(c, spectral=False), Encoder(c)
        y, m, z = torch.zeros(2, 3, 128, 128), torch.zeros(2, 1, 128, 128), torch.zeros(2, c.nz)
        for block in [b for b in (*G.modules(), *D.modules()) if isinstance(b, ResBlock)]:
            block.register_forward_hook(lambda _, __, h: seen.append(tuple(h.shape[1:3])))
        assert G(y, m, z).shape == y.shape and E(y, m)[0].shape == (2, c.nz)
        assert D(y).shape == (2,)
    # 1024 channels at 4 px to 64 at 128 px in G, and the other way round in D
    up = [(1024, 4), (1024, 8), (512, 16), (256, 32), (128, 64), (64, 128), (64, 128)]
    assert seen[5:12] == up
    assert seen[12:] == [(64, 64), (128, 32), (256, 16), (512, 8), (1024, 4), (1024, 4)]


# G and D


@pytest.mark.parametrize("start_from_fill", [True, False])
def test_output_of_the_generators_lies_strictly_within_the_range(start_from_fill):
    G, (y, m, z) = Generator(config(start_from_fill=start_from_fill)), inputs()
    for extreme in (y, y.sign(), torch.ones_like(y)):
        assert G(extreme, m, z).abs().max() < 1
    x = call(DataGenerator(config()))
    assert x.abs().max() < 1 and x.min() < 0 < x.max() and not torch.equal(x[0], x[1])


def test_generator_ignores_z_at_the_start_and_not_for_good():
    # No variant is to be given diversity by its initialisation.
    G, (y, m, z) = Generator(config()), inputs()
    assert_close(G(y, m, z), G(y, m, -3 * z))
    moved(G)
    assert (G(y, m, z) - G(y, m, -3 * z)).abs().max() > 1e-2
    G = Generator(config(z_start=0.1))
    maps = [p.flatten() for n, p in G.named_parameters() if "scale_shift.weight" in n]
    assert torch.cat(maps).std().item() == pytest.approx(0.1, rel=0.1)


# behind the finest level, which z then leaves alone, follow convolutions at full resolution
@pytest.mark.parametrize("output_channels, norms", [(0, 8), (4, 4)])
def test_gradient_reaches_the_parameters_that_z_enters_by(output_channels, norms):
    G = Generator(config(output_channels=output_channels))
    G(*inputs()).square().sum().backward()
    maps = [p for n, p in G.named_parameters() if "scale_shift.weight" in n]
    assert len(maps) == count(G, LatentNorm) == norms
    assert all(p.grad.abs().max() > 0 for p in maps)


def test_g_and_e_read_the_mask():
    # Observed grey (0) and missing differ in the mask alone.
    (y, m, z), G, E = inputs(), Generator(config()), Encoder(config())
    assert (G(y, m, z) - G(y, 1 - m, z)).abs().max() > 1e-3
    assert (E(y, m)[0] - E(y, 1 - m)[0]).abs().max() > 1e-4


@pytest.mark.parametrize("border", [0, 1, 4])
@pytest.mark.parametrize("kind", [Generator, DataGenerator])
def test_border_repeats_its_neighbour_and_is_no_wider(kind, border):
    x, b = call(moved(kind(config(repeated_border=border)))), border
    inside = x[:, :, b : 32 - b, b : 32 - b]
    assert inside.std() > 0.01  # there is something to repeat
    repeated = np.pad(inside.detach(), [(0,), (0,), (b,), (b,)], "edge")
    assert np.array_equal(x.detach(), repeated)
    for one, next_one in ((b, b + 1), (-b - 1, -b - 2)):
        assert not torch.equal(x[:, :, one], x[:, :, next_one])
        assert not torch.equal(x[..., one], x[..., next_one])


@pytest.mark.parametrize("side", [16, 8, 4, 0])
@pytest.mark.parametrize("kind, sides", [(Generator, (16, 8, 4)), (Discriminator, (8, 4)), (DataGenerator, (16, 8))])  # fmt: skip
def test_self_attention_sits_at_the_side_asked_for(kind, sides, side):
    net, seen = kind(config(attention=side)), []
    for module in [m for m in net.modules() if isinstance(m, SelfAttention)]:
        module.register_forward_hook(lambda _, __, h: seen.append(h.shape[-1]))
    call(net)
    assert seen == [side] * (side in sides)


@pytest.mark.parametrize("output_channels", [0, 4])
def test_generator_that_starts_from_the_fill_is_the_fill_at_first_and_leaves_it(output_channels):
    how = {"start_from_fill": True, "fill_sweeps": 2, "output_channels": output_channels}
    G, (y, m, z) = Generator(config(**how)), inputs()
    fill = pyramid_fill(y, m, sweeps=2).clamp(-0.98, 0.98)
    assert_close(G(y, m, z), fill, 1e-4)
    assert (moved(G)(y, m, z) - fill).abs().mean() > 0.01


@pytest.mark.parametrize("spectral", [True, False])
def test_self_attention_by_hand(spectral):
    layer, x = SelfAttention(128, spectral).eval(), torch.randn(2, 128, 3, 5)
    assert torch.equal(layer(x), x)  # the identity at the start
    nn.init.constant_(moved(layer).gamma, 0.7)

    def at_every_place(conv, u):  # a 1 x 1 convolution of u (B, C, 15)
        return conv.weight[:, :, 0, 0] @ u + conv.bias[:, None]

    places = x.flatten(2)
    query, key = at_every_place(layer.query_key, places).split(128 // 8, dim=1)  # SAGAN's eighth
    attention = torch.softmax(query.mT @ key / 16**0.5, dim=2)  # (B, from, to)
    mixed = at_every_place(layer.value, places) @ attention.mT
    expected = places + layer.gamma * at_every_place(layer.out, mixed)
    assert_close(layer(x).flatten(2), expected)
    assert (expected - places).abs().max() > 0.1


def test_score_of_an_image_does_not_depend_on_the_others():
    D, y = moved(Discriminator(config())).eval(), inputs(batch=6)[0]
    assert not count(D, nn.modules.batchnorm._BatchNorm)
    together = D(y)
    assert together.std() > 1e-3
    assert_close(D(y[2:3]), together[2:3], 1e-4)
    assert_close(D(torch.cat([y[:2], 100 * y[3:]]))[:2], together[:2], 1e-4)


def test_discriminator_sums_over_places():
    # Global SUM pooling: the score of a constant map grows with the number of places.
    D = Discriminator(config(patch=1, d_channels=(8, 8))).eval()
    nn.init.zeros_(D.score.bias)
    small, large = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 64, 64), 0.5)
    # the rim is another value (zero padding), hence not 16 exactly
    assert (D(large) / D(small)).item() == pytest.approx(16, rel=0.5)


# Spectral normalisation


def layers(net: nn.Module) -> list[nn.Module]:
    """All layers but the maps from z, which are not normalised."""
    found = [m for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return [layer for layer in found if isinstance(layer, nn.Conv2d) or layer.out_features == 1]


@pytest.mark.parametrize("kind", [Discriminator, Generator])
def test_spectral_norm_brings_every_layer_to_norm_one(kind):
    for layer in layers(moved(kind(config()))):
        for _ in range(300):  # each use in training is one power iteration
            weight = layer.weight
        largest = torch.linalg.matrix_norm(weight.flatten(1), 2).item()
        assert largest == pytest.approx(1, abs=0.02)
        raw = layer.parametrizations.weight.original.flatten(1)
        assert torch.linalg.matrix_norm(raw, 2).item() > 1.1  # so it had something to do


@pytest.mark.parametrize("kind", [Generator, DataGenerator, Discriminator])
def test_plain_copy_with_the_normalised_weights_equals_its_source(kind):
    source, plain = moved(kind(config())).eval(), kind(config(), spectral=False).eval()
    expected = call(source)
    for layer in layers(source):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    assert not any(parametrize.is_parametrized(module) for module in plain.modules())
    plain.load_state_dict(source.state_dict())
    assert_close(call(plain), expected)


# E and the blocks


def test_encoder_reads_where_things_are_and_its_log_variance_is_bounded():
    # Linear heads on the flattened map, not pooled: a shift changes the code.
    E, (y, m, _) = Encoder(config()).eval(), inputs()
    assert count(E, nn.BatchNorm2d) > 0  # section 2.4
    assert (E(y, m)[0] - E(y.roll(16, 3), m.roll(16, 3))[0]).abs().max() > 1e-3
    nn.init.constant_(E.log_variance.bias, 1e4)
    assert E(y, m)[1].exp().isfinite().all() and E(y, m)[1].max() < 20


@pytest.mark.parametrize("resample, side", [("same", 8), ("down", 4), ("up", 16)])
def test_residual_block_resamples_and_without_its_residual_is_the_skip(resample, side):
    assert ResBlock(8, 12, resample)(torch.randn(2, 8, 8, 8)).shape == (2, 12, side, side)
    block, x = ResBlock(8, 8, resample, spectral=False).eval(), torch.randn(2, 8, 8, 8)
    nn.init.zeros_(block.conv2.weight)
    expected = {
        "same": x,
        "down": (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4,
        "up": x.repeat_interleave(2, 2).repeat_interleave(2, 3),
    }[resample]
    assert_close(block(x), expected)


def test_conditional_batch_norm_by_hand():
    layer = LatentNorm(3, NZ, start=1.0)
    x, z = torch.randn(5, 3, 4, 4), torch.randn(5, NZ)
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    normal = (x - mean) / (variance + 1e-5).sqrt()
    maps = z @ layer.scale_shift.weight.T  # (B, 2C)
    expected = normal * (1 + maps[:, :3, None, None]) + maps[:, 3:, None, None]
    assert_close(layer(x, z), expected, 1e-4)
