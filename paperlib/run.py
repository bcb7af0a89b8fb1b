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
from paperlib.data.prepare import load_prepared
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


def refuse_other_configuration(
    path: Path, theirs: dict[str, Any], config: EvaluationConfig
) -> None:
    """Raise RunError, naming the keys, if the configuration in ``path`` is not ``config``."""
    try:
        other = type(config).parse(theirs, str(path)).model_dump()
    except ConfigurationError as error:
        raise RunError(str(error)) from None
    ours = config.model_dump()
    if differing := [k for k in ours if ours[k] != other[k] and k not in BOOKKEEPING]:
        shown = ", ".join(f"{k}: {other[k]!r}, now {ours[k]!r}" for k in differing)
        raise RunError(
            f"{path} is of another configuration ({shown}): choose another directory, or delete "
            f"{path.parent}"
        )


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
        """The configuration; RunError where there is none, or it cannot be read."""
        path = self.folder / "config.json"
        if not path.is_file():
            raise RunError(f"{self.folder} is not a run directory: it has no config.json")
        try:
            return RunConfig.parse(read_json(path), str(path))
        except ConfigurationError as error:
            raise RunError(str(error)) from None

    @property
    def is_trained(self) -> bool:
        """Whether training has come to its end."""
        return (self.folder / "record.json").is_file()

    @property
    def record(self) -> dict[str, Any]:
        """Of the training; RunError where it is not done, or the record is of something else."""
        if not self.is_trained:
            raise RunError(f"{self.folder} is not trained yet: 'python -m paperlib train'")
        record = read_record(path := self.folder / "record.json")
        refuse_other_configuration(path, record.get("config", {}), self.config)
        return record

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """Its record, if there is one; RunError where it is damaged."""
        path = self.folder / "evaluation.json"
        return read_record(path) if path.is_file() else None

    def generator(self, device: torch.device | str = "cpu", name: str = "generator") -> Any:
        """The averaged generator, in evaluation mode; RunError where it is missing or altered."""
        checksum = self.record.get(f"{name}_checksum", "none")
        return self._load(self.folder / f"{name}.safetensors", checksum, device, name)

    def snapshot(self, step: int, device: torch.device | str = "cpu") -> Any:
        """The averaged generator as it was after ``step`` updates; RunError as above."""
        path = self._snapshot_path(step)
        name = path.relative_to(self.folder).as_posix()
        return self._load(path, self.record.get("files", {}).get(name), device)

    @property
    def snapshots(self) -> list[int]:
        """The steps at which the averaged G is kept on the way: ..., steps/4, steps/2."""
        halves = {self.config.steps >> k for k in range(1, self.config.snapshots + 1)}
        return sorted(halves - {0})

    def snapshot_seconds(self, step: int) -> float:
        """Seconds of training until a snapshot."""
        with safe_open(self._snapshot_path(step), "pt") as file:
            return float(file.metadata()["seconds"])

    def save_snapshot(self, step: int, seconds: float, net: nn.Module) -> None:
        """Keep the averaged G of a step, and when it was."""
        _save_weights(self._snapshot_path(step), net, {"seconds": f"{seconds:.3f}"})

    def _snapshot_path(self, step: int) -> Path:
        return self.folder / "snapshots" / f"generator-{step:08d}.safetensors"

    def _load(
        self, path: Path, checksum: str | None, device: torch.device | str, name: str = "generator"
    ) -> Any:
        if checksum is None and path.is_file():  # a record from before snapshots were vouched for
            checksum = file_checksum(path)
        for fault in self._file_faults(path, checksum or "missing"):
            raise RunError(f"{fault.path} is {fault.kind}: {fault.what}")
        net = plain_generator(self.config, name)
        net.load_state_dict(load_file(path))
        return net.to(device)

    def finish(self, averages: dict[str, nn.Module], about: dict[str, Any]) -> dict[str, Any]:
        """Write the averaged generators, then the record that vouches for all that is left."""
        for name, net in averages.items():
            path = self.folder / f"{name}.safetensors"
            _save_weights(path, net)
            about = about | {f"{name}_checksum": file_checksum(path)}
        left = (self.folder / "log.jsonl", *map(self._snapshot_path, self.snapshots))
        files = {p.relative_to(self.folder).as_posix(): file_checksum(p) for p in left}
        return write_record(self.folder / "record.json", about | {"files": files})

    def log(self) -> list[dict[str, Any]]:
        """One dictionary a line; without a last one that is half-written."""
        path = self.folder / "log.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def append_to_log(self, values: dict[str, Any]) -> None:
        """One JSON line more; DiskFull where there is no room."""
        path = self.folder / "log.jsonl"
        with naming_a_full_disk(path), path.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> None:
        """Write ``checkpoint-STEP-CHECKSUM.pt`` and keep the one before; the log is flushed first."""
        log, buffer = self.folder / "log.jsonl", io.BytesIO()
        with naming_a_full_disk(log):
            flush(log)
        torch.save({"step": step, "log_bytes": log.stat().st_size} | state, buffer)
        content = buffer.getvalue()
        path = self.folder / f"checkpoint-{step:08d}-{_digest(content)}.pt"
        write_atomically(path, lambda draft: draft.write_bytes(content))
        earlier = [other for other in self._checkpoints() if other.name < path.name]
        for other in {*self._checkpoints()} - {path, *earlier[: CHECKPOINTS_KEPT - 1]}:
            other.unlink()  # a later one was damaged, or this one would not have been made

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint that is whole, or None where there is none; the log is cut to it.

        Where all are damaged, RunError, and nothing is deleted.
        """
        for path in self._checkpoints():
            content = path.read_bytes()
            if path.stem.endswith(_digest(content)):
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                self._cut_log(state.get("log_bytes", 0))
                return state
            warnings.warn(f"{path} is damaged, trying the one before", stacklevel=2)
        if self._checkpoints():
            raise RunError(f"every checkpoint in {self.folder} is damaged: delete them")
        self._cut_log(0)
        return None

    def _cut_log(self, size: int) -> None:
        """Drop what was logged after a checkpoint: training writes it again."""
        path = self.folder / "log.jsonl"
        content = path.read_bytes()[:size] if path.exists() else b""
        write_atomically(path, lambda draft: draft.write_bytes(content))

    def _checkpoints(self) -> list[Path]:
        """The last one first."""
        return sorted(self.folder.glob("checkpoint-*.pt"), reverse=True)

    def faults(self, numbers_only: bool = False) -> Iterator[Fault]:
        """What does not belong together: configuration, record, weights, evaluation, data.

        ``numbers_only``: leave out what no table rests on: log, snapshots, checkpoints.
        """
        path = self.folder / "config.json"  # then the training's
        try:
            config, path = self.config, self.folder / "record.json"
            record = self.record
        except RunError as error:
            yield Fault("altered" if path.is_file() else "missing", path, str(error))
            return
        said = {f"{name}.safetensors": record.get(f"{name}_checksum") for name in GENERATORS}
        if not numbers_only:
            said |= record.get("files", {})
            for checkpoint in self._checkpoints():
                if not checkpoint.stem.endswith(_digest(checkpoint.read_bytes())):
                    yield Fault("altered", checkpoint, "damaged: delete it")
        for name, checksum in said.items():
            faults = self._file_faults(self.folder / name, checksum)
            yield from (f for f in faults if not (numbers_only and f.kind == "missing"))
        for other in (self.folder / "evaluation.json", self.folder / "selection.json"):
            if other.is_file():
                yield from self._staleness(other, record)
            elif other.stem == "evaluation" and config.corruption != "observed":
                yield Fault("missing", other, "run 'python -m paperlib evaluate'")
        yield from data_faults(path, record, config)

    def _file_faults(self, path: Path, checksum: str | None) -> Iterator[Fault]:
        again = f"delete {self.folder} and train it again"
        if checksum is not None and not path.is_file():
            yield Fault("missing", path, again)
        elif path.is_file() and file_checksum(path) != checksum:
            yield Fault("altered", path, f"not what record.json describes: {again}")

    def _staleness(self, path: Path, trained: dict[str, Any]) -> Iterator[Fault]:
        """Of a record that rests on the training."""
        try:
            record = read_record(path)
            refuse_other_configuration(path, record.get("config", {}), self.config)
        except RunError as error:
            yield Fault("altered", path, str(error))
            return
        weights, data = (trained.get(f"{what}_checksum") for what in ("generator", "data"))
        if record.get("rests_on", {}).get("generator_checksum") != weights:
            yield Fault("stale", path, f"{self.folder} was trained again since: make it again")
        elif record.get("data_checksum") != data:
            yield Fault("stale", path, "it was made on other data than the training: make it again")


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


def _save_weights(path: Path, net: nn.Module, about: dict[str, str] | None = None) -> None:
    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    write_atomically(path, lambda draft: save_file(weights, draft, about))


def _digest(content: bytes) -> str:
    """The checksum that a checkpoint carries in its name."""
    return hashlib.sha256(content).hexdigest()[:16]
