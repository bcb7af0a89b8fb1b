"""Check everything in a results folder against everything else: ``python -m paperlib verify``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paperlib import paths
from paperlib.config import DataConfig, EvaluationConfig
from paperlib.data.prepare import load_prepared
from paperlib.errors import ConfigurationError, DataError, RunError
from paperlib.evaluation.metrics import METRICS_VERSION
from paperlib.paper import claims, tables
from paperlib.profiles import load_profile
from paperlib.records import file_checksum, read_record
from paperlib.run import Fault, Run, data_faults, refuse_other_configuration


def verify(results: Path) -> tuple[list[Fault], str]:
    """All faults below ``results``, of all profiles or of one, and in a line what was looked at.

    Of each run all files; the records of references, peers and runs on fields; the tables and
    claims, written anew from the records and compared; and the prepared data that these rest on.
    Nothing is changed. RunError where there is nothing to verify.
    """
    runs = [Run(path.parent) for path in sorted(results.rglob("config.json"))]
    measured = [path for part in tables.PARTS for path in sorted(results.rglob(f"{part}/*.json"))]
    fields = sorted(results.rglob("runs/*.json"))
    written = [
        p.parent for p in results.rglob("table1.md") if paths.config(p.parent.name).is_file()
    ]
    if not (runs or measured or fields):
        raise RunError(f"{results} holds no results: give a folder like results/ or results/quick")
    data: dict[str, DataConfig] = {}
    faults: list[Fault] = []
    for run in runs:
        found = list(run.faults())
        if not found:
            data[run.config.data.folder] = run.config.data
            found += _version_faults(run.folder / "evaluation.json", run.evaluation or {})
        faults += found
    for path in measured:
        faults += _checked(path, _record_faults(path, data))
    for path in fields:
        faults += _checked(path, _field_faults(path))
    for folder in written:
        faults += _checked(folder / "table1.md", _table_faults(folder), "stale")
    for config in data.values():
        place = paths.DATA / config.folder
        kind = "altered" if place.is_dir() else "missing"
        faults += _checked(place, _prepared_faults(config), kind)
    counts = (
        f"{len(runs)} runs, {len(measured)} references and peers, {len(fields)} runs on fields, "
        f"{len(written)} profiles' tables, {len(data)} prepared data sets"
    )
    return list(dict.fromkeys(faults)), counts


def _checked(path: Path, faults: Iterator[Fault], kind: str = "altered") -> Iterator[Fault]:
    """The faults; what cannot be looked at is one of ``kind``."""
    try:
        yield from faults
    except (RunError, DataError, ConfigurationError) as error:
        yield Fault(kind, path, str(error))


def _record_faults(path: Path, data: dict[str, DataConfig]) -> Iterator[Fault]:
    """Of what was not trained here."""
    record = read_record(path)
    config = EvaluationConfig.parse(record.get("config", {}), str(path))
    profile = path.parent.parent.name
    for ours in load_profile(profile) if paths.config(profile).is_file() else []:
        if ours.corruption == config.corruption:
            refuse_other_configuration(path, record["config"], ours.evaluation)
    data[config.data.folder] = config.data
    name = record.get("rests_on", {}).get("reference")
    if name and path.stem != f"{config.corruption}-{name}":
        yield Fault("altered", path, f"it is of {config.corruption}-{name}: give it this name")
    yield from _version_faults(path, record)
    yield from data_faults(path, record, config)


def _version_faults(path: Path, record: dict[str, Any]) -> Iterator[Fault]:
    if record.get("rests_on", {}).get("metrics", METRICS_VERSION) != METRICS_VERSION:
        yield Fault("stale", path, "other metrics would be taken now: evaluate again")


def _field_faults(path: Path) -> Iterator[Fault]:
    """Of a run on fields (``beyond.fields``): a record, and the weights beside it."""
    said, weights = read_record(path).get("generator_checksum"), path.with_suffix(".safetensors")
    if not weights.is_file():
        yield Fault("missing", weights, f"delete {path} and run it again")
    elif said not in (None, file_checksum(weights)):
        yield Fault("altered", weights, f"not what its record describes: delete {path}, run again")


def _table_faults(folder: Path) -> Iterator[Fault]:
    """Tables and claims other than those that the records give now."""
    name, again = folder.name, f"run 'python -m paperlib tables {folder.name}'"
    records = tables.load_records(name, folder)
    for file, text in (tables.rendered(name, records) | claims.rendered(name, records)).items():
        if not (path := folder / file).is_file():
            yield Fault("missing", path, again)
        elif path.read_text(encoding="utf-8") != text:
            yield Fault("stale", path, f"not what the records say: {again}")


def _prepared_faults(config: DataConfig) -> Iterator[Fault]:
    prepared = load_prepared(config)
    yield from (Fault("altered", prepared.folder, what) for what in prepared.faults())
