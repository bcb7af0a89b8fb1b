"""The baselines of Table 2: what they are shown, what they compute, where the gradients go."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import (
    NZ,
    SIZE,
    B,
    Recorder,
    awake,
    gradients,
    grey,
    has_gradient,
    images,
    mean_score,
    observations,
    state,
    tiny,
)
from torch import nn
from torch.nn.utils import parametrize

from paperlib import baselines, seeds
from paperlib.algorithm1 import Networks
from paperlib.baselines import (
    Game,
    MisGAN,
    MisGANNetworks,
    Paired,
    Supervised,
    Unpaired,
    build_data_generator,
)
from paperlib.config import METHOD_NAMES, ConfigurationError, RunConfig
from paperlib.corruption import CORRUPTIONS, corrupt, mask_law
from paperlib.data import (
    Observations,
    PairedCompleteImages,
    Prepared,
    UnpairedCompleteImages,
    load_prepared,
)
from paperlib.losses import gradient_penalty
from paperlib.methods import BASELINES, METHODS, build_method, optimizers
from paperlib.models import DataGenerator, Discriminator, SelfAttention

SUPERVISED = ["unpaired", "paired"]
ENTRIES = 3 * SIZE**2  # of an image


def method_of(name: str, **changes):
    """A method with networks that let every gradient pass."""
    torch.manual_seed(0)
    method = build_method(tiny(method=name, **changes))
    awake(method.nets)
    return method


def batch_for(method, seed=0) -> tuple[torch.Tensor, ...]:
    """A batch as the method's data set gives it, at 16 px."""
    y, m = observations(method.config.corruption, seed)
    complete = {
        Observations: (),
        PairedCompleteImages: (images(seed),),
        UnpairedCompleteImages: (images(seed + 1000),),
    }
    return y, m, *complete[method.data_set]


def run_forward(method, seed=0):
    batch, generator = batch_for(method), seeds.generator("step", seed)
    if isinstance(method, MisGAN):
        return method.forward(*batch, generator)
    return method.forward(batch, generator)


def batches_of(method, n: int):
    return iter([batch_for(method, seed) for seed in range(n)])


def test_every_method_of_the_configuration_can_be_built():
    assert list(METHODS) == METHOD_NAMES
    for name, kind in METHODS.items():
        assert type(build_method(tiny(method=name))) is kind


@pytest.mark.parametrize("corruption", list(CORRUPTIONS))
@pytest.mark.parametrize("name", BASELINES)
def test_reconstructions_agree_with_what_was_observed_to_the_bit(name, corruption):
    method = method_of(name, corruption=corruption)
    y, m = observations(corruption)
    p = run_forward(method)
    seen = m.expand_as(y) > 0
    assert torch.equal(p.x_tilde[seen], y[seen])
    assert (p.x_tilde[~seen] != 0).any()  # ... and only with that: elsewhere G has painted


@pytest.mark.parametrize("name", METHODS)
def test_a_step_takes_as_many_batches_as_the_method_says(name):
    accumulate = 1 if name == "misgan" else 2
    method = method_of(name, accumulate=accumulate, critic_steps=3)
    batches = batches_of(method, 5)
    method.step(batches, seeds.generator("s"))
    assert 5 - len(list(batches)) == method.batches_per_step == (3 if name == "misgan" else 2)


# Unpaired and Paired


