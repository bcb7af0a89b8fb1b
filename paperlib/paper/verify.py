"""Check everything in a results folder against everything else: ``python -m paperlib verify``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from paperlib import paths, records
from paperlib.config import DataConfig, EvaluationConfig
from paperlib.data.prepare import load_prepared
from paperlib.errors import ConfigurationError, DataError, RunError
from paperlib.evaluation.metrics import METRICS_VERSION
from paperlib.paper import claims, tables
from paperlib.profiles import load_profile
from paperlib.run import Fault, Run, data_faults, refuse_other_configuration

PARTS = ("references", "peers")


def verify(results: Path) -> tuple[list[Fault], str]:
    """All faults below ``results``, and in a line what was looked at. Nothing is changed.

    Of each run its configuration, record, weights, snapshots, log, checkpoints, evaluation and
    selection; the records of references and peers; the tables and claims, written anew from the
    records and compared; and the prepared data that all of these rest on.

    Args:
        results: the folder of all profiles' results, or that of one profile.

    Raises:
        RunError: there is nothing to verify.
    """
    runs = [Run(path.parent) for path in sorted(results.rglob("config.json"))]
    measured = [path for part in PARTS for path in sorted(results.rglob(f"{part}/*.json"))]
    written = sorted({path.parent for path in results.rglob("table1.md")})
    if not runs and not measured:
        raise RunError(f"{results} holds no results: give a folder like results/ or results/quick")
    data: dict[str, DataConfig] = {}
    faults: list[Fault] = []
    for run in runs:
        faults += run.faults()
        if run.is_trained and not any(f.path.parent == run.folder for f in faults):
            data[run.config.data.folder] = run.config.data
            faults += _version_faults(run.folder / "evaluation.json", run.evaluation)
    for path in measured:
        faults += _record_faults(path, data)
    for folder in written:
        faults += _table_faults(folder)
    for config in data.values():
        faults += _prepared_faults(config)
    counts = (
        f"{len(runs)} runs, {len(measured)} references and peers, {len(written)} profiles' tables"
    )
    return list(dict.fromkeys(faults)), f"{counts}, {len(data)} prepared data sets"


def _record_faults(path: Path, data: dict[str, DataConfig]) -> Iterator[Fault]:
    """Of what was not trained here."""
    try:
        record = records.read_record(path)
        config = EvaluationConfig.parse(record.get("config", {}), str(path))
        for ours in load_profile(path.parent.parent.name):
            if ours.corruption == config.corruption:
                refuse_other_configuration(path, record["config"], ours.evaluation)
    except RunError as error:
        yield Fault("altered", path, str(error))
        return
    except ConfigurationError:  # a profile from elsewhere: what is said of itself must do
        pass
    data[config.data.folder] = config.data
    yield from _version_faults(path, record)
    yield from data_faults(path, record, config)


def _version_faults(path: Path, record: dict | None) -> Iterator[Fault]:
    if record and record.get("rests_on", {}).get("metrics", METRICS_VERSION) != METRICS_VERSION:
        yield Fault("stale", path, "other metrics would be taken now: evaluate again")


def _table_faults(folder: Path) -> Iterator[Fault]:
    """Tables and claims other than those that the records give now."""
    again = f"run 'python -m paperlib tables {folder.name}'"
    try:
        now = tables.rendered(folder.name, folder) | claims.rendered(folder.name, folder)
    except (RunError, ConfigurationError) as error:
        yield Fault("stale", folder / "table1.md", f"its records do not go in it ({error})")
        return
    for name, text in now.items():
        if not (path := folder / name).is_file():
            yield Fault("missing", path, again)
        elif path.read_text(encoding="utf-8") != text:
            yield Fault("stale", path, f"not what the records say: {again}")


def _prepared_faults(config: DataConfig) -> Iterator[Fault]:
    folder = paths.DATA / config.folder
    if not folder.is_dir():
        yield Fault("missing", folder, "run 'python -m paperlib prepare'")
        return
    try:
        yield from (Fault("altered", folder, what) for what in load_prepared(config).faults())
    except DataError as error:
        yield Fault("altered", folder, str(error))
