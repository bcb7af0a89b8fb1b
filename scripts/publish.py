"""Publish what a profile has: its records, tables, claims and figures in docs/results/PROFILE.

    python scripts/publish.py PROFILE     then, of some, the table in one of PAGES
    python scripts/publish.py --again     everything that follows from the committed records, anew
    python scripts/publish.py --restore PROFILE     the committed records back into results/PROFILE/

What another machine has run is restored without its weights: enough for the tables, so that a
profile's runs may be trained in several places and published together.

``records.json`` holds all records as they were written. Tables, claims and the tables of PAGES are
made of it alone, so that anyone can make them again without a run; a test compares them.
"""

from __future__ import annotations

import json
import re
import shutil
import sys

import paperlib.beyond  # noqa: F401, its methods have names too
from paperlib import paths
from paperlib.files import write_text
from paperlib.paper import claims, tables
from paperlib.profiles import load_profile
from paperlib.records import read_json, read_record, write_json
from paperlib.run import Run

PUBLISHED = paths.ROOT / "docs" / "results"
PAGES = {"digits": paths.ROOT / "README.md", "celeba32": paths.ROOT / "docs" / "measurements.md"}
FIGURES = ("figure4", "figure5", "one_patch")  # none of CelebA, ever
SHOWN = ("energy", "std_coarse")  # on a page, after the distance
ROWS = (
    "real", "start", "mean", "linear", "biharmonic", "unpaired", "paired", "misgan", "base",
    "encoding_z", "encoding_y", "both", "scored",
)  # fmt: skip
TABLE = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end of results -->)", re.DOTALL)


def collect(profile: str) -> dict[str, dict]:
    """All records of a profile below results/, checked by ``tables.load_records`` first."""
    tables.load_records(profile)
    folder = paths.RESULTS / profile
    runs = [Run(folder / "runs" / config.name) for config in load_profile(profile)]
    done = {run.folder.name: run for run in runs if run.is_trained and run.evaluation}
    references = sorted((folder / "references").glob("*.json"))
    return {
        "training": {name: run.record for name, run in done.items()},
        "evaluation": {name: run.evaluation for name, run in done.items()},
        "references": {path.stem: read_record(path) for path in references},
    }


def committed(profile: str) -> tables.Records:
    """The records of ``records.json``, as ``tables.load_records`` gives those on disk."""
    stored = read_json(PUBLISHED / profile / "records.json")
    return tables.by_method(stored["evaluation"].values(), stored["references"])


def texts(profile: str, records: tables.Records) -> dict[str, str]:
    """Tables and claims: file name -> text."""
    return tables.rendered(profile, records) | claims.rendered(profile, records)


def short_table(profile: str, records: tables.Records) -> str:
    """The table of a page: distance, energy score and coarse std, the mean over seeds."""
    run = load_profile(profile)[0]
    distance = tables.distance_name(records)
    names = ["corruption", "method", "metric"]
    means = tables.summarise(tables.evaluations(records)).set_index(names)["value"]

    def cell(corruption: str, method: str) -> str:
        values = [means.get((corruption, method, metric)) for metric in (distance, *SHOWN)]
        shown = [f"{v:{'.0f' if i == 0 else '.3f'}}" for i, v in enumerate(values) if v is not None]
        return ", ".join(shown) or tables.DASH

    first, *others = tables.CORRUPTIONS.values()
    columns = f"{first}: FD, energy, coarse std | {' | '.join(others)}"
    lines = [f"| {run.dataset}, {run.size} px | {columns} |"]
    lines.append("| --- " * 4 + "|")
    for method in ROWS:
        cells = " | ".join(cell(corruption, method) for corruption in tables.CORRUPTIONS)
        lines.append(f"| {tables.LABELS[method]} | {cells} |")
    return "\n".join(lines) + "\n"


def write_again(profile: str) -> None:
    """All that follows from the committed records of a profile."""
    records = committed(profile)
    for name, text in texts(profile, records).items():
        write_text(PUBLISHED / profile / name, text)
    if page := PAGES.get(profile):
        write_text(page, TABLE.sub(lambda _: short_table(profile, records), page.read_text()))


def publish(profile: str) -> None:
    """Copy records and figures of a profile, and write what follows from them."""
    target = PUBLISHED / profile
    write_text(target / "records.json", json.dumps(collect(profile)) + "\n")
    if load_profile(profile)[0].dataset != "celeba":
        for figure in (paths.RESULTS / profile / f"{name}.png" for name in FIGURES):
            if figure.is_file():
                shutil.copy(figure, target)
    write_again(profile)


def restore(profile: str) -> None:
    """Write the committed records where ``tables`` looks for them; what is there stays."""
    stored, folder = read_json(PUBLISHED / profile / "records.json"), paths.RESULTS / profile
    files = {f"references/{name}.json": each for name, each in stored["references"].items()}
    for name, trained in stored["training"].items():
        files[f"runs/{name}/config.json"] = trained["config"]
        files[f"runs/{name}/record.json"] = trained
        files[f"runs/{name}/evaluation.json"] = stored["evaluation"][name]
    for name, values in files.items():
        if not (folder / name).exists():
            write_json(folder / name, values)


def published() -> list[str]:
    """The profiles whose committed records are of this form."""
    found = sorted(PUBLISHED.glob("*/records.json"))
    return [path.parent.name for path in found if "evaluation" in json.loads(path.read_text())]


if __name__ == "__main__":
    first, *others = sys.argv[1:]
    for name in published() if first == "--again" else others or [first]:
        print(f"{PUBLISHED / name}: {first}")
        {"--again": write_again, "--restore": restore}.get(first, publish)(name)
