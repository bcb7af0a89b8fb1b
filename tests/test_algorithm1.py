"""Algorithm 1, line by line: what is computed, from what, and where the gradients go."""

from __future__ import annotations

import math
from dataclasses import fields
from itertools import product

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
    mean_score,
    observations,
    state,
    tiny,
)

from paperlib import algorithm1, seeds
from paperlib.algorithm1 import (
    Algorithm1,
    Networks,
    Pass,
    build_networks,
    discriminator_loss,
    forward,
    generator_loss,
)
from paperlib.config import RunConfig
from paperlib.corruption import corrupt, mask_law
from paperlib.losses import Latent

METHODS = ["base", "encoding_z", "encoding_y", "both", "mask_aware"]
ENCODE_Z = ("encoding_z", "both", "mask_aware")
ENCODE_Y = ("encoding_y", "both", "mask_aware")


def run_forward(config: RunConfig, nets: Networks | None = None, y=None, m=None, seed=0) -> Pass:
    torch.manual_seed(0)
    nets = nets or build_networks(config)
    if y is None:
        y, m = observations(config.corruption)
    p_m = mask_law(config.corruption)
    return forward(nets, y, m, p_m, seeds.generator("step", seed), config)


def stub_networks() -> Networks:
    """G paints a function of z, E answers with (mean 0.5, log-variance log 4), D with the mean."""
    return Networks(
        G=Recorder(lambda y, m, z: torch.tanh(z.sum(1)).view(-1, 1, 1, 1).expand_as(y) * 0.9),
        D=Recorder(lambda y: y.mean(dim=(1, 2, 3))),
        E=Recorder(lambda y, m: (torch.full((B, NZ), 0.5), torch.full((B, NZ), math.log(4)))),
    )


# Lines 3 to 11


@pytest.mark.parametrize("method", METHODS)
def test_each_variant_computes_what_it_needs_and_no_more(method):
    p = run_forward(tiny(method=method))
    computed = {f.name for f in fields(Pass) if getattr(p, f.name) is not None}
    expected = {"y", "m", "m_tilde", "z", "x_tilde", "y_tilde"}
    if method in ENCODE_Z:
        expected |= {"z_rec"}
    if method in ENCODE_Y:
        expected |= {"z_enc", "x_hat", "y_hat"}
    if method == "mask_aware":
        expected |= {"m_real"}
    assert computed == expected


@pytest.mark.parametrize("method, g_calls, e_calls", [("base", 1, 0), ("encoding_z", 1, 1), ("encoding_y", 2, 1), ("both", 2, 2), ("mask_aware", 2, 2)])  # fmt: skip
def test_each_variant_calls_the_networks_as_often_as_it_needs(method, g_calls, e_calls):
    nets = stub_networks()
    run_forward(tiny(method=method), nets)
    assert (len(nets.G.calls), len(nets.E.calls), len(nets.D.calls)) == (g_calls, e_calls, 0)


@pytest.mark.parametrize("corruption", ["one_patch", "small_patch", "drop_pixel"])
def test_reconstructions_agree_with_what_was_observed_to_the_bit(corruption):
    p = run_forward(tiny(method="both", corruption=corruption))
    seen, seen_tilde = (m.expand_as(p.y) > 0 for m in (p.m, p.m_tilde))
    assert torch.equal(p.x_tilde[seen], p.y[seen])  # line 6, equation 4
    assert torch.equal(p.y_tilde[seen_tilde], p.x_tilde[seen_tilde])  # line 7
    assert (p.y_tilde[~seen_tilde] == 0).all()
    assert torch.equal(p.x_hat[seen_tilde], p.y_tilde[seen_tilde])  # line 10
    assert torch.equal(p.y_hat[seen], p.x_hat[seen])  # line 11
    assert (p.y_hat[~seen] == 0).all()
    # ... and only with that: elsewhere G has painted
    assert (p.x_tilde[~seen] != 0).any() and not torch.equal(p.x_hat, p.x_tilde)


