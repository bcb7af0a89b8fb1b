"""The paper's eight claims, each with the numbers that it rests on and a verdict.

The rule. A claim is a list of statements "left < factor * right" about one metric on one
corruption. The ratio left / right has a 95 % interval: with several seeds Student's, of the log
ratio over seeds; with one seed that of the two bootstraps over test images, taken as independent,
which says nothing of what another training would give. A statement

    holds   where the whole interval lies below the factor,
    fails   where the whole interval lies above it,
    is open else, and where a record is missing.

A claim is REPRODUCED where all its statements hold, NOT REPRODUCED where one fails, and
INCONCLUSIVE else. No statement is corrected for the number of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from paperlib import paths
from paperlib.paper.tables import (
    CORRUPTIONS,
    DASH,
    distance_name,
    load_evaluations,
    load_records,
    to_markdown,
    write_texts,
)

DISTANCE = "distance"  # FID, or the Frechet distance of the features at hand
SECONDS = "seconds to MisGAN's distance"
CLOSE = 1.25  # a ratio up to which claims 7 and 8 speak of "close to"; the paper's own reach 1.19
TINY = 1e-9  # stands for a std of 0 in a ratio


@dataclass(frozen=True)
class Statement:
    """left < factor * right, of a metric on a corruption."""

    corruption: str
    metric: str
    left: str
    right: str
    factor: float = 1.0

    def __str__(self) -> str:
        factor = "" if self.factor == 1 else f"{self.factor:g} × "
        return f"{self.metric}: {self.left} < {factor}{self.right}"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper (method, section 9) and the statements that it comes down to."""

    number: int
    text: str
    statements: tuple[Statement, ...]


AUXILIARY = ("encoding_z", "encoding_y", "both")
OTHERS = ("base", "encoding_z", "encoding_y", "unpaired", "paired", "misgan")


def _each(
    corruptions: Iterable[str],
    metrics: Iterable[str],
    pairs: Sequence[tuple[str, str]],
    factor: float = 1.0,
) -> tuple[Statement, ...]:
    return tuple(
        Statement(c, metric, left, right, factor)
        for c in corruptions
        for metric in metrics
        for left, right in pairs
    )


FIDELITY = (DISTANCE, "mse")
CLAIMS = (
    Claim(
        1,
        "Every auxiliary loss raises the diversity of base, on all corruptions",
        _each(CORRUPTIONS, ["std"], [("base", variant) for variant in AUXILIARY]),
    ),
    Claim(
        2,
        "Both losses together give the highest diversity of all models",
        _each(CORRUPTIONS, ["std"], [(other, "both") for other in OTHERS]),
    ),
    Claim(
        3,
        "Small Patch: every auxiliary loss improves on base, both together most",
        _each(
            ["small_patch"],
            FIDELITY,
            [(variant, "base") for variant in AUXILIARY]
            + [("both", "encoding_z"), ("both", "encoding_y")],
        ),
    ),
    Claim(
        4,
        "Drop Pixel: encoding z is best",
        _each(
            ["drop_pixel"], FIDELITY, [("encoding_z", v) for v in ("base", "encoding_y", "both")]
        ),
    ),
    Claim(
        5,
        "One Patch: base is best, diversity costs fidelity",
        _each(["one_patch"], FIDELITY, [("base", variant) for variant in AUXILIARY]),
    ),
    Claim(
        6,
        "MisGAN is worse than the method, and ten times slower",
        _each(CORRUPTIONS, [DISTANCE], [("both", "misgan")])
        + _each(CORRUPTIONS, [SECONDS], [("both", "misgan")], 0.1),
    ),
    Claim(
        7,
        f"The method comes close to the supervised variants (at most {CLOSE:g} times)",
        _each(CORRUPTIONS, [DISTANCE], [("both", "unpaired"), ("both", "paired")], CLOSE),
    ),
    Claim(
        8,
        f"MisGAN's diversity is not significant (at most {CLOSE:g} times that of base)",
        _each(CORRUPTIONS, ["std"], [("misgan", "base")], CLOSE),
    ),
)


@dataclass(frozen=True)
class Judged:
    """The ratio left / right of a statement, its interval, and whether the statement holds."""

    ratio: float
    low: float
    high: float
    seeds: int
    outcome: str  # holds | fails | open


def judge(statement: Statement, ratios: tuple[float, float, float, int]) -> Judged:
    """The outcome of a statement from the ratio, its interval and the number of seeds."""
    ratio, low, high, seeds = ratios
    outcome = "open"
    if high < statement.factor:
        outcome = "holds"
    elif low > statement.factor:
        outcome = "fails"
    return Judged(ratio, low, high, seeds, outcome)


def verdict(judged: Sequence[Judged]) -> str:
    """The rule at the top of this file."""
    outcomes = {j.outcome for j in judged}
    if "fails" in outcomes:
        return "not reproduced"
    return "reproduced" if outcomes == {"holds"} else "inconclusive"


def ratio_of(left: pd.DataFrame, right: pd.DataFrame) -> tuple[float, float, float, int]:
    """left / right with its 95 % interval and the number of seeds that both have.

    Args:
        left, right: columns seed, value, low, high; one row a seed.
    """
    pairs = left.merge(right, on="seed", suffixes=("_left", "_right"))
    if pairs.empty:
        return math.nan, math.nan, math.nan, 0
    logs = pairs.filter(regex="^(value|low|high)_").clip(lower=TINY).map(math.log)
    each = (logs["value_left"] - logs["value_right"]).to_numpy()
    centre, n = each.mean(), len(each)
    if n > 1:
        half = stats.t.ppf(0.975, n - 1) * each.std(ddof=1) / math.sqrt(n)
    else:
        widths = [(logs[f"high_{side}"] - logs[f"low_{side}"]) / 2 for side in ("left", "right")]
        half = float(np.hypot(*widths).iloc[0])
    return math.exp(centre), math.exp(centre - half), math.exp(centre + half), n


