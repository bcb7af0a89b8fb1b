"""One page of a profile: tables, claims, figures, training curves, environment, notebooks.

It reads records and files; every number is a cell of ``tables`` or ``claims``. The page loads
nothing from elsewhere: pictures are part of it, and only the links to the executed notebooks need
the folder around it.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import pandas as pd
from markupsafe import Markup, escape

from paperlib import claims, paths, plots, records, tables
from paperlib.config import RunConfig, load_profile
from paperlib.files import write_text
from paperlib.tables import CORRUPTIONS, DASH

FIGURES = {
    "figure4": "Figure 4: reconstructions for different z, Small Patch",
    "figure5": "Figure 5: reconstructions for different z, Drop Pixel",
    "one_patch": "Reconstructions for different z, One Patch",
    "uncertainty-*": "Mean and standard deviation over z: {}",
    "comparison-*": "Beside the baselines and the references: {}",
    "diversity": "Diversity against fidelity, one point a method and seed",
    "calibration": "What the samples' central intervals cover",
    "course": "Distance against the seconds of training",
    "curves-*": "Training curves of all runs: {}",
}
"""The pictures of the notebooks, in the page's order; {} is what the * stands for."""


@dataclass
class Run:
    """A run as the page lists it; a dash for what is not there."""

    name: str
    trained: str
    evaluated: str
    updates: str
    seconds: str
    images_per_second: str
    notebooks: dict[str, str]  # what it is -> relative link
    curves: str  # a picture, or a dash


def write_report(profile: str) -> Path:
    """Write ``report.html`` into the profile's results; return its path.

    Raises:
        ConfigurationError: no such profile.
        RunError: a record does not belong to its run.
    """
    plots.use_style()
    name = Path(profile).stem
    out = paths.RESULTS / name
    judged = claims.claims_table(profile)
    table1, table2 = tables.table1(profile), tables.table2(profile)
    runs = [_run(out, config) for config in load_profile(profile)]
    page = _template().render(
        profile=name,
        tables=[
            ("Table 1", list(tables.sections(table1, tables.TABLE1))),
            ("Table 2", list(tables.sections(table2, tables.TABLE2))),
        ],
        note=tables.note(table2, name),
        verdicts=claims.verdicts(judged),
        statements=claims.statements(judged),
        rule=claims.rule(judged),
        figures=list(_figures(out)),
        runs=runs,
        missing=[run.name for run in runs if DASH in (run.trained, run.evaluated)],
        environment=_environment(out),
        notebooks=_links(out, ["01_prepare_data-*", "05_figures", "06_tables"]),
        dash=DASH,
    )
    target = out / "report.html"
    write_text(target, page)
    return target


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["emphasis"] = _emphasis
    return environment.get_template("report.html.jinja")


def _emphasis(text: Any) -> Markup:
    """Markdown's ** of the tables' cells as HTML; all else escaped."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text))))


def _figures(out: Path) -> Iterator[tuple[str, str, str | None]]:
    """(caption, picture as a data URI, relative link to the PDF or None) of each that is there."""
    for pattern, caption in FIGURES.items():
        for path in sorted(out.glob(f"{pattern}.png")):
            of = path.stem.partition("-")[2]
            pdf = path.with_suffix(".pdf")
            shown = caption.format(CORRUPTIONS.get(of, of))
            yield shown, _picture(path.read_bytes()), pdf.name if pdf.is_file() else None


def _picture(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _run(out: Path, config: RunConfig) -> Run:
    run = out / "runs" / config.name
    trained = _record(run / "record.json")
    log = records.read_log(run)
    return Run(
        name=config.name,
        trained=trained.get("date", DASH),
        evaluated=_record(run / "evaluation.json").get("date", DASH),
        updates=str(trained.get("steps", DASH)),
        seconds=f"{trained['seconds']:.0f}" if "seconds" in trained else DASH,
        images_per_second=f"{trained['images_per_second']:.0f}" if "images_per_second" in trained else DASH,
        notebooks=_links(out, [f"train-{config.name}", f"04_evaluate-{config.name}"]),
        curves=_curves(log) if log else DASH,
    )  # fmt: skip


def _curves(log: list[dict[str, Any]]) -> str:
    figure = plots.curves_figure(log)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    plt.close(figure)
    return _picture(content.getvalue())


def _record(path: Path) -> dict[str, Any]:
    return records.read_json(path) if path.is_file() else {}


def _links(out: Path, patterns: list[str]) -> dict[str, str]:
    """Executed notebooks: name -> link from the page."""
    found = [p for pattern in patterns for p in sorted(out.glob(f"notebooks/{pattern}.ipynb"))]
    return {path.stem: path.relative_to(out).as_posix() for path in found}


def _environment(out: Path) -> pd.DataFrame:
    """What the records say of where they were made: one row a distinct value, and by how many.

    Columns: what, value, records.
    """
    rows = []
    for path in sorted(out.glob("runs/*/record.json")) + sorted(out.glob("runs/*/evaluation.json")):
        record = records.read_json(path)
        what = "training" if path.name == "record.json" else "evaluation"
        hardware = record.get("hardware", {})
        facts = {
            f"day of {what}": record.get("date", "")[:10],
            f"commit of {what}": record.get("commit"),
        }
        facts |= {"data": record.get("data_checksum"), "Python": record.get("python")}
        facts |= record.get("versions", {}) | hardware
        rows += [{"what": k, "value": str(v)} for k, v in facts.items() if v not in (None, "")]
    table = pd.DataFrame(rows, columns=["what", "value"])
    return table.value_counts(sort=False).rename("records").reset_index()
