"""Fixtures: a small folder of images, prepared once, and a private copy of it for each test.

The environment comes first: what the session's workflow and notebooks write goes to a folder that
is deleted at the end. It must be set before paperlib is imported; kernels inherit it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

SESSION = tempfile.mkdtemp(prefix="paperlib-tests-")
atexit.register(shutil.rmtree, SESSION, ignore_errors=True)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # kernels beside each other would fight for cores
os.environ["PAPERLIB_DATA"] = f"{SESSION}/data"
os.environ["PAPERLIB_RESULTS"] = f"{SESSION}/results"

# ruff: noqa: E402
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

import paperlib.beyond  # noqa: F401, its method and its data set have names too
from paperlib import paths
from paperlib.config import RunConfig
from paperlib.data.prepare import prepare

# Random examples: few and always the same in make test, many and others in make fuzz.
settings.register_profile("test", max_examples=30, derandomize=True, deadline=None, database=None)
settings.register_profile("fuzz", max_examples=2500, deadline=None)
settings.load_profile("test")

torch.set_num_threads(1)  # sums keep their order: tests of bit-identity need it


SNAKEMAKE = [sys.executable, "-m", "snakemake", "--cores", "2"]


@pytest.fixture(scope="session", autouse=True)
def workflow(request) -> Iterator[tuple[subprocess.Popen, Path] | None]:
    """The workflow of the smoke profile, for test_workflow, which comes last, and what it says.

    It runs beside the other tests, which leave a core idle.
    """
    if not any(item.path.name == "test_workflow.py" for item in request.session.items):
        yield None
        return
    output = Path(SESSION, "workflow.txt")
    with output.open("w") as file:
        how = {"cwd": paths.ROOT, "stdout": file, "stderr": file, "start_new_session": True}
        process = subprocess.Popen([*SNAKEMAKE, "--config", "profile=smoke"], **how)
    yield process, output
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def smooth_image(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A random image without hard edges, as photographs have few."""
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """60 smooth PNG images of 48 x 40 pixels."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(60):
        smooth_image(rng, 48, 40).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_config(image_folder) -> RunConfig:
    """A run of a fraction of a second on ``image_folder``."""
    return RunConfig(
        dataset="folder",
        source=str(image_folder),
        threads=1,
        batch_size=4,
        steps=4,
        log_every=1,
        checkpoint_seconds=1000.0,
        g_channels=[8, 16],
        d_channels=[8, 16],
        e_channels=[8, 16],
    )


@pytest.fixture(scope="session")
def prepared_once(tiny_config, tmp_path_factory) -> Path:
    """A data folder in which the data set of ``tiny_config`` is prepared. Not to be changed."""
    root = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "DATA", root)
        prepare(tiny_config.data)
    return root


@pytest.fixture
def empty_workspace(tmp_path, monkeypatch) -> Path:
    """data/ and results/ of this test alone, empty; the repository's stay untouched."""
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    return tmp_path


@pytest.fixture
def workspace(empty_workspace, prepared_once) -> Path:
    """As ``empty_workspace``, with the data set of ``tiny_config`` prepared."""
    shutil.copytree(prepared_once, empty_workspace / "data")
    return empty_workspace


@pytest.fixture
def own_signal_handlers():
    """Put back what the command line changes in its process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
