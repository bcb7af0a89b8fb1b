"""The paper's eight claims (section 3.5), each graded from the records.

The rule. A claim is a list of statements "left < factor * right" about one metric on one corruption.
Of each the mean log ratio of left to right is estimated, with a standard error from two sources:
the test images, which all methods share (a paired bootstrap of per-image values; for distances the
two bootstraps, taken as independent), and the seeds, whose variance is pooled over all statements.
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

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from paperlib import paths
from paperlib.core.baselines import METHODS
from paperlib.paper.tables import (
    CORRUPTIONS,
    DASH,
    distance_name,
    load_evaluations,
    load_records,
    paper_tables,
    to_markdown,
    write_texts,
)

DISTANCE = "distance"  # FID, or the Frechet distance of the features at hand
SECONDS = "seconds to MisGAN's distance"
CLOSE = 1.25  # a ratio up to which claims 7 and 8 speak of "close to"; the paper's own reach 1.19
LEVEL = 0.05
RESAMPLES = 1000
GRADES = ("holds", "mostly", "mixed", "contradicted", "untestable")
FIDELITY = (DISTANCE, "mse")


@dataclass(frozen=True)
class Statement:
    """left < factor * right, of a metric on a corruption."""

    claim: int
    corruption: str
    metric: str
    left: str
    right: str
    factor: float = 1.0

    def __str__(self) -> str:
        factor = "" if self.factor == 1 else f"{self.factor:g} × "
        return f"{self.metric}: {self.left} < {factor}{self.right}"


CLAIMS = {
    1: "Every auxiliary loss raises the diversity of base, on all corruptions",
    2: "Both losses together give the highest diversity",
    3: "Small Patch: every auxiliary loss improves on base, both together most",
    4: "Drop Pixel: every auxiliary loss improves on base, encoding z most",
    5: "One Patch: all models are close (within 1.2 times), base slightly better",
    6: "MisGAN is worse than the method, and ten times slower",
    7: f"The method comes close to the supervised variants (at most {CLOSE:g} times)",
    8: f"MisGAN's diversity is not significant (at most {CLOSE:g} times that of base)",
}


def _each(
    claim: int, corruptions: Iterable[str], metrics: Iterable[str], pairs: str, factor: float = 1.0
) -> list[Statement]:
    """A statement for each corruption, metric and pair; pairs are "left<right left<right ..."."""
    return [
        Statement(claim, corruption, metric, pair.split("<")[0], pair.split("<")[1], factor)
        for corruption in corruptions
        for metric in metrics
        for pair in pairs.split()
    ]


VARIANTS_OVER_BASE = "encoding_z<base encoding_y<base both<base"
STATEMENTS = [
    *_each(1, CORRUPTIONS, ["std"], "base<encoding_z base<encoding_y base<both"),
    *_each(2, CORRUPTIONS, ["std"], "base<both encoding_z<both encoding_y<both"),
    *_each(2, CORRUPTIONS, ["std"], "unpaired<both misgan<both"),
    *_each(3, ["small_patch"], FIDELITY, VARIANTS_OVER_BASE),
    *_each(3, ["small_patch"], FIDELITY, "both<encoding_z both<encoding_y"),
    *_each(4, ["drop_pixel"], FIDELITY, VARIANTS_OVER_BASE),
    *_each(4, ["drop_pixel"], FIDELITY, "encoding_z<encoding_y encoding_z<both"),
    *_each(5, ["one_patch"], FIDELITY, "base<encoding_z base<encoding_y base<both"),
    *_each(5, ["one_patch"], FIDELITY, VARIANTS_OVER_BASE, 1.2),
    *_each(6, CORRUPTIONS, FIDELITY, "both<misgan"),
    *_each(6, CORRUPTIONS, [SECONDS], "both<misgan", 0.1),
    *_each(7, CORRUPTIONS, [DISTANCE], "both<unpaired both<paired", CLOSE),
    *_each(8, CORRUPTIONS, ["std"], "misgan<base", CLOSE),
]

Records = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""(corruption, method) -> one evaluation record a seed, in the order of the seeds."""


