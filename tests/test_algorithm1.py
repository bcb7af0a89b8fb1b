"""Algorithm 1, line by line: what is computed, from what, and where the gradients go."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import NZ, SIZE, B, Recorder, awake, grey, images, mean_score, observations, tiny

from paperlib import seeds
from paperlib.core.algorithm1 import Networks, Pass
from paperlib.core.baselines import METHODS
from paperlib.core.corruption import mask_law
from paperlib.core.fill import pyramid_fill

VARIANTS = ["base", "encoding_z", "encoding_y", "both"]


def method_of(name: str, adam: Any = torch.optim.Adam, **changes) -> Any:
    """A method of any name, with networks that let every gradient pass."""
    config, kind = tiny(method=name, **changes), METHODS[name]
    torch.manual_seed(0)
    nets = awake(kind.build_networks(config))
    return kind(config, nets, mask_law(config.corruption), adam)


def batch_for(method, seed=0) -> tuple[torch.Tensor, ...]:
    """A batch as the method's data set gives it, at 16 px."""
    y, m = observations(method.config.corruption, seed)
    complete = {"paired": (images(seed),), "unpaired": (images(seed + 1000),)}
    return y, m, *complete.get(method.learns_from, ())


def forward(method, seed=0) -> Any:
    return method.forward(*batch_for(method), generator=seeds.generator("step", seed))


def with_stubs(name: str, **changes) -> Any:
    """G paints a function of z, E answers with mean 0.5 and log-variance log 4, D with the mean."""
    method = method_of(name, **changes)
    code = torch.full((B, method.config.nz), 0.5)
    method.nets = Networks(
        G=Recorder(lambda y, m, z: torch.tanh(z.sum(1)).view(-1, 1, 1, 1).expand_as(y) * 0.9),
        D=Recorder(mean_score),
        E=Recorder(lambda y, m: (code, torch.full_like(code, math.log(4)))),
    )
    return method


# Lines 3 to 11


@pytest.mark.parametrize("name", VARIANTS)
def test_lines_6_to_11_are_those_of_the_algorithm_and_each_variant_computes_no_more(name):
    encodes_z, encodes_y = name in ("encoding_z", "both"), name in ("encoding_y", "both")
    method = with_stubs(name)
    p, (G, D, E) = forward(method), vars(method.nets).values()
    y, m, m_tilde = p.y, p.m, p.m_tilde
    assert all(map(torch.equal, (y, m), observations()))
    assert all(map(torch.equal, G.calls[0], (y, m, p.z)))
    assert torch.equal(p.x_tilde, G.answer(y, m, p.z) * (1 - m) + y)
    assert torch.equal(p.y_tilde, p.x_tilde * m_tilde)
    if encodes_z:
        assert torch.equal(E.calls[0][0], p.y_tilde * (1 - m))
        assert torch.equal(p.z_rec, torch.full((B, NZ), 0.5))  # the mean, not a sample
    if encodes_y:
        assert all(map(torch.equal, E.calls[-1], (y, m)))
        y_again, m_again, z_enc = G.calls[1]
        assert torch.equal(y_again, p.y_tilde) and torch.equal(m_again, m_tilde)
        painted = G.answer(y_again, m_again, z_enc)
        assert torch.equal(p.x_hat, painted * (1 - m_tilde) + p.y_tilde)
        assert torch.equal(p.y_hat, p.x_hat * m)
    assert (p.z_rec is not None, p.y_hat is not None) == (encodes_z, encodes_y)
    assert len(G.calls) == 1 + encodes_y and len(E.calls) == encodes_z + encodes_y
    assert not D.calls


def test_fresh_masks_are_drawn_from_the_law_with_every_generator():
    p, again, other = (forward(method_of("base", corruption="drop_pixel"), s) for s in (0, 0, 1))
    assert torch.equal(p.m_tilde.sum((1, 2, 3)), p.m.sum((1, 2, 3)))  # the law's exact share
    assert not torch.equal(p.m_tilde, p.m)
    assert torch.equal(p.m_tilde, again.m_tilde) and torch.equal(p.z, again.z)
    assert not torch.equal(p.m_tilde, other.m_tilde) and not torch.equal(p.z, other.z)


