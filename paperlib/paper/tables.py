"""Tables 1 and 2 as the paper prints them, and one beyond, from evaluation records alone.

A run without a record shows a dash. Below each of our rows stands the paper's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from paperlib import paths, records
from paperlib.config import EvaluationConfig, RunConfig
from paperlib.core.baselines import METHODS
from paperlib.errors import RunError
from paperlib.evaluation.features import kernel_distance_name
from paperlib.files import write_text
from paperlib.profiles import evaluation_configs, load_profile
from paperlib.run import Run, data_faults, refuse_other_configuration

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
CORRUPTIONS = {
    "one_patch": "One Patch",
    "small_patch": "Small Patch",
    "drop_pixel": "Drop Pixel",
}
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
BEYOND = ("mse_missing", "energy", "std_coarse", "coverage_80", "seam", "seconds")
LOWER_IS_BETTER = {*DISTANCES, "mse", "mse_missing", "mse_best", "energy"}  # all others: no best
DASH = "–"
WORSE = " †"  # a learned method that ends worse than what its generator started from
STILL_FALLING = " ‡"  # MisGAN: its error was still falling in the last half of its training


def load_evaluations(profile: str, results: Path | None = None) -> pd.DataFrame:
    """Every metric of everything evaluated in a profile, one row each.

    Columns: corruption, method, seed, metric, value, low, high, images. The method is that of a
    run, "ambientgan" for the samples of MisGAN's data generator, a reference (seed 0), or a peer.

    Args:
        profile: a name in configs/, or a YAML file.
        results: the folder of the profile's results; by default below ``paths.RESULTS``.

    Raises:
        RunError: a record does not belong to the run that the profile describes, to the weights
            beside it or to the data, or rests on other data than another; the message names it.
    """
    folder = results or paths.RESULTS / Path(profile).stem
    rows: list[dict[str, Any]] = []
    data: dict[str, tuple[str | None, Path]] = {}  # folder -> checksum, and the first record of it

    def add(path: Path, config: EvaluationConfig, record: dict, method: str, key: str) -> None:
        checksum = record.get("data_checksum")
        first, other = data.setdefault(config.data.folder, (checksum, path))
        if checksum != first:
            raise RunError(f"{path} rests on other data than {other}: make both again")
        about = {"corruption": config.corruption, "method": method, "seed": record.get("seed") or 0}
        measured = dict(record[key])
        if (seconds := record.get("training", {}).get("seconds")) is not None:
            measured["seconds"] = {"value": seconds, "low": seconds, "high": seconds, "images": 0}
        rows.extend(about | {"metric": k} | values for k, values in measured.items())

    for run, record in load_records(profile, folder):
        path = folder / "runs" / run.name / "evaluation.json"
        add(path, run, record, run.method, "metrics")
        if "data_generator" in record:
            add(path, run, record, "ambientgan", "data_generator")
    for config in evaluation_configs(profile):
        for part in ("references", "peers"):
            for path in sorted((folder / part).glob(f"{config.corruption}-*.json")):
                record = records.read_record(path)
                refuse_other_configuration(path, record["config"], config)
                for fault in data_faults(path, record, config):
                    raise RunError(str(fault))
                name = record.get("peer") or path.stem.removeprefix(f"{config.corruption}-")
                add(path, config, record, name, "metrics")
    columns = ["corruption", "method", "seed", "metric", "value", "low", "high", "images"]
    return pd.DataFrame(rows, columns=columns)


def load_records(
    profile: str, results: Path | None = None
) -> Iterator[tuple[RunConfig, dict[str, Any]]]:
    """The evaluation record of each run of a profile that has one; RunError as above."""
    folder = results or paths.RESULTS / Path(profile).stem
    for config in load_profile(profile):
        run = Run(folder / "runs" / config.name)
        if (evaluation := run.evaluation) is not None:
            theirs = run.folder / "config.json"
            refuse_other_configuration(theirs, run.config.model_dump(), config)
            for fault in run.faults(numbers_only=True):
                raise RunError(str(fault))
            yield config, evaluation


def summarise(evaluations: pd.DataFrame) -> pd.DataFrame:
    """One row per (corruption, method, metric): value, interval, number of seeds and images.

    With one seed the interval is the bootstrap's over images; with several the value is their
    mean and the interval Student's over seeds, both at 95 %.
    """
    rows = []
    for key, group in evaluations.groupby(["corruption", "method", "metric"], sort=False):
        values, n = group["value"].to_numpy(float), len(group)
        if n == 1:
            value, low, high = group[["value", "low", "high"]].iloc[0].astype(float)
        else:
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


def distance_name(evaluations: pd.DataFrame) -> str:
    """Which Frechet distance the records hold: FID, or that of the features at hand."""
    return next((d for d in DISTANCES if d in set(evaluations["metric"])), DISTANCES[-1])


def table(evaluations: pd.DataFrame, methods: Sequence[str] = tuple(LABELS)) -> pd.DataFrame:
    """Every (corruption, method, metric), ours beside the paper's; NaN where there is no record.

    Columns: corruption, method, metric, value, low, high, seeds, images, paper.
    """
    distance = distance_name(evaluations)
    metrics = [distance, *METRICS, kernel_distance_name(distance)]
    names = ["corruption", "method", "metric"]
    index = pd.MultiIndex.from_product([CORRUPTIONS, methods, metrics], names=names)
    long = summarise(evaluations).set_index(names).reindex(index).reset_index()
    paper = paper_tables().drop(columns="table").replace({"metric": {"distance": distance}})
    return long.merge(paper, how="left", on=names)  # FID on Inception: another scale than ours


def cells(
    long: pd.DataFrame,
    metrics: Sequence[str],
    labels: Mapping[str, str],
    marks: Mapping[tuple[str, str], str] | None = None,
    bold: str = "**{}**",
) -> pd.DataFrame:
    """Formatted cells, the three corruptions side by side; below a method's row the paper's.

    Args:
        long: what ``table`` returns.
        metrics: those to show.
        labels: method -> what its row is called, in the order of the rows.
        marks: (corruption, method) -> what stands behind its first cell.
        bold: format of the best value of a column.
    """
    found = long.set_index(["corruption", "method", "metric"])[["value", "paper"]].to_dict("index")
    learned = long[long["method"].isin(labels) & (long["method"] != "real")]
    best = learned.groupby(["corruption", "metric"])["value"].min()
    rows: dict[str, dict[str, str]] = {}
    for method, label in labels.items():
        ours, papers = rows.setdefault(label, {}), {}
        for corruption, title in CORRUPTIONS.items():
            for metric in metrics:
                column = f"{title}: {METRICS.get(metric, metric)}"
                row = found[corruption, method, metric]
                text = _number(row["value"], metric)
                if metric in LOWER_IS_BETTER and row["value"] == best[corruption, metric]:
                    text = bold.format(text)
                mark = (marks or {}).get((corruption, method), "") if metric == metrics[0] else ""
                ours[column], papers[column] = text + mark, _number(row["paper"], "paper")
        if set(papers.values()) != {DASH}:
            rows[f"{label}, the paper"] = papers
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def marks(long: pd.DataFrame, courses: Mapping[tuple[str, str], Sequence[Mapping]]) -> dict:
    """(corruption, method) -> mark: † worse than its start by the energy score, ‡ still falling."""
    energy = long[long["metric"] == "energy"].set_index(["corruption", "method"])["value"]
    found = {}
    for corruption, method in energy.index:
        start = energy.get((corruption, "start"), np.nan)
        if method in METHODS and energy[corruption, method] > start:
            found[corruption, method] = WORSE
        errors = [look["mse_missing"] for look in courses.get((corruption, method), [])[-2:]]
        if method == "misgan" and len(errors) == 2 and errors[1] < 0.98 * errors[0]:
            found[corruption, method] = found.get((corruption, method), "") + STILL_FALLING
    return found


def rendered(profile: str, results: Path | None = None) -> dict[str, str]:
    """What ``write_tables`` writes: file name -> text."""
    name, evaluations = Path(profile).stem, load_evaluations(profile, results)
    long, distance = table(evaluations), distance_name(evaluations)
    courses = {
        (config.corruption, config.method): record.get("course", [])
        for config, record in load_records(profile, results)
    }
    marked = marks(long, courses)
    wanted = {
        "table1": ("Table 1", TABLE1, (distance, "mse", "std")),
        "table2": ("Table 2", TABLE2, (distance, "mse", "std")),
        "beyond": ("Beyond the paper", LABELS, BEYOND),
    }
    texts = {}
    for stem, (title, labels, metrics) in wanted.items():
        shown = cells(long, metrics, labels, marked)
        about = note(long, name)
        texts[f"{stem}.md"] = f"# {title}, profile {name}\n\n{to_markdown(shown)}\n{about}\n"
        texts[f"{stem}.csv"] = long[long["method"].isin(labels)].to_csv(index=False)
        latex = cells(long, metrics, labels, bold=r"\textbf{{{}}}").to_latex(escape=False)
        texts[f"{stem}.tex"] = f"{latex}% {about}\n".replace(" %", r" \%")
    return texts


def write_tables(profile: str) -> list[Path]:
    """Write Tables 1 and 2 and the one beyond as ``.csv``, ``.md`` and ``.tex``; their paths."""
    return write_texts(paths.RESULTS / Path(profile).stem, rendered(profile))


def write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write text files by name, each atomically; return their paths."""
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def to_markdown(shown: pd.DataFrame) -> str:
    """A Markdown table of formatted cells, the index as its first column."""
    return shown.to_markdown(disable_numparse=True) + "\n"


