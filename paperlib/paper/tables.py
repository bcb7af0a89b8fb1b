"""Tables 1 and 2 as the paper prints them, and one beyond, from evaluation records alone.

A run without a record shows a dash. Below each of our rows stands the paper's own.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from paperlib import paths
from paperlib.core.baselines import METHODS
from paperlib.evaluation.features import kernel_distance_name
from paperlib.profiles import evaluation_configs, load_profile
from paperlib.records import read_record
from paperlib.run import Run, check_data, refuse_other_configuration

TABLE1 = {
    "base": "base (eq. 5)",
    "encoding_z": "encoding z (eq. 6)",
    "encoding_y": "encoding y (eq. 7)",
    "both": "both (eq. 8)",
    "mask_aware": "mask-aware (ours)",
    "scored": "scored (ours)",
}
TABLE2 = {
    # from complete images, then from incomplete ones alone
    "unpaired": "Unpaired",
    "paired": "Paired",
    "misgan": "MisGAN",
    "ambientgan": "AmbientGAN: MisGAN's own samples",
    "uair": "UAIR of deepinv (no z, no fresh masks)",
    "both": "both (eq. 8)",
    # without learning
    "start": "what G starts from, untrained",
    "mean": "mean fill",
    "linear": "linear interpolation",
    "biharmonic": "biharmonic",
    "telea": "Telea",
    "navier_stokes": "Navier-Stokes",
    "real": "real against real",
}
LABELS = TABLE1 | TABLE2
OPTIONAL = ("mask_aware", "ambientgan", "uair")  # not every profile has them: no row of dashes
CORRUPTIONS = {"one_patch": "One Patch", "small_patch": "Small Patch", "drop_pixel": "Drop Pixel"}
PARTS = ("references", "peers")  # of what was not trained here
DISTANCES = ("FID", "FD-efflite0")
METRICS = {
    "mse": "MSE",
    "std": "std",
    "mse_missing": "MSE missing",
    "energy": "energy score",
    "std_coarse": "coarse std",
    "coverage_80": "80 % intervals cover",
    "seam": "seam ratio",
    "mse_without_z": "MSE missing, z = 0",
    "mse_best": "MSE missing, best of 10",
    "seconds": "seconds of training",
}
FORMATS = {"paper": "g", "seconds": ".0f", "seam": ".2f", "coverage_80": ".2f"}
FORMATS |= dict.fromkeys(DISTANCES, ".1f")  # of all others: ".4f"
BEYOND = ("mse_missing", "energy", "std_coarse", "coverage_80", "seam", "seconds")
LOWER_IS_BETTER = {*DISTANCES, "mse", "mse_missing", "mse_best", "energy"}  # all others: no best
DASH = "–"
WORSE = " †"  # a learned method that ends worse than what its generator started from
STILL_FALLING = " ‡"  # MisGAN: its error was still falling in the last half of its training
Records = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""(corruption, method) -> its evaluation records, one a seed, as they are on disk."""


def load_records(profile: str, results: Path | None = None) -> Records:
    """Everything evaluated in a profile: runs, references, peers.

    ``results`` is the profile's folder, by default below ``paths.RESULTS``. RunError names a record
    that does not belong to the run that the profile describes, to the weights beside it or to the data.
    """
    folder = results or paths.RESULTS / Path(profile).stem
    evaluated: list[dict[str, Any]] = []
    for config in load_profile(profile):
        run = Run(folder / "runs" / config.name)
        if (record := run.evaluation) is None:
            continue
        refuse_other_configuration(run.folder / "config.json", run.config.model_dump(), config)
        run.check()
        evaluated.append(record)
    others: dict[str, dict[str, Any]] = {}
    for shared in evaluation_configs(profile):
        start = f"{shared.corruption}-"
        for path in sorted(p for part in PARTS for p in (folder / part).glob(f"{start}*.json")):
            others[path.stem] = record = read_record(path)
            refuse_other_configuration(path, record["config"], shared)
            check_data(path, record, shared)
    return by_method(evaluated, others)


