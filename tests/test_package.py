"""What is built from the repository, and what it asks for: the same in every list of dependencies."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from paperlib import paths

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
DIRECT = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what is built: setuptools writes build/ beside its sources."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("paperlib", "configs"):
        shutil.copytree(
            paths.ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(paths.ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_wheel_has_the_library_its_profiles_and_nothing_else(wheel, source):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    (entry,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "paperlib = paperlib.__main__:main" in wheel.read(entry).decode()
    library = {p.relative_to(source).as_posix() for p in (source / "paperlib").rglob("*.*")}
    assert names == library | {f"paperlib/configs/{p.name}" for p in paths.CONFIGS.glob("*.yaml")}


def test_an_unpacked_wheel_finds_its_profiles_and_writes_to_the_current_folder(wheel, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    wheel.extractall(site)
    code = (
        "import paperlib.beyond\n"
        "from paperlib import paths, records\n"
        "from paperlib.beyond import pretrained\n"
        "from paperlib.profiles import load_profile\n"
        "assert paths.CHECKOUT is None and records._commit() is None\n"
        "print(paths.DATA, paths.RESULTS, len(load_profile('quick')), len(pretrained.names()))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PAPERLIB_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=work, env=environment | {"PYTHONPATH": str(site)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(work / "data"), str(work / "results"), "24", "3"]


def test_environment_yml_has_the_dependencies_of_pyproject():
    listed = yaml.safe_load((paths.ROOT / "environment.yml").read_text())["dependencies"]
    assert sorted(listed[-1]["pip"]) == sorted([*DIRECT, "-e ."])
    assert f"python{PROJECT['requires-python']}" in listed


@pytest.mark.parametrize("requirement", [*map(Requirement, DIRECT)], ids=lambda r: r.name)
def test_every_direct_dependency_is_locked_within_its_bounds(requirement):
    lines = (paths.ROOT / "requirements.lock").read_text().splitlines()
    locked = [re.fullmatch(r"([\w.-]+)==([\w.]+)( ;.*)?", x) for x in lines if x[0] != "#"]
    assert all(locked), "not pinned exactly, or of one kind of machine, as +cpu"
    name = canonicalize_name(requirement.name)
    versions = [match[2] for match in locked if canonicalize_name(match[1]) == name]
    assert versions and all(requirement.specifier.contains(v, prereleases=True) for v in versions)
