"""What every method promises, then the baselines of Table 2 by hand."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import NZ, SIZE, B, Recorder, grey, has_gradient, mean_score, state, tiny
from test_algorithm1 import GAMES, batch_for, forward, method_of
from torch import nn
from torch.nn.utils import parametrize

import paperlib.beyond  # noqa: F401, adds its methods
from paperlib import seeds
from paperlib.core.baselines import METHODS, MisGANNetworks, MisGANPass, SupervisedPass
from paperlib.core.corruption import CORRUPTIONS, corrupt

GAME = {"optimizer_d": {"D"}, "optimizer_g": {"G"}}
LEARNS = {
    "base": GAME,
    **dict.fromkeys(("encoding_z", "encoding_y", "both"), GAME | {"optimizer_g": {"G", "E"}}),
    "unpaired": GAME,
    "paired": GAME,
    "misgan": {"optimizer_d_x": {"D_x"}, "optimizer_d": {"D"}, "optimizer_g": {"G"}}
    | {"optimizer_g_x": {"G_x"}},
    "mask_aware": GAME | {"optimizer_g": {"G", "E"}},
    "scored": GAME,
}
"""Method -> optimiser, in the order of a step -> the networks that learn from its loss."""
ALL = list(METHODS)  # a new one is to be added above


def sgd(parameters, lr, betas):
    """Whose step is the gradient times the rate; at a rate of 1e-30, which rounds to 0, none."""
    return torch.optim.SGD(parameters, lr=round(lr, 9))


def held_still(method):
    """Normalisations and power iterations do not move with every use."""
    for net in vars(method.nets).values():
        net.eval()
    return method


def leave_gradients(method):
    """As an earlier step does; the next one is to drop them."""
    for parameter in [p for net in vars(method.nets).values() for p in net.parameters()]:
        parameter.grad = torch.ones_like(parameter)


# Every method


def phases(method):
    """Optimiser and its loss, in the order of a step; the critics are frozen for G's, as there."""
    p, nets, generator = forward(method), method.nets, seeds.generator("gp")
    if method.config.method != "misgan":
        yield "optimizer_d", method.discriminator_loss(p)[0]
        nets.D.requires_grad_(False)
        yield "optimizer_g", method.generator_loss(p)[0]
        return
    yield "optimizer_d_x", method.critic_loss(nets.D_x, p.y, p.y_x, generator)[0]
    yield "optimizer_d", method.critic_loss(nets.D, p.x, p.x_tilde, generator)[0]
    nets.D.requires_grad_(False), nets.D_x.requires_grad_(False)
    yield from zip(("optimizer_g", "optimizer_g_x"), method.generator_losses(p), strict=True)


@pytest.mark.parametrize("name", ALL)
def test_each_phase_teaches_its_networks_alone_and_its_optimiser_holds_these(name):
    rates = {"lr_g": 1e-3, "lr_d": 2e-3, "lr_x": 3e-3}
    method = method_of(name, d_sees_y_hat=True, beta1=0.1, **rates)
    nets = vars(method.nets)
    assert method.optimizers.keys() == LEARNS[name].keys()
    for optimizer, loss in phases(method):
        for net in nets.values():
            net.zero_grad()
        loss.backward(retain_graph=True)
        assert {key for key, net in nets.items() if has_gradient(net)} == LEARNS[name][optimizer]
        (group,) = method.optimizers[optimizer].param_groups
        held = {id(p) for p in group["params"]}
        rate = "lr_x" if optimizer.endswith("_x") else f"lr_{optimizer[-1]}"
        assert group["lr"] == rates[rate] and group["betas"] == (0.1, 0.99)
        assert held == {id(p) for key in LEARNS[name][optimizer] for p in nets[key].parameters()}


