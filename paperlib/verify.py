"""Check everything in a results folder against everything else: ``python -m paperlib verify``.

Of each run its configuration, record, weights, snapshots, log, checkpoints, evaluation and
selection; the records of references and peers; the tables and claims, written anew from the records
and compared; and the prepared data that all of these rest on. Nothing is changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from paperlib import claims, paths, records, tables
from paperlib.config import (
    ConfigurationError,
    DataConfig,
    EvaluationConfig,
    RunConfig,
    load_profile,
)
from paperlib.integrity import (
    Fault,
    checkpoint_faults,
    configuration_faults,
    data_faults,
    left_faults,
    measured_faults,
    prepared_faults,
    record_or_fault,
    run_faults,
    weights_faults,
)
from paperlib.metrics import METRICS_VERSION
from paperlib.records import RunError
from paperlib.selection import SELECTION_VERSION

PARTS = ("runs", "selection", "references", "peers")


def verify(results: Path) -> tuple[list[Fault], str]:
    """All faults below ``results``, and in a line what was looked at.

    Args:
        results: the folder of all profiles' results, or that of one profile.

    Raises:
        RunError: there is nothing to verify.
    """
    folders = [p for p in (results, *sorted(results.glob("*"))) if is_results(p)]
    if not folders:
        raise RunError(f"{results} holds no results: give a folder like results/ or results/quick")
    checks = [Check(folder) for folder in folders]
    faults = [fault for check in checks for fault in check.faults()]
    data = {config.folder: config for check in checks for config in check.data}
    faults += [fault for config in data.values() for fault in data_faults(config)]
    looked_at = "; ".join(map(str, checks)) + f"; {len(data)} prepared data sets"
    return list(dict.fromkeys(faults)), looked_at


def is_results(folder: Path) -> bool:
    """Whether a folder holds what a profile's commands leave."""
    return any((folder / part).is_dir() for part in PARTS)


