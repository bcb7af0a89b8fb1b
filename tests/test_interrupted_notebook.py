"""A notebook whose kernel is interrupted (the square in JupyterLab) goes on when it is run again."""

from __future__ import annotations

import sys
from typing import Any

import nbformat
from helpers import changed
from jupyter_client.manager import start_new_kernel
from processes import wait_until
from test_interruption import outcome

from paperlib import paths, records
from paperlib.training import train

SLOW = """
import time
from pathlib import Path
from paperlib.algorithm1 import Algorithm1
step = Algorithm1.step
def slow(*inputs):
    if not Path({fast!r}).exists():
        time.sleep(0.1)
    return step(*inputs)
Algorithm1.step = slow
"""


def test_notebook_is_interrupted_and_goes_on_when_run_again(workspace, tiny_config, monkeypatch):
    monkeypatch.setenv("PAPERLIB_DATA", str(paths.DATA))
    monkeypatch.setenv("PAPERLIB_RESULTS", str(paths.RESULTS))
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    config = changed(tiny_config, steps=25)
    run = paths.runs("smoke") / config.name
    notebook = nbformat.read(paths.NOTEBOOKS / "02_train.ipynb", as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    (training_cell,) = [source for source in code if "training.train(" in source]
    values = "\n".join(f"{key} = {value!r}" for key, value in config.model_dump().items())
    manager, client = start_new_kernel(kernel_name="python3", stderr=sys.stderr)

    def execute(source: str, interrupt: bool = False) -> dict[str, Any]:
        message = client.execute(source)
        if interrupt:
            wait_until(lambda: len(records.read_log(run)) >= 2)
            manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=120))["parent_header"]["msg_id"] != message:
            pass
        return reply["content"]

    try:
        parameters, imports, data, *_ = code
        for source in (
            parameters,
            values,
            imports,
            SLOW.format(fast=str(workspace / "fast")),
            data,
        ):
            assert (reply := execute(source))["status"] == "ok", reply
        reply = execute(training_cell, interrupt=True)
        assert reply["ename"] == "KeyboardInterrupt"
        assert reply["evalue"].endswith("run it again to go on")
        (checkpoint,) = run.glob("checkpoint-*")
        assert f"interrupted at step {int(checkpoint.name[11:19])};" in reply["evalue"]
        (workspace / "fast").touch()
        assert (reply := execute(training_cell))["status"] == "ok", reply
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    train(config, workspace / "whole")
    for name in ("log", "generator.safetensors", "checkpoint"):
        assert outcome(run)[name] == outcome(workspace / "whole")[name]