Course = Sequence[dict[str, float]]
"""Of one run: step, seconds of training and distance of each snapshot, ascending."""


def time_ratio(ours: Course, theirs: Course, distance: str) -> tuple[float, float, float]:
    """Seconds until our distance is at or below theirs at their end, over their own.

    Each run was looked at now and then, so a time is known to lie between the last look before
    and the first one at which the distance is reached; the bounds follow from both.

    Returns:
        (ratio, low, high); infinite where ours never gets there.
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
    if math.isinf(our_time):
        return math.inf, our_before / their_time, math.inf
    high = our_time / their_before if their_before else math.inf
    return our_time / their_time, our_before / their_time, high


def _ratios(
    statement: Statement,
    evaluations: pd.DataFrame,
    courses: dict[tuple[str, str, int], Course],
    distance: str,
) -> tuple[float, float, float, int]:
    s = statement
    if s.metric == SECONDS:
        seeds = [
            seed for c, method, seed in courses
            if (c, method) == (s.corruption, s.left) and (c, s.right, seed) in courses
        ]  # fmt: skip
        if not seeds:
            return math.nan, math.nan, math.nan, 0
        each = np.array(
            [
                time_ratio(
                    courses[s.corruption, s.left, i], courses[s.corruption, s.right, i], distance
                )
                for i in seeds
            ]
        )
        # over seeds the widest bounds
        return float(np.median(each[:, 0])), each[:, 1].min(), each[:, 2].max(), len(seeds)
    metric = distance if s.metric == DISTANCE else s.metric
    part = evaluations[(evaluations.corruption == s.corruption) & (evaluations.metric == metric)]
    return ratio_of(*(part[part.method == method] for method in (s.left, s.right)))


def judge_claims(profile: str, results: Path | None = None) -> list[tuple[Claim, list[Judged]]]:
    """Every claim with its statements judged from the profile's records.

    Raises:
        RunError: a record does not belong to its run.
    """
    evaluations = load_evaluations(profile, results)
    distance = distance_name(evaluations)
    courses: dict[tuple[str, str, int], Course] = {
        (config.corruption, config.method, config.seed): record["course"]
        for config, record in load_records(profile, results)
        if "course" in record
    }
    return [
        (claim, [judge(s, _ratios(s, evaluations, courses, distance)) for s in claim.statements])
        for claim in CLAIMS
    ]


def claims_table(profile: str, results: Path | None = None) -> pd.DataFrame:
    """One row a statement: claim, text, verdict, corruption, statement, ratio, interval, outcome."""
    return pd.DataFrame(
        [
            {
                "claim": claim.number,
                "text": claim.text,
                "verdict": verdict(judged),
                "corruption": statement.corruption,
                "statement": str(statement),
                "factor": statement.factor,
                **vars(result),
            }
            for claim, judged in judge_claims(profile, results)
            for statement, result in zip(claim.statements, judged, strict=True)
        ]
    )


def write_claims(profile: str) -> list[Path]:
    """Write ``claims.csv`` and ``claims.md`` into the profile's results; return their paths."""
    return write_texts(paths.RESULTS / Path(profile).stem, rendered(profile))


def rendered(profile: str, results: Path | None = None) -> dict[str, str]:
    """What ``write_claims`` writes: file name -> text."""
    table = claims_table(profile, results)
    text = f"# The paper's claims, profile {Path(profile).stem}\n\n"
    text += to_markdown(verdicts(table)) + "\n## What each rests on\n\n"
    text += to_markdown(statements(table)) + "\n" + rule(table)
    return {"claims.csv": table.to_csv(index=False), "claims.md": text}


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Formatted cells, one row a claim, from what ``claims_table`` returns."""
    rows = {}
    for number, part in table.groupby("claim"):
        counts = part["outcome"].value_counts()
        said = [f"{counts[o]} {o}" for o in ("holds", "fails", "open") if o in counts]
        rows[str(number)] = {
            "claim": part["text"].iloc[0],
            "verdict": f"**{part['verdict'].iloc[0]}**",
            "statements": ", ".join(said),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("#")


def statements(table: pd.DataFrame) -> pd.DataFrame:
    """Formatted cells, one row a statement, from what ``claims_table`` returns."""

    def number(value: float) -> str:
        return DASH if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.3g}"

    def interval(row: Any) -> str:
        return f"[{number(row.low)}, {number(row.high)}]" if row.seeds else DASH

    shown = pd.DataFrame(
        {
            "corruption": table["corruption"].map(CORRUPTIONS),
            "statement": table["statement"],
            "left / right": table["ratio"].map(number),
            "interval": [interval(row) for row in table.itertuples()],
            "seeds": table["seeds"].map(lambda n: str(n) if n else DASH),
            "outcome": table["outcome"],
        }
    )
    return shown.set_index(table["claim"].astype(str).rename("#"))


def rule(table: pd.DataFrame) -> str:
    """The rule of this file's beginning, and what one seed a run means for it."""
    lines = __doc__.split("The rule. ")[1].strip().splitlines()
    text = "\n".join(line.strip() for line in lines) + "\n"
    seeds = table.loc[table["seeds"] > 0, "seeds"]
    if len(seeds) and seeds.max() == 1:
        text += (
            "\nOne seed a run here: the intervals are over test images only, so a verdict is "
            "about these very runs.\n"
        )
    return text
