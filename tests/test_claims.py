"""The verdicts on the paper's claims. The records here are made up."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from helpers import write_run

from paperlib import paths
from paperlib.claims import (
    AUXILIARY,
    CLAIMS,
    CLOSE,
    DISTANCE,
    SECONDS,
    Judged,
    Statement,
    claims_table,
    judge,
    ratio_of,
    time_ratio,
    verdict,
    write_claims,
)
from paperlib.config import load_profile
from paperlib.records import RunError
from paperlib.tables import CORRUPTIONS, paper_table

PROFILE = """
snapshots: 2
matrix:
  corruption: [one_patch, small_patch, drop_pixel]
  method: [base, encoding_z, encoding_y, both, unpaired, paired, misgan]
  seed: [{}]
"""
FRECHET = "FD-efflite0"
EQUAL = {FRECHET: 1.0, "mse": 1.0, "std": 1.0}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A function that writes made-up records, of the (corruption, method) pairs it is told about,
    with intervals of +- ``spread``, and returns the profile."""
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")

    def write(metrics, seeds="0", spread=0.02, more=None):
        path = tmp_path / "made_up.yaml"
        path.write_text(PROFILE.format(seeds))
        for config in load_profile(str(path)):
            of = (config.corruption, config.method)
            if of in metrics:
                values = EQUAL | metrics[of]
                also = (more or {}).get(of, {})
                write_run("made_up", config, values, spread=spread, **also)
        return str(path)

    return write


def verdict_of(number: int, profile: str) -> str:
    table = claims_table(profile)
    (found,) = table[table.claim == number]["verdict"].unique()
    return found


def outcomes_of(number: int, profile: str) -> list[str]:
    table = claims_table(profile)
    return table[table.claim == number]["outcome"].tolist()


# What the claims say


def statements(number: int) -> set[tuple]:
    (claim,) = [c for c in CLAIMS if c.number == number]
    return {(s.corruption, s.metric, s.left, s.right, s.factor) for s in claim.statements}


def test_there_are_eight_claims_in_order_each_with_something_to_check():
    assert [claim.number for claim in CLAIMS] == list(range(1, 9))
    for claim in CLAIMS:
        assert len(claim.statements) == len(set(claim.statements)) > 0
        assert claim.text and all(s.left != s.right for s in claim.statements)


@pytest.mark.parametrize("number, corruptions", [(1, set(CORRUPTIONS)), (2, set(CORRUPTIONS)), (3, {"small_patch"}), (4, {"drop_pixel"}), (5, {"one_patch"}), (6, set(CORRUPTIONS)), (7, set(CORRUPTIONS)), (8, set(CORRUPTIONS))])  # fmt: skip
def test_claims_are_about_the_corruptions_that_the_paper_names(number, corruptions):
    assert {corruption for corruption, *_ in statements(number)} == corruptions


def test_every_auxiliary_loss_raises_diversity_over_base():
    assert statements(1) == {(c, "std", "base", v, 1) for c in CORRUPTIONS for v in AUXILIARY}
    assert set(AUXILIARY) == {"encoding_z", "encoding_y", "both"}


def test_the_combined_model_has_the_highest_std_of_all_baselines_included():
    others = {"base", "encoding_z", "encoding_y", "unpaired", "paired", "misgan"}
    assert statements(2) == {(c, "std", other, "both", 1) for c in CORRUPTIONS for other in others}


def test_on_drop_pixel_encoding_z_is_best_on_distance_and_mse():
    others = ("base", "encoding_y", "both")
    assert statements(4) == {
        ("drop_pixel", metric, "encoding_z", other, 1)
        for metric in (DISTANCE, "mse")
        for other in others
    }


def test_misgan_is_an_order_of_magnitude_slower():
    assert {s for s in statements(6) if s[1] == SECONDS} == {
        (c, SECONDS, "both", "misgan", 0.1) for c in CORRUPTIONS
    }


def test_close_is_said_in_the_texts_that_rest_on_it():
    for number in (7, 8):
        (claim,) = [c for c in CLAIMS if c.number == number]
        assert all(s.factor == CLOSE for s in claim.statements) and f"{CLOSE:g}" in claim.text


def paper_value(corruption: str, method: str, metric: str) -> float:
    table = pd.concat([paper_table(1), paper_table(2)]).drop_duplicates(["method", "corruption"])
    row = table[(table.method == method) & (table.corruption == corruption)]
    return row["fid" if metric == DISTANCE else metric].item()