def half_observed() -> torch.Tensor:
    """m (B, 1, 16, 16): the upper half is observed."""
    m = torch.zeros(B, 1, SIZE, SIZE)
    m[:, :, : SIZE // 2] = 1
    return m


def of_image_and_observation(shown: torch.Tensor) -> torch.Tensor:
    """A D that scores the mean of the image less 3 times that of the observation."""
    assert shown.shape[1] == 6
    image, y = shown.chunk(2, dim=1)
    return mean_score(image) - 3 * mean_score(y)


@pytest.mark.parametrize("adversarial, d_loss, g_loss", [
    ("hinge", (1 - 0.2) + (1 + 0.3), -0.3),
    ("least_squares", (1 - 0.2) ** 2 + 0.3**2, (1 - 0.3) ** 2),
    ("minimax", math.log(1 + math.exp(-0.2)) + math.log(1 + math.exp(0.3)), math.log(1 + math.exp(-0.3))),
])  # fmt: skip
def test_losses_of_unpaired_by_hand(adversarial, d_loss, g_loss):
    method = Unpaired(tiny(method="unpaired", adversarial=adversarial))
    method.nets.D = Recorder(mean_score)
    p = Supervised(y=grey(0.9), m=half_observed(), x=grey(0.2), x_tilde=grey(0.3))
    loss, log = method.discriminator_loss(p)
    assert loss.item() == pytest.approx(d_loss, rel=1e-5) and log["loss_d"] is loss
    assert log["d_real"].item() == pytest.approx(0.2) and log["d_fake"].item() == pytest.approx(0.3)
    assert method.generator_loss(p)[0].item() == pytest.approx(g_loss, rel=1e-5)


@pytest.mark.parametrize("norm, error", [("l2", 0.25), ("l1", 0.5)])
@pytest.mark.parametrize("lambda_x", [0.0, 1.0, 20.0])
def test_losses_of_paired_by_hand(lambda_x, norm, error):
    method = Paired(tiny(method="paired", lambda_x=lambda_x, norm=norm))
    method.nets.D = Recorder(of_image_and_observation)
    m, x = half_observed(), grey(0.2)
    y, x_tilde = corrupt(x, m), torch.where(m > 0, x, 0.7)  # the means: 0.1 and 0.45
    p = Supervised(y, m, x, x_tilde)
    loss, _ = method.discriminator_loss(p)
    assert loss.item() == pytest.approx((1 - (0.2 - 0.3)) + (1 + (0.45 - 0.3)), rel=1e-5)
    loss, log = method.generator_loss(p)
    # the error is a mean over the missing half alone
    assert log["error_x"].item() == pytest.approx(error, rel=1e-5)
    assert loss.item() == pytest.approx(-(0.45 - 0.3) + lambda_x * error, rel=1e-5)
    assert log["loss_g"] is loss


def test_error_of_paired_weighs_every_missing_entry_of_the_batch_alike():
    method = Paired(tiny(method="paired"))
    method.nets.D = Recorder(of_image_and_observation)
    m = torch.ones(B, 1, SIZE, SIZE)
    m[0, 0, 0, :3] = 0  # 3 pixels of the first image
    m[1, 0, 0, 0] = 0  # 1 of the second
    x = grey(0.0)
    x_tilde = x.clone()
    x_tilde[0, :, 0, :3], x_tilde[1, :, 0, 0] = 0.1, 0.5
    _, log = method.generator_loss(Supervised(corrupt(x, m), m, x, x_tilde))
    assert log["error_x"].item() == pytest.approx((3 * 0.01 + 0.25) / 4, rel=1e-5)


@pytest.mark.parametrize("name", SUPERVISED)
def test_d_is_shown_complete_images_as_real_and_composites_as_fake(name):
    method = method_of(name)
    channels = 6 if name == "paired" else 3
    D = method.nets.D = Recorder(mean_score)
    p = run_forward(method)
    method.discriminator_loss(p)
    method.generator_loss(p)
    (in_d_phase,), (in_g_phase,) = D.calls
    real, fake = in_d_phase.chunk(2)
    assert real.shape == fake.shape == (B, channels, SIZE, SIZE)
    assert torch.equal(real[:, :3], batch_for(method)[2])
    assert torch.equal(fake[:, :3], p.x_tilde) and torch.equal(in_g_phase, fake)
    if name == "paired":  # beside each, the observation
        assert torch.equal(real[:, 3:], p.y) and torch.equal(fake[:, 3:], p.y)


@pytest.mark.parametrize("name", SUPERVISED)
def test_supervised_variants_call_g_once_with_the_observation_its_mask_and_a_code(name):
    method = method_of(name)
    G = Recorder(lambda y, m, z: z.mean(1).view(-1, 1, 1, 1).expand_as(y))
    method.nets = Networks(G=G, D=Recorder(mean_score), E=None)
    p, again, other = (run_forward(method, seed) for seed in (0, 0, 1))
    assert len(G.calls) == 3
    y, m, z = G.calls[0]
    assert y is p.y and m is p.m and z.shape == (B, NZ)
    missing = (m == 0).expand_as(y)
    assert torch.equal(p.x_tilde[missing], G.answer(y, m, z)[missing])
    assert torch.equal(p.x_tilde, again.x_tilde) and not torch.equal(p.x_tilde, other.x_tilde)


@pytest.mark.parametrize("name", SUPERVISED)
def test_in_d_s_phase_d_alone_receives_gradient(name):
    method = method_of(name)
    method.discriminator_loss(run_forward(method))[0].backward()
    assert has_gradient(method.nets.D)
    assert not gradients(method.nets.G) and not gradients(method.nets.E)


@pytest.mark.parametrize("name", SUPERVISED)
def test_in_g_s_phase_g_alone_receives_gradient(name):
    method = method_of(name)
    method.nets.D.requires_grad_(False)
    method.generator_loss(run_forward(method))[0].backward()
    assert has_gradient(method.nets.G)
    assert not gradients(method.nets.D) and not gradients(method.nets.E)


@pytest.mark.parametrize("term", ["adversarial", "error_x"])
def test_both_terms_of_paired_reach_g(term):
    method = method_of("paired")
    _, log = method.generator_loss(run_forward(method))
    log[term].backward()
    assert has_gradient(method.nets.G)


@pytest.mark.parametrize("name", SUPERVISED)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_generator_phase_of_a_supervised_step_leaves_the_gradient_of_d_alone(
    name, accumulate, monkeypatch
):
    method = method_of(name, accumulate=accumulate)
    D, generator_loss = method.nets.D, method.generator_loss
    after_d = []

    def spied(p):
        after_d.append({n: g.clone() for n, g in gradients(D).items()})
        return generator_loss(p)

    monkeypatch.setattr(method, "generator_loss", spied)
    method.step(batches_of(method, accumulate), seeds.generator("s"))
    assert len(after_d) == accumulate and has_gradient(D)
    assert all(torch.equal(g, after_d[-1][n]) for n, g in gradients(D).items())
    assert all(q.requires_grad for q in D.parameters())  # for the next step


def weights_that_moved(net: nn.Module, before: dict[str, torch.Tensor]) -> tuple[set, set]:
    """Names of the weights that differ from ``before``, and of all weights (a bias need not move
    where BatchNorm or the difference of two scores takes it out again)."""
    weights = {n for n, _ in net.named_parameters() if "weight" in n or "gamma" in n}
    after = net.state_dict()
    return {n for n in weights if not torch.equal(after[n], before[n])}, weights


@pytest.mark.parametrize("name", SUPERVISED)
def test_a_supervised_step_moves_g_and_d_and_leaves_e(name):
    method = method_of(name)
    before = {key: state(net) for key, net in vars(method.nets).items()}
    log = method.step(batches_of(method, 1), seeds.generator("s"))
    for key in ("G", "D"):
        moved, weights = weights_that_moved(getattr(method.nets, key), before[key])
        assert moved == weights, key
    assert all(torch.equal(v, before["E"][n]) for n, v in method.nets.E.state_dict().items())
    assert {"loss_d", "loss_g", "d_real", "d_fake"} <= log.keys()
    assert not any(value.requires_grad for value in log.values())


# MisGAN


def stub_networks(d=1.0, d_x=1.0) -> MisGANNetworks:
    """G and G_x paint the mean of their code, the critics score means, times a factor."""
    return MisGANNetworks(
        G=Recorder(lambda y, m, z: z.mean(1).view(-1, 1, 1, 1).expand_as(y)),
        D=Recorder(lambda u: d * mean_score(u)),
        G_x=Recorder(lambda z: z.mean(1).view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE)),
        D_x=Recorder(lambda u: d_x * mean_score(u)),
    )


