"""Tables from evaluation records, and from nothing else. A run without a record shows a dash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from paperlib import paths, records
from paperlib.config import EvaluationConfig, RunConfig
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
}
TABLE2 = {
    # without learning
    "mean": "mean fill",
    "linear": "linear interpolation",
    "biharmonic": "biharmonic",
    "telea": "Telea",
    "navier_stokes": "Navier-Stokes",
    # from complete images
    "unpaired": "Unpaired",
    "paired": "Paired",
    # from incomplete images alone
    "misgan": "MisGAN",
    "ambientgan": "AmbientGAN: MisGAN's own samples",
    "uair": "UAIR of deepinv (no z, no fresh masks)",
    "both": "both (eq. 8)",
    "mask_aware": "mask-aware (ours)",
}
CORRUPTIONS = {
    "one_patch": "One Patch",
    "small_patch": "Small Patch",
    "drop_pixel": "Drop Pixel",
}
DISTANCES = ("FID", "FD-efflite0")
CALIBRATION = ["energy", "coverage_50", "coverage_80"]
LOWER_IS_BETTER = {"FID", "FD-efflite0", "mse", "mse_missing", "mse_best", "energy"}
HIGHER_IS_BETTER = {"std"}
LABELS = {
    "mse": "MSE",
    "std": "std",
    "mse_missing": "MSE missing",
    "mse_interior": "MSE interior",
    "mse_without_z": "MSE missing, z = 0",
    "mse_best": "best of 10",
    "seam": "seam ratio",
    "energy": "energy score",
    "coverage_50": "50 % intervals cover",
    "coverage_80": "80 % intervals cover",
}
DASH = "–"


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
        seed = record.get("seed") or 0
        about = {"corruption": config.corruption, "method": method, "seed": seed}
        rows.extend(about | {"metric": k} | measured for k, measured in record[key].items())

    for run, record in load_records(profile, folder):
        path = folder / "runs" / run.name / "evaluation.json"
        add(path, run, record, run.method, "metrics")
        if "data_generator" in record:
            add(path, run, record, "ambientgan", "data_generator")
    for config in evaluation_configs(profile):
        for part in ("references", "peers"):
            for path in sorted((folder / part).glob(f"{config.corruption}-*.json")):
                record = _of_configuration(path, config)
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
        if (run.folder / "evaluation.json").is_file():
            refuse_other_configuration(run.folder / "config.json", run.config.model_dump(), config)
            for fault in run.faults(numbers_only=True):
                raise RunError(str(fault))
            yield config, run.evaluation or {}


def _of_configuration(path: Path, config: EvaluationConfig) -> dict[str, Any]:
    record = records.read_record(path)
    refuse_other_configuration(path, record["config"], config)
    for fault in data_faults(path, record, config):
        raise RunError(str(fault))
    return record


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
        images = int(group["images"].min())
        rows.append([*key, value, low, high, n, images])
    columns = ["corruption", "method", "metric", "value", "low", "high", "seeds", "images"]
    return pd.DataFrame(rows, columns=columns)


def paper_table(number: int) -> pd.DataFrame:
    """The paper's Table 1 or 2: method, corruption, and its FID, MSE and std.

    In Table 2 "our model" is ``both`` of Table 1.
    """
    table = pd.read_csv(Path(__file__).with_name("paper_tables.csv"))
    table = table.rename(columns={"model": "method"})
    here = table["table"] == number
    return table[here | (table["method"] == "both")] if number == 2 else table[here]


def table1(profile: str, results: Path | None = None) -> pd.DataFrame:
    """Table 1 in long form, ours beside the paper's; NaN where a run has no record.

    Columns: corruption, method, metric, value, low, high, seeds, images, paper.
    """
    return _beside_the_paper(load_evaluations(profile, results), list(TABLE1), paper_table(1))


def table2(profile: str, results: Path | None = None) -> pd.DataFrame:
    """Table 2, with the references, in the form of ``table1``."""
    return _beside_the_paper(load_evaluations(profile, results), list(TABLE2), paper_table(2))


def distance_name(evaluations: pd.DataFrame) -> str:
    """Which Frechet distance the records hold: FID, or that of the features at hand."""
    return next((d for d in DISTANCES if d in set(evaluations["metric"])), DISTANCES[-1])


def _beside_the_paper(
    evaluations: pd.DataFrame, methods: list[str], paper: pd.DataFrame
) -> pd.DataFrame:
    distance = distance_name(evaluations)
    metrics = [distance, "mse", "std", "mse_missing", "mse_interior", "mse_without_z", "mse_best",
               "seam", kernel_distance_name(distance), *CALIBRATION]  # fmt: skip
    index = pd.MultiIndex.from_product(
        [CORRUPTIONS, methods, metrics], names=["corruption", "method", "metric"]
    )
    table = summarise(evaluations).set_index(index.names).reindex(index).reset_index()
    paper = paper.melt(
        ["corruption", "method"], ["fid", "mse", "std"], var_name="metric", value_name="paper"
    )
    paper["metric"] = paper["metric"].replace("fid", distance)  # FID on Inception: another scale
    return table.merge(paper, how="left", on=["corruption", "method", "metric"])


def wide(
    table: pd.DataFrame,
    metrics: list[str],
    bold: str,
    interval: str,
    labels: dict[str, str] = TABLE1,
) -> pd.DataFrame:
    """Formatted cells: a row per method, columns (corruption, metric or "paper").

    Args:
        table: what ``table1`` or ``table2`` returns.
        metrics: those to show.
        bold: format of the best value in a column, e.g. ``"**{}**"``.
        interval: format of the interval, e.g. ``" [{low}, {high}]"``.
        labels: method -> what its row is called, in the order of the rows.
    """
    columns: dict[tuple[str, str], list[str]] = {}
    for corruption, title in CORRUPTIONS.items():
        for metric in metrics:
            part = table[(table["corruption"] == corruption) & (table["metric"] == metric)]
            part = part.set_index("method").reindex(labels)
            best = _best(part["value"], metric)
            columns[title, LABELS.get(metric, metric)] = [
                _cell(row, metric, bold if method == best else "{}", interval)
                for method, row in part.iterrows()
            ]
            if part["paper"].notna().any():
                name = "paper's FID" if metric in DISTANCES else f"paper's {LABELS[metric]}"
                columns[title, name] = [DASH if pd.isna(v) else f"{v:g}" for v in part["paper"]]
    return pd.DataFrame(columns, index=pd.Index(labels.values(), name="Model"))


def diversity(table: pd.DataFrame) -> pd.DataFrame:
    """Whether diversity is real, per corruption and method, from what ``table1`` returns.

    Columns: std over that of base, ours and the paper's; and the error of samples over missing
    pixels in units of the error at z = 0.
    """
    values = table.pivot(index=["corruption", "method"], columns="metric", values="value")
    paper = table.pivot(index=["corruption", "method"], columns="metric", values="paper")

    def over_base(std: pd.Series) -> pd.Series:
        return std / std.groupby("corruption").transform(
            lambda s: s.xs("base", level="method").iloc[0]
        )

    result = pd.DataFrame(
        {
            "std / base": over_base(values["std"]),
            "paper's std / base": over_base(paper["std"]),
            "MSE / MSE at z = 0": values["mse_missing"] / values["mse_without_z"],
        }
    )
    order = pd.MultiIndex.from_product([CORRUPTIONS, TABLE1], names=["corruption", "method"])
    return result.reindex(order)


def write_tables(profile: str) -> list[Path]:
    """Write ``table1`` and ``table2`` as ``.csv``, ``.md`` and ``.tex`` into the profile's results.

    Returns:
        the six paths, Table 1's first.
    """
    return write_texts(paths.RESULTS / Path(profile).stem, rendered(profile))


def write_texts(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Write text files by name, each atomically; return their paths."""
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def rendered(profile: str, results: Path | None = None) -> dict[str, str]:
    """What ``write_tables`` writes: file name -> text."""
    name = Path(profile).stem
    return {
        **_rendered(name, "Table 1", table1(profile, results), TABLE1),
        **_rendered(name, "Table 2", table2(profile, results), TABLE2),
    }