def test_codes_are_drawn_from_their_distributions_independently():
    method = with_stubs("encoding_y", nz=200)
    z = forward(method).z  # (4, 200) ~ N(0, 1)
    noise = (method.nets.G.calls[1][2] - 0.5) / 2  # of z_enc ~ N(0.5, 4), as E answers
    for sample in (z, noise):
        assert abs(sample.mean()) < 4 / math.sqrt(800)
        assert abs(sample.std() - 1) < 4 / math.sqrt(2 * 800)
    assert abs((z * noise).mean()) < 4 / math.sqrt(800)
    method = with_stubs("encoding_y", z_enc="deterministic")
    forward(method)
    assert (method.nets.G.calls[1][2] == 0.5).all()


@pytest.mark.parametrize("switch, mask_of, tells", [
    ("generated", lambda m, m_tilde: m_tilde * (1 - m), False),  # y~ * (1 - m), Algorithm 1
    ("y_tilde", lambda m, m_tilde: m_tilde, True),
    ("x_tilde", lambda m, m_tilde: torch.ones_like(m), True),
    ("eq6", lambda m, m_tilde: 1 - m_tilde, True),  # F(x~, complement of m~)
])  # fmt: skip
def test_z_is_read_from_what_the_switch_says_and_only_the_default_hides_y(switch, mask_of, tells):
    method = with_stubs("encoding_z", z_rec_from=switch)
    p = forward(method)
    image, mask = method.nets.E.calls[0]
    assert torch.equal(mask, mask_of(p.m, p.m_tilde)) and mask.any()
    assert torch.equal(image, p.x_tilde * mask)
    # another observation under the same mask, with the same painting: can E tell?
    method.forward(-p.y, p.m, generator=seeds.generator("step", 0))
    assert torch.equal(method.nets.E.calls[1][0], image) is not tells


# Lines 12 to 15: the losses' values


def given_pass(y_hat=True, z_rec=True) -> Pass:
    """Constant images, so that D (the mean) scores y 0.2, y~ 0.3 and y^ -0.4."""
    m, of_y = torch.ones(B, 1, SIZE, SIZE), {}
    if y_hat:
        of_y = {"mean": torch.full((B, NZ), 2.0), "log_variance": torch.zeros(B, NZ)}
        of_y |= {"x_hat": grey(-0.4), "y_hat": grey(-0.4)}
    code = torch.full((B, NZ), 0.5) if z_rec else None
    return Pass(grey(0.2), m, m, torch.zeros(B, NZ), grey(0.3), grey(0.3), code, **of_y)


def losses(p: Pass, **changes) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """D's and G's, where lambda_y is 10 and lambda_z 3."""
    method = method_of("both", **changes)
    method.nets.D = mean_score
    return [method.discriminator_loss(p), method.generator_loss(p)]


HINGE_D = (1 - 0.2) + (1 + 0.3)
GAMES = {
    "hinge": (HINGE_D, -0.3),
    "least_squares": (0.8**2 + 0.3**2, 0.7**2),
    "minimax": (
        math.log(1 + math.exp(-0.2)) + math.log(1 + math.exp(0.3)),
        math.log(1 + math.exp(-0.3)),
    ),
}
"""Game -> losses of D and G of real scores 0.2 and fake ones 0.3."""


@pytest.mark.parametrize("game", GAMES)
def test_losses_of_base_by_hand(game):
    (loss_d, log_d), (loss_g, log_g) = losses(given_pass(False, False), adversarial=game)
    assert [loss_d.item(), loss_g.item()] == pytest.approx(GAMES[game], rel=1e-5)
    assert log_d["loss_d"] is loss_d and log_g["loss_g"] is loss_g
    assert [log_d["d_real"].item(), log_d["d_fake"].item()] == pytest.approx([0.2, 0.3])


