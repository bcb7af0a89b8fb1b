"""Exact posteriors against hand-worked cases, brute force and a second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from paperlib import seeds
from paperlib.corruption import DropPixel
from paperlib.posterior import (
    Field,
    Posterior,
    condition,
    distances_to_posterior,
    gaussian_field,
    sliced_wasserstein,
    stationary_covariance,
    two_mode_field,
)


def doubles(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def as_images(values) -> Tensor:
    """(B, n) as fields of one row, (B, 1, 1, n)."""
    return doubles(values)[:, None, None]


def field_of(weights, means, covariances) -> Field:
    """A mixture on a grid of one row."""
    return Field((1, len(means[0])), doubles(weights), doubles(means), doubles(covariances))


def pair(r: float) -> Field:
    """Two pixels of variance 1 and correlation r."""
    return field_of([1.0], [[0.0, 0.0]], [[[1.0, r], [r, 1.0]]])


def normal_density(y: float, mean: float, variance: float) -> float:
    return math.exp(-((y - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def exactly(values) -> object:
    return pytest.approx(np.asarray(values), abs=1e-12)


# Two pixels, by hand


@pytest.mark.parametrize("r", [-0.5, 0.0, 0.8])
def test_one_of_two_pixels_observed_gives_the_textbook_s_mean_and_variance(r):
    exact = condition(pair(r), as_images([[0.7, 99.0]]), as_images([[1.0, 0.0]]))
    assert exact.mean[0].numpy() == exactly([0.7, 0.7 * r])
    assert exact.covariance[0].numpy() == exactly([[0, 0], [0, 1 - r**2]])
    assert exact.missing.tolist() == [[False, True]]


def test_nothing_observed_leaves_the_prior():
    exact = condition(pair(0.8), as_images([[5.0, math.nan]]), as_images([[0.0, 0.0]]))
    assert exact.mean[0].numpy() == exactly([0, 0])
    assert exact.covariance[0].numpy() == exactly([[1, 0.8], [0.8, 1]])


def test_all_observed_leaves_no_doubt():
    exact = condition(pair(0.8), as_images([[0.1, -2.0]]), as_images([[1.0, 1.0]]))
    assert torch.equal(exact.mean, doubles([[0.1, -2.0]]))
    assert not exact.covariance.any()
    samples = exact.sample(5, seeds.generator("s"))
    assert torch.equal(samples, as_images([[0.1, -2.0]]).expand(5, 1, 1, 1, 2))


def test_observations_of_one_batch_have_nothing_to_do_with_each_other():
    y, m = as_images([[0.7, 0.0], [0.0, -1.0]]), as_images([[1.0, 0.0], [0.0, 1.0]])
    exact = condition(pair(0.5), y, m)
    assert exact.mean.numpy() == exactly([[0.7, 0.35], [-0.5, -1.0]])


def test_weights_follow_from_bayes_rule():
    # The parts differ in the mean and in the variance of the pixel that is observed.
    eye = [[1.0, 0.0], [0.0, 1.0]]
    field = field_of([0.3, 0.7], [[1.0, 0.0], [-1.0, 5.0]], [eye, [[4.0, 1.0], [1.0, 1.0]]])
    y = 0.4
    exact = condition(field, as_images([[y, 0.0]]), as_images([[1.0, 0.0]]))
    likelihood = [normal_density(y, 1, 1), normal_density(y, -1, 4)]
    joint = np.array([0.3, 0.7]) * likelihood
    assert exact.weights[0].numpy() == exactly(joint / joint.sum())
    # mean mu + c / v (y - mu), variance 1 - c^2 / v
    assert exact.means[0].numpy() == exactly([[y, 0], [y, 5 + (y + 1) / 4]])
    assert exact.covariances[0, :, 1, 1].numpy() == exactly([1, 1 - 1 / 4])


def test_moments_of_a_bimodal_posterior_are_those_of_the_mixture():
    # What is observed is the same in both modes, the other pixel is at +2 or at -2.
    small = [[0.01, 0.0], [0.0, 0.01]]
    field = field_of([0.25, 0.75], [[0.0, 2.0], [0.0, -2.0]], [small, small])
    exact = condition(field, as_images([[0.1, 0.0]]), as_images([[1.0, 0.0]]))
    assert exact.weights[0].numpy() == exactly([0.25, 0.75])
    assert exact.mean[0].numpy() == exactly([0.1, -1.0])
    assert exact.covariance[0, 1, 1].item() == pytest.approx(0.01 + 4 - 1)
    samples = exact.sample(4000, seeds.generator("modes"))[:, 0, 0, 0, 1]
    assert ((samples.abs() - 2).abs() < 0.5).all()  # 5 deviations: never between the modes
    assert (samples > 0).double().mean().item() == pytest.approx(0.25, abs=4 * 0.43 / 4000**0.5)


def test_unlikely_observation_underflows_nothing():
    far = field_of([0.5, 0.5], [[0.0, 0.0], [1.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]] * 2)
    exact = condition(far, as_images([[1e4, 0.0]]), as_images([[1.0, 0.0]]))
    assert exact.weights[0].numpy() == exactly([0, 1])


# Brute force


@pytest.fixture(scope="module")
def three() -> Field:
    """Three pixels, two parts with other means and other covariances."""
    smooth = stationary_covariance(1, 3, 1.0, 0.1)
    rough = stationary_covariance(1, 3, 0.5, 0.1) * 0.5
    return field_of(
        [0.4, 0.6], [[0.5, 1.0, 0.0], [-0.5, -1.0, 0.5]], [smooth.tolist(), rough.tolist()]
    )


@pytest.mark.parametrize("shows", [[1, 0, 0], [0, 1, 0], [1, 0, 1]])
def test_posterior_is_what_importance_weights_of_the_prior_say(three, shows):
    # Samples of the prior, weighted by a Gaussian of deviation 0.05 around what is observed. That
    # is a little noise on y: it moves the moments by some 0.05^2, less than Monte Carlo does.
    count, noise = 2_000_000, 0.05
    y, m = as_images([[0.2, 0.3, 0.1]]), as_images([[float(s) for s in shows]])
    exact = condition(three, y, m)

    generator = seeds.generator("importance", *shows)
    part = torch.multinomial(three.weights, count, replacement=True, generator=generator)
    white = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    roots = torch.linalg.cholesky(three.covariances)
    x = torch.stack([three.means[k] + white @ roots[k].T for k in (0, 1)])[
        part, torch.arange(count)
    ]
    seen = torch.tensor(shows, dtype=torch.bool)
    off = ((x - y.flatten())[:, seen] / noise).square().sum(1)
    weights = torch.softmax(-off / 2, dim=0)
    error = 5 * weights.square().sum().sqrt().item() + noise**2  # 5 deviations, and the noise
    assert error < 0.06  # else the test would say nothing

    free = ~seen
    mean = weights @ x
    off = x - mean
    covariance = (weights[:, None] * off).T @ off
    assert (mean - exact.mean[0])[free].abs().max() < error
    assert (covariance - exact.covariance[0])[free][:, free].abs().max() < 1.5 * error
    share = weights[part == 0].sum()
    assert abs(share - exact.weights[0, 0]) < error
    assert 0.05 < exact.weights[0, 0] < 0.95


def conditioned_by_index_sets(field: Field, y: np.ndarray, seen: np.ndarray):
    """Weights, means and covariances of the missing entries of one observation, plainly."""
    o, u = np.flatnonzero(seen), np.flatnonzero(~seen)
    joint, means, covariances = [], [], []
    for weight, mu, C in zip(
        *(t.numpy() for t in (field.weights, field.means, field.covariances)), strict=True
    ):
        inverse = np.linalg.inv(C[np.ix_(o, o)])
        r = y[o] - mu[o]
        means.append(mu[u] + C[np.ix_(u, o)] @ inverse @ r)
        covariances.append(C[np.ix_(u, u)] - C[np.ix_(u, o)] @ inverse @ C[np.ix_(o, u)])
        _, logarithm = np.linalg.slogdet(2 * np.pi * C[np.ix_(o, o)])
        joint.append(np.log(weight) - r @ inverse @ r / 2 - logarithm / 2)
    joint = np.exp(np.array(joint) - max(joint))
    return joint / joint.sum(), np.array(means), np.array(covariances)


@pytest.mark.parametrize("field", [gaussian_field(5), two_mode_field(5)], ids=["one", "two"])
def test_posterior_equals_a_plain_implementation_with_index_sets(field):
    y = field.sample(12, seeds.generator("y"))
    m = (torch.rand(y.shape, generator=seeds.generator("m")) < 0.4).float()
    m[0], m[1] = 0, 1
    exact = condition(field, y, m)
    for b in range(len(y)):
        seen = m[b].flatten().numpy() > 0
        weights, means, covariances = conditioned_by_index_sets(field, y[b].flatten().numpy(), seen)
        assert exact.weights[b].numpy() == pytest.approx(weights, abs=1e-9)
        assert exact.means[b][:, ~seen].numpy() == pytest.approx(means, abs=1e-9)
        assert exact.covariances[b][:, ~seen][:, :, ~seen].numpy() == pytest.approx(
            covariances, abs=1e-9
        )
        assert torch.equal(exact.means[b][:, seen], y[b].flatten()[seen].expand(len(means), -1))
        assert not exact.covariances[b][:, seen].any()
        assert not exact.covariances[b][:, :, seen].any()


def test_what_lies_under_the_mask_has_no_influence():
    field = two_mode_field(4)
    y = field.sample(5, seeds.generator("y"))
    m = DropPixel(0.5).sample(5, 4, seeds.generator("m"))
    exact = condition(field, y, m)
    for garbage in (math.nan, math.inf, 1e30):
        spoilt = condition(field, torch.where(m > 0, y, garbage), m)
        for name in ("weights", "means", "covariances"):
            assert torch.equal(getattr(spoilt, name), getattr(exact, name))


# The fields


@pytest.mark.parametrize("side", [8, 16])
def test_covariance_is_stationary_of_unit_diagonal_and_positive_definite(side):
    C = stationary_covariance(side, side, 1.5, 0.02)
    assert C.dtype == torch.float64 and torch.equal(C, C.T)
    assert (C.diagonal() == 1).all()
    assert torch.linalg.eigvalsh(C).min() > 0.5 * 0.02 / 1.02  # the white noise is a floor
    grid = C.view(side, side, side, side)
    here, there = grid[: side - 2, : side - 1, 2:, 1:], grid[2:, : side - 1, : side - 2, 1:]
    expected = math.exp(-(2**2 + 1**2) / (2 * 1.5**2)) / 1.02
    for i in range(side - 2):
        for j in range(side - 1):
            assert here[i, j, i, j].item() == pytest.approx(expected, rel=1e-12)
            assert there[i, j, i, j].item() == pytest.approx(expected, rel=1e-12)


def test_grid_that_is_no_square_is_counted_row_by_row():
    C = stationary_covariance(2, 3, 1.0)
    assert C[0, 1].item() == pytest.approx(math.exp(-1 / 2))  # neighbours in a row
    assert C[0, 3].item() == pytest.approx(math.exp(-1 / 2))  # and in a column
    assert C[2, 3].item() == pytest.approx(math.exp(-(1 + 4) / 2))  # end of one, start of the next


@pytest.mark.parametrize("field", [gaussian_field(4), two_mode_field(4)], ids=["one", "two"])
def test_samples_of_the_prior_have_its_moments(field):
    count = 40_000
    x = field.sample(count, seeds.generator("prior"))
    assert x.shape == (count, 1, 4, 4) and x.dtype == torch.float64
    assert torch.equal(x, field.sample(count, seeds.generator("prior")))
    whole = condition(field, x[:1], torch.zeros(1, 1, 4, 4))
    flat = x.flatten(1)
    assert (flat.mean(0) - whole.mean[0]).abs().max() < 5 / count**0.5
    assert (flat.T.cov() - whole.covariance[0]).abs().max() < 8 / count**0.5


@pytest.mark.parametrize("side", [8, 16])
def test_variance_of_the_two_mode_field_is_at_most_one(side):
    field = two_mode_field(side)
    seen_nothing = torch.zeros(1, 1, side, side)
    variance = condition(field, seen_nothing, seen_nothing).covariance[0].diagonal()
    assert 0.8 < variance.max() <= 1 + 1e-12
    assert variance.min() == pytest.approx(1 / (1 + 1.5**2), rel=0.05)  # away from the bump


def test_modes_are_two_where_only_the_foot_of_the_bump_is_seen():
    side = 8
    field = two_mode_field(side)
    m = torch.zeros(1, 1, side, side)
    m[..., :1, :] = m[..., -1:, :] = m[..., :1] = m[..., -1:] = 1
    exact = condition(field, torch.zeros(1, 1, side, side), m)
    assert exact.weights[0].numpy() == exactly([0.5, 0.5])
    middle = torch.zeros(side, side, dtype=torch.float64)
    middle[3:5, 3:5] = 1 / 4  # the mean of the four pixels at the top
    places = (exact.means[0] @ middle.flatten()).numpy()
    spread = math.sqrt(middle.flatten() @ exact.covariances[0, 0] @ middle.flatten())
    assert places[0] == exactly(-places[1])
    assert places[0] > 1.3 * spread  # 1 is the limit between one hill and two
    density = {at: sum(normal_density(at, p, spread**2) for p in places) for at in (0, places[0])}
    assert density[places[0]] > 1.15 * density[0]
    samples = exact.sample(20_000, seeds.generator("two")).squeeze(2)[:, 0]
    samples = (samples * middle).sum(dim=(1, 2))
    near = {at: ((samples - at).abs() < 0.1).sum().item() for at in density}
    assert near[places[0]] > 1.15 * near[0]
    # and one of them is left where the top of the bump is seen
    m[..., 3:5, 3:5] = 1
    up = condition(field, (field.means[0] * m.flatten()).view(m.shape), m)
    assert up.weights[0, 0] > 0.95


# Its samples


@pytest.mark.parametrize("field", [gaussian_field(6), two_mode_field(6)], ids=["one", "two"])
def test_samples_keep_what_is_observed_to_the_bit_and_have_the_right_moments(field):
    count = 20_000
    y = field.sample(2, seeds.generator("y"))
    m = DropPixel(0.7).sample(2, 6, seeds.generator("m"))
    exact = condition(field, y, m)
    samples = exact.sample(count, seeds.generator("samples"))
    assert samples.shape == (count, 2, 1, 6, 6)
    seen = m.bool().expand(count, -1, -1, -1, -1)
    assert torch.equal(samples[seen], y.expand(count, -1, -1, -1, -1)[seen])
    for b in range(2):
        flat = samples[:, b].flatten(1)
        assert (flat.mean(0) - exact.mean[b]).abs().max() < 5 / count**0.5
        assert (flat.T.cov() - exact.covariance[b]).abs().max() < 8 / count**0.5


def test_samples_are_a_function_of_the_generator():
    field = two_mode_field(4)
    exact = condition(
        field, torch.zeros(3, 1, 4, 4), DropPixel(0.5).sample(3, 4, seeds.generator())
    )
    a, b, c = (exact.sample(7, seeds.generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("field", [gaussian_field(4), two_mode_field(4)], ids=["one", "two"])
def test_samples_given_observations_of_the_prior_are_distributed_as_the_prior(field):
    # The law of total probability: what the paper's theory rests on.
    count = 20_000
    x = field.sample(count, seeds.generator("tower"))
    m = DropPixel(0.6).sample(count, 4, seeds.generator("masks"))
    parts = zip(x.split(2000), m.split(2000), strict=True)
    generator = seeds.generator("posteriors")
    again = torch.cat([condition(field, *part).sample(1, generator)[0] for part in parts])
    assert (again != x).any(0).all()
    nothing = torch.zeros(1, 1, 4, 4)
    prior = condition(field, nothing, nothing).covariance[0]
    assert again.mean(0).abs().max() < 5 / count**0.5
    assert (again.flatten(1).T.cov() - prior).abs().max() < 8 / count**0.5
    # and with what is observed it hangs together as x does: E x~_i x~_j over one of each
    mixed = (again[:, 0, 1, 1] * x[:, 0, 1, 2])[(m[:, 0, 1, 1] == 0) & (m[:, 0, 1, 2] > 0)]
    assert mixed.mean().item() == pytest.approx(prior[5, 6].item(), abs=5 * 1.5 / len(mixed) ** 0.5)


# Distances


@pytest.fixture(scope="module")
def observed() -> tuple[Field, Tensor, Posterior]:
    """Forty observations of half the pixels of a field of 5 x 5."""
    field = gaussian_field(5)
    x = field.sample(40, seeds.generator("x"))
    m = DropPixel(0.5).sample(40, 5, seeds.generator("m"))
    return field, x, condition(field, x, m)


def deviation(exact: Posterior) -> Tensor:
    """Of each entry, (B, 1, H, W)."""
    return exact.covariance.diagonal(dim1=1, dim2=2).sqrt().view(-1, 1, *exact.shape)


def centre(exact: Posterior) -> Tensor:
    return exact.mean.view(-1, 1, *exact.shape)


def measured(samples: Tensor, x: Tensor, exact: Posterior) -> dict[str, float]:
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


def test_samples_of_the_posterior_reach_the_floor(observed):
    _, x, exact = observed
    found = measured(exact.sample(200, seeds.generator("own")), x, exact)
    names = {"mean", "covariance", "variance", "wasserstein", "energy"}
    names |= {"coverage_50", "coverage_80", "coverage_95"}
    assert found.keys() == names | {f"exact_{name}" for name in names}
    assert found["mean"] == pytest.approx(200**-0.5, rel=0.1)  # of a mean of 200
    assert found["mean"] == pytest.approx(found["exact_mean"], rel=0.1)
    assert found["covariance"] == pytest.approx(found["exact_covariance"], rel=0.1)
    assert found["wasserstein"] == pytest.approx(found["exact_wasserstein"], rel=0.1)
    assert found["variance"] == pytest.approx(1, abs=0.02)
    assert found["energy"] == pytest.approx(found["exact_energy"], rel=0.01)
    for level in (50, 80, 95):  # 40 images of 12 entries that hang together
        assert found[f"coverage_{level}"] == pytest.approx(level / 100, abs=0.1)


def test_coverage_of_exact_samples_is_nominal_over_many_fields(observed):
    field, _, _ = observed
    x = field.sample(600, seeds.generator("many"))
    exact = condition(field, x, DropPixel(0.5).sample(600, 5, seeds.generator("masks")))
    found = measured(exact.sample(39, seeds.generator("own")), x, exact)
    for level in (50, 80, 95):
        assert found[f"coverage_{level}"] == pytest.approx(level / 100, abs=0.02)


def test_shift_by_a_deviation_is_an_error_of_one(observed):
    _, x, exact = observed
    samples = exact.sample(400, seeds.generator("own")) + deviation(exact)
    found = measured(samples, x, exact)
    assert found["mean"] == pytest.approx(1, abs=0.02)
    assert found["variance"] == pytest.approx(1, abs=0.02)
    assert found["covariance"] == pytest.approx(found["exact_covariance"], rel=0.1)
    assert found["wasserstein"] > 5 * found["exact_wasserstein"]
    assert found["energy"] > 1.1 * found["exact_energy"]


def test_twice_the_deviation_is_four_times_the_variance_and_no_error_of_the_mean(observed):
    _, x, exact = observed
    own = exact.sample(400, seeds.generator("own"))
    found = measured(centre(exact) + 2 * (own - centre(exact)), x, exact)
    assert found["variance"] == pytest.approx(4, abs=0.1)
    assert found["mean"] == pytest.approx(2 * found["exact_mean"], rel=0.1)
    assert found["covariance"] == pytest.approx(3, rel=0.1)  # |4 C - C| / |C|
    # a normal of deviation 2 from one of deviation 1: E |2 g - g|
    assert found["wasserstein"] == pytest.approx(math.sqrt(2 / math.pi), rel=0.1)
    assert found["coverage_50"] > 0.7 and found["energy"] > found["exact_energy"]


def test_point_mass_at_the_mean_has_no_variance_and_covers_nothing(observed):
    _, x, exact = observed
    found = measured(centre(exact).expand(50, *x.shape), x, exact)
    assert found["mean"] == 0 and found["variance"] == 0
    assert found["covariance"] == pytest.approx(1)
    assert all(found[f"coverage_{level}"] == 0 for level in (50, 80, 95))
    assert found["wasserstein"] == pytest.approx(math.sqrt(2 / math.pi), rel=0.1)  # E |g|
    assert found["energy"] > found["exact_energy"]


def test_float32_samples_and_what_they_show_of_the_observed_do_not_matter(observed):
    _, x, exact = observed
    own = exact.sample(50, seeds.generator("own"))
    found = measured(own, x, exact)
    assert measured(own.float(), x, exact) == pytest.approx(found, rel=1e-4, abs=1e-4)
    missing = exact.missing.view(x.shape)
    for garbage in (7.0, math.nan):
        spoilt = torch.where(missing, own, garbage)
        assert measured(spoilt, x, exact) == found


def two_modes_of_one_pixel(distance: float, weight: float) -> Posterior:
    """Of two pixels the first is observed and says nothing; the other is in one of two places."""
    eye = [[1.0, 0.0], [0.0, 1.0]]
    means = [[0.0, distance / 2], [0.0, -distance / 2]]
    field = field_of([weight, 1 - weight], means, [eye, eye])
    return condition(field, as_images([[0.0, 0.0]]), as_images([[1.0, 0.0]]))


def test_share_of_the_modes_is_counted():
    exact = two_modes_of_one_pixel(distance=20, weight=0.3)
    x = as_images([[0.0, 10.0]])
    for of_first in (0, 3, 10):
        places = [[0.0, 10.0]] * of_first + [[0.0, -10.0]] * (10 - of_first)
        samples = as_images(places)[:, None]
        assert measured(samples, x, exact)["modes"] == pytest.approx(abs(of_first / 10 - 0.3))


def test_modes_that_overlap_still_give_exact_samples_their_share():
    # By its place alone every sample would be called one of the second mode.
    exact = two_modes_of_one_pixel(distance=0.5, weight=0.2)
    found = measured(exact.sample(4000, seeds.generator("s")), as_images([[0.0, 0.0]]), exact)
    assert found["modes"] < 0.01


# The sliced distance


def test_sliced_distance_of_two_points_is_their_mean_projected_distance():
    s, t = doubles([[[0.0, 0.0, 9.0]]]), doubles([[[3.0, 4.0, -9.0]]])
    missing = torch.tensor([[True, True, False]])
    directions = doubles([[2.0, 0.0, 5.0], [0.0, -1.0, 0.0], [3.0, 4.0, 1.0]])
    found = sliced_wasserstein(s, t, missing, directions)
    assert found.tolist() == pytest.approx([(3 + 4 + 5) / 3])


def test_sliced_distance_compares_sorted_samples():
    s, t = doubles([[[0.0]], [[1.0]], [[5.0]]]), doubles([[[6.0]], [[0.0]], [[2.0]]])
    one = torch.ones(1, 1, dtype=torch.bool), doubles([[1.0]])
    assert sliced_wasserstein(s, t, *one).tolist() == pytest.approx([(0 + 1 + 1) / 3])
    assert sliced_wasserstein(s, s.flip(0), *one).tolist() == [0]


def test_sliced_distance_of_random_directions_is_that_of_the_sphere():
    # Of a point at distance r in n dimensions: r E |u_1|, u uniform on the sphere.
    n, r = 6, 2.0
    s = torch.zeros(1, 1, n, dtype=torch.float64)
    t = s.clone()
    t[..., 0] = r
    directions = torch.randn(20_000, n, generator=seeds.generator("d"), dtype=torch.float64)
    expected = r * math.gamma(n / 2) / (math.sqrt(math.pi) * math.gamma((n + 1) / 2))
    found = sliced_wasserstein(s, t, torch.ones(1, n, dtype=torch.bool), directions)
    assert found.item() == pytest.approx(expected, rel=0.02)
