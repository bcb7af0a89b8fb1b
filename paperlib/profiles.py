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
    profile: str,
    corruption: str,
    method: str,
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
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
    values = {str(value) for value in point.values()}
    fitting = [changes for key, changes in overrides.items() if set(str(key).split()) <= values]
    return shared | point | {k: v for changes in fitting for k, v in changes.items()}


def _read_profile(profile: str) -> tuple[Path, dict, dict, dict]:
    """(file, keys that all runs share, matrix, overrides)."""
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else paths.config(profile)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in paths.CONFIGS.glob("*.yaml")))
        raise ConfigurationError(f"no profile {profile!r} ({path} is missing); known: {known}")
    shared = read_yaml(path)
    matrix, overrides = shared.pop("matrix", {}), shared.pop("overrides", {})
    for key, part, kind in (("matrix", matrix, list), ("overrides", overrides, dict)):
        wrong = not isinstance(part, dict) or not all(isinstance(v, kind) for v in part.values())
        if wrong or [] in part.values():
            what = "lists" if kind is list else "mappings"
            raise ConfigurationError(f"{path}: '{key}' must map to {what}, got {str(part)[:200]!r}")
    named = {str(value) for values in matrix.values() for value in values}
    if unknown := ", ".join(sorted({w for k in overrides for w in str(k).split()} - named)):
        raise ConfigurationError(f"{path}: overrides of {unknown}, which is not in the matrix")
    return path, shared, matrix, overrides


class _EveryKeyOnce(yaml.SafeLoader):
    """Of a key that is there twice YAML would silently take the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise yaml.YAMLError(f"the key '{min(twice)}' is there twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; ConfigurationError names the file where it is not one."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _EveryKeyOnce)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise ConfigurationError(f"{path}: not valid YAML in UTF-8 ({said})") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: expected 'key: value' lines")
    return values
