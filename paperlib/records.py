"""What a run leaves on disk: configuration, log, checkpoints, weights, and the records of both.

    RUN/config.json            the configuration, checked when the run goes on
    RUN/log.jsonl              one line every few steps
    RUN/checkpoint-STEP-CHECKSUM.pt  all that training needs to go on; the last two are kept
    RUN/generator.safetensors  the averaged G
    RUN/record.json            of the training: configuration, seed, commit, versions, hardware,
                               data hash, time
    RUN/evaluation.json        of the evaluation: the same provenance, and the numbers of the tables
    RUN/selection.json         of ``selection``: the same provenance, and the scores of hidden pixels

    RUN/lock                   while it is trained: by whom (``locks``); evaluation.lock likewise

Everything but the log is written to a temporary file and renamed (``files``): it is complete or
absent. Of the log what a checkpoint vouches for is complete.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import torch

from paperlib import distributed, paths
from paperlib.config import BOOKKEEPING, ConfigurationError, EvaluationConfig, RunConfig
from paperlib.files import flush, naming_a_full_disk, write_atomically, write_text

CHECKPOINTS_KEPT = 2
MAPPINGS = ("config", "rests_on", "metrics", "files")  # of a record, where it has them
LIBRARIES = (
    "torch", "torchvision", "torchmetrics", "numpy", "scipy", "pillow", "scikit-image",
    "opencv-python-headless",
)  # fmt: skip


class RunError(RuntimeError):
    """A run directory that cannot be used; the message names it and says what to do."""


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(values, indent=1, allow_nan=True) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; RunError names it where it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}): delete it and run again") from None
    if not isinstance(values, dict):
        raise RunError(f"{path} is damaged (no mapping): delete it and run again")
    return values


def write_texts(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Write text files by name, each atomically; return their paths."""
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def write_record(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Write a record with a checksum over all that it says; return it as it was written."""
    values = values | {"checksum": _checksum(values)}
    write_json(path, values)
    return values


def read_record(path: Path) -> dict[str, Any]:
    """Read a record; RunError names it where it is missing, damaged or not as it was written.

    A record from before there was the checksum is taken as it is.
    """
    record = read_json(path)
    if not all(isinstance(record.get(key, {}), dict) for key in MAPPINGS):
        raise RunError(f"{path} is damaged (no record): delete it and run again")
    said = record.get("checksum")
    if said is not None and said != _checksum(record):
        raise RunError(f"{path} was altered after it was written: delete it and run again")
    return record


def _checksum(record: dict[str, Any]) -> str:
    """SHA-256 of what a record says, but for its own checksum."""
    said = json.loads(json.dumps({k: v for k, v in record.items() if k != "checksum"}))
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def provenance(config: EvaluationConfig, data_checksum: str) -> dict[str, Any]:
    """What every record says of where its numbers come from."""
    return {
        "config": config.model_dump(),
        "seed": getattr(config, "seed", None),  # a reference has none
        "data_checksum": data_checksum,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **_environment(),
    }


@functools.cache
def _environment() -> dict[str, Any]:
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def _commit() -> str | None:
    """The commit of the code, with "-dirty" where tracked files differ; None if it is not known.

    A wheel says which commit it was built from where pip did so ("pip install git+...", PEP 610);
    the current folder may be somebody else's repository and is not asked.
    """
    if paths.CHECKOUT is None:
        origin = json.loads(distribution("paperlib").read_text("direct_url.json") or "{}")
        return origin.get("vcs_info", {}).get("commit_id")
    command = ["git", "-C", str(paths.CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40"]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip() or None


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def claim_directory(run: Path, config: RunConfig) -> None:
    """Make ``run`` the directory of ``config``.

    Raises:
        RunError: it holds a run of another configuration; the message names the keys.
    """
    path = run / "config.json"
    if path.exists():
        refuse_other_configuration(path, read_json(path), config)
    write_json(path, config.model_dump())


def refuse_other_configuration(
    path: Path, theirs: dict[str, Any], config: EvaluationConfig
) -> None:
    """Raise RunError, naming the keys, if the configuration in ``path`` is not ``config``."""
    ours = config.model_dump()
    # a key that is younger than the file had its default's effect
    theirs = type(config)().model_dump() | theirs
    keys = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    if differing := [k for k in keys if k not in BOOKKEEPING]:
        shown = ", ".join(f"{k}: {theirs.get(k)!r}, now {ours.get(k)!r}" for k in differing)
        raise RunError(
            f"{path} is of another configuration ({shown}): choose another directory, or delete "
            f"{path.parent}"
        )


def load_config(run: Path) -> RunConfig:
    """The configuration of a run directory."""
    path = run / "config.json"
    if not path.is_file():
        raise RunError(
            f"{run} is not a run directory, it has no config.json: give one like results/quick/runs/NAME"
        )
    try:
        return RunConfig.parse(read_json(path), str(path))
    except ConfigurationError as error:
        raise RunError(str(error)) from None


def save_checkpoint(run: Path, step: int, state: dict[str, Any]) -> None:
    """Write ``checkpoint-STEP-CHECKSUM.pt`` and keep the one before, removing all others.

    The log is flushed first: what a checkpoint goes on from has all the lines before it.
    """
    log = run / "log.jsonl"
    if log.exists():
        with naming_a_full_disk(log):
            flush(log)
    buffer = io.BytesIO()
    torch.save({"step": step, "log_bytes": _size(log)} | state, buffer)
    content = buffer.getvalue()
    path = run / f"checkpoint-{step:08d}-{_digest(content)}.pt"
    write_atomically(path, lambda draft: draft.write_bytes(content))
    # A later one was damaged, or this one would not have been made
    others = [other for other in _checkpoints(run) if other != path]
    earlier = [other for other in others if _step_of(other) < step]
    for other in set(others) - set(earlier[: CHECKPOINTS_KEPT - 1]):
        other.unlink()


def load_checkpoint(run: Path) -> dict[str, Any] | None:
    """The last checkpoint that can be read, or None where there is none.

    Raises:
        RunError: there are checkpoints, and all are damaged. Nothing is deleted.
    """
    found = _checkpoints(run)
    for path in found:
        content = path.read_bytes()
        if is_whole(path, content):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _warn(f"{path} is damaged, trying the one before")
    if found:
        raise RunError(f"every checkpoint in {run} is damaged: delete them to start again")
    return None


def is_whole(checkpoint: Path, content: bytes) -> bool:
    """Whether a checkpoint holds what its name vouches for."""
    return checkpoint.stem.endswith(f"-{_digest(content)}")


def _digest(content: bytes) -> str:
    """The checksum that a checkpoint carries in its name."""
    return hashlib.sha256(content).hexdigest()[:16]


def _checkpoints(run: Path) -> list[Path]:
    """The last one first."""
    return sorted(run.glob("checkpoint-*.pt"), reverse=True)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _warn(text: str) -> None:
    if distributed.rank() == 0:
        print(f"warning: {text}", file=sys.stderr)


def truncate_log(path: Path, step: int, expected_bytes: int | None = None) -> None:
    """Drop the lines after ``step`` (and a half-written last one): training writes them again.

    Args:
        path: the log.
        step: that of the checkpoint.
        expected_bytes: the log's length then, if it is known; a warning says if lines are missing.
    """
    if path.exists():
        kept = []
        for line in path.read_text(errors="replace").splitlines():
            try:
                if json.loads(line)["step"] > step:
                    break
            except (json.JSONDecodeError, KeyError, TypeError):
                break
            kept.append(line)
        write_text(path, "".join(f"{k}\n" for k in kept))
    if expected_bytes is not None and _size(path) != expected_bytes:
        _warn(f"{path} is not as it was at step {step}: lines before it are missing or altered")


def append_log(path: Path, values: dict[str, Any]) -> None:
    """Append one JSON line; DiskFull where there is no room."""
    with naming_a_full_disk(path), path.open("a") as file:
        file.write(json.dumps(values) + "\n")


def read_log(run: Path) -> list[dict[str, Any]]:
    """The log of a run, one dictionary a line; without a last one that is half-written."""
    path = run / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def file_checksum(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
