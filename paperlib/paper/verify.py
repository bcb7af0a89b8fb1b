"""Check everything in a results folder against everything else: ``python -m paperlib verify``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from paperlib import paths
from paperlib.config import DataConfig, EvaluationConfig
from paperlib.data.prepare import load_prepared
from paperlib.errors import ConfigurationError, DataError, RunError
from paperlib.evaluation.metrics import METRICS_VERSION
from paperlib.paper import claims, tables
from paperlib.records import read_record
from paperlib.run import Run, check_data


def verify(results: Path) -> tuple[list[str], str]:
    """What is wrong below ``results``, of all profiles or of one, and in a line what was looked at.

    Of each run all files, up to the first fault; the records of references and peers; the tables and
    claims, written anew from the records and compared; and the prepared data that these rest on.
    Nothing is changed. RunError where there is nothing to verify.
    """
    runs = [Run(path.parent) for path in sorted(results.rglob("config.json"))]
    measured = [path for part in tables.PARTS for path in sorted(results.rglob(f"{part}/*.json"))]
    folders = [path.parent for path in sorted(results.rglob("table1.md"))]
    written = [folder for folder in folders if paths.config(folder.name).is_file()]
    if not (runs or measured):
        raise RunError(f"{results} holds no results: give a folder like results/ or results/quick")
    faults: dict[str, None] = {}  # in the order in which they were found

    def collect(check: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """What ``check`` returns for each of the items that are well."""
        found = []
        for item in items:
            try:
                found.append(check(item))
            except (RunError, DataError, ConfigurationError, OSError) as error:
                faults[str(error)] = None
        return found

    data = {*collect(_check_run, runs), *collect(_check_record, measured)}
    collect(_check_tables, written)
    collect(lambda config: load_prepared(config).check(), data)
    counts = f"{len(runs)} runs, {len(measured)} references and peers, "
    counts += f"{len(written)} profiles' tables, {len(data)} prepared data sets"
    return list(faults), counts


def _check_run(run: Run) -> DataConfig:
    run.check()
    _check_version(run.folder / "evaluation.json", run.evaluation or {})
    return run.config.data


def _check_record(path: Path) -> DataConfig:
    """Of what was not trained here."""
    record = read_record(path)
    config = EvaluationConfig.parse(record.get("config", {}), str(path))
    _check_version(path, record)
    check_data(path, record, config)
    return config.data


def _check_version(path: Path, record: dict[str, Any]) -> None:
    if record.get("rests_on", {}).get("metrics", METRICS_VERSION) != METRICS_VERSION:
        raise RunError(f"{path} is stale, other metrics would be taken now: evaluate again")


def _check_tables(folder: Path) -> None:
    """Tables and claims are those that the records give now."""
    name = folder.name
    records = tables.load_records(name, folder)
    for file, text in (tables.rendered(name, records) | claims.rendered(name, records)).items():
        if (folder / file).read_text(encoding="utf-8") != text:
            again = f"run 'python -m paperlib tables {name}'"
            raise RunError(f"{folder / file} is stale, not what the records say: {again}")