def log_ratios(left: Sequence[Mapping], right: Sequence[Mapping], metric: str) -> tuple:
    """Log ratio of the metric for each seed that both have, and its variance over test images."""
    each, variances = [], []
    for a, b in zip(left, right, strict=False):
        values = [max(record["metrics"][metric]["value"], 1e-9) for record in (a, b)]
        each.append(math.log(values[0] / values[1]))
        if all(metric in record.get("per_image", {}) for record in (a, b)):
            pair = np.array([record["per_image"][metric] for record in (a, b)])  # (2, images)
            picks = np.random.default_rng(0).integers(0, pair.shape[1], (RESAMPLES, pair.shape[1]))
            means = np.nanmean(pair[:, picks], axis=2).clip(1e-9)  # (2, RESAMPLES)
            variances.append(np.log(means[0] / means[1]).var())
        else:
            half = [
                (record["metrics"][metric]["high"] - record["metrics"][metric]["low"]) / 3.92
                for record in (a, b)
            ]
            variances.append(sum((h / v) ** 2 for h, v in zip(half, values, strict=True)))
    return np.array(each), float(np.mean(variances)) if variances else math.nan


Course = Sequence[Mapping[str, float]]
"""Of one run: step, seconds of training and distance of each snapshot, ascending."""


def time_ratio(ours: Course, theirs: Course, distance: str) -> tuple[float, float, float]:
    """Seconds until our distance is at or below theirs at their end, over their own; and bounds.

    Each run was looked at now and then, so a time is known to lie between the last look before
    and the first one at which the distance is reached. Infinite where ours never gets there.
    """
    wanted = theirs[-1][distance]

    def reached(course: Course) -> tuple[float, float]:
        before = 0.0
        for look in course:
            if look[distance] <= wanted:
                return before, look["seconds"]
            before = look["seconds"]
        return before, math.inf

    (our_before, our_time), (their_before, their_time) = reached(ours), reached(theirs)
    high = our_time / their_before if their_before else math.inf
    return our_time / their_time, our_before / their_time, high


def judge(records: Records, distance: str) -> pd.DataFrame:
    """Every statement judged: one row each.

    Columns: claim, corruption, statement, factor, ratio, low, high (95 %), seeds, paper (its own
    ratio), p, outcome (holds, fails, open; untestable).
    """
    found = []
    paper = paper_tables().set_index(["corruption", "metric", "method"])["paper"].sort_index()
    for s in STATEMENTS:
        left, right = (records.get((s.corruption, m), []) for m in (s.left, s.right))
        seeds = min(len(left), len(right))
        row = {"claim": s.claim, "corruption": s.corruption, "statement": str(s)}
        row |= {"factor": s.factor, "seeds": seeds, "paper": _paper_ratio(s, paper)}
        usable = all(_is_usable(records, s.corruption, m) for m in (s.left, s.right))
        if s.metric == SECONDS and usable and all("course" in r for r in (*left, *right)):
            bounds = [
                time_ratio(a["course"], b["course"], distance)
                for a, b in zip(left, right, strict=False)
            ]
            row |= dict(zip(("ratio", "low", "high"), np.median(bounds, axis=0), strict=True))
        elif s.metric != SECONDS and usable:
            each, row["variance"] = log_ratios(left, right, _key(s.metric, distance))
            row |= {"ratio": math.exp(each.mean()), "each": each}
        found.append(row)
    columns = [
        "claim",
        "corruption",
        "statement",
        "factor",
        "ratio",
        "low",
        "high",
        "seeds",
        "paper",
    ]
    table = pd.DataFrame(found, columns=[*columns, "p", "outcome", "variance", "each"])
    _add_intervals(table)
    _add_outcomes(table)
    return table.drop(columns=["variance", "each"])


def _add_intervals(table: pd.DataFrame) -> None:
    """Standard errors: of the images, and of the seeds, pooled over all statements."""
    several = [e for e in table["each"] if isinstance(e, np.ndarray) and len(e) > 1]
    freedom = sum(len(e) - 1 for e in several)
    pooled = sum(((e - e.mean()) ** 2).sum() for e in several) / freedom if freedom else 0.0
    for i, row in table.iterrows():
        if isinstance(row["each"], np.ndarray):
            error = math.sqrt(row["variance"] + pooled / row["seeds"])
            centre = math.log(row["ratio"])
            table.loc[i, ["low", "high"]] = np.exp([centre - 1.96 * error, centre + 1.96 * error])
            table.loc[i, "p"] = stats.norm.cdf((centre - math.log(row["factor"])) / error)
        elif not math.isnan(row["ratio"]):  # of times only bounds are known
            table.loc[i, "p"] = (
                0.5 + (row["low"] > row["factor"]) / 2 - (row["high"] < row["factor"]) / 2
            )


