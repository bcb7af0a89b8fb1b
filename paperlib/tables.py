"""Tables from evaluation records, and from nothing else. A run without a record shows a dash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from paperlib import paths, records
from paperlib.config import RunConfig, load_profile
from paperlib.features import kernel_distance_name

METHODS = {
    "base": "base (eq. 5)",
    "encoding_z": "encoding z (eq. 6)",
    "encoding_y": "encoding y (eq. 7)",
    "both": "both (eq. 8)",
}
CORRUPTIONS = {
    "one_patch": "One Patch",
    "small_patch": "Small Patch",
    "drop_pixel": "Drop Pixel",
}
DISTANCES = ("FID", "FD-efflite0")
LOWER_IS_BETTER = {"FID", "FD-efflite0", "mse", "mse_missing", "mse_best"}
HIGHER_IS_BETTER = {"std"}
LABELS = {
    "mse": "MSE",
    "std": "std",
    "mse_missing": "MSE missing",
    "mse_interior": "MSE interior",
    "mse_without_z": "MSE missing, z = 0",
    "mse_best": "best of 10",
    "seam": "seam ratio",
}
DASH = "–"


def load_evaluations(profile: str) -> pd.DataFrame:
    """Every metric of every evaluated run of a profile, one row each.

    Columns: corruption, method, seed, metric, value, low, high, images.

    Raises:
        RunError: a record does not belong to the run that the profile describes, or to the
            generator beside it; the message names it.
    """
    rows = []
    for config in load_profile(profile):
        run = paths.runs(Path(profile).stem) / config.name
        if not (run / "evaluation.json").is_file():
            continue
        record = records.read_json(run / "evaluation.json")
        _check(record, config, run)
        for metric, measured in record["metrics"].items():
            rows.append(
                {
                    "corruption": config.corruption,
                    "method": config.method,
                    "seed": config.seed,
                    "metric": metric,
                    **measured,
                }
            )
    columns = ["corruption", "method", "seed", "metric", "value", "low", "high", "images"]
    return pd.DataFrame(rows, columns=columns)


def _check(record: dict[str, Any], config: RunConfig, run: Path) -> None:
    records.refuse_other_configuration(run / "evaluation.json", record["config"], config)
    trained = records.read_json(run / "record.json")
    if record["rests_on"]["generator_checksum"] != trained["generator_checksum"]:
        raise records.RunError(f"{run} was trained again after its evaluation: evaluate it again")


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


def paper_table1() -> pd.DataFrame:
    """The paper's Table 1: method, corruption, and its FID, MSE and std."""
    table = pd.read_csv(Path(__file__).with_name("paper_tables.csv"))
    return table[table["table"] == 1].rename(columns={"model": "method"})


def table1(profile: str) -> pd.DataFrame:
    """Table 1 in long form, ours beside the paper's; NaN where a run has no record.

    Columns: corruption, method, metric, value, low, high, seeds, images, paper.
    """
    measured = summarise(load_evaluations(profile))
    distance = next((d for d in DISTANCES if d in set(measured["metric"])), DISTANCES[-1])
    metrics = [distance, "mse", "std", "mse_missing", "mse_interior", "mse_without_z", "mse_best",
               "seam", kernel_distance_name(distance)]  # fmt: skip
    index = pd.MultiIndex.from_product(
        [CORRUPTIONS, METHODS, metrics], names=["corruption", "method", "metric"]
    )
    table = measured.set_index(index.names).reindex(index).reset_index()
    paper = paper_table1().melt(
        ["corruption", "method"], ["fid", "mse", "std"], var_name="metric", value_name="paper"
    )
    paper["metric"] = paper["metric"].replace("fid", distance)  # FID on Inception: another scale
    return table.merge(paper, how="left", on=["corruption", "method", "metric"])


def wide(table: pd.DataFrame, metrics: list[str], bold: str, interval: str) -> pd.DataFrame:
    """Formatted cells: a row per method, columns (corruption, metric or "paper").

    Args:
        table: what ``table1`` returns.
        metrics: those to show.
        bold: format of the best value in a column, e.g. ``"**{}**"``.
        interval: format of the interval, e.g. ``" [{low}, {high}]"``.
    """
    columns: dict[tuple[str, str], list[str]] = {}
    for corruption, title in CORRUPTIONS.items():
        for metric in metrics:
            part = table[(table["corruption"] == corruption) & (table["metric"] == metric)]
            part = part.set_index("method").reindex(METHODS)
            best = _best(part["value"], metric)
            columns[title, LABELS.get(metric, metric)] = [
                _cell(row, metric, bold if method == best else "{}", interval)
                for method, row in part.iterrows()
            ]
            if part["paper"].notna().any():
                name = "paper's FID" if metric in DISTANCES else f"paper's {LABELS[metric]}"
                columns[title, name] = [f"{v:g}" for v in part["paper"]]
    return pd.DataFrame(columns, index=pd.Index(METHODS.values(), name="Model"))


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
    order = pd.MultiIndex.from_product([CORRUPTIONS, METHODS], names=["corruption", "method"])
    return result.reindex(order)


def write_tables(profile: str) -> list[Path]:
    """Write ``table1.csv``, ``.md`` and ``.tex`` into the profile's results; return their paths."""
    name = Path(profile).stem
    table = table1(profile)
    folder = paths.RESULTS / name
    target = folder / "table1.csv"
    records.write_atomically(target, lambda draft: table.to_csv(draft, index=False))
    distance = table["metric"].iloc[0]
    beyond = ["mse_missing", "mse_without_z", "mse_best", "seam",
              kernel_distance_name(distance)]  # fmt: skip
    note = _note(table, name, distance)
    markdown = f"# Table 1, profile {name}\n\n"
    for corruption, title in CORRUPTIONS.items():
        part = table[table["corruption"] == corruption]
        markdown += f"## {title}\n\n"
        for metrics in ([distance, "mse", "std"], beyond):
            cells = wide(part, metrics, "**{}**", " [{low}, {high}]")[title]
            markdown += _to_markdown(cells) + "\n"
    latex = wide(table, [distance, "mse", "std"], r"\textbf{{{}}}", "").to_latex(
        multicolumn_format="c", column_format="l" + "r" * 18, escape=False
    )
    written = {".md": markdown + note + "\n", ".tex": latex + f"% {note}\n"}
    for suffix, text in written.items():
        records.write_atomically(
            folder / f"table1{suffix}", lambda d, text=text: d.write_text(text)
        )
    return [target, *(folder / f"table1{suffix}" for suffix in written)]


def _note(table: pd.DataFrame, profile: str, distance: str) -> str:
    done = table.dropna(subset=["value"])
    if done.empty:
        return f"No run of {profile} has been evaluated yet."
    images, seeds = int(done["images"].min()), sorted(done["seeds"].astype(int).unique())
    text = (
        f"{images} test images, {' to '.join(map(str, {seeds[0], seeds[-1]}))} seed(s) a run; "
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
    digits = 1 if metric in DISTANCES else 2 if metric == "seam" else 4

    def text(number: float) -> str:
        return f"{number:.{digits}f}"

    return style.format(text(row["value"])) + interval.format(
        low=text(row["low"]), high=text(row["high"])
    )


def _to_markdown(cells: pd.DataFrame) -> str:
    header = [cells.index.name, *cells.columns]
    lines = [
        header,
        ["---"] * len(header),
        *([name, *row] for name, row in zip(cells.index, cells.to_numpy(), strict=True)),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
