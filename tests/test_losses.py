"""The terms of the objective against numbers computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from paperlib.losses import (
    ADVERSARIAL,
    Latent,
    kl_to_standard_normal,
    latent_error,
    observation_error,
)

SCORES = torch.tensor([-2.0, 0.5, 3.0])


def test_hinge_by_hand():
    hinge = ADVERSARIAL["hinge"]
    assert hinge.real(SCORES).item() == pytest.approx((3 + 0.5 + 0) / 3)  # max(0, 1 - d)
    assert hinge.fake(SCORES).item() == pytest.approx((0 + 1.5 + 4) / 3)  # max(0, 1 + d)
    assert hinge.generator(SCORES).item() == pytest.approx(-(-2 + 0.5 + 3) / 3)


def test_minimax_by_hand():
    minimax = ADVERSARIAL["minimax"]
    p = [1 / (1 + math.exp(-d)) for d in SCORES.tolist()]  # D's probability of "real"
    assert minimax.real(SCORES).item() == pytest.approx(-sum(map(math.log, p)) / 3)
    assert minimax.fake(SCORES).item() == pytest.approx(-sum(math.log(1 - q) for q in p) / 3)
    # non-saturating: G raises log D rather than lowering log(1 - D)
    assert minimax.generator(SCORES).item() == pytest.approx(-sum(map(math.log, p)) / 3)


def test_minimax_does_not_overflow_where_d_is_sure():
    minimax, sure = ADVERSARIAL["minimax"], torch.tensor([-200.0])
    assert minimax.real(sure).item() == pytest.approx(200)
    assert minimax.generator(sure).item() == pytest.approx(200)
    assert minimax.fake(-sure).item() == pytest.approx(200)


def test_least_squares_by_hand():
    squares = ADVERSARIAL["least_squares"]
    assert squares.real(SCORES).item() == pytest.approx((9 + 0.25 + 4) / 3)
    assert squares.fake(SCORES).item() == pytest.approx((4 + 0.25 + 9) / 3)
    assert squares.generator(SCORES).item() == pytest.approx((9 + 0.25 + 4) / 3)


@pytest.mark.parametrize("name", list(ADVERSARIAL))
def test_d_and_g_pull_in_opposite_directions(name):
    adv, d = ADVERSARIAL[name], torch.zeros(4)
    gradient = {
        side: torch.func.grad(getattr(adv, side))(d) for side in ("real", "fake", "generator")
    }
    assert (gradient["real"] < 0).all()  # descending raises the score of real observations
    assert (gradient["generator"] < 0).all()  # G wants its own raised
    if name == "least_squares":  # its fakes are to score 0
        gradient["fake"] = torch.func.grad(adv.fake)(d + 0.1)
    assert (gradient["fake"] > 0).all()  # D wants them lowered


def observations() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y^, y (2, 3, 1, 2) and m (2, 1, 1, 2), with 3 of the 4 pixels observed."""
    m = torch.tensor([[1.0, 1.0], [1.0, 0.0]]).view(2, 1, 1, 2)
    y = torch.zeros(2, 3, 1, 2)
    y_hat = torch.zeros(2, 3, 1, 2)
    y_hat[0, :, 0, 0] = torch.tensor([1.0, 2.0, -3.0])
    y_hat[1, 0, 0, 0] = 4.0
    return y_hat, y, m


def test_observation_error_is_a_mean_over_observed_entries():
    y_hat, y, m = observations()
    # 3 observed pixels of 3 channels, over the whole batch; not the 12 entries, not 3 pixels
    assert observation_error(y_hat, y, m).item() == pytest.approx((1 + 4 + 9 + 16) / 9)


def test_observation_error_as_l1():
    y_hat, y, m = observations()
    assert observation_error(y_hat, y, m, "l1").item() == pytest.approx((1 + 2 + 3 + 4) / 9)


def test_latent_error_by_hand():
    z_rec, z = torch.tensor([[1.0, -1.0], [0.5, 0.0]]), torch.tensor([[0.0, 1.0], [0.5, 3.0]])
    assert latent_error(z_rec, z).item() == pytest.approx((1 + 4 + 0 + 9) / 4)
    assert latent_error(z_rec, z, "l1").item() == pytest.approx((1 + 2 + 0 + 3) / 4)


def test_kl_by_hand():
    mean, log_variance = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, math.log(4.0)]])
    expected = 0.5 * ((4 + 1 - 1 - 0) + (0 + 4 - 1 - math.log(4))) / 2
    assert kl_to_standard_normal(mean, log_variance).item() == pytest.approx(expected)


def test_kl_is_that_of_torch_distributions():
    mean, log_variance = torch.randn(2, 5, 3).unbind()
    ours = kl_to_standard_normal(mean, log_variance)
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(
        normal(mean, (0.5 * log_variance).exp()), normal(torch.zeros(()), torch.ones(()))
    )
    assert ours.item() == pytest.approx(theirs.mean().item(), rel=1e-5)


def test_reparameterised_sample_by_hand():
    latent = Latent(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 2 * math.log(3.0)]]))
    noise = torch.tensor([[0.5, 2.0]])
    assert torch.allclose(latent.sample(noise), torch.tensor([[1.5, 5.0]]))


def test_gradient_reaches_mean_and_log_variance_through_the_sample():
    mean, log_variance = (torch.zeros(1, 2, requires_grad=True) for _ in range(2))
    Latent(mean, log_variance).sample(torch.tensor([[2.0, -4.0]])).sum().backward()
    assert torch.equal(mean.grad, torch.ones(1, 2))
    assert torch.equal(log_variance.grad, torch.tensor([[1.0, -2.0]]))  # noise * exp(0) / 2
