"""Which GPU a run is given: its own, or a place on a shared one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from paperlib import paths
from paperlib.gpus import claim, devices


def test_each_run_gets_a_gpu_of_its_own_until_all_are_taken(tmp_path):
    first, second = (claim(["0", "1"], 1, tmp_path) for _ in range(2))
    assert (first[0], second[0]) == ("0", "1")
    assert claim(["0", "1"], 1, tmp_path) is None
    os.close(first[1])  # the end of its process
    assert claim(["0", "1"], 1, tmp_path)[0] == "0"


def test_small_runs_share_gpus_evenly(tmp_path):
    places = [claim(["0", "1"], 3, tmp_path) for _ in range(7)]
    assert [place and place[0] for place in places] == ["0", "1"] * 3 + [None]


def test_only_visible_gpus_are_given(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6")
    assert devices(2) == ["3", "5"]
    with pytest.raises(SystemExit, match="4 GPUs asked for"):
        devices(4)


def test_commands_beside_each_other_have_different_gpus(tmp_path):
    show = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(3)"
    command = [sys.executable, "-m", "paperlib.gpus", "2", "1", sys.executable, "-c", show]
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    started = [
        subprocess.Popen(
            command,
            cwd=paths.ROOT,
            env=environment | {"TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=60)[0].strip() for process in started]
    assert set(outputs) == {"0", "1"} and len(outputs) == 3  # the third waited for one of them


@pytest.mark.parametrize("arguments, runs", [(["--resources", "gpu=2"], "2 1"), ([], None), (["--resources", "gpu=2", "--config", "runs_per_gpu=3"], "2 3")])  # fmt: skip
def test_the_workflow_gives_every_run_a_gpu_where_it_is_told_how_many(arguments, runs):
    config = arguments if "--config" in arguments else [*arguments, "--config"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "-p", "--cores", "2", "--quiet", "host"]
        + [*config, "profile=smoke"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    jobs = sum(shown.count(f"rule {name}:") for name in ("train", "evaluate", "references"))
    assert jobs > 2 and shown.count("paperlib.gpus") == (jobs if runs else 0)
    assert runs is None or f"python -m paperlib.gpus {runs} env " in shown
