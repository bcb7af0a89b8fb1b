"""Exact posteriors against hand-worked cases and a second implementation, and the distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from paperlib import seeds
from paperlib.beyond.posterior import Gaussian, condition, distances_to_posterior, random_field
from paperlib.core.corruption import DropPixel

FIELD = random_field(4)


def doubles(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def as_images(values) -> Tensor:
    """(B, n) as fields of one row, (B, 1, 1, n)."""
    return doubles(values)[:, None, None]


def pair(r: float) -> Gaussian:
    """Two pixels of variance 1 and correlation r, a grid of one row."""
    covariance = doubles([[[1.0, r], [r, 1.0]]])
    return Gaussian((1, 2), doubles([[0, 0]]), covariance, torch.ones(1, 2, dtype=torch.bool))


# Two pixels, by hand


@pytest.mark.parametrize("r", [-0.5, 0.0, 0.8])
def test_one_of_two_pixels_observed_gives_the_textbook_s_mean_and_variance(r):
    exact = condition(pair(r), as_images([[0.7, 99.0]]), as_images([[1.0, 0.0]]))
    assert exact.mean[0].numpy() == pytest.approx([0.7, 0.7 * r])
    assert exact.covariance[0].numpy() == pytest.approx(np.array([[0, 0], [0, 1 - r**2]]))
    assert exact.missing.tolist() == [[False, True]]


def test_posterior_equals_a_plain_implementation_with_index_sets():
    field = random_field(5)
    C = field.covariance[0].numpy()
    y = field.sample(12, seeds.generator("y"))[:, 0]
    m = (torch.rand(y.shape, generator=seeds.generator("m")) < 0.4).float()
    m[0], m[1] = 0, 1
    exact = condition(field, y, m)
    for b in range(len(y)):
        seen, flat = m[b].flatten().numpy() > 0, y[b].flatten()
        o, u = np.flatnonzero(seen), np.flatnonzero(~seen)
        gain = C[np.ix_(u, o)] @ np.linalg.inv(C[np.ix_(o, o)])
        covariance = C[np.ix_(u, u)] - gain @ C[np.ix_(o, u)]
        found = exact.covariance[b]
        assert exact.mean[b][u].numpy() == pytest.approx(gain @ flat[o].numpy(), abs=1e-9)
        assert found[u][:, u].numpy() == pytest.approx(covariance, abs=1e-9)
        assert torch.equal(exact.mean[b][o], flat[o])
        assert not found[o].any() and not found[:, o].any()


def test_what_lies_under_the_mask_has_no_influence():
    y = FIELD.sample(5, seeds.generator("y"))[:, 0]
    m = DropPixel(0.5).sample(5, 4, seeds.generator("m"))
    exact = condition(FIELD, y, m)
    spoilt = condition(FIELD, torch.where(m > 0, y, math.nan), m)
    assert torch.equal(spoilt.mean, exact.mean)
    assert torch.equal(spoilt.covariance, exact.covariance)


# The fields


def test_covariance_is_that_of_the_distance():
    near, diagonal = FIELD.covariance[0, 0, [1, 5]].tolist()  # from the first pixel
    assert near == pytest.approx(math.exp(-1 / 4.5) / 1.02)
    assert diagonal == pytest.approx(math.exp(-2 / 4.5) / 1.02)
    assert FIELD.covariance[0].diagonal().numpy() == pytest.approx(1)


def test_samples_keep_what_is_observed_to_the_bit_and_have_the_right_moments():
    count = 20_000
    y = FIELD.sample(2, seeds.generator("y"))[:, 0]
    m = DropPixel(0.7).sample(2, 4, seeds.generator("m"))
    exact = condition(FIELD, y, m)
    samples, again, other = (exact.sample(count, seeds.generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(samples, again) and not torch.equal(samples, other)
    assert samples.shape == (count, 2, 1, 4, 4)
    assert torch.equal(samples[:, m > 0], y[m > 0].expand(count, -1))
    for b in range(2):
        flat = samples[:, b].flatten(1)
        assert (flat.mean(0) - exact.mean[b]).abs().max() < 5 / count**0.5
        assert (flat.T.cov() - exact.covariance[b]).abs().max() < 8 / count**0.5


def test_samples_given_observations_of_the_prior_are_distributed_as_the_prior():
    # The law of total probability: what the paper's theory rests on.
    count = 20_000
    x = FIELD.sample(count, seeds.generator("tower"))[:, 0]
    m = DropPixel(0.6).sample(count, 4, seeds.generator("masks"))
    again = condition(FIELD, x, m).sample(1, seeds.generator("posteriors"))[0]
    assert (again != x).any(0).all()
    prior = FIELD.covariance[0]
    assert again.mean(0).abs().max() < 5 / count**0.5
    assert (again.flatten(1).T.cov() - prior).abs().max() < 8 / count**0.5


# Distances


# Forty observations of half the pixels of a field of 5 x 5
X = random_field(5).sample(40, seeds.generator("x"))[:, 0]
EXACT = condition(random_field(5), X, DropPixel(0.5).sample(40, 5, seeds.generator("m")))


def measured(samples: Tensor, x: Tensor, exact: Gaussian) -> dict[str, float]:
    result = distances_to_posterior(samples, x, exact, seeds.generator("distances"))
    assert all(values.shape == (len(x),) for values in result.values())
    return {name: values.double().mean().item() for name, values in result.items()}


def test_distances_by_hand_on_one_missing_pixel():
    # y = 1 at correlation 0.6: the other pixel is 0.6, give or take 0.8.
    exact = condition(pair(0.6), as_images([[1.0, 0.0]]), as_images([[1.0, 0.0]]))
    samples = as_images([[1.0, 0.6 + 1.6], [1.0, 0.6]])[:, None]  # two deviations off, and none
    found = measured(samples, as_images([[1.0, 1.0]]), exact)
    assert found["mean"] == pytest.approx(1)
    assert found["variance"] == pytest.approx(2)  # of 0 and 2, ddof = 1
    assert found["covariance"] == pytest.approx(1)  # |2 - 1|
    assert found["energy"] == pytest.approx((1.2 + 0.4) / 2 - 1.6 / 2, abs=1e-12)
    assert found["coverage_50"] == 1


@pytest.mark.parametrize(
    "shift, factor, mean, variance, covariance",
    [  # in deviations
        (1, 1, 1, 1, 0),
        (0, 2, 0, 4, 3),  # |4 C - C| / |C|
        (0, 0, 0, 0, 1),  # a point mass
    ],
)
def test_wrong_samples_are_measured_by_what_is_wrong_with_them(
    shift, factor, mean, variance, covariance
):
    own = EXACT.sample(400, seeds.generator("own"))
    deviation = EXACT.covariance.diagonal(dim1=1, dim2=2).sqrt().view_as(X)
    centre = EXACT.mean.view_as(X)
    found = measured(centre + factor * (own - centre) + shift * deviation, X, EXACT)
    assert found["mean"] == pytest.approx(mean, abs=0.12)
    assert found["variance"] == pytest.approx(variance, abs=0.1)
    assert found["covariance"] == pytest.approx(covariance, abs=0.3)
    assert found["energy"] > measured(own, X, EXACT)["energy"]
    if factor != 1:  # in expectation, for normal samples: E |2 g - g|, or E |g|
        assert found["wasserstein"] == pytest.approx((2 / math.pi) ** 0.5, rel=0.1)
        assert (found["coverage_50"] > 0.7) if factor else (found["coverage_95"] == 0)
