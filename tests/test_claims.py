"""Claims are graded from records: the rule by hand, and on the paper's own numbers."""

import math

import numpy as np
import pandas as pd
import pytest
from helpers import measured

from paperlib.paper import claims
from paperlib.paper.tables import paper_tables

DISTANCE = "FD-efflite0"


def papers_records(spread=0.01, seeds=1):
    """Records that say what the paper's tables say, with narrow intervals."""
    table = paper_tables().replace({"metric": {"distance": DISTANCE}}).dropna(subset="paper")
    found = {}
    for (corruption, method), part in table.groupby(["corruption", "method"]):
        numbers = dict(zip(part["metric"], part["paper"], strict=True)) | {"energy": 0.1}
        numbers.setdefault("std", 1e-9)
        seconds = 1000.0 if method == "misgan" else 50.0
        looks = ((0.9 * seconds, 2.0), (seconds, 1.0))  # before, and at its end
        course = [{"seconds": s, DISTANCE: far * numbers[DISTANCE]} for s, far in looks]
        record = {"metrics": measured(numbers, spread), "course": course}
        found[corruption, method] = [record] * seeds
    return found


def graded(records):
    """ "1, One Patch", or "1" for the claim as a whole -> its grade."""
    return claims.grades(claims.judge(records))["grade"].str.strip("*")


def test_on_the_paper_s_own_numbers_its_claims_hold():
    found = graded(papers_records(spread=0.001))
    assert all(found[claim] == "holds" for claim in "127")
    assert found["3, Small Patch"] == "holds" and found["8"] == "holds"
    # Its Table 1 has encoding y's and both's FID below base's, and encoding z's below all
    assert found["4, Drop Pixel"] == "holds"
    assert found["6, One Patch"] == "holds"


def test_a_claim_turned_round_is_contradicted():
    records = papers_records(spread=0.001)
    for corruption in ("one_patch", "small_patch", "drop_pixel"):
        base, both = (corruption, "base"), (corruption, "both")
        records[base], records[both] = records[both], records[base]
    found = graded(records)
    assert found["2"] == "contradicted"
    assert found["1"] in ("mixed", "contradicted")


def test_a_missing_run_or_one_worse_than_mean_fill_makes_a_claim_untestable():
    records = papers_records()
    del records["small_patch", "misgan"]
    assert graded(records)["6, Small Patch"] == "untestable"
    records = papers_records() | {("one_patch", "mean"): [{"metrics": measured({"energy": 0.05})}]}
    found = graded(records)
    assert found["1, One Patch"] == "untestable" and found["1, Small Patch"] != "untestable"


def test_per_image_values_are_compared_in_pairs():
    """Two methods whose errors differ by 1 % on every image: alone each is uncertain by 10 %."""
    images = np.random.default_rng(0).lognormal(0, 1, 400)
    a = {"metrics": measured({"mse": images.mean()}), "per_image": {"mse": images.tolist()}}
    b = {"metrics": measured({"mse": 1.01 * images.mean()})}
    b["per_image"] = {"mse": (1.01 * images).tolist()}
    each, variance = claims.log_ratios([(a, b)], "mse")
    assert each[0] == pytest.approx(-math.log(1.01))
    assert variance < 1e-12
    del b["per_image"]
    assert claims.log_ratios([(a, b)], "mse")[1] == pytest.approx(2 * (0.2 / 3.92) ** 2)


def test_seeds_widen_the_intervals_of_their_metric_by_hand():
    """Two methods, two seeds each, one of which differs by ln 2 in the log: variance ln(2)^2 / 4."""
    values = {"base": (0.01, 0.02), "both": (0.04, 0.04)}
    fixed = {"mse": 0.1, DISTANCE: 1.0, "energy": 0.1}
    runs = {k: [{"metrics": measured(fixed | {"std": v}, 0)} for v in values[k]] for k in values}
    records = {("one_patch", k): two for k, two in runs.items()}
    records |= {("small_patch", k): two[:1] for k, two in runs.items()}
    rows = claims.judge(records).set_index(["claim", "corruption", "statement"])
    row, error, t_of_two = rows.loc[1, "one_patch", "std: base < both"], math.log(2) / 2, 4.302653
    assert row["ratio"] == pytest.approx(math.sqrt(0.01 * 0.02) / 0.04)
    assert row["high"] == pytest.approx(row["ratio"] * math.exp(t_of_two * error), rel=1e-5)
    t = math.log(row["ratio"]) / error  # P(T < t) of two degrees of freedom:
    assert row["p"] == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)))
    cell = rows.loc[1, "small_patch", "std: base < both"]  # another one, with one seed
    assert cell["high"] / cell["ratio"] == pytest.approx(math.exp(t_of_two * error * 2**0.5), 1e-5)
    assert rows.loc[3, "small_patch", "mse: both < base"]["high"] == pytest.approx(1)


@pytest.mark.parametrize(
    "p, expected",
    [
        ([0.04, 0.01, 0.02], "holds holds holds"),  # times 1, 3, 2: .04, .03, .04
        ([0.04, 0.01, 0.03], "open holds open"),  # .03 times 2 is .06, and .04 is not less
        ([0.999, 0.01, 0.5], "fails holds open"),
        ([math.nan, 0.02, 0.04], "untestable holds holds"),
    ],
)
def test_holm_by_hand(p, expected):
    assert claims.outcomes(pd.Series(p)).tolist() == expected.split()


@pytest.mark.parametrize(
    "found, expected",
    [
        ("holds holds holds", "holds"),
        ("holds holds open", "mostly"),
        ("holds open open", "mixed"),
        ("holds holds fails", "mixed"),
        ("fails fails holds", "contradicted"),
        ("holds untestable holds", "untestable"),
    ],
)
def test_the_grade_of_a_claim(found, expected):
    assert claims.grade(found.split()) == expected


def test_time_to_a_distance():
    ours = {"course": [{"seconds": 5.0, "d": 9.0}, {"seconds": 10.0, "d": 4.0}]}
    theirs = {"course": [{"seconds": 50.0, "d": 8.0}, {"seconds": 100.0, "d": 5.0}]}
    assert claims.time_ratio((ours, theirs), "d") == pytest.approx((0.1, 0.05, 0.2))
    never = {"course": [{"seconds": 5.0, "d": 9.0}]}
    assert claims.time_ratio((never, theirs), "d")[0] == math.inf


def test_every_claim_has_statements_and_says_the_paper_s_ratio():
    assert set(claims.STATEMENTS["claim"]) == set(claims.CLAIMS) == set(range(1, 9))
    table = claims.judge(papers_records())
    row = table[(table["claim"] == 7) & (table["statement"].str.endswith("unpaired"))]
    ratio = row[row["corruption"] == "small_patch"]["paper"].item()
    assert ratio == pytest.approx(19.11 / 18.55)