@pytest.mark.parametrize("changes, loss_d, loss_g", [
    # line 13 -D(y~), line 14 lambda_y ||y^ - y|| - D(y^), line 15 lambda_z ||z_rec - z||
    ({}, HINGE_D, -0.3 + 10 * 0.6**2 + 0.4 + 3 * 0.5**2),
    ({"lambda_y": 0.0}, HINGE_D, -0.3 + 0.4 + 3 * 0.5**2),  # it does not multiply -D(y^)
    ({"lambda_y_weighs": "all"}, HINGE_D, -0.3 + 10 * (0.6**2 + 0.4) + 3 * 0.5**2),  # equation 8
    ({"lambda_z": 7.0}, HINGE_D, -0.3 + 10 * 0.6**2 + 0.4 + 7 * 0.5**2),
    ({"norm": "l1"}, HINGE_D, -0.3 + 10 * 0.6 + 0.4 + 3 * 0.5),
    ({"lambda_kl": 0.25}, HINGE_D, -0.3 + 10 * 0.6**2 + 0.4 + 3 * 0.5**2 + 0.25 * 2.0**2 / 2),
    # both fakes weigh as one, and nothing changes for G
    ({"d_sees_y_hat": True}, 0.8 + (1.3 + 0.6) / 2, -0.3 + 10 * 0.6**2 + 0.4 + 3 * 0.5**2),
])  # fmt: skip
def test_losses_of_both_by_hand(changes, loss_d, loss_g):
    of_d, of_g = losses(given_pass(), **changes)
    assert [of_d[0].item(), of_g[0].item()] == pytest.approx([loss_d, loss_g], rel=1e-5)


def test_each_encoding_adds_its_terms_alone():
    (of_d, _), (of_g, _) = losses(given_pass(y_hat=False), d_sees_y_hat=True)
    assert [of_d.item(), of_g.item()] == pytest.approx([HINGE_D, -0.3 + 3 * 0.5**2], rel=1e-5)
    _, (of_g, _) = losses(given_pass(z_rec=False))
    assert of_g.item() == pytest.approx(-0.3 + 10 * 0.6**2 + 0.4, rel=1e-5)


def test_scores_are_taken_apart_in_the_order_of_the_images():
    p = given_pass()  # scores that differ within the batch: a shift by one image would show
    p.y = torch.arange(B).view(B, 1, 1, 1).expand(B, 3, SIZE, SIZE).float()
    (_, log), _ = losses(p, d_sees_y_hat=True)
    assert log["d_real"].item() == pytest.approx(1.5) and log["d_fake"].item() == pytest.approx(0.3)


@pytest.mark.parametrize("sees", ["observation", "fill"])
def test_d_is_shown_observations_and_where_asked_what_they_alone_determine(sees):
    method = method_of("both", discriminator_input=sees, d_sees_y_hat=True)
    p, D = forward(method), method.nets.D
    expected = []
    for y, m in ((p.y, p.m), (p.y_tilde, p.m_tilde), (p.y_hat, p.m)):
        expected.append(torch.cat([y, m, pyramid_fill(y, m)], 1) if sees == "fill" else y)
    method.nets.D = Recorder(mean_score)
    method.discriminator_loss(p)
    method.generator_loss(p)
    (in_d_phase,), (in_g_phase,) = method.nets.D.calls
    assert torch.equal(in_d_phase, torch.cat(expected))
    assert torch.equal(in_g_phase, torch.cat(expected[1:]))
    assert D(in_d_phase).shape == (3 * B,)


# Gradients


def test_every_term_teaches_the_networks_that_it_hangs_on():
    method = method_of("both", lambda_kl=1.0)
    _, log = method.generator_loss(forward(method))
    G, _, E = vars(method.nets).values()
    places = {"G": G, "mean": E.mean, "log_variance": E.log_variance}
    heads = places.keys() - {"G"}
    for term, learners in {
        "adv_y_tilde": {"G"}, "adv_y_hat": {"G"} | heads, "error_y": {"G"} | heads,
        "kl": heads, "error_z": {"G", "mean"},
    }.items():  # fmt: skip
        found = set()
        for name, module in places.items():
            own, options = list(module.parameters()), {"retain_graph": True, "allow_unused": True}
            slopes = torch.autograd.grad(log[term], own, **options)
            found |= {name for slope in slopes if slope is not None and slope.any()}
        assert found == learners, term
