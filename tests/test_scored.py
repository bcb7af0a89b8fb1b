"""``scored``: the energy score on pixels that were observed and hidden once more."""

from __future__ import annotations

import pytest
import torch
from helpers import awake, has_gradient, observations, tiny

from paperlib import seeds
from paperlib.beyond.scored import Scored, energy_score
from paperlib.core.corruption import mask_law


def method_and_pass(garbage: float = 0.0, where: torch.Tensor | None = None, **changes):
    """The method, and its pass of observations with ``garbage`` at some pixels (the missing)."""
    config = tiny(method="scored", bands=3, **changes)
    torch.manual_seed(0)
    made = Scored(config, awake(Scored.build_networks(config)), mask_law(config.corruption))
    y, m = observations()
    y = torch.where((m == 0) if where is None else where, garbage, y)
    return made, made.forward(y, m, generator=seeds.generator("step"))


def test_score_by_hand_and_images_with_nothing_hidden_do_not_count():
    y = torch.zeros(2, 1, 1, 3)
    hidden = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]).view(2, 1, 1, 3)
    x1, x2 = (torch.tensor([v, [9.0] * 3]).view(y.shape) for v in ([3.0, 4, 7], [0.0, 0, -7]))
    # root mean squares over two pixels: 5 / sqrt 2 and 0 from y, 5 / sqrt 2 from each other
    assert energy_score(x1, x2, y, hidden).item() == pytest.approx(0, abs=1e-3)
    assert energy_score(x1, x1, y, hidden).item() == pytest.approx(5 / 2**0.5, abs=1e-3)
    assert energy_score(x1, x2, y, 0 * hidden).item() == 0


def test_it_is_least_in_expectation_for_samples_of_the_true_law():
    y, x1, x2 = torch.randn(3, 100_000, 1, 1, 1, generator=seeds.generator("gauss"))

    def score(shift: float, spread: float) -> float:
        fillings = (shift + spread * x for x in (x1, x2))
        return energy_score(*fillings, y, torch.ones_like(y)).item()

    right = score(0, 1)
    assert all(right < score(*wrong) - 0.01 for wrong in ((0, 0), (0, 0.5), (0, 1.7), (0.4, 1)))


def test_its_gradient_reaches_g_alone():
    method, p = method_and_pass()
    energy_score(*p.fillings, p.y, p.hidden).backward()
    assert has_gradient(method.nets.G)
    assert not has_gradient(method.nets.D) and not has_gradient(method.nets.E)


def test_the_loss_is_that_of_base_and_the_weighted_score():
    method, p = method_and_pass()
    loss, log = method.generator_loss(p)
    adversarial, _ = super(Scored, method).generator_loss(p)
    assert loss.item() == pytest.approx((adversarial + 3.0 * log["energy"]).item(), rel=1e-5)


@pytest.mark.parametrize("hide_where", ["missing", "observed"])
def test_g_never_sees_what_is_missing_or_hidden(hide_where):
    _, p = method_and_pass(hide_where=hide_where)
    fresh = p.m_tilde if hide_where == "observed" else 1 - p.m_tilde
    assert torch.equal(p.hidden, p.m * fresh)
    for where in (p.m == 0, p.hidden > 0):
        _, spoilt = method_and_pass(0.77, where, hide_where=hide_where)
        assert where.any()
        assert all(torch.equal(a, b) for a, b in zip(spoilt.fillings, p.fillings, strict=True))