def _rendered(name: str, title: str, table: pd.DataFrame, labels: dict[str, str]) -> dict[str, str]:
    stem = title.lower().replace(" ", "")
    distance = table["metric"].iloc[0]
    about = note(table, name)
    markdown = f"# {title}, profile {name}\n\n"
    for heading, parts in sections(table, labels):
        markdown += f"## {heading}\n\n"
        markdown += "".join(to_markdown(cells) + "\n" for cells in parts)
    latex = wide(table, [distance, "mse", "std"], r"\textbf{{{}}}", "", labels).to_latex(
        multicolumn_format="c", column_format="l" + "r" * 18, escape=False
    )
    return {
        f"{stem}.csv": table.to_csv(index=False),
        f"{stem}.md": markdown + about + "\n",
        f"{stem}.tex": latex + f"% {about}\n",
    }


def sections(
    table: pd.DataFrame, labels: dict[str, str]
) -> Iterator[tuple[str, list[pd.DataFrame]]]:
    """A table part by part: a corruption's heading and its formatted cells, best in ``**``.

    Args:
        table: what ``table1`` or ``table2`` returns.
        labels: method -> what its row is called, in the order of the rows.
    """
    distance = table["metric"].iloc[0]
    beyond = ["mse_missing", "mse_without_z", "mse_best", "seam",
              kernel_distance_name(distance)]  # fmt: skip
    for corruption, heading in CORRUPTIONS.items():
        part = table[table["corruption"] == corruption]
        shown = ([distance, "mse", "std"], beyond, CALIBRATION)
        yield (
            heading,
            [wide(part, m, "**{}**", " [{low}, {high}]", labels)[heading] for m in shown],
        )