def test_the_paper_s_own_numbers_bear_out_every_statement_that_they_can():
    # So no statement has its sides exchanged. The paper gives no std of Paired, and no times.
    checked = 0
    for claim in CLAIMS:
        for s in claim.statements:
            if s.metric == SECONDS:
                continue
            left, right = (paper_value(s.corruption, m, s.metric) for m in (s.left, s.right))
            if math.isnan(left):
                assert s.left == "paired" and s.metric == "std"
                continue
            assert left < s.factor * right, (claim.number, str(s))
            checked += 1
    assert checked == sum(len(c.statements) for c in CLAIMS) - 6


# The rule


@pytest.mark.parametrize("low, high, factor, outcome", [
    (0.5, 0.9, 1.0, "holds"),
    (1.1, 1.5, 1.0, "fails"),
    (0.9, 1.1, 1.0, "open"),
    (0.9, 1.1, 1.25, "holds"),
    (0.9, 1.1, 0.1, "fails"),
    (5.0, math.inf, 1.0, "fails"),
    (0.5, math.inf, 1.0, "open"),
    (math.nan, math.nan, 1.0, "open"),
])  # fmt: skip
def test_outcome_is_where_the_interval_lies(low, high, factor, outcome):
    statement = Statement("one_patch", "mse", "a", "b", factor)
    judged = judge(statement, ((low + high) / 2, low, high, 1))
    assert judged.outcome == outcome
    assert judged.low is low and judged.high is high and judged.seeds == 1


@pytest.mark.parametrize("outcomes, expected", [
    (["holds", "holds"], "reproduced"),
    (["holds", "fails"], "not reproduced"),
    (["open", "fails"], "not reproduced"),
    (["holds", "open"], "inconclusive"),
    (["open", "open"], "inconclusive"),
])  # fmt: skip
def test_verdict_follows_the_rule(outcomes, expected):
    assert verdict([Judged(1.0, 0.9, 1.1, 1, outcome) for outcome in outcomes]) == expected


BEST_IS_BASE = {
    ("one_patch", "base"): {FRECHET: 10.0, "mse": 0.1},
    ("one_patch", "encoding_z"): {FRECHET: 12.0, "mse": 0.2},
    ("one_patch", "encoding_y"): {FRECHET: 14.0, "mse": 0.3},
    ("one_patch", "both"): {FRECHET: 16.0, "mse": 0.4},
}


def test_claim_whose_statements_all_hold_is_reproduced(results):
    profile = results(BEST_IS_BASE)
    assert verdict_of(5, profile) == "reproduced"
    assert outcomes_of(5, profile) == ["holds"] * 6


@pytest.mark.parametrize("metric", [FRECHET, "mse"])
def test_claim_of_which_one_statement_fails_is_not_reproduced(results, metric):
    worse = BEST_IS_BASE | {
        ("one_patch", "both"): BEST_IS_BASE["one_patch", "both"] | {metric: 0.01}
    }
    profile = results(worse)
    assert verdict_of(5, profile) == "not reproduced"
    assert sorted(outcomes_of(5, profile)) == ["fails"] + ["holds"] * 5


def test_claim_with_overlapping_intervals_is_inconclusive(results):
    profile = results(BEST_IS_BASE, spread=0.25)  # 10 +- 2.5 and 12 +- 3
    assert verdict_of(5, profile) == "inconclusive"
    assert "holds" in outcomes_of(5, profile) and "fails" not in outcomes_of(5, profile)


def test_claim_with_a_missing_run_is_inconclusive(results):
    profile = results({k: v for k, v in BEST_IS_BASE.items() if k[1] != "encoding_y"})
    assert verdict_of(5, profile) == "inconclusive"
    assert sorted(outcomes_of(5, profile)) == ["holds"] * 4 + ["open"] * 2
    assert verdict_of(4, profile) == "inconclusive"  # of which there is nothing at all


def test_a_failed_statement_weighs_more_than_a_missing_run(results):
    profile = results({
        ("one_patch", "base"): {"mse": 0.2}, ("one_patch", "both"): {"mse": 0.1}
    })  # fmt: skip
    assert verdict_of(5, profile) == "not reproduced"


@pytest.mark.parametrize("ratio, expected", [(0.7, "reproduced"), (1.15, "reproduced"), (1.25, "inconclusive"), (1.35, "not reproduced")])  # fmt: skip
def test_close_to_the_supervised_variants_is_up_to_a_factor(results, ratio, expected):
    metrics = {(c, m): {FRECHET: 10.0} for c in CORRUPTIONS for m in ("unpaired", "paired")}
    metrics |= {(c, "both"): {FRECHET: 10.0 * ratio} for c in CORRUPTIONS}
    assert verdict_of(7, results(metrics)) == expected