def test_missing_pixels_are_what_g_paints():
    config, nets = tiny(method="both"), stub_networks()
    p = run_forward(config, nets)
    seen, seen_tilde = (m.expand_as(p.y) > 0 for m in (p.m, p.m_tilde))
    (y, m, z), (y_again, m_again, code) = nets.G.calls
    assert all(a is b for a, b in [(y, p.y), (m, p.m), (z, p.z)])
    assert torch.equal(p.x_tilde[~seen], nets.G.answer(y, m, z)[~seen])
    assert all(a is b for a, b in [(y_again, p.y_tilde), (m_again, p.m_tilde)])
    assert torch.equal(p.x_hat[~seen_tilde], nets.G.answer(y, m, code)[~seen_tilde])


def test_fresh_masks_are_drawn_from_the_law_at_every_step():
    config = tiny(method="base", corruption="drop_pixel")
    p, again, other = (run_forward(config, seed=s) for s in (0, 0, 1))
    assert torch.equal(p.m_tilde.sum((1, 2, 3)), p.m.sum((1, 2, 3)))  # the law's exact share
    assert not torch.equal(p.m_tilde, p.m)
    assert torch.equal(p.m_tilde, again.m_tilde) and torch.equal(p.z, again.z)
    assert not torch.equal(p.m_tilde, other.m_tilde) and not torch.equal(p.z, other.z)


def test_all_randomness_comes_from_the_generator():
    config = tiny(method="both")
    torch.manual_seed(0)
    nets, (y, m) = awake(build_networks(config)), observations()
    for net in vars(nets).values():
        net.eval()
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        p = forward(nets, y, m, mask_law("small_patch"), seeds.generator("s"), config)
        results.append(p)
    assert torch.equal(results[0].x_hat, results[1].x_hat)
    assert torch.equal(results[0].m_tilde, results[1].m_tilde)


def test_latent_codes_are_standard_normal():
    config = tiny(method="base", nz=200)
    z = run_forward(config).z  # (4, 200)
    assert z.shape == (B, 200)
    assert abs(z.mean()) < 4 / math.sqrt(z.numel()) and abs(z.std() - 1) < 4 / math.sqrt(2 * 800)


def test_z_enc_is_sampled_with_the_encoders_deviation():
    nets = stub_networks()
    run_forward(tiny(method="encoding_y"), nets)
    code = nets.G.calls[1][2]  # (B, nz) ~ N(0.5, 4)
    assert abs(code.mean() - 0.5) < 4 * 2 / math.sqrt(code.numel())
    assert abs(code.std() - 2) < 4 * 2 / math.sqrt(2 * code.numel())


def test_z_enc_deterministic_is_the_mean():
    nets = stub_networks()
    p = run_forward(tiny(method="encoding_y", z_enc="deterministic"), nets)
    assert torch.equal(nets.G.calls[1][2], torch.full((B, NZ), 0.5))
    assert nets.E.calls[0][0] is p.y and nets.E.calls[0][1] is p.m


def test_noise_of_z_enc_is_not_z():
    nets = stub_networks()
    p = run_forward(tiny(method="both"), nets)
    assert not torch.allclose((nets.G.calls[1][2] - 0.5) / 2, p.z)


# Line 8: what E is shown


SHOWN_MASK = {
    "generated": lambda m, m_tilde: m_tilde * (1 - m),  # y~ * (1 - m), Algorithm 1
    "y_tilde": lambda m, m_tilde: m_tilde,  # y~
    "x_tilde": lambda m, m_tilde: torch.ones_like(m),  # x~
    "eq6": lambda m, m_tilde: 1 - m_tilde,  # F(x~, complement of m~)
}


@pytest.mark.parametrize("switch", list(SHOWN_MASK))
@pytest.mark.parametrize("method", ["encoding_z", "both"])
def test_z_is_read_from_what_the_switch_says(switch, method):
    nets = stub_networks()
    p = run_forward(tiny(method=method, z_rec_from=switch), nets)
    image, mask = nets.E.calls[0]
    expected = SHOWN_MASK[switch](p.m, p.m_tilde)
    assert torch.equal(mask, expected)
    assert torch.equal(image, p.x_tilde * expected)
    assert torch.equal(p.z_rec, torch.full((B, NZ), 0.5))  # the mean, not a sample


