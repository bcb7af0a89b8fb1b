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


def verify(results: Path) -> tuple[list[Fault], str]:
    """All faults below ``results``, and in a line what was looked at. Nothing is changed.

    Of each run its configuration, record, weights, snapshots, log, checkpoints, evaluation and
    selection; the records of references, peers and runs on fields; the tables and claims, written
    anew from the records and compared; and the prepared data that all of these rest on.

    Args:
        results: the folder of all profiles' results, or that of one profile.

    Raises:
        RunError: there is nothing to verify.
    """
    runs = [Run(path.parent) for path in sorted(results.rglob("config.json"))]
    measured = [
        p for part in ("references", "peers") for p in sorted(results.rglob(f"{part}/*.json"))
    ]
    fields = sorted(results.rglob("runs/*.json"))
    written = [p.parent for p in sorted(results.rglob("table1.md"))]
    written = [folder for folder in written if paths.config(folder.name).is_file()]
    if not (runs or measured or fields):
        raise RunError(f"{results} holds no results: give a folder like results/ or results/quick")
    data: dict[str, DataConfig] = {}
    faults: list[Fault] = []
    for run in runs:
        found = [fault for fault in run.faults() if not _is_of_a_candidate(fault)]
        faults += found
        if not found:
            data[run.config.data.folder] = run.config.data
            faults += _version_faults(run.folder / "evaluation.json", run.evaluation or {})
    for path in measured:
        faults += _record_faults(path, data)
    for path in fields:
        faults += _field_faults(path)
    for folder in written:
        faults += _table_faults(folder)
    for config in data.values():
        faults += _prepared_faults(config)
    counts = (
        f"{len(runs)} runs, {len(measured)} references and peers, {len(fields)} runs on fields, "
        f"{len(written)} profiles' tables, {len(data)} prepared data sets"
    )
    return list(dict.fromkeys(faults)), counts


def _is_of_a_candidate(fault: Fault) -> bool:
    """Candidates of ``select`` are not evaluated."""
    missing = fault.kind == "missing" and fault.path.name == "evaluation.json"
    return missing and (fault.path.parent / "selection.json").is_file()


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
    name = record.get("rests_on", {}).get("reference")
    if name and path.stem != f"{config.corruption}-{name}":
        yield Fault("altered", path, f"it is of {config.corruption}-{name}: give it this name")
    yield from _version_faults(path, record)
    yield from data_faults(path, record, config)


def _version_faults(path: Path, record: dict) -> Iterator[Fault]:
    if record.get("rests_on", {}).get("metrics", METRICS_VERSION) != METRICS_VERSION:
        yield Fault("stale", path, "other metrics would be taken now: evaluate again")


def _field_faults(path: Path) -> Iterator[Fault]:
    """Of a run on fields (``beyond.fields``): a record, and the weights beside it."""
    weights = path.with_suffix(".safetensors")
    try:
        said = records.read_record(path).get("generator_checksum")
    except RunError as error:
        yield Fault("altered", path, str(error))
        return
    if not weights.is_file():
        yield Fault("missing", weights, f"delete {path} and run it again")
    elif said not in (None, records.file_checksum(weights)):
        yield Fault("altered", weights, f"not what its record describes: delete {path}, run again")


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