def test_distance_is_fid_where_the_records_have_it(results):
    for_fid = {k: {"FID": v[FRECHET], "mse": v["mse"]} for k, v in BEST_IS_BASE.items()}
    assert verdict_of(5, results(for_fid)) == "reproduced"


def test_seeds_are_compared_and_not_images_where_there_are_several(results):
    profile = results(BEST_IS_BASE, seeds="0, 1, 2", spread=0.9)
    table = claims_table(profile)
    assert set(table[table.claim == 5].seeds) == {3}
    assert verdict_of(5, profile) == "reproduced"  # the seeds agree, however wide the bootstraps


# The ratio of two means


def rows(*values: tuple) -> pd.DataFrame:
    return pd.DataFrame(values, columns=["seed", "value", "low", "high"])


def test_ratio_with_one_seed_adds_the_relative_intervals_in_quadrature():
    ratio, low, high, seeds = ratio_of(rows((0, 2.0, 1.8, 2.2)), rows((0, 4.0, 3.0, 5.0)))
    half = math.hypot(math.log(2.2 / 1.8) / 2, math.log(5 / 3) / 2)
    assert (ratio, low, high) == pytest.approx((0.5, 0.5 * math.exp(-half), 0.5 * math.exp(half)))
    assert seeds == 1


def test_ratio_with_several_seeds_is_student_s_of_the_log_ratios_paired_by_seed():
    # in another order, and with a seed that the other has not
    left = rows((2, 8.0, 0, 0), (0, 1.0, 0, 0), (1, 3.0, 0, 0), (9, 500.0, 0, 0))
    right = rows((0, 2.0, 0, 0), (1, 4.0, 0, 0), (2, 10.0, 0, 0))
    logs = [math.log(1 / 2), math.log(3 / 4), math.log(8 / 10)]
    mean = sum(logs) / 3
    variance = sum((v - mean) ** 2 for v in logs) / 2
    half = 4.302653 * math.sqrt(variance / 3)  # t(0.975, 2 degrees of freedom)
    expected = (math.exp(mean), math.exp(mean - half), math.exp(mean + half))
    ratio, low, high, seeds = ratio_of(left, right)
    assert (ratio, low, high) == pytest.approx(expected, rel=1e-6) and seeds == 3


def test_ratio_of_seeds_that_never_meet_is_unknown():
    ratio, low, high, seeds = ratio_of(rows((0, 1.0, 0.9, 1.1)), rows((1, 1.0, 0.9, 1.1)))
    assert seeds == 0 and all(map(math.isnan, (ratio, low, high)))


def test_a_std_of_zero_is_less_than_any_other():
    ratio, _, high, _ = ratio_of(rows((0, 0.0, 0.0, 0.0)), rows((0, 0.01, 0.009, 0.011)))
    assert 0 < ratio < high < 1e-6


# The ratio of two times


def course(*looks: tuple[float, float]) -> list[dict[str, float]]:
    return [{"step": i, "seconds": s, FRECHET: d} for i, (s, d) in enumerate(looks)]


THEIRS = course((50, 9.0), (100, 7.0), (200, 4.0))  # reached between 100 and 200 seconds


@pytest.mark.parametrize("ours, expected", [
    (course((10, 3.0), (20, 2.0)), (10 / 200, 0.0, 10 / 100)),  # at the first look
    (course((10, 8.0), (20, 4.0), (40, 2.0)), (20 / 200, 10 / 200, 20 / 100)),  # in the middle
    (course((10, 8.0), (20, 6.0), (40, 3.9)), (40 / 200, 20 / 200, 40 / 100)),  # at the end
    (course((10, 8.0), (20, 6.0), (40, 4.1)), (math.inf, 40 / 200, math.inf)),  # never
])  # fmt: skip
def test_time_ratio_by_hand(ours, expected):
    assert time_ratio(ours, THEIRS, FRECHET) == pytest.approx(expected)


def test_time_ratio_against_one_that_was_there_at_its_first_look():
    theirs = course((100, 4.0), (200, 4.0))
    ratio, low, high = time_ratio(course((10, 8.0), (20, 3.0)), theirs, FRECHET)
    assert (ratio, low, high) == (pytest.approx(0.2), pytest.approx(0.1), math.inf)


def courses(ours: list, theirs: list) -> dict:
    return {
        (c, method): {"course": one}
        for c in CORRUPTIONS
        for method, one in (("both", ours), ("misgan", theirs))
    }


BETTER_THAN_MISGAN = {(c, "both"): {FRECHET: 1.0} for c in CORRUPTIONS} | {
    (c, "misgan"): {FRECHET: 4.0} for c in CORRUPTIONS
}