def misgan(nets: MisGANNetworks | None = None, **changes) -> MisGAN:
    method = method_of("misgan", **changes)
    method.nets = nets or method.nets
    return method


def test_images_of_misgan_are_generated_masked_afresh_and_imputed():
    method = misgan(stub_networks(), nz_x=5, corruption="drop_pixel")
    p, again, other = (run_forward(method, seed) for seed in (0, 0, 1))
    ((code,), *_), ((y, m, z), *_) = method.nets.G_x.calls, method.nets.G.calls
    assert code.shape == (B, 5) and z.shape == (B, NZ) and y is p.y
    assert torch.equal(p.x, method.nets.G_x.answer(code))
    missing = (m == 0).expand_as(y)
    assert torch.equal(p.x_tilde[missing], method.nets.G.answer(y, m, z)[missing])
    m_tilde = (p.y_x != 0).any(dim=1, keepdim=True)
    assert torch.equal(p.y_x, corrupt(p.x, m_tilde))
    assert (m_tilde.sum((1, 2, 3)) == m.sum((1, 2, 3))).all()  # of the same law, another mask
    assert not (m_tilde.flatten(1)[:, None] == (m > 0).flatten(1)[None]).all(-1).any()
    for key in ("x", "y_x", "x_tilde"):
        assert torch.equal(getattr(p, key), getattr(again, key))
        assert not torch.equal(getattr(p, key), getattr(other, key))


@pytest.mark.parametrize("lambda_gp", [0.0, 1.0, 10.0])
def test_critic_loss_by_hand(lambda_gp):
    # The slope of a mean, times c, is c / sqrt(entries) everywhere: here 3, so the penalty is 4.
    c = 3 * math.sqrt(ENTRIES)
    method = misgan(lambda_gp=lambda_gp)
    loss, d_real, d_fake = method.critic_loss(
        Recorder(lambda u: c * mean_score(u)), grey(0.2), grey(0.3), seeds.generator("gp")
    )
    assert d_real.item() == pytest.approx(0.2 * c) and d_fake.item() == pytest.approx(0.3 * c)
    assert loss.item() == pytest.approx(-0.2 * c + 0.3 * c + lambda_gp * 4, rel=1e-4)


