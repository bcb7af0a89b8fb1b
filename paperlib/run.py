"""A run's directory, and the records from which every published number comes.

    RUN/config.json            the configuration, checked when the run goes on
    RUN/log.jsonl              one line every few steps
    RUN/checkpoint-STEP-CHECKSUM.pt  all that training needs to go on; the last two are kept
    RUN/generator.safetensors  the averaged G
    RUN/snapshots/             the averaged G on the way
    RUN/record.json            of the training; evaluation.json: the numbers of the tables;
                               selection.json: the scores of hidden pixels (``records``)

Everything but the log is complete or absent (``files``); of the log what a checkpoint vouches for.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from paperlib import paths
from paperlib.config import BOOKKEEPING, EvaluationConfig, RunConfig
from paperlib.core.baselines import GENERATORS
from paperlib.data.prepare import Prepared, load_prepared
from paperlib.errors import ConfigurationError, DataError, RunError
from paperlib.files import flush, locked, naming_a_full_disk, remove_drafts, write_atomically
from paperlib.records import file_checksum, read_json, read_record, write_json, write_record

CHECKPOINTS_KEPT = 2


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file: it is missing, altered since it was written, or stale."""

    kind: str
    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.what}"


def refuse_other_configuration(path: Path, theirs: dict, config: EvaluationConfig) -> None:
    """Raise RunError, naming the keys, if the configuration in ``path`` is not ``config``."""
    other, ours = type(config).parse(theirs, str(path)).model_dump(), config.model_dump()
    if differing := [k for k in ours if ours[k] != other[k] and k not in BOOKKEEPING]:
        shown = ", ".join(f"{k}: {other[k]!r}, now {ours[k]!r}" for k in differing)
        what = f"({shown}): choose another directory, or delete {path.parent}"
        raise RunError(f"{path} is of another configuration {what}")


def plain_generator(config: RunConfig, name: str = "generator") -> Any:
    """A generator that holds normalised weights themselves, in evaluation mode, on the CPU.

    ``name``: "generator", or MisGAN's "data_generator".
    """
    net = GENERATORS[name][1](config, spectral=False)
    return net.to(memory_format=torch.channels_last).requires_grad_(False).eval()