def by_method(evaluated: Iterable[dict[str, Any]], others: Mapping[str, dict[str, Any]]) -> Records:
    """Evaluations of runs, and those of references and peers by the name of their file.

    The method "ambientgan" are the samples of MisGAN's data generator.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in evaluated:
        corruption, method = record["config"]["corruption"], record["config"]["method"]
        found[corruption, method].append(record)
        if "data_generator" in record:
            own_samples = record | {"metrics": record["data_generator"]}
            found[corruption, "ambientgan"].append(own_samples)
    for name, record in others.items():
        corruption = record["config"]["corruption"]
        method = record.get("peer") or name.removeprefix(f"{corruption}-")
        found[corruption, method].append(record)
    return found


def evaluations(records: Records) -> pd.DataFrame:
    """Every metric of every record, one row each.

    Columns: corruption, method, seed (a reference's is 0), metric, value, low, high, images.
    """
    columns = ["corruption", "method", "seed", "metric", "value", "low", "high", "images"]
    rows: list[dict[str, Any]] = []
    for (corruption, method), found in records.items():
        for record in found:
            about = {"corruption": corruption, "method": method, "seed": record.get("seed") or 0}
            measured = dict(record["metrics"])
            if seconds := record.get("training", {}).get("seconds"):
                measured["seconds"] = dict(value=seconds, low=seconds, high=seconds, images=0)
            rows.extend(about | {"metric": name} | values for name, values in measured.items())
    return pd.DataFrame(rows, columns=columns)


def summarise(evaluations: pd.DataFrame) -> pd.DataFrame:
    """One row per (corruption, method, metric): value, interval, number of seeds and images.

    With one seed the interval is the bootstrap's over images; with several the value is their
    mean and the interval Student's over seeds, both at 95 %.
    """
    rows = []
    for key, group in evaluations.groupby(["corruption", "method", "metric"], sort=False):
        values, n = group["value"].to_numpy(float), len(group)
        value, low, high = group[["value", "low", "high"]].iloc[0].astype(float)
        if n > 1:
            value = values.mean()
            half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
            low, high = value - half, value + half
        rows.append([*key, value, low, high, n, int(group["images"].min())])
    columns = ["corruption", "method", "metric", "value", "low", "high", "seeds", "images"]
    return pd.DataFrame(rows, columns=columns)


def paper_tables() -> pd.DataFrame:
    """The paper's numbers, long: table, method, corruption, metric ("distance", mse, std), paper."""
    table = pd.read_csv(Path(__file__).with_name("paper_tables.csv"))
    table = table.rename(columns={"model": "method", "fid": "distance"})
    keys = ["table", "method", "corruption"]
    return table.melt(keys, ["distance", "mse", "std"], var_name="metric", value_name="paper")


def distance_name(records: Records) -> str:
    """Which Frechet distance the records hold: FID, or that of the features at hand."""
    measured = {name for found in records.values() for r in found for name in r["metrics"]}
    return next((name for name in DISTANCES if name in measured), DISTANCES[-1])


def table(records: Records) -> pd.DataFrame:
    """Every (corruption, method, metric), ours beside the paper's; NaN where there is no record.

    Columns: corruption, method, metric, value, low, high, seeds, images, paper.
    """
    distance = distance_name(records)
    names = ["corruption", "method", "metric"]
    metrics = [distance, *METRICS, kernel_distance_name(distance)]
    index = pd.MultiIndex.from_product([CORRUPTIONS, LABELS, metrics], names=names)
    long = summarise(evaluations(records)).set_index(names).reindex(index).reset_index()
    paper = paper_tables().drop(columns="table").replace({"metric": {"distance": distance}})
    return long.merge(paper, how="left", on=names)  # FID on Inception: another scale than ours


def cells(
    long: pd.DataFrame,
    metrics: Sequence[str],
    labels: Mapping[str, str],
    marked: Mapping[tuple[str, str], str],
    bold: str = "**{}**",
) -> pd.DataFrame:
    """Formatted cells of metrics, the corruptions side by side; below a method's row the paper's.

    ``long`` and ``marked`` are what ``table`` and ``marks`` return, ``labels`` what the row of a
    method is called, in the order of the rows; the best value of a column is formatted as ``bold``.
    """
    columns: dict[str, dict[str, str]] = {}
    for (corruption, title), metric in itertools.product(CORRUPTIONS.items(), metrics):
        here = (long["corruption"] == corruption) & (long["metric"] == metric)
        found = long[here & long["method"].isin(labels)].set_index("method")
        best = found["value"].drop("real", errors="ignore").min()
        column = columns.setdefault(f"{title}: {METRICS.get(metric, metric)}", {})
        for method, label in labels.items():
            value = found.at[method, "value"]
            text = _number(value, metric)
            if metric in LOWER_IS_BETTER and value == best:
                text = bold.format(text)
            mark = marked.get((corruption, method), "") if metric == metrics[0] else ""
            column[label] = text + mark
            column[f"{label}, the paper"] = _number(found.at[method, "paper"], "paper")
    shown = pd.DataFrame(columns).rename_axis("model")
    left_out = shown.index.isin([LABELS[m] for m in OPTIONAL])
    left_out |= shown.index.str.endswith(", the paper")
    return shown[~(left_out & (shown == DASH).all(axis=1))]


def marks(long: pd.DataFrame, records: Records) -> dict[tuple[str, str], str]:
    """(corruption, method) -> mark: † worse than its start by the energy score, ‡ still falling."""
    energy = long[long["metric"] == "energy"].set_index(["corruption", "method"])["value"]
    found = {}
    for (corruption, method), runs in records.items():
        own, start = (energy.get((corruption, name), np.nan) for name in (method, "start"))
        mark = WORSE if method in METHODS and own > start else ""
        errors = [look["mse_missing"] for look in runs[-1].get("course", [])]
        if method == "misgan" and len(errors) > 1 and errors[-1] < 0.98 * errors[-2]:
            mark += STILL_FALLING
        found[corruption, method] = mark
    return found


def rendered(profile: str, records: Records) -> dict[str, str]:
    """Tables 1 and 2 and the one beyond as ``.md``, ``.csv`` and ``.tex``: file name -> text."""
    long, distance = table(records), distance_name(records)
    marked, about = marks(long, records), note(long, profile)
    texts = {}
    for stem, title, labels, metrics in (
        ("table1", "Table 1", TABLE1, (distance, "mse", "std")),
        ("table2", "Table 2", TABLE2, (distance, "mse", "std")),
        ("beyond", "Beyond the paper", LABELS, BEYOND),
    ):
        shown = cells(long, metrics, labels, marked).to_markdown(disable_numparse=True)
        latex = cells(long, metrics, labels, {}, r"\textbf{{{}}}").to_latex(escape=False)
        texts[f"{stem}.md"] = f"# {title}, profile {profile}\n\n{shown}\n\n{about}\n"
        texts[f"{stem}.csv"] = as_csv(long[long["method"].isin(labels)])
        texts[f"{stem}.tex"] = f"{latex}% {about}\n".replace(" %", r" \%")
    return texts


def as_csv(table: pd.DataFrame) -> str:
    """To ten digits: processors differ in the sixteenth, and files are to be the same everywhere."""
    return table.to_csv(index=False, float_format="%.10g")


def note(long: pd.DataFrame, profile: str) -> str:
    """What must be said below a table of a profile."""
    done = long[long["value"].notna() & (long["images"] > 0)]
    if done.empty:
        return f"No run of {profile} has been evaluated yet."
    images, seeds = int(done["images"].min()), done["seeds"].astype(int)
    count = " to ".join(dict.fromkeys(map(str, (seeds.min(), seeds.max()))))
    distance = long["metric"].iloc[0]
    other = f"{distance} is the Frechet distance on EfficientNet-Lite0 features, not comparable "
    other = "" if distance == "FID" else f"{other}with the paper's FID. "
    return (
        f"{images} test images, {count} seed(s) a run; best of a column in bold; {DASH}: no record; "
        f"{WORSE.strip()}: worse in energy score than what its generator started from; "
        f"{STILL_FALLING.strip()}: not converged, its error was still falling. MSE and std on the "
        "scale [-1, 1]; MSE is over the whole image. Distances are to complete images of the "
        f"training split, none of them one that is filled in. {other}"
        "The paper's rows are of CelebA at 128 px."
    )


def _number(value: float, metric: str) -> str:
    return DASH if pd.isna(value) else format(value, FORMATS.get(metric, ".4f"))