def _add_outcomes(table: pd.DataFrame) -> None:
    """Holm's correction within a claim and corruption."""
    table["outcome"] = "untestable"
    for _, part in table[table["p"].notna()].groupby(["claim", "corruption"]):
        table.loc[part.index, "outcome"] = "open"
        for outcome, p in (("holds", part["p"]), ("fails", 1 - part["p"])):
            ordered = p.sort_values()
            corrected = (ordered * np.arange(len(p), 0, -1)).cummax()
            table.loc[corrected.index[corrected < LEVEL], "outcome"] = outcome


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
    """One row a claim and corruption, and one for the claim as a whole (corruption "all")."""
    rows = []
    for number, text in CLAIMS.items():
        found = []
        for corruption, part in table[table["claim"] == number].groupby("corruption", sort=False):
            outcomes, ratios = part["outcome"].tolist(), np.log(part["ratio"].to_numpy(float))
            found.append(grade(outcomes))
            about = {"claim": number, "text": text, "corruption": corruption, "grade": found[-1]}
            about |= {"holds": outcomes.count("holds"), "of": len(outcomes)}
            finite = ratios[np.isfinite(ratios)]
            paper = np.log(part["paper"].dropna())
            about["ratio"] = math.exp(finite.mean()) if len(finite) else math.nan
            about["paper"] = math.exp(paper.mean()) if len(paper) else math.nan
            rows.append(about)
        tested = [g for g in found if g != "untestable"]
        whole = max(tested, key=lambda g: (tested.count(g), GRADES.index(g)), default="untestable")
        rows.append({"claim": number, "text": text, "corruption": "all", "grade": whole})
    return pd.DataFrame(rows)


def _key(metric: str, distance: str) -> str:
    return distance if metric == DISTANCE else metric


def _is_usable(records: Records, corruption: str, method: str) -> bool:
    """Whether a run is there, and not worse than mean fill or than its own start."""
    runs = records.get((corruption, method), [])
    if not runs or method not in METHODS:
        return bool(runs)
    limits = [
        record["metrics"]["energy"]["value"]
        for name in ("mean", "start")
        for record in records.get((corruption, name), [])
    ]
    energy = float(np.mean([record["metrics"]["energy"]["value"] for record in runs]))
    return all(energy <= limit for limit in limits)


def _paper_ratio(s: Statement, table: pd.Series) -> float:
    """The paper's own left / right; NaN where it gives none."""
    values = [table.get((s.corruption, s.metric, m), math.nan) for m in (s.left, s.right)]
    return float(values[0] / values[1])


def rendered(profile: str, results: Path | None = None) -> dict[str, str]:
    """What ``write_claims`` writes: file name -> text."""
    table = claims_table(profile, results)
    seeds = table["seeds"].max()
    text = f"# The paper's claims, profile {Path(profile).stem}\n\n{to_markdown(shown(table))}\n"
    text += "\n".join(line.strip() for line in __doc__.split("The rule. ")[1].splitlines()) + "\n"
    if seeds <= 1:
        text += "\nOne seed a run here: a grade is about these very runs.\n"
    return {"claims.csv": table.to_csv(index=False), "claims.md": text}


def claims_table(profile: str, results: Path | None = None) -> pd.DataFrame:
    """Every statement judged from a profile's records; RunError where one does not belong."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for config, record in load_records(profile, results):
        found.setdefault((config.corruption, config.method), []).append(record)
    evaluations = load_evaluations(profile, results)
    for (corruption, method), part in evaluations.groupby(["corruption", "method"]):
        if (corruption, method) not in found:  # a reference
            metrics = part.set_index("metric")[["value", "low", "high"]].to_dict("index")
            found[corruption, method] = [{"metrics": metrics}]
    return judge(found, distance_name(evaluations))


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Formatted cells, one row a claim and corruption."""
    rows = {}
    for row in grades(table).to_dict("records"):
        if row["corruption"] == "all":
            rows[str(row["claim"])] = {"claim": row["text"], "grade": f"**{row['grade']}**"}
            continue
        rows[f"{row['claim']}, {CORRUPTIONS[row['corruption']]}"] = {
            "grade": row["grade"],
            "statements that hold": f"{row['holds']:.0f} of {row['of']:.0f}",
            "mean ratio": DASH if math.isnan(row["ratio"]) else f"{row['ratio']:.2f}",
            "the paper's": DASH if math.isnan(row["paper"]) else f"{row['paper']:.2f}",
        }
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("#")
    return table[["claim", *table.columns.drop("claim")]]


def write_claims(profile: str) -> list[Path]:
    """Write ``claims.csv`` and ``claims.md`` into the profile's results; return their paths."""
    return write_texts(paths.RESULTS / Path(profile).stem, rendered(profile))