def note(table: pd.DataFrame, profile: str) -> str:
    """What must be said below a table of a profile."""
    distance = table["metric"].iloc[0]
    done = table.dropna(subset=["value"])
    if done.empty:
        return f"No run of {profile} has been evaluated yet."
    images, seeds = int(done["images"].min()), sorted(done["seeds"].astype(int).unique())
    text = (
        f"{images} test images, {' to '.join(dict.fromkeys(map(str, (seeds[0], seeds[-1]))))} seed(s) a run; "
        f"95 % intervals; best of a column in bold; {DASH}: no record. "
        "MSE and std on the scale [-1, 1]; MSE is over the whole image. "
    )
    if distance != "FID":
        text += (
            f"{distance} is the Frechet distance on EfficientNet-Lite0 features, not comparable "
            "with the paper's FID. "
        )
    return text + "The paper's columns are of CelebA at 128 px."


def _best(values: pd.Series, metric: str) -> str | None:
    if values.notna().sum() < 2:
        return None
    if metric in LOWER_IS_BETTER or metric.startswith("KID"):
        return values.idxmin()
    return values.idxmax() if metric in HIGHER_IS_BETTER else None


def _cell(row: pd.Series, metric: str, style: str, interval: str) -> str:
    if pd.isna(row["value"]):
        return DASH
    digits = 1 if metric in DISTANCES else 2 if metric == "seam" or "coverage" in metric else 4

    def text(number: float) -> str:
        return f"{number:.{digits}f}"

    return style.format(text(row["value"])) + interval.format(
        low=text(row["low"]), high=text(row["high"])
    )


def to_markdown(cells: pd.DataFrame) -> str:
    """A Markdown table of formatted cells, the index as its first column."""
    return cells.to_markdown(disable_numparse=True) + "\n"
