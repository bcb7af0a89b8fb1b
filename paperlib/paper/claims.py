"""The paper's eight claims (section 3.5), each graded from the records.

The rule. A claim is a list of statements "left < factor * right" about one metric on one corruption.
Of each the mean log ratio of left to right is estimated, with a standard error from two sources:
the test images, which all methods share (a paired bootstrap of per-image values; for distances the
two bootstraps, taken as independent), and the seeds, whose variance is pooled over all methods and
corruptions, for each metric (seeds differ far more in the std than in the errors).
One-sided p-values are corrected by Holm within a claim and corruption. A statement holds, or fails,
where its corrected p-value is below 0.05. The grade of a claim on a corruption is

    untestable    a run that it needs is missing, or is worse in energy score than mean fill or than
                  what its own generator started from,
    holds         all its statements hold,
    mostly        at least two of three hold and none fails,
    contradicted  more than half of them fail,
    mixed         else.

A claim as a whole has the grade that most of its testable corruptions have, the lower one of two.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from paperlib.core.baselines import METHODS
from paperlib.paper import tables
from paperlib.paper.tables import CORRUPTIONS, DASH, Records, distance_name

DISTANCE = "distance"  # FID, or the Frechet distance of the features at hand
SECONDS = "seconds to MisGAN's distance"
LEVEL = 0.05
RESAMPLES = 1000
GRADES = ("holds", "mostly", "mixed", "contradicted", "untestable")
CLAIMS = {
    1: "Every auxiliary loss raises the diversity of base, on all corruptions",
    2: "Both losses together give the highest diversity",
    3: "Small Patch: every auxiliary loss improves on base, both together most",
    4: "Drop Pixel: every auxiliary loss improves on base, encoding z most",
    5: "One Patch: all models are close (within 1.2 times), base slightly better",
    6: "MisGAN is worse than the method, and ten times slower",
    # the paper's own ratios of claim 7 reach 1.19
    7: "The method comes close to the supervised variants (at most 1.25 times)",
    8: "MisGAN's diversity is not significant (at most 1.25 times that of base)",
}
STATEMENTS = pd.read_csv(Path(__file__).with_name("paper_claims.csv"))  # left < factor * right
Record = Mapping[str, Any]


def log_ratios(pairs: Sequence[tuple[Record, Record]], metric: str) -> tuple[np.ndarray, float]:
    """Log ratio of a metric for each pair of runs of one seed; its variance over test images."""
    each, variances = [], []
    for pair in pairs:
        a, b = (_value(record, metric) for record in pair)
        each.append(math.log(a / b))
        if all(metric in record.get("per_image", {}) for record in pair):
            values = np.array([record["per_image"][metric] for record in pair])  # (2, images)
            n = values.shape[1]
            picks = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
            means = np.nanmean(values[:, picks], axis=2).clip(1e-9)  # (2, RESAMPLES)
            variances.append(np.log(means[0] / means[1]).var())
        else:
            widths = [r["metrics"][metric]["high"] - r["metrics"][metric]["low"] for r in pair]
            variances.append((widths[0] / 3.92 / a) ** 2 + (widths[1] / 3.92 / b) ** 2)
    return np.array(each), float(np.mean(variances))


def seed_variance(records: Records, metric: str) -> tuple[float, int]:
    """Variance between seeds of the log of a metric, pooled, and its degrees of freedom."""
    logs = [
        np.log([_value(record, metric) for record in found])
        for (corruption, method), found in records.items()
        if len(found) > 1 and method in METHODS and _is_usable(records, corruption, method)
    ]
    freedom = sum(len(values) - 1 for values in logs)
    return sum(values.var() * len(values) for values in logs) / max(freedom, 1), freedom


def time_ratio(pair: tuple[Record, Record], distance: str) -> tuple[float, float, float]:
    """Seconds until the first run's distance is the second's at its end, over the second's own.

    Runs are looked at now and then ("course"), so that a time is known to lie between two looks:
    the ratio, its least and its greatest value; infinite where the first run never gets there.
    """
    wanted, bounds = pair[1]["course"][-1][distance], []
    for record in pair:
        reached = [look["seconds"] for look in record["course"] if look[distance] <= wanted]
        time = min(reached, default=math.inf)
        earlier = [look["seconds"] for look in record["course"] if look["seconds"] < time]
        bounds.append((max(earlier, default=0.0), time))
    (our_least, our_time), (their_least, their_time) = bounds
    most = our_time / their_least if their_least else math.inf
    return our_time / their_time, our_least / their_time, most


def judge(records: Records) -> pd.DataFrame:
    """Every statement judged: one row each.

    Columns: claim, corruption, statement, factor, ratio, low, high (95 %), seeds, paper (its own
    ratio), p, outcome (holds, fails, open; untestable).
    """
    distance = distance_name(records)
    paper = (
        tables.paper_tables().set_index(["corruption", "metric", "method"])["paper"].sort_index()
    )
    rows: list[dict[str, Any]] = []
    estimates = {}  # place among the rows -> metric, log ratios by seed, variance over images
    for claim, corruption, metric, left, right, factor in STATEMENTS.itertuples(index=False):
        pairs = [*zip(*(records.get((corruption, m), []) for m in (left, right)), strict=False)]
        times = "" if factor == 1 else f"{factor:g} × "
        row = {"claim": claim, "corruption": corruption}
        row |= {"statement": f"{metric}: {left} < {times}{right}", "factor": factor}
        row |= dict.fromkeys(("ratio", "low", "high"), math.nan) | {"seeds": len(pairs)}
        theirs = [paper.get((corruption, metric, m), math.nan) for m in (left, right)]
        row |= {"paper": theirs[0] / theirs[1], "p": math.nan}
        if not all(_is_usable(records, corruption, m) for m in (left, right)):
            pass
        elif metric != SECONDS:
            name = distance if metric == DISTANCE else metric
            estimates[len(rows)] = (name, *log_ratios(pairs, name))
        elif all("course" in record for pair in pairs for record in pair):
            ratio, low, high = np.median([time_ratio(p, distance) for p in pairs], axis=0)
            p = 0.5 + (low > factor) / 2 - (high < factor) / 2  # only bounds are known
            row |= {"ratio": ratio, "low": low, "high": high, "p": p}
        rows.append(row)
    names = {name for name, *_ in estimates.values()}
    between_seeds = {name: seed_variance(records, name) for name in names}
    for place, (name, each, variance) in estimates.items():
        pooled, freedom = between_seeds[name]
        row, centre, square = rows[place], each.mean(), variance + 2 * pooled / len(each)
        law = stats.t(freedom or math.inf, centre, max(square, 1e-18) ** 0.5)  # inf: normal
        row["ratio"], row["low"], row["high"] = np.exp([centre, law.ppf(0.025), law.ppf(0.975)])
        row["p"] = law.sf(math.log(row["factor"]))
    table = pd.DataFrame(rows)
    groups = table.groupby(["claim", "corruption"], sort=False)["p"]
    return table.assign(outcome=groups.transform(outcomes))


def outcomes(p: pd.Series) -> pd.Series:
    """Of one-sided p-values, corrected by Holm: holds, fails or open; of none: untestable."""
    found = pd.Series("open", p.index).where(p.notna(), "untestable")
    for outcome, tested in (("holds", p.dropna()), ("fails", 1 - p.dropna())):
        ordered = tested.sort_values()
        corrected = (ordered * np.arange(len(ordered), 0, -1)).cummax()
        found[corrected.index[corrected < LEVEL]] = outcome
    return found


def grade(outcomes: Sequence[str]) -> str:
    """The grade of a claim on a corruption, by the rule at the top of this file."""
    n = len(outcomes)
    if "untestable" in outcomes:
        return "untestable"
    holds, fails = outcomes.count("holds"), outcomes.count("fails")
    if holds == n:
        return "holds"
    if 3 * holds >= 2 * n and not fails:
        return "mostly"
    return "contradicted" if 2 * fails > n else "mixed"


def grades(table: pd.DataFrame) -> pd.DataFrame:
    """Formatted cells, one row a claim and corruption, and below them one for the whole claim."""
    rows = {}
    for number, text in CLAIMS.items():
        tested = []
        for corruption, part in table[table["claim"] == number].groupby("corruption", sort=False):
            found = part["outcome"].tolist()
            if (judged := grade(found)) != "untestable":
                tested.append(judged)
            rows[f"{number}, {CORRUPTIONS[corruption]}"] = {
                "claim": "",
                "grade": judged,
                "statements that hold": f"{found.count('holds')} of {len(found)}",
                "mean ratio": _mean(part["ratio"]),
                "the paper's": _mean(part["paper"]),
            }
        whole = max(tested, key=lambda g: (tested.count(g), GRADES.index(g)), default="untestable")
        rows[str(number)] = {"claim": text, "grade": f"**{whole}**"}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("#")


def _mean(ratios: pd.Series) -> str:
    """Geometric mean of those that are known and finite."""
    finite = ratios[np.isfinite(ratios)]
    return f"{stats.gmean(finite):.2f}" if len(finite) else DASH


def _value(record: Record, metric: str) -> float:
    """A metric's value, above 0, so that it has a logarithm."""
    return max(record["metrics"][metric]["value"], 1e-9)


def _is_usable(records: Records, corruption: str, method: str) -> bool:
    """Whether a run is there, and not worse than mean fill or than its own start."""
    ours, *limits = (
        [record["metrics"]["energy"]["value"] for record in records.get((corruption, name), [])]
        for name in (method, "mean", "start")
    )
    return bool(ours) and all(np.mean(ours) <= limit for limit in itertools.chain(*limits))


def rendered(profile: str, records: Records) -> dict[str, str]:
    """The claims as ``claims.md`` and ``claims.csv``: file name -> text."""
    table = judge(records)
    cells = grades(table).to_markdown(disable_numparse=True)
    text = f"# The paper's claims, profile {profile}\n\n{cells}\n\n"
    text += "\n".join(line.strip() for line in __doc__.split("The rule. ")[1].splitlines()) + "\n"
    if table["seeds"].max() <= 1:
        text += "\nOne seed a run here: a grade is about these very runs.\n"
    return {"claims.csv": tables.as_csv(table), "claims.md": text}
