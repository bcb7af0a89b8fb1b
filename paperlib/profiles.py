"""Profiles of runs: ``configs/NAME.yaml``.

A profile holds the keys that its runs share, under ``matrix`` the lists whose product makes the
runs, and under ``overrides`` the keys that differ at some points of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from paperlib import paths
from paperlib.config import EvaluationConfig, RunConfig
from paperlib.errors import ConfigurationError


def run_of_profile(
    profile: str, corruption: str, method: str, seed: int = 0, changes: Mapping | None = None
) -> RunConfig:
    """A run by a profile's settings, also one that its matrix does not have (another seed, say).

    ``changes`` are any other keys, with the last word. Raises ConfigurationError as ``load_profile``.
    """
    path, shared, matrix, overrides = _read_profile(profile)
    point = {key: values[0] for key, values in matrix.items()}
    point |= {"corruption": corruption, "method": method, "seed": seed}
    return RunConfig.parse(_at(point, shared, overrides) | dict(changes or {}), str(path))


def load_profile(profile: str) -> list[RunConfig]:
    """The runs of ``configs/PROFILE.yaml``, or of a YAML file, in the order of its ``matrix``.

    Raises:
        ConfigurationError: no such profile, a wrong key, which it names, or two runs of one name.
    """
    path, shared, matrix, overrides = _read_profile(profile)
    runs: dict[str, RunConfig] = {}
    for values in itertools.product(*matrix.values()):
        point = dict(zip(matrix, values, strict=True))
        run = RunConfig.parse(_at(point, shared, overrides), str(path))
        if run.name in runs:
            raise ConfigurationError(f"{path}: two runs are called {run.name}, e.g. {point}")
        runs[run.name] = run
    return list(runs.values())


def evaluation_configs(profile: str) -> list[EvaluationConfig]:
    """What the runs of a profile are measured on: one for each corruption."""
    return list({run.corruption: run.evaluation for run in load_profile(profile)}.values())


def _at(point: dict[str, Any], shared: dict, overrides: dict) -> dict[str, Any]:
    """The keys at a point of the matrix; of the overrides that fit it the last one wins.

    E.g. overrides: {drop_pixel: {lambda_z: 2.0}, drop_pixel misgan: {lr_g: 1e-4}}.
    """
    keys, values = shared | point, {str(value) for value in point.values()}
    for where, changes in overrides.items():
        if set(str(where).split()) <= values:
            keys |= changes
    return keys


def _read_profile(profile: str) -> tuple[Path, dict, dict, dict]:
    """(file, keys that all runs share, matrix, overrides)."""
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else paths.config(profile)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in paths.CONFIGS.glob("*.yaml")))
        raise ConfigurationError(f"no profile {profile!r} ({path} is missing); known: {known}")
    try:
        shared = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise ConfigurationError(f"{path}: not valid YAML in UTF-8 ({said})") from None
    if not isinstance(shared, dict):
        raise ConfigurationError(f"{path}: expected 'key: value' lines")
    matrix, overrides = (shared.pop(key, {}) for key in ("matrix", "overrides"))
    for key, part, kind in (("matrix", matrix, list), ("overrides", overrides, dict)):
        if not isinstance(part, dict) or not all(v and isinstance(v, kind) for v in part.values()):
            raise ConfigurationError(f"{path}: '{key}' must map each key to a {kind.__name__}")
    named = {str(value) for values in matrix.values() for value in values}
    if unknown := {word for key in overrides for word in str(key).split()} - named:
        raise ConfigurationError(f"{path}: overrides of {min(unknown)}, which is not in the matrix")
    return path, shared, matrix, overrides