@pytest.mark.parametrize("switch, depends", [("generated", False), ("y_tilde", True), ("x_tilde", True), ("eq6", True)])  # fmt: skip
def test_only_the_default_hides_the_observation_from_e(switch, depends):
    # Another observation under the same mask, with the same painting: can E tell?
    config = tiny(method="encoding_z", z_rec_from=switch)
    y, m = observations()
    shown = []
    for observed in (y, torch.where(m > 0, -y, y)):
        nets = stub_networks()
        run_forward(config, nets, observed, m)
        shown.append(nets.E.calls[0])
    assert torch.equal(shown[0][1], shown[1][1])  # the masks are the same in any case
    assert torch.equal(shown[0][0], shown[1][0]) is not depends


def test_e_is_shown_all_that_was_generated_and_measured_again():
    nets = stub_networks()
    p = run_forward(tiny(method="encoding_z"), nets)
    image, mask = nets.E.calls[0]
    generated = (p.m == 0) & (p.m_tilde == 1)
    assert generated.any()
    assert torch.equal(mask > 0, generated)
    assert torch.equal(image, p.y_tilde * (1 - p.m))  # line 8 to the letter


# Lines 12 to 15: the losses' values


def given_pass(y_hat=True, z_rec=True) -> Pass:
    """Constant images, so that D (the mean) scores y 0.2, y~ 0.3 and y^ -0.4."""
    m = torch.ones(B, 1, SIZE, SIZE)
    return Pass(
        y=grey(0.2),
        m=m,
        m_tilde=m,
        z=torch.zeros(B, NZ),
        x_tilde=grey(0.3),
        y_tilde=grey(0.3),
        z_rec=torch.full((B, NZ), 0.5) if z_rec else None,
        z_enc=Latent(torch.full((B, NZ), 2.0), torch.zeros(B, NZ)) if y_hat else None,
        x_hat=grey(-0.4) if y_hat else None,
        y_hat=grey(-0.4) if y_hat else None,
    )


def test_discriminator_loss_by_hand():
    loss, log = discriminator_loss(mean_score, given_pass(), tiny(method="both"))
    assert loss.item() == pytest.approx((1 - 0.2) + (1 + 0.3), rel=1e-5)  # hinge
    assert log["loss_d"] is loss
    assert log["d_real"].item() == pytest.approx(0.2) and log["d_fake"].item() == pytest.approx(0.3)


def test_discriminator_that_sees_y_hat_weighs_both_fakes_as_one():
    config = tiny(method="both", d_sees_y_hat=True)
    loss, _ = discriminator_loss(mean_score, given_pass(), config)
    assert loss.item() == pytest.approx((1 - 0.2) + ((1 + 0.3) + (1 - 0.4)) / 2, rel=1e-5)
    without, _ = discriminator_loss(mean_score, given_pass(y_hat=False), config)
    assert without.item() == pytest.approx((1 - 0.2) + (1 + 0.3), rel=1e-5)


def test_d_sees_y_hat_changes_nothing_for_g():
    losses = [
        generator_loss(mean_score, given_pass(), tiny(method="both", d_sees_y_hat=switch))[0]
        for switch in (False, True)
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("adversarial, d_loss, g_loss", [
    ("hinge", 0.8 + 1.3, -0.3),
    ("least_squares", 0.8**2 + 0.3**2, 0.7**2),
    ("minimax", math.log(1 + math.exp(-0.2)) + math.log(1 + math.exp(0.3)), math.log(1 + math.exp(-0.3))),
])  # fmt: skip
def test_adversarial_switch_reaches_both_losses(adversarial, d_loss, g_loss):
    config, p = tiny(method="base", adversarial=adversarial), given_pass(y_hat=False, z_rec=False)
    assert discriminator_loss(mean_score, p, config)[0].item() == pytest.approx(d_loss, rel=1e-5)
    assert generator_loss(mean_score, p, config)[0].item() == pytest.approx(g_loss, rel=1e-5)


def generator_loss_by_hand(y_hat: bool, z_rec: bool, lambda_y=10.0, lambda_z=3.0, kl=0.0, power=2):
    loss = -0.3  # line 13: -D(y~)
    if y_hat:
        loss += lambda_y * 0.6**power + 0.4  # line 14: ||y^ - y||, -D(y^)
        loss += kl * 0.5 * 2.0**2
    if z_rec:
        loss += lambda_z * 0.5**power  # line 15
    return pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    "y_hat, z_rec", [(False, False), (False, True), (True, False), (True, True)]
)
def test_generator_loss_by_hand(y_hat, z_rec):
    loss, log = generator_loss(mean_score, given_pass(y_hat, z_rec), tiny())
    assert loss.item() == generator_loss_by_hand(y_hat, z_rec)
    assert log["loss_g"] is loss
    assert ("adv_y_hat" in log) == ("error_y" in log) == y_hat and ("error_z" in log) == z_rec


