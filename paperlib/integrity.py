"""Whether what lies on disk belongs together: configuration, record, weights, data.

Every check yields its faults, each a line that names a file. The tables refuse a profile at the
first one that concerns a number (``run_faults``); ``verify`` prints all of them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paperlib import paths, records, seeds
from paperlib.config import DataConfig, EvaluationConfig, RunConfig
from paperlib.data import load_prepared
from paperlib.image_source import DataError
from paperlib.methods import GENERATORS
from paperlib.records import RunError
from paperlib.training import snapshot_path, snapshot_steps

MADE_BY = {"record.json": "train", "evaluation.json": "evaluate", "selection.json": "select"}


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file.

    ``missing``: it should be there. ``altered``: it is not what was written. ``stale``: it rests on
    something that is another by now.
    """

    kind: str
    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.what}"


def run_faults(run: Path, config: RunConfig) -> Iterator[Fault]:
    """What forbids to use the evaluation of a run: it is of another configuration, G or data."""
    trained, evaluated = run / "record.json", run / "evaluation.json"
    training, evaluation = record_or_fault(trained), record_or_fault(evaluated)
    if isinstance(training, Fault) or isinstance(evaluation, Fault):
        yield from (f for f in (training, evaluation) if isinstance(f, Fault))
        return
    yield from configuration_faults(evaluated, evaluation, config)
    yield from configuration_faults(trained, training, config)
    yield from weights_faults(run, training)
    rests_on = evaluation.get("rests_on", {})
    if rests_on.get("generator_checksum") != training.get("generator_checksum"):
        yield Fault("stale", evaluated, f"{run} was trained again since: evaluate it again")
    elif evaluation.get("data_checksum") != training.get("data_checksum"):
        yield Fault("stale", evaluated, "it was made on other data than the training: do it again")
    yield from prepared_faults(trained, training, config)


def record_or_fault(path: Path) -> dict[str, Any] | Fault:
    """A record, or what is wrong with it."""
    if not path.is_file():
        command = MADE_BY.get(path.name, "references")
        return Fault(
            "missing", path, f"run 'python -m paperlib {command}', which goes on or makes it"
        )
    try:
        return records.read_record(path)
    except RunError:
        return Fault(
            "altered", path, "damaged or altered since it was written: delete it and run again"
        )


def configuration_faults(
    path: Path, record: dict[str, Any], config: EvaluationConfig
) -> Iterator[Fault]:
    """A record that says of another configuration."""
    try:
        records.refuse_other_configuration(path, record.get("config", {}), config)
    except RunError as error:
        yield Fault("stale", path, str(error).removeprefix(f"{path} "))


def weights_faults(run: Path, training: dict[str, Any]) -> Iterator[Fault]:
    """Weights, of those that are there, other than those that the training recorded."""
    for name in GENERATORS:
        path, said = run / f"{name}.safetensors", training.get(f"{name}_checksum")
        if path.is_file() and records.file_checksum(path) != said:
            yield Fault("altered", path, "not the file that its record.json describes: train again")


def prepared_faults(
    path: Path, record: dict[str, Any], config: EvaluationConfig
) -> Iterator[Fault]:
    """A record that rests on other data than are prepared now, if they are."""
    folder = paths.DATA / config.data.folder
    if not (folder / "manifest.json").is_file():
        return
    try:
        now = load_prepared(config.data).checksum
    except DataError as error:
        yield Fault("altered", folder, str(error))
        return
    if record.get("data_checksum") != now:
        yield Fault(
            "stale",
            path,
            f"it rests on other data than {folder} now holds: prepare those, or run again",
        )


def left_faults(run: Path, config: RunConfig, training: dict[str, Any]) -> Iterator[Fault]:
    """What a finished training should have left besides its record, and has not."""
    for name in GENERATORS:
        if f"{name}_checksum" in training and not (path := run / f"{name}.safetensors").is_file():
            yield Fault("missing", path, "train the run again")
    if training.get("steps") != config.steps or training.get("seed") != config.seed:
        yield Fault("altered", run / "record.json", "its steps or seed are not its configuration's")
    files = training.get("files", {})
    expected = [run / "log.jsonl", *(snapshot_path(run, s) for s in snapshot_steps(config))]
    for path in expected:
        said = files.get(path.relative_to(run).as_posix())
        if not path.is_file():
            yield Fault("missing", path, f"delete {run} and train it again")
        elif said is not None and records.file_checksum(path) != said:
            yield Fault(
                "altered", path, f"not as training left it: delete {run} and train it again"
            )
        elif said is None and path.suffix == ".jsonl":
            yield from log_faults(path, config.steps, config.log_every)


def log_faults(path: Path, steps: int, every: int) -> Iterator[Fault]:
    """Lines that a log of so many steps lacks, where the record has no checksum of it."""
    try:
        logged = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    except (ValueError, KeyError, TypeError):
        yield Fault("altered", path, "a line of it is no line of a log")
        return
    lacking = sorted({*range(every, steps + 1, every), steps} - set(logged))
    if lacking:
        shown = ", ".join(map(str, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
        yield Fault("altered", path, f"it lacks the lines of steps {shown}")
    elif any(a >= b for a, b in itertools.pairwise(logged)):
        yield Fault("altered", path, "its steps do not ascend")


def checkpoint_faults(run: Path) -> Iterator[Fault]:
    """Checkpoints that are not what their names vouch for."""
    for path in sorted(run.glob("checkpoint-*.pt")):
        if not records.is_whole(path, path.read_bytes()):
            yield Fault("altered", path, "damaged: delete it")


def data_faults(config: DataConfig) -> Iterator[Fault]:
    """A prepared data set whose files are not those that its manifest describes."""
    folder = paths.DATA / config.folder
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        yield Fault("missing", manifest, "run 'python -m paperlib prepare'")
        return
    try:
        data = load_prepared(config)
        names, numbers, rows = list(data.manifest["ids"]), data.mask_ids(), len(data.images())
        computed = data.computed_checksum()
    except (DataError, OSError, ValueError, EOFError, KeyError) as error:
        yield Fault(
            "altered", folder, f"{' '.join(str(error).split())}: delete it and prepare again"
        )
        return
    again = f"delete {folder} and prepare again"
    if computed != data.checksum:
        yield Fault("altered", folder, f"images, masks or splits are not as prepared: {again}")
    if not rows == len(names) == data.manifest["count"]:
        yield Fault("altered", folder / "ids.txt", f"not as many names as images: {again}")
    elif numbers.tolist() != [seeds.fold("image", name) for name in names]:
        yield Fault("altered", folder / "mask_ids.npy", f"not the numbers of the names: {again}")


def measured_faults(
    path: Path, record: dict[str, Any], config: EvaluationConfig, version: int
) -> Iterator[Fault]:
    """An evaluation that was made otherwise than it would be now."""
    rests_on = record.get("rests_on")
    if rests_on is None:  # a peer's record says it by its configuration alone
        return
    now: dict[str, Any] = {
        "split": config.eval_split,
        "images": config.eval_images,
        "metrics": version,
    }
    now["data_checksum"] = record.get("data_checksum")
    if "samples" in rests_on:
        now["samples"] = config.eval_samples
    if other := [key for key in now if rests_on.get(key) != now[key]]:
        yield Fault(
            "stale", path, f"another {' and '.join(other)} would be taken now: evaluate again"
        )
