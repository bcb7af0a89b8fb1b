"""Records: JSON files that say where their numbers come from, with a checksum of themselves."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from paperlib import paths
from paperlib.config import EvaluationConfig
from paperlib.errors import RunError
from paperlib.files import write_text

LIBRARIES = (
    "torch", "torchvision", "torchmetrics", "numpy", "scipy", "pillow", "scikit-image",
    "opencv-python-headless",
)  # fmt: skip


def provenance(config: EvaluationConfig, data_checksum: str) -> dict[str, Any]:
    """What every record says of where its numbers come from."""
    return {
        "config": config.model_dump(),
        "seed": getattr(config, "seed", None),  # a reference has none
        "data_checksum": data_checksum,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


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
    if record.get("checksum", said := _checksum(record)) != said:
        raise RunError(f"{path} was altered after it was written: delete it and run again")
    return record


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(values, indent=1, allow_nan=True) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; RunError names it where it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no mapping")
        return values
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}): delete it and run again") from None


def file_checksum(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _checksum(record: dict[str, Any]) -> str:
    """SHA-256 of what a record says, but for its own checksum."""
    said = {key: value for key, value in record.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _commit() -> str | None:
    """The commit of the checkout, with "-dirty" where tracked files differ."""
    if paths.CHECKOUT is None:
        return None
    command = ["git", "-C", str(paths.CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def cpuinfo() -> str:
    """What Linux says of the processor; elsewhere nothing."""
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.is_file() else ""


def _processor() -> str:
    named = re.search(r"model name\s*: (.+)", cpuinfo())
    return named[1] if named else platform.processor() or "unknown"