def test_weights_and_norm_of_the_generator_loss_by_hand():
    p = given_pass()
    for weights in ({"lambda_y": 0.0}, {"lambda_y": 2.0, "lambda_z": 0.0}, {"lambda_z": 7.0}):
        loss, _ = generator_loss(mean_score, p, tiny(**weights))
        assert loss.item() == generator_loss_by_hand(True, True, **weights)
    loss, _ = generator_loss(mean_score, p, tiny(norm="l1"))
    assert loss.item() == generator_loss_by_hand(True, True, power=1)
    loss, _ = generator_loss(mean_score, p, tiny(lambda_kl=0.25))
    assert loss.item() == generator_loss_by_hand(True, True, kl=0.25)


def test_lambda_y_does_not_multiply_the_adversarial_part():
    # Algorithm 1, not equation 8: with lambda_y 0 the term adv(D(y^)) stays as it is.
    _, log = generator_loss(mean_score, given_pass(), tiny(lambda_y=0.0, lambda_z=0.0))
    assert log["loss_g"].item() == pytest.approx(-0.3 + 0.4, rel=1e-5)
    assert log["adv_y_hat"].item() == pytest.approx(0.4, rel=1e-5)


def test_lambda_y_multiplies_the_adversarial_part_where_equation_8_is_asked_for():
    config = tiny(lambda_y=10.0, lambda_z=0.0, lambda_y_weighs="all")
    _, log = generator_loss(mean_score, given_pass(), config)
    assert log["loss_g"].item() == pytest.approx(-0.3 + 10 * (0.6**2 + 0.4), rel=1e-5)


def test_scores_are_taken_apart_in_the_order_of_the_images():
    # Scores that differ within the batch: a shift by one image would show.
    p = given_pass()
    p.y = torch.arange(B).view(B, 1, 1, 1).expand(B, 3, SIZE, SIZE).float()
    _, log = discriminator_loss(mean_score, p, tiny(d_sees_y_hat=True))
    assert log["d_real"].item() == pytest.approx(1.5) and log["d_fake"].item() == pytest.approx(0.3)


# Gradients