class Check:
    """What is looked at in the results of one profile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data: list[DataConfig] = []  # what the runs rest on
        self.counts = dict.fromkeys((*PARTS, "tables"), 0)
        try:
            self.profile: list[RunConfig] | None = load_profile(folder.name)
        except ConfigurationError:  # a profile from elsewhere: what is said of itself must do
            self.profile = None

    def __str__(self) -> str:
        seen = ", ".join(f"{count} {part}" for part, count in self.counts.items())
        if self.profile is None:
            seen += f" (no configs/{self.folder.name}.yaml, so no tables)"
        return f"{self.folder.name}: {seen}"

    def faults(self) -> Iterator[Fault]:
        for run in sorted((self.folder / "runs").glob("*/")):
            self.counts["runs"] += 1
            yield from self.run(run)
        for path in sorted((self.folder / "runs").glob("*.json")):
            self.counts["runs"] += 1
            yield from self.field(path)
        for run in sorted((self.folder / "selection").glob("*/*/")):
            self.counts["selection"] += 1
            yield from self.candidate(run)
        for part in ("references", "peers"):
            for path in sorted((self.folder / part).glob("*.json")):
                self.counts[part] += 1
                yield from self.record(path, of_reference=part == "references")
        if self.profile is not None:
            yield from self.tables()

    def run(self, run: Path) -> Iterator[Fault]:
        config = self.configuration(run)
        if isinstance(config, Fault):
            yield config
            return
        for ours in self.profile or []:
            if ours.name == run.name:
                said = {"config": json.loads((run / "config.json").read_text())}
                yield from configuration_faults(run / "config.json", said, ours)
        yield from checkpoint_faults(run)
        training = record_or_fault(run / "record.json")
        if isinstance(training, Fault):
            yield training
            return
        yield from left_faults(run, config, training)
        evaluated = run / "evaluation.json"
        if config.corruption == "observed" and not evaluated.is_file():
            yield from self.training(run, config, training)  # nothing complete to evaluate it on
        else:
            yield from run_faults(run, config)
            if isinstance(evaluation := record_or_fault(evaluated), dict):
                yield from measured_faults(evaluated, evaluation, config, METRICS_VERSION)
        if (run / "selection.json").is_file():
            yield from self.selected(run, training)

    def training(self, run: Path, config: RunConfig, training: dict) -> Iterator[Fault]:
        """Of a run that is not evaluated, and of its record."""
        yield from configuration_faults(run / "record.json", training, config)
        yield from weights_faults(run, training)
        yield from prepared_faults(run / "record.json", training, config)

    def candidate(self, run: Path) -> Iterator[Fault]:
        """Of a run that was trained to choose settings."""
        config = self.configuration(run)
        if isinstance(config, Fault):
            yield config
            return
        yield from checkpoint_faults(run)
        training = record_or_fault(run / "record.json")
        if isinstance(training, Fault):
            yield training
            return
        yield from self.training(run, config, training)
        yield from left_faults(run, config, training)
        yield from self.selected(run, training)

    def selected(self, run: Path, training: dict) -> Iterator[Fault]:
        path = run / "selection.json"
        record = record_or_fault(path)
        if isinstance(record, Fault):
            yield record
            return
        now = {key: training.get(key) for key in ("generator_checksum", "data_checksum")}
        if record.get("rests_on") != now | {"selection": SELECTION_VERSION}:
            yield Fault("stale", path, "the run is another by now: run 'python -m paperlib select'")

    def configuration(self, run: Path) -> RunConfig | Fault:
        """Of a run's directory; its data are checked at the end."""
        path = run / "config.json"
        if not path.is_file():
            return Fault("missing", path, f"{run} is no run: delete it, or train it again")
        try:
            config = records.load_config(run)
        except RunError as error:
            return Fault("altered", path, str(error).removeprefix(f"{path}: "))
        self.data.append(config.data)
        return config

    def field(self, path: Path) -> Iterator[Fault]:
        """Of a run on fields (``fields.train``): a record, and the weights beside it."""
        record, weights = record_or_fault(path), path.with_suffix(".safetensors")
        if isinstance(record, Fault):
            yield record
        elif not weights.is_file():
            yield Fault("missing", weights, f"delete {path} and run it again")
        elif record.get("generator_checksum") not in (None, records.file_checksum(weights)):
            yield Fault(
                "altered", weights, f"not what its record describes: delete {path}, run again"
            )

    def record(self, path: Path, of_reference: bool) -> Iterator[Fault]:
        """Of what was not trained here."""
        record = record_or_fault(path)
        if isinstance(record, Fault):
            yield record
            return
        known = {run.corruption: run.evaluation for run in self.profile or []}
        corruption, _, name = path.stem.partition("-")
        try:
            config = known.get(corruption) or EvaluationConfig.parse(record.get("config", {}))
        except ConfigurationError as error:
            yield Fault("altered", path, str(error))
            return
        if of_reference and record.get("rests_on", {}).get("reference") != name:
            yield Fault("altered", path, "it is of another reference than its name says")
        yield from configuration_faults(path, record, config)
        yield from measured_faults(path, record, config, METRICS_VERSION)
        yield from prepared_faults(path, record, config)
        self.data.append(config.data)

    def tables(self) -> Iterator[Fault]:
        """Tables and claims other than those that the records give now."""
        name, found = self.folder.name, ("table?.*", "claims.*")
        written = {path.name for pattern in found for path in self.folder.glob(pattern)}
        self.counts["tables"] = len(written)
        if not written:
            return
        with paths.results_in(self.folder.parent):
            try:
                now = tables.rendered(name) | claims.rendered(name)
            except RunError as error:
                for file in sorted(written):
                    yield Fault(
                        "stale", self.folder / file, f"its records do not go in it ({error})"
                    )
                return
        for file in now:
            path, again = self.folder / file, f"run 'python -m paperlib tables {name}'"
            if file not in written:
                yield Fault("missing", path, again)
            elif path.read_text(encoding="utf-8") != now[file]:
                yield Fault("stale", path, f"not what the records say: {again}")
