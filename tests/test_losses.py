"""The terms of the objective against numbers computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import Recorder, mean_score
from torch import nn

from paperlib import seeds
from paperlib.core.losses import (
    ADVERSARIAL,
    gradient_penalty,
    kl_to_standard_normal,
    latent_error,
    observation_error,
)
from paperlib.core.models import SelfAttention

SCORES = torch.tensor([-2.0, 0.5, 3.0])
P = [1 / (1 + math.exp(-d)) for d in SCORES.tolist()]  # D's probability of "real", in minimax


@pytest.mark.parametrize("name, real, fake, generator", [
    ("hinge", 3 + 0.5 + 0, 0 + 1.5 + 4, 2 - 0.5 - 3),  # max(0, 1 - d), max(0, 1 + d), -d
    # non-saturating: G raises log D rather than lowering log(1 - D)
    ("minimax", -sum(map(math.log, P)), -sum(math.log(1 - p) for p in P), -sum(map(math.log, P))),
    ("least_squares", 9 + 0.25 + 4, 4 + 0.25 + 9, 9 + 0.25 + 4),
])  # fmt: skip
def test_adversarial_games_by_hand(name, real, fake, generator):
    adv = ADVERSARIAL[name]
    found = [loss(SCORES).item() for loss in (adv.real, adv.fake, adv.generator)]
    assert found == pytest.approx([real / 3, fake / 3, generator / 3])


def test_minimax_does_not_overflow_where_d_is_sure():
    minimax, sure = ADVERSARIAL["minimax"], torch.tensor([-200.0])
    found = [minimax.real(sure), minimax.generator(sure), minimax.fake(-sure)]
    assert [loss.item() for loss in found] == pytest.approx([200] * 3)


@pytest.mark.parametrize("norm, total", [("l2", 1 + 4 + 9 + 16), ("l1", 1 + 2 + 3 + 4)])
def test_observation_error_is_a_mean_over_observed_entries(norm, total):
    m = torch.tensor([[1.0, 1.0], [1.0, 0.0]]).view(2, 1, 1, 2)
    y, y_hat = torch.zeros(2, 2, 3, 1, 2)
    y_hat[0, :, 0, 0] = torch.tensor([1.0, 2.0, -3.0])
    y_hat[1, 0, 0, 0] = 4.0
    # 3 observed pixels of 3 channels, over the whole batch; not the 12 entries, not 3 pixels
    assert observation_error(y_hat, y, m, norm).item() == pytest.approx(total / 9)


def test_latent_error_by_hand():
    z_rec, z = torch.tensor([[1.0, -1.0], [0.5, 0.0]]), torch.tensor([[0.0, 1.0], [0.5, 3.0]])
    assert latent_error(z_rec, z).item() == pytest.approx((1 + 4 + 0 + 9) / 4)
    assert latent_error(z_rec, z, "l1").item() == pytest.approx((1 + 2 + 0 + 3) / 4)


def test_kl_by_hand():
    mean, log_variance = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, math.log(4.0)]])
    expected = 0.5 * ((4 + 1 - 1 - 0) + (0 + 4 - 1 - math.log(4))) / 2
    assert kl_to_standard_normal(mean, log_variance).item() == pytest.approx(expected)


# The gradient penalty


@pytest.fixture
def double():
    """float64 everywhere, for differences."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def real_and_fake() -> torch.Tensor:
    """Two batches, (2, 3, 3, 4, 4)."""
    return torch.rand(2, 3, 3, 4, 4, generator=seeds.generator("pair")) * 2 - 1


def penalty(critic, pair, seed=0) -> torch.Tensor:
    return gradient_penalty(critic, *pair, seeds.generator("gp", seed))


def test_gradient_penalty_is_a_mean_over_images():
    # The slope at u is u itself; |u| is 2 at the first image and 0.5 at the two others.
    u = torch.zeros(3, 3, 4, 4)
    u[:, 0, 0, 0] = torch.tensor([2.0, 0.5, 0.5])
    found = penalty(lambda v: v.square().sum((1, 2, 3)) / 2, (u, u))
    assert found.item() == pytest.approx((1 + 0.25 + 0.25) / 3)


def test_points_of_the_gradient_penalty_lie_between_real_and_fake_where_the_generator_says(double):
    shares = []
    real, fake = pair = real_and_fake()
    for global_seed, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(global_seed)
        critic = Recorder(mean_score)
        penalty(critic, pair, seed)
        share = ((critic.calls[0][0] - real) / (fake - real)).flatten(1).detach()
        assert (share.std(1) < 1e-6).all()  # one share an image
        shares.append(share[:, 0])
        assert (shares[-1] > 0).all() and (shares[-1] < 1).all() and shares[-1].std() > 0.01
    assert torch.equal(shares[0], shares[1]) and not torch.equal(shares[1], shares[2])


@pytest.mark.parametrize("name", ["0.query_key.weight", "0.gamma", "2.weight"])
def test_gradient_of_the_penalty_equals_finite_differences_of_it(double, name):
    torch.manual_seed(0)
    layers = [SelfAttention(3, spectral=False), nn.Flatten(), nn.Linear(48, 1), nn.Softplus()]
    critic = nn.Sequential(*layers, nn.Flatten(0))
    nn.init.constant_(critic[0].gamma, 0.7)
    pair = real_and_fake().requires_grad_()
    parameter, step, values = critic.get_parameter(name), 1e-6, []
    penalty(critic, pair).backward()
    place = parameter.grad.abs().flatten().argmax()
    for move in (step, -2 * step):
        with torch.no_grad():
            parameter.view(-1)[place] += move
        values.append(penalty(critic, pair).item())
    expected = (values[0] - values[1]) / (2 * step)
    assert abs(expected) > 1e-4
    assert parameter.grad.flatten()[place].item() == pytest.approx(expected, rel=1e-5)
    assert pair.grad is None  # the images learn nothing from it
