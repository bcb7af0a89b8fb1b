"""Profiles of runs: ``configs/NAME.yaml``.

A profile holds the keys that its runs share, under ``matrix`` the lists whose product makes the
runs, and under ``overrides`` the keys that differ at some points of it. ``like: OTHER`` takes over
what another profile has and this one does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from paperlib import paths
from paperlib.config import EvaluationConfig, RunConfig
from paperlib.core.corruption import CORRUPTIONS
from paperlib.errors import ConfigurationError


def run_of_profile(
    profile: str, corruption: str, method: str, seed: int = 0, changes: Mapping | None = None
) -> RunConfig:
    """A run by a profile's settings, also one that its matrix does not have (another seed, say).

    ``changes`` are any other keys, with the last word. Raises ConfigurationError as ``load_profile``.
    """
    matrix, run_at = _read_profile(profile)
    point = {key: values[0] for key, values in matrix.items()}
    point |= {"corruption": corruption, "method": method, "seed": seed}
    return run_at(point, dict(changes or {}))


def trained_profile() -> str:
    """What a notebook shows that is given no profile: quick where both was evaluated, else smoke."""
    if len([*paths.runs("quick").glob("*-both-seed0/evaluation.json")]) == len(CORRUPTIONS):
        return "quick"
    print("quick is not, or not wholly, evaluated here: 'make reproduce' does it.")
    print("This is smoke: its numbers mean nothing.")
    return "smoke"


def load_profile(profile: str) -> list[RunConfig]:
    """The runs of ``configs/PROFILE.yaml``, or of a YAML file, in the order of its ``matrix``.

    Raises:
        ConfigurationError: no such profile, a wrong key, which it names, or two runs of one name.
    """
    matrix, run_at = _read_profile(profile)
    points = itertools.product(*matrix.values())
    runs = [run_at(dict(zip(matrix, values, strict=True)), {}) for values in points]
    names = [run.name for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(f"{profile}: two runs are called {min(twice)}")
    return runs


def evaluation_configs(profile: str) -> list[EvaluationConfig]:
    """What the runs of a profile are measured on: one for each corruption."""
    return list({run.corruption: run.evaluation for run in load_profile(profile)}.values())


def _read_yaml(profile: str) -> tuple[Path, dict[str, Any]]:
    """The file of a profile and its keys."""
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else paths.config(profile)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in paths.CONFIGS.glob("*.yaml")))
        raise ConfigurationError(f"no profile {profile!r} ({path} is missing); known: {known}")
    try:
        keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise ConfigurationError(f"{path}: not valid YAML in UTF-8 ({said})") from None
    if not isinstance(keys, dict):
        raise ConfigurationError(f"{path}: expected 'key: value' lines")
    for key, kind in (("matrix", list), ("overrides", dict)):
        part = keys.setdefault(key, {})
        if not isinstance(part, dict) or not all(v and isinstance(v, kind) for v in part.values()):
            raise ConfigurationError(f"{path}: '{key}' must map each key to a {kind.__name__}")
    return path, keys


def _read_profile(profile: str) -> tuple[dict[str, list], Callable[[dict, dict], RunConfig]]:
    """The matrix, and what makes the run at a point of it, with changes."""
    path, shared = _read_yaml(profile)
    listed = [*shared["matrix"].values()]
    if other := shared.pop("like", None):
        _, below = _read_yaml(str(other))
        listed += below["matrix"].values()
        merged = {key: below[key] | shared[key] for key in ("matrix", "overrides")}
        shared = below | shared | merged
    matrix, overrides = shared.pop("matrix"), shared.pop("overrides")
    named = {str(value) for values in listed for value in values}
    if unknown := {word for key in overrides for word in str(key).split()} - named:
        raise ConfigurationError(f"{path}: overrides of {min(unknown)}, which is not in the matrix")

    def run_at(point: dict[str, Any], changes: dict[str, Any]) -> RunConfig:
        """E.g. overrides: {drop_pixel: {lambda_z: 2.0}, drop_pixel misgan: {lr_g: 1e-4}}; of those
        that fit the point the last one wins."""
        keys, values = shared | point, {str(value) for value in point.values()}
        for where, changed in overrides.items():
            if set(str(where).split()) <= values:
                keys |= changed
        return RunConfig.parse(keys | changes, str(path))

    return matrix, run_at