class Run:
    """A run's directory: commands, tables, notebooks and ``verify`` ask it, none other reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._log = self.folder / "log.jsonl"

    @classmethod
    def begin(cls, folder: Path, config: RunConfig) -> Run:
        """Make ``folder`` the directory of ``config``; RunError if it is that of another one."""
        path = folder / "config.json"
        if path.exists():
            refuse_other_configuration(path, read_json(path), config)
        write_json(path, config.model_dump())
        for place in (folder, folder / "snapshots"):
            remove_drafts(place)
        return cls(folder)

    def lock(self, name: str = "lock") -> AbstractContextManager[None]:
        """One process at a time; RunError where another one works here."""
        return locked(self.folder / name, str(self.folder))

    @cached_property
    def config(self) -> RunConfig:
        """The configuration; RunError or ConfigurationError where none can be read."""
        path = self.folder / "config.json"
        if not path.is_file():
            raise RunError(f"{self.folder} is not a run directory: it has no config.json")
        return RunConfig.parse(read_json(path), str(path))

    @property
    def is_trained(self) -> bool:
        """Whether training has come to its end."""
        return (self.folder / "record.json").is_file()

    @property
    def record(self) -> dict[str, Any]:
        """Of the training; RunError where it is not done, or the record is of something else."""
        config, path = self.config, self.folder / "record.json"
        if not self.is_trained:
            raise RunError(f"{self.folder} is not trained yet: 'python -m paperlib train'")
        record = read_record(path)
        refuse_other_configuration(path, record.get("config", {}), config)
        return record

    def record_on(self, data: Prepared) -> dict[str, Any]:
        """``record``; RunError where the training was not on ``data``."""
        if (record := self.record).get("data_checksum") != data.checksum:
            what = f"{self.folder} was trained on other data than {data.folder} now holds"
            raise RunError(f"{what}: prepare those, or delete the run and train it again")
        return record

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """Its record, if there is one; RunError where it is damaged."""
        path = self.folder / "evaluation.json"
        return read_record(path) if path.is_file() else None

    def generator(self, device: torch.device | str = "cpu", name: str = "generator") -> Any:
        """The averaged generator, in evaluation mode; RunError where it is missing or altered."""
        return self._load(f"{name}.safetensors", name).to(device)

    def snapshot(self, step: int, device: torch.device | str = "cpu") -> Any:
        """The averaged generator as it was after ``step`` updates; RunError as above."""
        return self._load(_snapshot(step)).to(device)

    def _load(self, file: str, name: str = "generator") -> Any:
        for fault in self._file_faults(file, _checksums(self.record).get(file)):
            raise RunError(str(fault))
        net = plain_generator(self.config, name)
        net.load_state_dict(load_file(self.folder / file))
        return net

    @property
    def snapshots(self) -> list[int]:
        """The steps at which the averaged G is kept on the way: ..., steps/4, steps/2."""
        halves = {self.config.steps >> k for k in range(1, self.config.snapshots + 1)}
        return sorted(halves - {0})

    def snapshot_seconds(self, step: int) -> float:
        """Seconds of training until a snapshot."""
        with safe_open(self.folder / _snapshot(step), "pt") as file:
            return float(file.metadata()["seconds"])

    def save_snapshot(self, step: int, seconds: float, net: nn.Module) -> None:
        """Keep the averaged G of a step, and when it was."""
        _save_weights(self.folder / _snapshot(step), net, {"seconds": f"{seconds:.3f}"})

    def finish(self, averages: dict[str, nn.Module], about: dict[str, Any]) -> dict[str, Any]:
        """Write the averaged generators, then the record that vouches for all that is left."""
        for name, net in averages.items():
            path = self.folder / f"{name}.safetensors"
            _save_weights(path, net)
            about = about | {f"{name}_checksum": file_checksum(path)}
        left = ("log.jsonl", *map(_snapshot, self.snapshots))
        files = {name: file_checksum(self.folder / name) for name in left}
        return write_record(self.folder / "record.json", about | {"files": files})

    def log(self) -> list[dict[str, Any]]:
        """One dictionary a line; without a last one that is half-written."""
        lines = self._log.read_text().splitlines(keepends=True) if self._log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def append_to_log(self, values: dict[str, Any]) -> None:
        """One JSON line more; DiskFull where there is no room."""
        with naming_a_full_disk(self._log), self._log.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> None:
        """Write ``checkpoint-STEP-CHECKSUM.pt`` and keep the one before; the log is flushed first."""
        with naming_a_full_disk(self._log):
            flush(self._log)
        buffer = io.BytesIO()
        torch.save({"step": step, "log_bytes": self._log.stat().st_size} | state, buffer)
        content = buffer.getvalue()
        path = self.folder / f"checkpoint-{step:08d}-{_digest(content)}.pt"
        write_atomically(path, lambda draft: draft.write_bytes(content))
        for other in self._checkpoints()[CHECKPOINTS_KEPT:]:
            other.unlink()

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint that is whole, or None where there is none; the log is cut to it.

        Where all are damaged, RunError, and nothing is deleted.
        """
        state, damaged = None, []
        for path in self._checkpoints():
            content = path.read_bytes()
            if path.stem.endswith(_digest(content)):
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                break
            warnings.warn(f"{path} is damaged, trying the one before", stacklevel=2)
            damaged.append(path)
        if damaged and state is None:
            raise RunError(f"every checkpoint in {self.folder} is damaged: delete them")
        for path in damaged:
            path.unlink()
        with naming_a_full_disk(self._log), self._log.open("a") as file:
            file.truncate(min(file.tell(), state.get("log_bytes", 0) if state else 0))
        return state

    def _checkpoints(self) -> list[Path]:
        """The last one first."""
        return sorted(self.folder.glob("checkpoint-*.pt"), reverse=True)

    def faults(self, numbers_only: bool = False) -> Iterator[Fault]:
        """What does not belong together: configuration, record, weights, evaluation, data.

        ``numbers_only``: leave out what no table rests on: missing weights, log, snapshots,
        checkpoints.
        """
        try:
            record = self.record
        except (RunError, ConfigurationError) as error:
            kind = "altered" if self.is_trained else "missing"
            yield Fault(kind, self.folder / "record.json", str(error))
            return
        for name, checksum in _checksums(record).items():
            is_for_numbers = (
                name.endswith("generator.safetensors") and (self.folder / name).is_file()
            )
            if is_for_numbers or not numbers_only:
                yield from self._file_faults(name, checksum)
        for checkpoint in [] if numbers_only else self._checkpoints():
            if not checkpoint.stem.endswith(_digest(checkpoint.read_bytes())):
                yield Fault("altered", checkpoint, "damaged: delete it")
        for path in (self.folder / "evaluation.json", self.folder / "selection.json"):
            if path.is_file():
                yield from self._faults_of_what_rests_on(record, path)
        yield from data_faults(self.folder / "record.json", record, self.config)

    def _file_faults(self, name: str, checksum: str | None) -> Iterator[Fault]:
        """``checksum``: None where the record is from before it had one."""
        path, again = self.folder / name, f"delete {self.folder} and train it again"
        if not path.is_file():
            yield Fault("missing", path, again)
        elif checksum not in (None, file_checksum(path)):
            yield Fault("altered", path, f"not what record.json describes: {again}")

    def _faults_of_what_rests_on(self, trained: dict[str, Any], path: Path) -> Iterator[Fault]:
        try:
            record = read_record(path)
            refuse_other_configuration(path, record.get("config", {}), self.config)
        except (RunError, ConfigurationError) as error:
            yield Fault("altered", path, str(error))
            return
        rests_on = record | record.get("rests_on", {})
        for key in ("generator_checksum", "data_checksum"):
            if rests_on.get(key) != trained.get(key):
                yield Fault("stale", path, f"the training has another {key}: make it again")


def data_faults(path: Path, record: dict[str, Any], config: EvaluationConfig) -> Iterator[Fault]:
    """A record in ``path`` that rests on other data than are prepared now, if they are."""
    folder = paths.DATA / config.data.folder
    if not (folder / "manifest.json").is_file():
        return
    try:
        if load_prepared(config.data).checksum != record.get("data_checksum"):
            how = f"it rests on other data than {folder} now holds: prepare those, or run again"
            yield Fault("stale", path, how)
    except DataError as error:
        yield Fault("altered", folder, str(error))


def _snapshot(step: int) -> str:
    return f"snapshots/generator-{step:08d}.safetensors"


def _checksums(record: dict[str, Any]) -> dict[str, str]:
    """Those that a record of a training has: file -> SHA-256."""
    keys = {f"{name}.safetensors": f"{name}_checksum" for name in GENERATORS}
    weights = {file: record[key] for file, key in keys.items() if key in record}
    return weights | record.get("files", {})


def _save_weights(path: Path, net: nn.Module, about: dict[str, str] | None = None) -> None:
    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    write_atomically(path, lambda draft: save_file(weights, draft, about))


def _digest(content: bytes) -> str:
    """The checksum that a checkpoint carries in its name."""
    return hashlib.sha256(content).hexdigest()[:16]