def game(**images: torch.Tensor) -> Game:
    """A quarter is observed in y, a half in the images masked afresh."""
    m = half_observed()
    m[:, :, SIZE // 4 :] = 0
    return Game(m=m, m_tilde=half_observed(), **images)


@pytest.mark.parametrize("beta", [0.0, 0.1, 2.0])
def test_generator_losses_by_hand(beta):
    method = misgan(stub_networks(d=3.0, d_x=2.0), beta=beta)
    p = game(y=grey(0.9), y_x=grey(0.5), x=grey(-0.4), x_tilde=grey(0.3))
    loss_g, loss_g_x = method.generator_losses(p)
    assert loss_g.item() == pytest.approx(-3 * 0.3)
    assert loss_g_x.item() == pytest.approx(-2 * 0.5 + beta * 3 * -0.4)


@pytest.mark.parametrize("d", [-2.0, 3.0])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_beta_lets_g_x_descend_what_d_says_of_its_images(beta, d):
    # G_x paints one grey; D_x scores 2 times a mean, of which the mask leaves half, D d times.
    method = misgan(stub_networks(d=d, d_x=2.0), beta=beta)
    level = torch.tensor(0.1, requires_grad=True)
    x = level.expand(B, 3, SIZE, SIZE)
    p = game(y=grey(0.0), y_x=corrupt(x, half_observed()), x=x, x_tilde=grey(0.3))
    method.generator_losses(p)[1].backward()
    assert level.grad.item() == pytest.approx(-2 * 0.5 + beta * d)


@pytest.mark.parametrize("beta, depends", [(0.0, False), (0.5, True)])
def test_gradient_of_g_x_depends_on_d_through_beta_alone(beta, depends):
    method = misgan(beta=beta)
    p = run_forward(method)
    found = []
    for factor in (1.0, -4.0):
        method.nets.D = Recorder(lambda u, factor=factor: factor * mean_score(u))
        method.nets.G_x.zero_grad()
        method.generator_losses(p)[1].backward(retain_graph=True)
        found.append({n: g.clone() for n, g in gradients(method.nets.G_x).items()})
    same = [torch.equal(found[0][n], found[1][n]) for n in found[0]]
    assert has_gradient(method.nets.G_x)
    assert not all(same) if depends else all(same)


def networks_with_gradient(method) -> set[str]:
    return {name for name, net in vars(method.nets).items() if has_gradient(net)}


@pytest.mark.parametrize("critic, real, fake", [("D_x", "y", "y_x"), ("D", "x", "x_tilde")])
def test_critic_loss_sends_gradient_to_its_critic_alone(critic, real, fake):
    method = misgan()
    p = run_forward(method)  # with the generators' graphs
    loss, _, _ = method.critic_loss(
        getattr(method.nets, critic), getattr(p, real), getattr(p, fake), seeds.generator("gp")
    )
    loss.backward()
    assert networks_with_gradient(method) == {critic}


@pytest.mark.parametrize("which, generator", [(0, "G"), (1, "G_x")])
def test_each_generator_learns_from_its_own_loss_alone(which, generator):
    method = misgan(beta=0.5)
    for critic in (method.nets.D, method.nets.D_x):
        critic.requires_grad_(False)
    method.generator_losses(run_forward(method))[which].backward()
    assert networks_with_gradient(method) == {generator}


def test_a_step_of_misgan_moves_critics_then_generators(monkeypatch):
    method = misgan(critic_steps=3)
    updates = []
    for name, optimizer in optimizers(method).items():
        step = optimizer.step
        monkeypatch.setattr(
            optimizer, "step", lambda name=name, step=step: (updates.append(name), step())
        )
    before = {key: state(net) for key, net in vars(method.nets).items()}
    log = method.step(batches_of(method, 3), seeds.generator("s"))
    assert updates == 3 * ["optimizer_d_x", "optimizer_d"] + ["optimizer_g", "optimizer_g_x"]
    for key, net in vars(method.nets).items():
        moved, weights = weights_that_moved(net, before[key])
        assert moved == weights, key
    assert log.keys() == {"loss_d", "loss_g", "loss_d_x", "loss_g_x", "d_real", "d_fake"}
    assert not any(value.requires_grad for value in log.values())


@pytest.mark.parametrize("sees, d_x_masks, d_masks", [(None, 0, 0), ("observation", 0, 0), ("own_mask", 1, 0), ("both_masks", 1, 1)])  # fmt: skip
def test_critics_of_a_step_compare_the_right_images_and_every_batch_once(
    sees, d_x_masks, d_masks, monkeypatch
):
    method = misgan(critic_steps=2, discriminator_sees=sees)
    games, compared = [], []
    forward, critic_loss = method.forward, method.critic_loss

    def spied_forward(*arguments):
        games.append(forward(*arguments))
        return games[-1]

    def spied_critic_loss(critic, real, fake, generator):
        compared.append((critic, real, fake))
        return critic_loss(critic, real, fake, generator)

    monkeypatch.setattr(method, "forward", spied_forward)
    monkeypatch.setattr(method, "critic_loss", spied_critic_loss)
    method.step(batches_of(method, 2), seeds.generator("s"))
    first, second, of_generators = games
    nets = method.nets
    expected = []
    for p in (first, second):
        real, fake = (p.y, p.m), (p.y_x, p.m_tilde)  # each with its own mask
        expected.append((nets.D_x, d_x_masks, real, fake))
        real, fake = (p.x, p.m_tilde), (p.x_tilde, p.m)  # beside what was filled in, from where
        expected.append((nets.D, d_masks, real, fake))
    for (critic, *shown), (due, masks, *pairs) in zip(compared, expected, strict=True):
        assert critic is due
        for one, (image, mask) in zip(shown, pairs, strict=True):
            assert one.shape[1] == 3 + masks
            assert torch.equal(one[:, :3], image)
            assert masks == 0 or torch.equal(one[:, 3:], mask)
    for seed, p in enumerate((first, second)):
        assert torch.equal(p.y, batch_for(method, seed)[0])
        assert not p.x.requires_grad and not p.x_tilde.requires_grad
    assert of_generators.y is second.y  # the generators take no batch of their own,
    assert not torch.equal(of_generators.x, second.x)  # but draw afresh


def test_critics_are_frozen_while_the_generators_learn_and_no_longer(monkeypatch):
    method = misgan(critic_steps=2)
    critics, generator_losses = (method.nets.D, method.nets.D_x), method.generator_losses
    seen = []

    def spied(p):
        trainable = any(q.requires_grad for critic in critics for q in critic.parameters())
        seen.append((trainable, [state_of_gradients(critic) for critic in critics]))
        return generator_losses(p)

    def state_of_gradients(critic):
        return {n: g.clone() for n, g in gradients(critic).items()}

    monkeypatch.setattr(method, "generator_losses", spied)
    method.step(batches_of(method, 2), seeds.generator("s"))
    ((trainable, before),) = seen
    assert not trainable
    for critic, earlier in zip(critics, before, strict=True):
        assert earlier and all(torch.equal(g, earlier[n]) for n, g in gradients(critic).items())
        assert all(q.requires_grad for q in critic.parameters())


def test_gradients_of_the_generators_in_a_step_are_those_of_their_losses(monkeypatch):
    # Both losses are taken from one forward pass, and neither gradient adds to the other.
    method = misgan(critic_steps=1, beta=0.5)
    seen, expected = {}, {}
    for name, key in (("optimizer_g", "G"), ("optimizer_g_x", "G_x")):
        net = getattr(method.nets, key)
        monkeypatch.setattr(
            getattr(method, name),
            "step",
            lambda key=key, net=net: seen.update({key: dict(gradients(net))}),
        )
    generator_losses = method.generator_losses

    def spied(p):
        losses = generator_losses(p)
        for key, loss in zip(("G", "G_x"), losses, strict=True):
            net = getattr(method.nets, key)
            found = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
            names = [n for n, _ in net.named_parameters()]
            expected[key] = dict(zip(names, found, strict=True))
        return losses

    monkeypatch.setattr(method, "generator_losses", spied)
    for _ in range(2):  # the second time there are old gradients to be dropped
        method.step(batches_of(method, 1), seeds.generator("s"))
    for key in ("G", "G_x"):
        assert seen[key].keys() == expected[key].keys()
        for n, gradient in expected[key].items():
            torch.testing.assert_close(seen[key][n], gradient, rtol=1e-4, atol=1e-6)


def test_optimisers_of_misgan_hold_one_network_each_at_its_rate():
    method = misgan(lr_g=1e-3, lr_d=2e-3, lr_x=3e-3, beta1=0.5, beta2=0.9)
    rates = {"G": 1e-3, "D": 2e-3, "G_x": 3e-3, "D_x": 3e-3}
    assert len(optimizers(method)) == 4
    for key, rate in rates.items():
        (group,) = getattr(method, f"optimizer_{key.lower()}").param_groups
        assert {id(p) for p in group["params"]} == {
            id(p) for p in getattr(method.nets, key).parameters()
        }
        assert group["lr"] == rate and group["betas"] == (0.5, 0.9)


def test_misgan_that_accumulates_is_refused_saying_what_to_set():
    with pytest.raises(ConfigurationError, match="misgan .*set accumulate to 1") as error:
        RunConfig.parse({"method": "misgan", "accumulate": 2})
    assert "\n" not in str(error.value)
    assert RunConfig.parse({"method": "misgan", "accumulate": 1}).accumulate == 1


@pytest.mark.parametrize("sees, d_x_masks, d_masks", [("observation", 0, 0), ("own_mask", 1, 0), ("both_masks", 1, 1)])  # fmt: skip
def test_generators_of_misgan_are_judged_with_the_masks_that_the_critics_see(
    sees, d_x_masks, d_masks
):
    method = misgan(stub_networks(), discriminator_sees=sees)
    p = run_forward(method)
    method.generator_losses(p)
    expected = {"D_x": [(p.y_x, p.m_tilde)], "D": [(p.x_tilde, p.m), (p.x, p.m_tilde)]}
    for name, masks in (("D_x", d_x_masks), ("D", d_masks)):
        calls = getattr(method.nets, name).calls
        for (shown,), (image, mask) in zip(calls, expected[name], strict=True):
            assert torch.equal(shown, torch.cat([image, mask][: 1 + masks], dim=1))


@pytest.mark.parametrize("channel, d_x_fake, d_fake, d_real", [
    (0, 0.5, 0.3, -0.4),  # y_x, x~, x
    (3, 0.5, 0.25, 0.5),  # m~ of y_x; m of x~, m~ beside x
])  # fmt: skip
def test_generator_losses_of_critics_that_score_one_channel_by_hand(
    channel, d_x_fake, d_fake, d_real
):
    method = misgan(stub_networks(), beta=0.5, discriminator_sees="both_masks")
    for name in ("D", "D_x"):
        setattr(method.nets, name, lambda shown: shown[:, channel].mean(dim=(1, 2)))
    p = game(y=grey(0.9), y_x=grey(0.5), x=grey(-0.4), x_tilde=grey(0.3))
    loss_g, loss_g_x = method.generator_losses(p)
    assert loss_g.item() == pytest.approx(-d_fake)
    assert loss_g_x.item() == pytest.approx(-d_x_fake + 0.5 * d_real)


def test_masks_of_misgan_s_game_are_those_of_its_images():
    p = run_forward(misgan(corruption="drop_pixel"))
    y, m = observations("drop_pixel")
    assert torch.equal(p.y, y) and torch.equal(p.m, m)
    assert torch.equal(p.y_x, corrupt(p.x, p.m_tilde)) and not torch.equal(p.m_tilde, m)


def test_what_misgan_s_critics_see_leaves_every_random_number_as_it_was():
    plain, own, both = (
        run_forward(misgan(stub_networks(), discriminator_sees=sees))
        for sees in ("observation", "own_mask", "both_masks")
    )
    for p in (own, both):
        for name, value in vars(plain).items():
            assert torch.equal(getattr(p, name), value), name


@pytest.mark.parametrize("sees", [None, "observation", "own_mask", "both_masks"])
def test_a_step_of_misgan_with_every_switch_is_a_function_of_its_seeds(sees):
    results = []
    for global_seed, of in ((1, sees), (2, sees), (2, None)):
        method = misgan(critic_steps=2, discriminator_sees=of)
        torch.manual_seed(global_seed)
        log = method.step(batches_of(method, 2), seeds.generator("s"))
        assert all(value.isfinite() for value in log.values())
        results.append((log, {name: state(net) for name, net in vars(method.nets).items()}))
    (log, nets), (log_again, again), (log_plain, _) = results
    assert log == log_again
    assert all(torch.equal(v, again[key][n]) for key in nets for n, v in nets[key].items())
    assert (log == log_plain) == (sees in (None, "observation"))  # nothing changes by default


@pytest.mark.parametrize("sees, d_x_masks, d_masks", [("observation", 0, 0), ("own_mask", 1, 0), ("both_masks", 1, 1)])  # fmt: skip
@pytest.mark.parametrize("bands", [1, 3])
def test_critics_of_misgan_have_a_channel_for_each_band_and_each_mask(
    bands, sees, d_x_masks, d_masks, monkeypatch
):
    kind = {} if bands == 3 else {"dataset": "incomplete", "corruption": "observed"}
    config = tiny(method="misgan", discriminator_sees=sees, bands=bands, **kind)
    monkeypatch.setattr(baselines, "law_of", lambda config: None)  # that of no prepared images
    nets = MisGAN(config).nets
    for critic, masks in ((nets.D_x, d_x_masks), (nets.D, d_masks)):
        assert critic(torch.zeros(B, bands + masks, SIZE, SIZE)).shape == (B,)
        with pytest.raises(RuntimeError):
            critic(torch.zeros(B, bands + masks + 1, SIZE, SIZE))


# The gradient penalty


@pytest.fixture
def double():
    """float64 everywhere, for finite differences."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def small_critic() -> Discriminator:
    """Of 8 x 8 images, with self-attention that does something."""
    torch.manual_seed(0)
    D = Discriminator(8, [4, 8], attention=4, spectral=False)
    (attention,) = [m for m in D.modules() if isinstance(m, SelfAttention)]
    nn.init.constant_(attention.gamma, 0.7)
    return D


def real_and_fake() -> tuple[torch.Tensor, torch.Tensor]:
    generator = seeds.generator("real and fake")
    return tuple(torch.rand(2, 3, 3, 8, 8, generator=generator) * 2 - 1)


def penalty(critic, seed=0) -> torch.Tensor:
    return gradient_penalty(critic, *real_and_fake(), seeds.generator("gp", seed))


@pytest.mark.parametrize("norm", [0.0, 0.25, 1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic_is_that_of_its_norm(norm):
    w = torch.randn(3 * 8 * 8, generator=seeds.generator("w"))
    w *= norm / w.norm()
    found = penalty(lambda u: u.flatten(1) @ w)
    assert found.shape == () and found.item() == pytest.approx((norm - 1) ** 2, abs=1e-5)


def test_gradient_penalty_is_a_mean_over_images():
    # The slope at u is u itself; |u| is 2 at the first image and 0.5 at the two others.
    u = torch.zeros(3, 3, 8, 8)
    u[:, 0, 0, 0] = torch.tensor([2.0, 0.5, 0.5])
    found = gradient_penalty(lambda v: v.square().sum((1, 2, 3)) / 2, u, u, seeds.generator("gp"))
    assert found.item() == pytest.approx((1 + 0.25 + 0.25) / 3)


def test_points_of_the_gradient_penalty_lie_between_real_and_fake(double):
    critic = Recorder(mean_score)
    penalty(critic)
    real, fake = real_and_fake()
    share = (critic.calls[0][0] - real) / (fake - real)  # (3, 3, 8, 8)
    t = share.flatten(1)[:, 0]
    torch.testing.assert_close(share, t.view(-1, 1, 1, 1).expand_as(share), rtol=0, atol=1e-9)
    assert (t > 0).all() and (t < 1).all() and len(t.unique()) == 3


def test_gradient_penalty_equals_finite_differences_of_the_critic(double):
    D, recorder = small_critic(), Recorder(mean_score)
    penalty(recorder)
    points, step, norms = recorder.calls[0][0].detach(), 1e-6, []
    for u in points:
        moves = step * torch.eye(u.numel()).view(-1, *u.shape)
        with torch.no_grad():
            slope = (D(u + moves) - D(u - moves)) / (2 * step)
        norms.append(slope.norm().item())
    expected = np.mean([(n - 1) ** 2 for n in norms])
    assert penalty(D).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["stem.weight", "blocks.1.query_key.weight", "blocks.1.gamma", "score.weight"])  # fmt: skip
def test_gradient_of_the_penalty_equals_finite_differences_of_it(double, name):
    D, step = small_critic(), 1e-6
    parameter = D.get_parameter(name)
    (gradient,) = torch.autograd.grad(penalty(D), parameter)
    place = gradient.abs().flatten().argmax()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.view(-1)[place] += sign * step
        values.append(penalty(D).item())
        with torch.no_grad():
            parameter.view(-1)[place] -= sign * step
    expected = (values[0] - values[1]) / (2 * step)
    assert abs(expected) > 1e-4
    assert gradient.flatten()[place].item() == pytest.approx(expected, rel=1e-5)


def test_gradient_penalty_is_a_function_of_its_generator():
    D, found = small_critic(), []
    for global_seed, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(global_seed)
        found.append(penalty(D, seed).item())
    assert found[0] == found[1] != found[2]


def test_gradient_penalty_sends_no_gradient_to_the_images():
    real, fake = (u.requires_grad_() for u in real_and_fake())
    D = small_critic()
    gradient_penalty(D, real, fake, seeds.generator("gp")).backward()
    assert real.grad is None and fake.grad is None and has_gradient(D)


# The networks


def normalised(net: nn.Module) -> list[bool]:
    """Of each layer with weights, whether it is spectrally normalised."""
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return [parametrize.is_parametrized(layer) for layer in layers]


def test_critic_without_spectral_norm_has_none():
    plain, usual = (Discriminator(16, [8, 8], attention=8, spectral=s) for s in (False, True))
    assert not any(normalised(plain)) and all(normalised(usual))
    assert len(normalised(plain)) == len(normalised(usual))


def test_critics_of_misgan_have_no_spectral_norm_and_the_other_methods_do():
    nets = misgan().nets
    assert not any(normalised(nets.D) + normalised(nets.D_x))
    for name in SUPERVISED:
        assert all(normalised(method_of(name).nets.D)), name


def generated(net: DataGenerator, n=3) -> torch.Tensor:
    return net(torch.randn(n, net.nz, generator=seeds.generator("code")))


@pytest.mark.parametrize("size, patch, channels", [(16, 1, (8, 8)), (32, 2, (8, 8, 16)), (64, 1, (4, 8, 8, 8))])  # fmt: skip
def test_data_generator_maps_codes_to_images_within_the_range(size, patch, channels):
    torch.manual_seed(0)
    x = generated(DataGenerator(size, channels, 5, patch, attention=8))
    assert x.shape == (3, 3, size, size)
    assert x.abs().max() < 1 and x.min() < 0 < x.max()
    assert not torch.equal(x[0], x[1])


@pytest.mark.parametrize("border", [1, 3])
def test_data_generator_repeats_its_border_and_no_more(border):
    torch.manual_seed(0)
    x, b = generated(DataGenerator(16, (8, 8), 5, border=border)), border
    inside = x[:, :, b:-b, b:-b]
    assert torch.equal(x, nn.functional.pad(inside, (b,) * 4, mode="replicate"))
    assert not torch.equal(x[:, :, b], x[:, :, b + 1])


@pytest.mark.parametrize("corruption", list(CORRUPTIONS))
def test_data_generator_of_a_run_has_the_border_that_no_mask_observes(corruption):
    G_x = build_data_generator(RunConfig(method="misgan", corruption=corruption, nz_x=7))
    assert G_x.border == mask_law(corruption).interior_border(32) and G_x.nz == 7
    assert generated(G_x).shape == (3, 3, 32, 32)


def test_self_attention_of_the_data_generator_sits_at_the_side_asked_for():
    sides = []
    G_x = DataGenerator(32, (8, 8, 16), 5, patch=2, attention=8)
    (attention,) = [m for m in G_x.modules() if isinstance(m, SelfAttention)]
    attention.register_forward_hook(lambda _, shown, __: sides.append(shown[0].shape[-1]))
    generated(G_x)
    assert sides == [8]


# The data sets


@pytest.fixture
def prepared(workspace, tiny_config) -> Prepared:
    return load_prepared(tiny_config.data)


def data_set(kind, prepared: Prepared, law="small_patch"):
    return kind(prepared, "training", mask_law(law), 0, "cpu")


def prepared_images(prepared: Prepared) -> torch.Tensor:
    """The training images as prepared, (45, 3, 32, 32) in [-1, 1]."""
    levels = torch.from_numpy(prepared.images()[prepared.indices("training")])
    return levels.permute(0, 3, 1, 2).float() / 127.5 - 1


def take(batches, n: int) -> list[torch.Tensor]:
    """The parts of ``n`` batches, each joined."""
    return [torch.cat(part) for part in zip(*[next(batches) for _ in range(n)], strict=True)]


def rows_of(shown: torch.Tensor, known: torch.Tensor) -> list[int]:
    """Which of the known images each one is, told by its pixels."""
    rows = []
    for one in shown:
        (row,) = (known == one).flatten(1).all(1).nonzero().flatten().tolist()
        rows.append(row)
    return rows


def test_unsupervised_methods_are_shown_observations_and_supervised_ones_say_so():
    for name, method in METHODS.items():
        if name in SUPERVISED:
            assert "CompleteImages" in method.data_set.__name__
        else:
            assert method.data_set is Observations, name


def test_observations_are_pairs_of_an_observation_and_its_mask(prepared):
    batch = next(data_set(Observations, prepared).batches(4, seed=0))
    assert [tuple(part.shape) for part in batch] == [(4, 3, 32, 32), (4, 1, 32, 32)]
    y, m = batch
    assert (y[(m == 0).expand_as(y)] == 0).all() and (m == 0).any()


@pytest.mark.parametrize("law", list(CORRUPTIONS))
def test_paired_images_are_those_that_were_corrupted(prepared, law):
    rows = np.array([3, 0, 11])
    y, m, x = data_set(PairedCompleteImages, prepared, law).batch(rows)
    assert torch.equal(x, prepared_images(prepared)[rows])
    assert torch.equal(corrupt(x, m), y) and (y != x).any()
    y_alone, m_alone = data_set(Observations, prepared, law).batch(rows)
    assert torch.equal(y, y_alone) and torch.equal(m, m_alone)


def test_every_paired_image_comes_once_per_epoch(prepared):
    batches = data_set(PairedCompleteImages, prepared).batches(9, seed=0)
    for _ in range(2):
        _, _, x = take(batches, 5)
        assert sorted(rows_of(x, prepared_images(prepared))) == list(range(45))


def test_no_image_is_both_observed_and_complete_in_unpaired(prepared):
    known, kind = prepared_images(prepared), data_set(UnpairedCompleteImages, prepared)
    masks = mask_law("small_patch").for_ids(
        prepared.mask_ids()[prepared.indices("training")], 32, 0
    )
    batches = kind.batches(11, seed=0)
    for _ in range(2):  # nor does one change sides later
        y, m, x = take(batches, 2)
        observed, complete = rows_of(y, corrupt(known, masks)), rows_of(x, known)
        assert len(kind) == len(set(observed)) == len(set(complete)) == 22  # half of 45
        assert torch.equal(m, masks[observed])
        assert sorted(observed) == list(range(0, 44, 2))
        assert sorted(complete) == list(range(1, 45, 2))


@pytest.mark.parametrize("kind", [PairedCompleteImages, UnpairedCompleteImages])
@pytest.mark.parametrize("start", [1, 5])
def test_supervised_batches_from_k_on_are_those_of_the_whole_sequence(prepared, kind, start):
    seen = data_set(kind, prepared)
    whole, part = seen.batches(7, seed=3), seen.batches(7, seed=3, start=start)
    take(whole, start)
    for a, b in zip(take(whole, 3), take(part, 3), strict=True):
        assert torch.equal(a, b)
