"""A run's directory, and the records from which every published number comes.

    RUN/config.json            the configuration, checked when the run goes on
    RUN/log.jsonl              one line every few steps
    RUN/checkpoint.pt          all that training needs to go on
    RUN/generator.safetensors  the averaged G
    RUN/snapshots/             the averaged G on the way
    RUN/record.json            of the training; evaluation.json: the numbers of the tables;
                               selection.json: the scores of hidden pixels (``records``)

Everything but the log is complete or absent (``files``); of the log what a checkpoint vouches for.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import nn

from paperlib import paths
from paperlib.config import BOOKKEEPING, EvaluationConfig, RunConfig
from paperlib.core.baselines import GENERATORS
from paperlib.data.prepare import Prepared, load_prepared
from paperlib.errors import RunError
from paperlib.files import flush, remove_drafts, write_atomically
from paperlib.records import file_checksum, read_json, read_record, write_json, write_record


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
    """A run's directory, which nothing else reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._log, self._checkpoint = self.folder / "log.jsonl", self.folder / "checkpoint.pt"

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

    @contextmanager
    def lock(self, name: str = "lock") -> Iterator[None]:
        """One process at a time; RunError where another one works here."""
        try:
            lock = FileLock(self.folder / name).acquire(timeout=0)
        except Timeout:
            raise RunError(f"{self.folder} is in use by another process: stop it") from None
        with lock:
            yield

    @cached_property
    def config(self) -> RunConfig:
        """The configuration; RunError or ConfigurationError where none can be read."""
        path = self.folder / "config.json"
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
        """The averaged generator, in evaluation mode; RunError where it was altered."""
        self._check_weights(name, self.record)
        return self._load(f"{name}.safetensors", name).to(device)

    def snapshot(self, step: int, device: torch.device | str = "cpu") -> Any:
        """The averaged generator as it was after ``step`` updates."""
        return self._load(_snapshot(step)).to(device)

    def _load(self, file: str, name: str = "generator") -> Any:
        net = plain_generator(self.config, name)
        net.load_state_dict(load_file(self.folder / file))
        return net

    @property
    def snapshots(self) -> list[int]:
        """The steps at which the averaged G is kept on the way: ..., steps/4, steps/2."""
        halves = {self.config.steps >> k for k in range(1, self.config.snapshots + 1)}
        return sorted(halves - {0})

    def save_snapshot(self, step: int, net: nn.Module) -> None:
        """Keep the averaged G of a step."""
        _save_weights(self.folder / _snapshot(step), net)

    def finish(self, averages: dict[str, nn.Module], about: dict[str, Any]) -> dict[str, Any]:
        """Write the averaged generators, then the record that vouches for them."""
        for name, net in averages.items():
            path = self.folder / f"{name}.safetensors"
            _save_weights(path, net)
            about = about | {f"{name}_checksum": file_checksum(path)}
        return write_record(self.folder / "record.json", about)

    def log(self) -> list[dict[str, Any]]:
        """One dictionary a line; without a last one that is half-written."""
        lines = self._log.read_text().splitlines(keepends=True) if self._log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def append_to_log(self, values: dict[str, Any]) -> None:
        """One JSON line more."""
        with self._log.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> None:
        """Write the checkpoint; the log is flushed first."""
        flush(self._log)
        buffer = io.BytesIO()  # torch.save itself does not say that a disk is full
        torch.save({"step": step, "log_bytes": self._log.stat().st_size} | state, buffer)
        write_atomically(self._checkpoint, lambda draft: draft.write_bytes(buffer.getvalue()))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None where there is none; the log is cut to it.

        Where it is damaged, RunError, and nothing is deleted.
        """
        state: dict[str, Any] = {}
        if self._checkpoint.is_file():
            try:
                with zipfile.ZipFile(self._checkpoint) as parts:
                    if parts.testzip():  # torch.load does not look at their checksums
                        raise ValueError
                state = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
            except Exception:  # damaged headers may raise nearly anything
                raise RunError(f"{self._checkpoint} is damaged: delete it to begin anew") from None
        with self._log.open("a") as file:
            file.truncate(min(file.tell(), state.get("log_bytes", 0)))
        return state or None

    def check(self) -> None:
        """RunError names the first file that is of another configuration, training or data.

        Files may be missing: a record of the training without weights is enough for the tables.
        """
        record = self.record
        for name in GENERATORS:
            if (self.folder / f"{name}.safetensors").is_file():
                self._check_weights(name, record)
        for path in (self.folder / "evaluation.json", self.folder / "selection.json"):
            if not path.is_file():
                continue
            measured = read_record(path)
            refuse_other_configuration(path, measured.get("config", {}), self.config)
            rests_on = measured | measured.get("rests_on", {})
            for key in ("generator_checksum", "data_checksum"):
                if rests_on.get(key) != record.get(key):
                    raise RunError(f"{path} is stale: the training has another {key}")
        check_data(self.folder / "record.json", record, self.config)

    def _check_weights(self, name: str, trained: dict[str, Any]) -> None:
        path = self.folder / f"{name}.safetensors"
        if trained.get(f"{name}_checksum") not in (None, file_checksum(path)):
            again = f"delete {self.folder} and train it again"
            raise RunError(f"{path} is not what record.json describes: {again}")


def check_data(path: Path, record: dict[str, Any], config: EvaluationConfig) -> None:
    """RunError if a record in ``path`` rests on other data than are prepared now, if they are."""
    folder = paths.DATA / config.data.folder
    is_prepared = (folder / "manifest.json").is_file()
    if is_prepared and load_prepared(config.data).checksum != record.get("data_checksum"):
        raise RunError(f"{path} is stale, it rests on other data than {folder} now holds")


def _snapshot(step: int) -> str:
    return f"snapshots/generator-{step:08d}.safetensors"


def _save_weights(path: Path, net: nn.Module) -> None:
    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    write_atomically(path, lambda draft: save_file(weights, draft))