@pytest.mark.parametrize("ours, expected", [
    (course((5, 3.0), (100, 1.0)), "reproduced"),  # at most 5 s, theirs at least 100 s
    (course((15, 3.0), (100, 1.0)), "inconclusive"),  # 0 to 15 s, theirs 100 to 200 s
    (course((15, 9.0), (21, 8.0), (100, 1.0)), "not reproduced"),  # at least 21 s
    (course((5, 9.0), (100, 8.0)), "not reproduced"),  # never
])  # fmt: skip
def test_verdict_on_the_speed_of_misgan(results, ours, expected):
    profile = results(BETTER_THAN_MISGAN, more=courses(ours, THEIRS))
    assert verdict_of(6, profile) == expected
    table = claims_table(profile)
    assert (
        table[(table.claim == 6) & table.statement.str.startswith(DISTANCE)].outcome == "holds"
    ).all()


def test_without_snapshots_nothing_is_said_of_the_speed_of_misgan(results):
    profile = results(BETTER_THAN_MISGAN)
    assert verdict_of(6, profile) == "inconclusive"
    assert sorted(outcomes_of(6, profile)) == ["holds"] * 3 + ["open"] * 3


def test_the_course_of_a_run_whose_d_was_switched_is_not_the_method_s_own(results):
    profile = Path(results(BETTER_THAN_MISGAN, more=courses(course((5, 3.0)), THEIRS)))
    before = claims_table(str(profile))
    matrix = "corruption: [one_patch, small_patch, drop_pixel]\n  method: [both, misgan]"
    profile.write_text(f"snapshots: 2\nmatrix:\n  {matrix}\n  discriminator_sees: [null, own_mask]")
    for config in load_profile(str(profile)):
        if config.row == "both-own_mask":
            never = course((15, 9.0), (60, 8.0))
            write_run("made_up", config, {FRECHET: 9.0}, course=never)
    pd.testing.assert_frame_equal(claims_table(str(profile)), before)
    assert verdict_of(6, str(profile)) == "reproduced"


def test_times_over_several_seeds_have_the_widest_bounds(results):
    profile = results(BETTER_THAN_MISGAN, "0, 1, 2", more=courses(course((5, 3.0)), THEIRS))
    for config in load_profile(profile):
        if config.name == "one_patch-both-seed1":
            slow = course((15, 9.0), (60, 3.0))
            write_run("made_up", config, {FRECHET: 1.0}, course=slow)
    table = claims_table(profile)
    row = table[(table.corruption == "one_patch") & table.statement.str.startswith(SECONDS)].iloc[0]
    assert (row.ratio, row.low, row.high) == pytest.approx((5 / 200, 0.0, 60 / 100))
    assert row.seeds == 3 and row.outcome == "open"


# The files


def test_claims_are_written_with_the_rule_that_they_follow(results):
    profile = results(BEST_IS_BASE)
    csv, md = write_claims(profile)
    assert [p.name for p in (csv, md)] == ["claims.csv", "claims.md"]
    table = pd.read_csv(csv)
    assert len(table) == sum(len(claim.statements) for claim in CLAIMS)
    assert set(table[table.claim == 5].verdict) == {"reproduced"}
    text = md.read_text()
    assert "profile made_up" in text and "A claim is REPRODUCED where all" in text
    assert "holds   where the whole interval lies below the factor" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| 5 | One Patch: base")]
    assert "**reproduced**" in line and "6 holds" in line
    row = table[(table.claim == 5) & (table.statement == "mse: base < encoding_z")].iloc[0]
    assert row.ratio == pytest.approx(0.5) and row.low < 0.5 < row.high < row.factor == 1
    assert (
        f"| 5 | One Patch | mse: base < encoding_z | 0.5 | [{row.low:.3g}, {row.high:.3g}] | 1 | holds |"
        in text
    )


@pytest.mark.parametrize("seeds, said", [("0", True), ("0, 1", False)])
def test_one_seed_is_confessed(results, seeds, said):
    _, md = write_claims(results(BEST_IS_BASE, seeds))
    assert ("One seed a run here" in md.read_text()) is said


def test_claims_without_any_record_are_inconclusive(results):
    profile = results({})
    _, md = write_claims(profile)
    assert set(claims_table(profile).verdict) == {"inconclusive"}
    assert md.read_text().count("**inconclusive**") == 8 and "nan" not in md.read_text()


def test_a_record_of_another_configuration_is_refused_by_name(results):
    profile = results(BEST_IS_BASE)
    config = load_profile(profile)[0]
    write_run("made_up", config.model_copy(update={"lambda_y": 77.0}), EQUAL)
    with pytest.raises(RunError, match=r"evaluation\.json.*lambda_y: 77\.0"):
        claims_table(profile)
