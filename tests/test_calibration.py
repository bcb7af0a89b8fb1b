"""Coverage and the energy score, by hand and for samples whose law is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from paperlib import seeds
from paperlib.evaluation.calibration import coverage, energy_score

LEVELS = [0.5, 0.8]


def of_one_pixel(values) -> Tensor:
    """Samples of one grey pixel, (S, 1, 1, 1, 1)."""
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1, 1)


def everything(x: Tensor) -> Tensor:
    return torch.ones_like(x[:, :1], dtype=torch.bool)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeds.generator("normal", seed), dtype=torch.float64)


def covered(values, value: float, level: float) -> float:
    x = of_one_pixel([value])[0]
    return coverage(of_one_pixel(values), x, everything(x), level).item()


# Coverage


@pytest.mark.parametrize(
    "level, by_gap",  # of the ten gaps that nine samples leave, the central share
    [
        (0.8, [0, 1, 1, 1, 1, 1, 1, 1, 1, 0]),
        (0.6, [0, 0, 1, 1, 1, 1, 1, 1, 0, 0]),
        (0.5, [0, 0, 0.5, 1, 1, 1, 1, 0.5, 0, 0]),  # ends within a gap
    ],
)
def test_coverage_of_nine_samples_gap_by_gap(level, by_gap):
    values = [3.0, 9.0, 1.0, 5.0, 7.0, 2.0, 8.0, 4.0, 6.0]
    found = [covered(values, gap + 0.5, level) for gap in range(10)]
    assert found == pytest.approx(by_gap)


def test_a_truth_that_equals_samples_is_shared_among_the_gaps_beside_them():
    assert covered([0.0] * 9, 0.0, 0.8) == pytest.approx(0.8)  # all ten gaps
    assert covered([0.0] * 3 + [1.0] * 6, 0.0, 0.8) == pytest.approx(3 / 4)  # gaps 0 to 3
    assert covered([0.0] * 9, 0.1, 0.8) == 0  # above all samples
    assert covered([math.nan] * 9, 0.1, 0.8) == 0


def test_coverage_is_the_share_of_the_missing_entries_image_by_image():
    # Ten samples of 0 .. 9 at each entry; three channels of two pixels, one of which is missing.
    samples = torch.arange(10.0).view(10, 1, 1, 1, 1).expand(10, 3, 3, 1, 2)
    x = torch.full((3, 3, 1, 2), 100.0)
    missing = torch.zeros(3, 1, 1, 2, dtype=torch.bool)
    missing[:2, ..., 0] = True
    x[0, :, 0, 0] = torch.tensor([4.5, 5.0, 100.0])
    x[1, :, 0, 0] = 4.0
    x[..., 1] = 4.5  # observed: inside, and not counted
    found = coverage(samples, x, missing, 0.8)
    gap_0, gap_4, gaps_5_6 = 0, 1, 1
    assert found[:2].tolist() == pytest.approx([(gap_4 + gaps_5_6 + gap_0) / 3, 1])
    assert found[2].isnan()  # nothing is missing
    assert coverage(samples, x, missing.expand_as(x), 0.8)[0] == found[0]


@pytest.mark.parametrize("count", [9, 10, 20])
@pytest.mark.parametrize("level", LEVELS)
def test_samples_of_the_truth_s_own_law_cover_as_often_as_they_should(count, level):
    # Exactly so for uniform numbers: order statistics divide [0, 1] evenly on average.
    n = 200_000
    numbers = torch.rand(count + 1, 1, 1, 1, n, generator=seeds.generator("uniform"))
    found = coverage(numbers[1:], numbers[0], everything(numbers[0]), level).item()
    assert found == pytest.approx(level, abs=5 * math.sqrt(level * (1 - level) / n))
    of_two_values = numbers.gt(0.9).float()  # the same for a law that has ties
    found = coverage(of_two_values[1:], of_two_values[0], everything(numbers[0]), level).item()
    assert found == pytest.approx(level, abs=5 * math.sqrt(level * (1 - level) / n))


# The energy score


def test_energy_score_of_vectors_equals_loops_over_pairs():
    S, B = 4, 2
    samples, x = normal(S, B, 3, 2, 2), normal(B, 3, 2, 2, seed=1)
    missing = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]]).view(B, 1, 2, 2) > 0
    found = energy_score(samples, x, missing)
    for b in range(B):
        where = missing[b, 0]
        drawn = [samples[k, b][:, where].numpy().ravel() for k in range(S)]
        aim = x[b][:, where].numpy().ravel()

        def apart(u, v):
            return math.sqrt(sum((p - q) ** 2 for p, q in zip(u, v, strict=True)) / len(u))

        error = sum(apart(u, aim) for u in drawn) / S
        pairs = [apart(drawn[i], drawn[j]) for i in range(S) for j in range(S) if i != j]
        assert found[b].item() == pytest.approx(error - sum(pairs) / len(pairs) / 2, rel=1e-12)


def test_score_does_not_depend_on_the_number_of_samples():
    # Of a standard normal in n = 8: E|X - x| - E|X - X'| / 2 = E|X - X'| / 2 for x of the same law.
    n, many = 8, 20_000
    expected = math.gamma((n + 1) / 2) / math.gamma(n / 2) / math.sqrt(n)
    for count in (2, 3, 10):
        numbers = normal(count + 1, many, 1, 1, n, seed=count)
        found = energy_score(numbers[1:], numbers[0], everything(numbers[0]))
        assert abs(found.mean() - expected) < 5 * found.std() / many**0.5


WRONG = {
    "shifted": lambda s: s + 0.3,
    "narrower": lambda s: 0.5 * s,
    "wider": lambda s: 1.5 * s,
    "a point": lambda s: 0 * s,
    "entries that go together": lambda s: s.mean(-1, keepdim=True).expand_as(s) * 8**0.5,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_no_other_law_scores_as_low_as_the_truth_s_own(wrong):
    many = 4000
    numbers = normal(11, many, 1, 1, 8)
    samples, x = numbers[1:], numbers[0]
    own, other = (energy_score(s, x, everything(x)) for s in (samples, WRONG[wrong](samples)))
    loss = other - own  # by image: the same truths
    assert loss.mean() > 5 * loss.std() / many**0.5


def test_score_of_nearly_equal_float32_samples_keeps_its_digits():
    # Differences of 1e-4 beside values of 1: products of matrices would lose them.
    samples = (1 + 1e-4 * normal(10, 3, 3, 16, 16)).float()
    x = (1 + 1e-4 * normal(3, 3, 16, 16, seed=1)).float()
    found = energy_score(samples, x, everything(x))
    exact = energy_score(samples.double(), x.double(), everything(x))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(exact.tolist(), rel=1e-4)


@pytest.mark.parametrize("garbage", [7.0, math.nan, math.inf])
def test_what_is_observed_has_no_influence(garbage):
    samples, x = normal(10, 4, 3, 6, 6), normal(4, 3, 6, 6, seed=1)
    missing = torch.rand(4, 1, 6, 6, generator=seeds.generator("m")) < 0.5
    spoilt_samples, spoilt = (torch.where(missing, one, garbage) for one in (samples, x))
    for score in (energy_score, lambda *a: coverage(*a, 0.8)):
        before = score(samples, x, missing)
        assert before.isfinite().all()
        assert torch.equal(score(spoilt_samples, spoilt, missing), before)
