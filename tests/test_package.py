"""What is built from the repository: a wheel that works anywhere, an sdist that is the repository."""

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile

import pytest

from paperlib import paths


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(names in the wheel, names in the sdist below its folder, the wheel's path)."""
    for tool in ("build", "setuptools"):
        pytest.importorskip(tool)
    out = tmp_path_factory.mktemp("dist")
    # From a copy of what git knows or would add: setuptools writes build/ beside its sources.
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=paths.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git repository")
    source = tmp_path_factory.mktemp("source")
    for name in filter(None, listed.stdout.split("\0")):
        if (paths.ROOT / name).is_file():
            copy = source / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((paths.ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        in_wheel = set(file.namelist())
    with tarfile.open(sdist) as file:
        in_sdist = {name.partition("/")[2] for name in file.getnames()}
    return in_wheel, in_sdist, wheel


def test_the_wheel_has_the_library_its_profiles_and_nothing_else(built):
    modules = {f"paperlib/{p.name}" for p in (paths.ROOT / "paperlib").glob("*.py")}
    profiles = {f"paperlib/configs/{p.name}" for p in paths.CONFIGS.glob("*.yaml")}
    runs = (p for p in (paths.ROOT / "paperlib/pretrained_runs").rglob("*") if p.is_file())
    expected = modules | profiles | {p.relative_to(paths.ROOT).as_posix() for p in runs}
    others = ("paper_tables.csv", "paper.mplstyle", "report.html.jinja", "py.typed")
    expected |= {f"paperlib/{name}" for name in others}
    assert {name for name in built[0] if ".dist-info/" not in name} == expected


def test_the_sdist_has_what_the_repository_is_run_by(built):
    folders = ("configs", "docs", "notebooks", "tests", "benchmarks", "profiles", "paperlib")
    suffixes = (".py", ".ipynb", ".yaml", ".md", ".json", ".png")
    needed = {
        path.relative_to(paths.ROOT).as_posix()
        for folder in folders
        for path in (paths.ROOT / folder).rglob("*")
        if path.suffix in suffixes and ".ipynb_checkpoints" not in path.parts
    }
    needed |= {
        "Makefile",
        "Snakefile",
        "requirements.lock",
        "environment.yml",
        "README.md",
        "LICENSE",
    }
    assert not needed - built[1]


def test_an_unpacked_wheel_finds_its_profiles_and_writes_to_the_current_folder(built, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    zipfile.ZipFile(built[2]).extractall(site)
    code = (
        "from paperlib import paths, records\n"
        "from paperlib.config import load_profile\n"
        "assert paths.CHECKOUT is None and records._commit() is None\n"
        "print(paths.DATA, paths.RESULTS, len(load_profile('quick')), sep='\\n')"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PAPERLIB_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=work, env=environment | {"PYTHONPATH": str(site)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(work / "data"), str(work / "results"), "24"]


def test_the_command_is_the_module_s(built):
    with zipfile.ZipFile(built[2]) as file:
        (entry,) = (n for n in file.namelist() if n.endswith("entry_points.txt"))
        assert "paperlib = paperlib.__main__:main" in file.read(entry).decode()
    assert importlib.util.find_spec("paperlib.__main__")
