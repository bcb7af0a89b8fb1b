"""A notebook whose kernel is interrupted (the square in JupyterLab) goes on when it is run again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from helpers import changed
from jupyter_client.manager import start_new_kernel
from processes import wait_until
from test_interruption import outcome

from paperlib import paths
from paperlib.training import train

WAIT_IN_STEP_3 = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from processes import wait_in_step
wait_in_step(3, Path({folder!r}))
"""


def test_notebook_is_interrupted_and_goes_on_when_run_again(workspace, tiny_config, monkeypatch):
    monkeypatch.setenv("PAPERLIB_DATA", str(paths.DATA))
    monkeypatch.setenv("PAPERLIB_RESULTS", str(paths.RESULTS))
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    config = changed(tiny_config, steps=6)
    run = paths.runs("smoke") / config.name
    notebook = nbformat.read(paths.NOTEBOOKS / "02_train.ipynb", as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    (training_cell,) = [source for source in code if "training.train(" in source]
    values = "\n".join(f"{key} = {value!r}" for key, value in config.model_dump().items())
    manager, client = start_new_kernel(kernel_name="python3", stderr=sys.stderr)

    def execute(source: str, interrupt: bool = False) -> dict[str, Any]:
        # after an error the kernel would refuse what comes at once, which a user never is
        message = client.execute(source, stop_on_error=False)
        if interrupt:
            wait_until(lambda: (workspace / "waiting").exists())
            manager.interrupt_kernel()
            (workspace / "go").touch()
        while (reply := client.get_shell_msg(timeout=120))["parent_header"]["msg_id"] != message:
            pass
        return reply["content"]

    try:
        parameters, imports, data, *_ = code
        wait = WAIT_IN_STEP_3.format(tests=str(Path(__file__).parent), folder=str(workspace))
        for source in (parameters, values, imports, wait, data):
            assert (reply := execute(source))["status"] == "ok", reply
        reply = execute(training_cell, interrupt=True)
        assert reply.get("ename") == "KeyboardInterrupt", reply
        assert reply["evalue"].endswith("interrupted at step 3; run it again to go on")
        assert [path.name[:19] for path in run.glob("checkpoint-*")] == ["checkpoint-00000003"]
        assert (reply := execute(training_cell))["status"] == "ok", reply
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    train(config, workspace / "whole")
    for name in ("log", "generator.safetensors", "checkpoint"):
        assert outcome(run)[name] == outcome(workspace / "whole")[name]