def note(long: pd.DataFrame, profile: str) -> str:
    """What must be said below a table of a profile."""
    done = long[long["value"].notna() & (long["images"] > 0)]
    if done.empty:
        return f"No run of {profile} has been evaluated yet."
    images, seeds = int(done["images"].min()), done["seeds"].astype(int)
    count = " to ".join(dict.fromkeys(map(str, (seeds.min(), seeds.max()))))
    distance = long["metric"].iloc[0]
    text = (
        f"{images} test images, {count} seed(s) a run; best of a column in bold; {DASH}: no record; "
        f"{WORSE.strip()}: worse in energy score than what its generator started from; "
        f"{STILL_FALLING.strip()}: not converged, its error was still falling. MSE and std on the "
        "scale [-1, 1]; MSE is over the whole image. Distances are to complete images of the "
        "training split, none of them one that is filled in. "
    )
    if distance != "FID":
        text += (
            f"{distance} is the Frechet distance on EfficientNet-Lite0 features, not comparable "
            "with the paper's FID. "
        )
    return text + "The paper's rows are of CelebA at 128 px."


def _number(value: float, metric: str) -> str:
    if pd.isna(value):
        return DASH
    if metric == "paper":
        return f"{value:g}"
    digits = {"seconds": 0, "seam": 2, "coverage_80": 2} | dict.fromkeys(DISTANCES, 1)
    return f"{value:.{digits.get(metric, 4)}f}"