@pytest.mark.parametrize("d_sees_y_hat", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_discriminator_loss_gives_gradient_to_d_only(method, d_sees_y_hat):
    config = tiny(method=method, d_sees_y_hat=d_sees_y_hat)
    nets = build_networks(config)
    p = run_forward(config, nets)
    discriminator_loss(nets.D, p, config)[0].backward()
    assert has_gradient(nets.D)
    assert not gradients(nets.G) and not gradients(nets.E)


@pytest.mark.parametrize("method", METHODS)
def test_generator_loss_gives_gradient_to_g_and_to_e_where_it_is_used(method):
    config = tiny(method=method)
    nets = awake(build_networks(config))
    p = run_forward(config, nets)
    nets.D.requires_grad_(False)
    generator_loss(nets.D, p, config)[0].backward()
    assert has_gradient(nets.G)
    assert has_gradient(nets.E) == (method != "base")
    heads = {n.split(".")[0] for n, g in gradients(nets.E).items() if g.abs().max() > 0}
    assert ("mean" in heads) == (method != "base")
    assert ("log_variance" in heads) == (method in ENCODE_Y)  # z_enc is sampled


def test_every_term_reaches_g():
    config = tiny(method="both", lambda_kl=1.0)
    nets = build_networks(config)
    nets.D.requires_grad_(False)
    for term in ("adv_y_tilde", "adv_y_hat", "error_y", "error_z"):
        _, log = generator_loss(nets.D, run_forward(config, nets), config)
        nets.G.zero_grad()
        log[term].backward()
        assert has_gradient(nets.G), term


def batches_of(*seeds_of_batches):
    return iter([observations(seed=s) for s in seeds_of_batches])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_generator_phase_of_a_step_leaves_the_gradient_of_d_alone(method, accumulate, monkeypatch):
    algorithm = Algorithm1(tiny(method=method, accumulate=accumulate))
    D = algorithm.nets.D
    after_d, trainable_in_g = [], []

    def spied_generator_loss(d, p, config):
        after_d.append({n: g.clone() for n, g in gradients(D).items()})
        trainable_in_g.append(any(q.requires_grad for q in D.parameters()))
        return generator_loss(d, p, config)

    monkeypatch.setattr(algorithm1, "generator_loss", spied_generator_loss)
    algorithm.step(batches_of(*range(accumulate)), seeds.generator("s"))
    assert trainable_in_g == [False] * accumulate
    for name, gradient in gradients(D).items():
        assert torch.equal(gradient, after_d[-1][name]), name
    assert all(q.requires_grad for q in D.parameters())  # for the next step


@pytest.mark.parametrize("method", METHODS)
def test_a_step_moves_d_and_g_and_e_only_where_it_is_used(method):
    torch.manual_seed(0)
    algorithm = Algorithm1(tiny(method=method))
    awake(algorithm.nets)
    before = {name: state(net) for name, net in vars(algorithm.nets).items()}
    algorithm.step(batches_of(0), seeds.generator("s"))
    for name, net in vars(algorithm.nets).items():
        parameters = {n for n, _ in net.named_parameters()}
        after = net.state_dict()
        changed = {n for n in after if not torch.equal(after[n], before[name][n])}
        if name == "E" and method == "base":
            assert not changed  # buffers included: E is not even run
            continue
        # All weights move (a bias that BatchNorm takes out again need not) ...
        weights = {n for n in parameters if "weight" in n or "gamma" in n}
        if name == "E" and method == "encoding_z":  # ... but for the head that is not used.
            weights = {n for n in weights if not n.startswith("log_variance")}
            assert not any(n.startswith("log_variance") for n in changed)
        assert weights <= changed, f"{name}: {sorted(weights - changed)}"


def test_d_moves_before_g_is_judged(monkeypatch):
    algorithm = Algorithm1(tiny(method="base"))
    before = state(algorithm.nets.D)["score.parametrizations.weight.original"]
    seen = {}

    def spied(d, p, config):
        seen["d"] = state(d)["score.parametrizations.weight.original"]
        return generator_loss(d, p, config)

    monkeypatch.setattr(algorithm1, "generator_loss", spied)
    algorithm.step(batches_of(0), seeds.generator("s"))
    assert not torch.equal(seen["d"], before)


@pytest.mark.parametrize("method", ["base", "both"])
def test_accumulated_gradients_are_the_mean_over_the_batches(method, monkeypatch):
    config = tiny(method=method, accumulate=2)
    torch.manual_seed(0)
    algorithm = Algorithm1(config)
    nets = algorithm.nets
    for net in vars(nets).values():
        net.eval()  # holds still what moves with every forward pass, such as power iterations
    # The same two batches, one by one, with nothing updated in between.
    generator, expected = seeds.generator("s"), {"D": {}, "G": {}, "E": {}}
    for y, m in batches_of(0, 10):
        p = forward(nets, y, m, algorithm.p_m, generator, config)
        for name, loss in (
            ("D", discriminator_loss(nets.D, p, config)[0]),
            ("G", generator_loss(nets.D, p, config)[0]),
        ):
            for net in vars(nets).values():
                net.zero_grad()
            loss.backward(retain_graph=True)
            for of in (name,) if name == "D" else ("G", "E"):
                for n, g in gradients(getattr(nets, of)).items():
                    expected[of][n] = expected[of].get(n, 0) + g / 2
    for net in vars(nets).values():
        net.zero_grad()

    seen = {}
    monkeypatch.setattr(
        algorithm.optimizer_d,
        "step",
        lambda: seen.update(D={n: g.clone() for n, g in gradients(nets.D).items()}),
    )
    monkeypatch.setattr(
        algorithm.optimizer_g,
        "step",
        lambda: seen.update({of: dict(gradients(getattr(nets, of))) for of in ("G", "E")}),
    )
    algorithm.step(batches_of(0, 10), seeds.generator("s"))
    assert has_gradient(nets.D)
    for of, by_name in expected.items():
        assert seen[of].keys() == by_name.keys()
        for n, g in by_name.items():
            scale = g.abs().max().clamp(min=1e-3)
            assert ((seen[of][n] - g).abs().max() / scale) < 1e-3, f"{of}.{n}"


def test_a_step_takes_as_many_batches_as_it_accumulates_and_updates_once(monkeypatch):
    algorithm = Algorithm1(tiny(method="both", accumulate=3))
    updates = []
    for name in ("optimizer_d", "optimizer_g"):
        optimizer = getattr(algorithm, name)
        monkeypatch.setattr(optimizer, "step", lambda name=name: updates.append(name))
    batches = batches_of(0, 1, 2, 3)
    algorithm.step(batches, seeds.generator("s"))
    assert updates == ["optimizer_d", "optimizer_g"]
    assert len(list(batches)) == 1


def test_adam_is_that_of_the_paper():
    algorithm = Algorithm1(tiny(lr_g=1e-3, lr_d=2e-3))
    for optimizer, lr in ((algorithm.optimizer_g, 1e-3), (algorithm.optimizer_d, 2e-3)):
        (group,) = optimizer.param_groups
        assert group["betas"] == (0.0, 0.99) and group["lr"] == lr


@pytest.mark.parametrize("method", METHODS)
def test_optimisers_hold_each_network_once(method):
    algorithm = Algorithm1(tiny(method=method))
    held = {
        name: {id(p) for p in getattr(algorithm, f"optimizer_{name}").param_groups[0]["params"]}
        for name in ("d", "g")
    }
    ids = {name: {id(p) for p in net.parameters()} for name, net in vars(algorithm.nets).items()}
    assert held["d"] == ids["D"]
    assert held["g"] == (ids["G"] if method == "base" else ids["G"] | ids["E"])


# What D sees beside an observation (not in the paper)

MASKS = {"observation": 0, "own_mask": 1, "both_masks": 2}  # how many each switch shows


def shown_to_d(p: Pass, config: RunConfig) -> list[torch.Tensor]:
    """All that D is given, in its own phase and in G's."""
    D = Recorder(mean_score)
    discriminator_loss(D, p, config)
    generator_loss(D, p, config)
    return [given for (given,) in D.calls]


@pytest.mark.parametrize("sees, masks", MASKS.items())
@pytest.mark.parametrize("method, d_sees_y_hat", [("base", False), ("both", False), ("both", True)])
def test_d_is_shown_channel_by_channel_what_the_switch_says(method, d_sees_y_hat, sees, masks):
    config = tiny(method=method, discriminator_sees=sees, d_sees_y_hat=d_sees_y_hat)
    p = run_forward(config)
    fake, fake_hat = (p.y_tilde, p.m_tilde, p.m), (p.y_hat, p.m, p.m_tilde)
    in_d_phase, in_g_phase = [(p.y, p.m, p.m_real), fake], [fake]
    if method == "both":
        in_g_phase.append(fake_hat)
    if d_sees_y_hat:
        in_d_phase.append(fake_hat)
    for given, expected in zip(shown_to_d(p, config), (in_d_phase, in_g_phase), strict=True):
        assert given.shape == (B * len(expected), 3 + masks, SIZE, SIZE)
        for shown, (image, *beside) in zip(given.split(B), expected, strict=True):
            assert torch.equal(shown[:, :3], image)
            for channel, mask in enumerate(beside[:masks], 3):
                assert torch.equal(shown[:, channel], mask[:, 0]), channel


def test_mask_aware_is_both_whose_d_sees_both_masks():
    logs, weights = [], []
    for config in (tiny(method="mask_aware"), tiny(method="both", discriminator_sees="both_masks")):
        torch.manual_seed(0)
        algorithm = Algorithm1(config)
        logs.append(algorithm.step(batches_of(0), seeds.generator("s")))
        weights.append([state(net) for net in vars(algorithm.nets).values()])
    assert logs[0] == logs[1]
    for one, other in zip(*weights, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("method", ["base", "both"])
@pytest.mark.parametrize("sees", MASKS)
def test_a_mask_beside_the_real_observation_is_drawn_where_d_sees_it_alone(method, sees):
    p = run_forward(tiny(method=method, discriminator_sees=sees))
    assert (p.m_real is not None) == (sees == "both_masks")


def test_mask_beside_the_real_observation_is_of_the_law_and_of_nothing_in_the_step():
    config = tiny(method="mask_aware", corruption="drop_pixel")
    p, again, other = (run_forward(config, seed=s) for s in (0, 0, 1))
    assert torch.equal(p.m_real.sum((1, 2, 3)), p.m.sum((1, 2, 3)))  # the law's exact share
    assert ((p.m_real == 0) | (p.m_real == 1)).all() and p.m_real.shape == p.m.shape
    for masks in (p.m, p.m_tilde):
        assert not (p.m_real.flatten(1)[:, None] == masks.flatten(1)[None]).all(-1).any()
    assert torch.equal(p.m_real, again.m_real) and not torch.equal(p.m_real, other.m_real)
    elsewhere = run_forward(config, None, *observations("drop_pixel", seed=100))
    assert not torch.equal(elsewhere.m, p.m)
    assert torch.equal(elsewhere.m_real, p.m_real)  # it does not hang on the observation


@pytest.mark.parametrize("method", ["base", "both"])
def test_what_d_sees_leaves_every_other_random_number_as_it_was(method):
    nets = awake(build_networks(tiny()))
    for net in vars(nets).values():
        net.eval()
    paper, own, both = (
        run_forward(tiny(method=method, discriminator_sees=sees), nets) for sees in MASKS
    )
    for p in (own, both):
        for key in ("z", "m_tilde", "x_tilde", "y_tilde", "z_rec", "x_hat", "y_hat"):
            there, here = getattr(paper, key), getattr(p, key)
            assert (there is None) == (here is None)
            assert there is None or torch.equal(there, here), key


@pytest.mark.parametrize("bands", [1, 3, 5])
@pytest.mark.parametrize("sees, masks", MASKS.items())
def test_d_has_a_channel_for_each_band_and_for_each_mask_that_it_sees(sees, masks, bands):
    kind = {} if bands == 3 else {"dataset": "incomplete", "corruption": "observed"}
    config = tiny(method="both", discriminator_sees=sees, bands=bands, **kind)
    nets, (_, m) = build_networks(config), observations()
    y = corrupt(torch.rand(B, bands, SIZE, SIZE, generator=seeds.generator("bands")) - 0.5, m)
    p = forward(nets, y, m, mask_law("small_patch"), seeds.generator("s"), config)
    assert p.x_tilde.shape == p.y_hat.shape == y.shape  # G and E are as they were
    assert all(given.shape[1] == bands + masks for given in shown_to_d(p, config))
    for loss in (discriminator_loss, generator_loss):
        assert loss(nets.D, p, config)[0].isfinite()
    for wrong in (bands + masks - 1, bands + masks + 1):
        with pytest.raises(RuntimeError):
            nets.D(torch.zeros(B, wrong, SIZE, SIZE))


def test_score_of_d_hangs_on_every_channel_that_it_is_shown():
    D = build_networks(tiny(method="mask_aware")).D.eval()
    shown = shown_to_d(run_forward(tiny(method="mask_aware")), tiny(method="mask_aware"))[0]
    for channel in range(5):
        other = shown.clone()
        other[:, channel] = 1 - other[:, channel]
        assert (D(other) != D(shown)).all(), channel


def pass_with_masks() -> Pass:
    """``given_pass`` with 1/4 of m observed, 1/2 of m~, and 3/4 of the mask beside y."""
    p = given_pass()
    p.m, p.m_tilde, p.m_real = torch.zeros(3, B, 1, SIZE, SIZE)
    for mask, quarters in ((p.m, 1), (p.m_tilde, 2), (p.m_real, 3)):
        mask[:, :, : quarters * SIZE // 4] = 1
    p.y, p.y_tilde, p.y_hat = (
        corrupt(*pair) for pair in ((p.y, p.m), (p.y_tilde, p.m_tilde), (p.y_hat, p.m))
    )
    return p


@pytest.mark.parametrize("channel, real, fake, fake_hat", [
    (0, 0.2 / 4, 0.3 / 2, -0.4 / 4),  # y, y~, y^
    (3, 0.25, 0.5, 0.25),  # their own masks: m, m~, m
    (4, 0.75, 0.25, 0.5),  # the mask of the draw, and of what was filled in: m, m~
])  # fmt: skip
def test_losses_of_a_d_that_scores_one_channel_by_hand(channel, real, fake, fake_hat):
    def d(shown):
        return shown[:, channel].mean(dim=(1, 2))

    p, config = pass_with_masks(), tiny(method="mask_aware")
    loss, log = discriminator_loss(d, p, config)
    assert loss.item() == pytest.approx((1 - real) + (1 + fake), rel=1e-5)
    assert log["d_real"].item() == pytest.approx(real)
    assert log["d_fake"].item() == pytest.approx(fake)
    loss, _ = discriminator_loss(d, p, tiny(method="mask_aware", d_sees_y_hat=True))
    assert loss.item() == pytest.approx((1 - real) + ((1 + fake) + (1 + fake_hat)) / 2, rel=1e-5)
    loss, log = generator_loss(d, p, config)
    assert log["adv_y_tilde"].item() == pytest.approx(-fake)
    assert log["adv_y_hat"].item() == pytest.approx(-fake_hat)
    expected = -fake + 10 * 0.6**2 - fake_hat + 3 * 0.5**2  # the errors as without masks
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_d_teaches_g_through_the_image_and_not_through_the_masks():
    config = tiny(method="base", discriminator_sees="both_masks")
    nets = awake(build_networks(config))
    p = run_forward(config, nets)
    assert not any(mask.requires_grad for mask in (p.m, p.m_tilde, p.m_real))
    in_d_phase, in_g_phase = shown_to_d(p, config)
    assert in_g_phase.requires_grad and not in_d_phase.requires_grad
    for channels, learns in ((slice(3, 5), False), (slice(0, 3), True)):
        nets.G.zero_grad()
        generator_loss(lambda u, c=channels: mean_score(u[:, c]), p, config)[0].backward(
            retain_graph=True
        )
        assert has_gradient(nets.G) is learns


@pytest.mark.parametrize(
    "method, sees",
    [*product(["base", "both"], MASKS), ("mask_aware", None), ("mask_aware", "both_masks")],
)
def test_a_step_runs_with_every_switch_and_is_a_function_of_its_seeds(method, sees):
    config = tiny(method=method, discriminator_sees=sees, accumulate=2, d_sees_y_hat=True)
    logs, weights = [], []
    for global_seed, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(0)
        algorithm = Algorithm1(config)
        torch.manual_seed(global_seed)
        logs.append(algorithm.step(batches_of(0, 10), seeds.generator("s", seed)))
        weights.append({n: state(net) for n, net in vars(algorithm.nets).items()})
    assert all(value.isfinite() for value in logs[0].values())
    assert logs[0] == logs[1] != logs[2]
    for name, net in weights[0].items():
        assert all(torch.equal(net[n], weights[1][name][n]) for n in net)