@pytest.mark.parametrize("name", ALL)
def test_every_d_is_spectrally_normalised_but_those_that_a_gradient_penalty_holds(name):
    nets = METHODS[name].build_networks(tiny(method=name))
    for critic in (nets.D, getattr(nets, "D_x", nets.D)):
        layers = [m for m in critic.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert {parametrize.is_parametrized(m) for m in layers} == {name != "misgan"}


@pytest.mark.parametrize("name", ALL)
def test_a_step_moves_what_learns_alone_and_is_a_function_of_its_seeds(name):
    results, learners = [], set().union(*LEARNS[name].values())
    for global_seed, seed in ((1, 0), (2, 0), (2, 1)):
        method = method_of(name, critic_steps=2, accumulate=1 if name == "misgan" else 2)
        before = {key: state(net) for key, net in vars(method.nets).items()}
        torch.manual_seed(global_seed)
        batches = [batch_for(method, 10 * k) for k in range(method.batches_per_step)]
        log = method.step(batches, seeds.generator("s", seed))
        results.append((log, {key: state(net) for key, net in vars(method.nets).items()}))
    assert len(batches) == 2
    (log, after), (log_again, after_again), (log_other, _) = results
    assert log == log_again != log_other and {"loss_d", "loss_g", "d_real", "d_fake"} <= log.keys()
    assert all(value.isfinite() and not value.requires_grad for value in log.values())
    for key, net in vars(method.nets).items():
        assert all(torch.equal(value, after_again[key][n]) for n, value in after[key].items())
        changed = {n for n, value in after[key].items() if not torch.equal(value, before[key][n])}
        # a bias need not move where BatchNorm, or the difference of two scores, takes it out again
        weights = {n for n, _ in net.named_parameters() if "weight" in n or "gamma" in n}
        if (key, name) == ("E", "encoding_z"):  # z_rec is a mean
            assert not any("log_variance" in n for n in changed)
            weights = {n for n in weights if "log_variance" not in n}
        assert weights <= changed if key in learners else not changed, key
        assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("name", ALL)
def test_reconstructions_agree_with_what_was_observed_to_the_bit(name, corruption):
    method = method_of(name, corruption=corruption)
    p, (y, m, *_) = forward(method), batch_for(method)
    seen = m.expand_as(y) > 0
    assert torch.equal(p.x_tilde[seen], y[seen])
    assert (p.x_tilde[~seen] != 0).any()  # ... and only with that: elsewhere G has painted


def gradients_of(method, batches, loss: str, *networks: str) -> list[torch.Tensor]:
    """Of the mean over the batches of a loss, by the parameters of the networks."""
    generator = seeds.generator("s")
    passes = [method.forward(*batch, generator=generator) for batch in batches]
    mean = sum(getattr(method, loss)(p)[0] for p in passes) / len(batches)
    parameters = [p for key in networks for p in getattr(method.nets, key).parameters()]
    return torch.autograd.grad(mean, parameters, allow_unused=True)


@pytest.mark.parametrize("accumulate, lr_d", [(1, 0.5), (3, 1e-30)])
@pytest.mark.parametrize("name", [name for name in ALL if name != "misgan"])
def test_gradients_of_a_step_are_means_over_batches_and_with_one_d_moves_before_g(
    name, accumulate, lr_d
):
    changes = {"accumulate": accumulate, "lr_d": lr_d, "lr_g": 1e-30}
    method = held_still(method_of(name, sgd, **changes))
    batches = [batch_for(method, 10 * k) for k in range(accumulate)]
    of_d = gradients_of(method, batches, "discriminator_loss", "D")
    of_g = "generator_loss", *sorted(LEARNS[name]["optimizer_g"])
    before = gradients_of(method, batches, *of_g)
    leave_gradients(method)
    method.step(batches, seeds.generator("s"))
    after = gradients_of(method, batches, *of_g)  # with the D that has moved, or has not
    unequal = [
        not torch.allclose(a, b) for a, b in zip(before, after, strict=True) if a is not None
    ]
    assert any(unequal) == (accumulate == 1)
    for networks, expected in ((["D"], of_d), (of_g[1:], after)):
        found = [p.grad for key in networks for p in getattr(method.nets, key).parameters()]
        torch.testing.assert_close(found, list(expected), rtol=1e-3, atol=1e-6)


# Unpaired and Paired


def quarter_observed() -> torch.Tensor:
    """m (B, 1, 16, 16): the upper quarter is observed."""
    m = torch.zeros(B, 1, SIZE, SIZE)
    m[:, :, : SIZE // 4] = 1
    return m


@pytest.mark.parametrize("game", GAMES)
def test_losses_of_unpaired_by_hand(game):
    method = method_of("unpaired", adversarial=game)
    method.nets.D = mean_score
    p = SupervisedPass(y=grey(0.9), m=quarter_observed(), x=grey(0.2), x_tilde=grey(0.3))
    found = [method.discriminator_loss(p)[0].item(), method.generator_loss(p)[0].item()]
    assert found == pytest.approx(GAMES[game], rel=1e-5)


@pytest.mark.parametrize("norm, error", [("l2", 0.25), ("l1", 0.5)])
@pytest.mark.parametrize("lambda_x", [0.0, 20.0])
def test_losses_of_paired_by_hand(lambda_x, norm, error):
    method = method_of("paired", lambda_x=lambda_x, norm=norm)
    # D scores the mean of the image less 3 times that of the observation beside it
    method.nets.D = lambda shown: mean_score(shown[:, :3]) - 3 * mean_score(shown[:, 3:])
    m, x = quarter_observed(), grey(0.2)
    p = SupervisedPass(corrupt(x, m), m, x, x_tilde=torch.where(m > 0, x, 0.7))  # means 0.05, 0.575
    loss, _ = method.discriminator_loss(p)
    assert loss.item() == pytest.approx((1 - (0.2 - 0.15)) + (1 + (0.575 - 0.15)), rel=1e-5)
    loss, log = method.generator_loss(p)
    assert log["error_x"].item() == pytest.approx(error, rel=1e-5)  # of missing pixels alone
    assert loss.item() == pytest.approx(-(0.575 - 0.15) + lambda_x * error, rel=1e-5)


@pytest.mark.parametrize("name", ["unpaired", "paired"])
def test_d_is_shown_complete_images_as_real_and_composites_as_fake(name):
    method = method_of(name)
    nets = method.nets
    nets.G = Recorder(lambda y, m, z: z.mean(1).view(-1, 1, 1, 1).expand_as(y))
    p, (y, m, x), D = forward(method), batch_for(method), Recorder(mean_score)
    assert all(map(torch.equal, nets.G.calls[0][:2], (y, m)))
    z = nets.G.calls[0][2]
    x_tilde = nets.G.answer(y, m, z) * (1 - m) + y
    assert z.shape == (B, NZ) and torch.equal(p.x_tilde, x_tilde)
    nets.D = D
    method.discriminator_loss(p)
    method.generator_loss(p)
    real, fake = (torch.cat([u, y], 1) if name == "paired" else u for u in (x, x_tilde))
    assert torch.equal(D.calls[0][0], torch.cat([real, fake]))
    assert torch.equal(D.calls[1][0], fake)


# MisGAN


def test_images_of_misgan_are_generated_masked_afresh_and_imputed():
    method = method_of("misgan", nz_x=5, corruption="drop_pixel")
    method.nets = MisGANNetworks(
        G=Recorder(lambda y, m, z: z.mean(1).view(-1, 1, 1, 1).expand_as(y)),
        D=Recorder(mean_score),
        G_x=Recorder(lambda z: z.mean(1).view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE)),
        D_x=Recorder(mean_score),
    )
    p, ((code,),), ((y, m, z),) = forward(method), method.nets.G_x.calls, method.nets.G.calls
    assert all(map(torch.equal, (y, m), batch_for(method))) and torch.equal(p.y, y)
    assert code.shape == (B, 5) and z.shape == (B, NZ)
    assert torch.equal(p.x, method.nets.G_x.answer(code))
    assert torch.equal(p.x_tilde, method.nets.G.answer(y, m, z) * (1 - m) + y)
    m_tilde = (p.y_x != 0).any(dim=1, keepdim=True)
    assert torch.equal(p.y_x, corrupt(p.x, m_tilde))
    assert (m_tilde.sum((1, 2, 3)) == m.sum((1, 2, 3))).all()  # of the same law, another mask
    assert not (m_tilde.flatten(1)[:, None] == (m > 0).flatten(1)[None]).all(-1).any()


@pytest.mark.parametrize("lambda_gp", [0.0, 10.0])
def test_critic_loss_of_misgan_by_hand(lambda_gp):
    # The slope of a mean, times c, is c / sqrt(entries) everywhere: here 3, so the penalty is 4.
    c, generator = 3 * math.sqrt(3 * SIZE**2), seeds.generator("gp")
    loss, *scores = method_of("misgan", lambda_gp=lambda_gp).critic_loss(
        lambda u: c * mean_score(u), grey(0.2), grey(0.3), generator
    )
    assert [score.item() for score in scores] == pytest.approx([0.2 * c, 0.3 * c])
    assert loss.item() == pytest.approx(-0.2 * c + 0.3 * c + lambda_gp * 4, rel=1e-4)


@pytest.mark.parametrize("d", [-2.0, 3.0])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_generator_losses_of_misgan_by_hand(beta, d):
    # D_x scores 2 times a mean, of which the mask leaves a quarter, D d times.
    method = method_of("misgan", beta=beta)
    method.nets.D, method.nets.D_x = lambda u: d * mean_score(u), lambda u: 2 * mean_score(u)
    level = torch.tensor(0.1, requires_grad=True)
    x = level.expand(B, 3, SIZE, SIZE)
    p = MisGANPass(y=grey(0.9), y_x=corrupt(x, quarter_observed()), x=x, x_tilde=grey(0.3))
    loss_g, loss_g_x = method.generator_losses(p)
    assert loss_g.item() == pytest.approx(-d * 0.3, rel=1e-5)
    assert loss_g_x.item() == pytest.approx((-2 * 0.25 + beta * d) * 0.1, rel=1e-5)
    loss_g_x.backward()  # G_x descends what D says of its images, through beta
    assert level.grad.item() == pytest.approx(-2 * 0.25 + beta * d)


def test_a_step_of_misgan_written_out():
    rates = {"lr_g": 1e-3, "lr_d": 2e-4, "lr_x": 3e-4}
    library, by_hand = (
        held_still(method_of("misgan", sgd, critic_steps=2, beta=0.5, **rates)) for _ in range(2)
    )
    batches = [batch_for(library, seed) for seed in (0, 10)]
    leave_gradients(library)
    log = library.step(batches, seeds.generator("s"))
    generator, nets = seeds.generator("s"), by_hand.nets

    def descend(loss, net, rate):
        parameters = list(net.parameters())
        slopes = torch.autograd.grad(loss, parameters, retain_graph=True)
        with torch.no_grad():
            for parameter, slope in zip(parameters, slopes, strict=True):
                parameter -= rate * slope
        return list(slopes)

    for batch in batches:  # D_x tells y from masked images of G_x, D those images from composites
        p = by_hand.forward(*batch, generator=generator)
        of_d_x, *_ = by_hand.critic_loss(nets.D_x, p.y, p.y_x, generator)
        of_d, *_ = by_hand.critic_loss(nets.D, p.x, p.x_tilde, generator)
        of_critics = descend(of_d_x, nets.D_x, 3e-4), descend(of_d, nets.D, 2e-4)
    p = by_hand.forward(*batch, generator=generator)  # the last batch again, drawn afresh
    of_g, of_g_x = by_hand.generator_losses(p)
    descend(of_g, nets.G, 1e-3)
    descend(of_g_x, nets.G_x, 3e-4)
    expected = {"loss_d": of_d, "loss_d_x": of_d_x, "loss_g": of_g, "loss_g_x": of_g_x}
    torch.testing.assert_close({key: log[key] for key in expected}, expected)
    for key, net in vars(library.nets).items():
        torch.testing.assert_close(state(net), state(getattr(nets, key)), rtol=1e-5, atol=1e-7)
    for critic, slopes in zip((library.nets.D_x, library.nets.D), of_critics, strict=True):
        # to which the generators have added nothing
        torch.testing.assert_close([p.grad for p in critic.parameters()], slopes)
