"""Bad input of every kind, through the command line: one clear line, the right status, no trace.

Nothing else may be printed as an error, no traceback may come, and no file may be left behind,
changed or lost. The cases of ``bad_input`` are the one place where refusals are tested;
``test_fuzz`` looks for input that nobody thought of.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from bad_input import FAILS_ON_AN_IMAGE, RUN, cases
from helpers import changed
from image_files import holed

from paperlib import paths
from paperlib.__main__ import main
from paperlib.config import RunConfig
from paperlib.records import write_record
from paperlib.training.loop import train

pytestmark = pytest.mark.usefixtures("own_signal_handlers")
CASES = cases()


@pytest.fixture(scope="module")
def trained(tiny_config, prepared_once, tmp_path_factory) -> Path:
    """tiny.yaml, data/, results/ of its trained and evaluated run, and run/, the same."""
    place = tmp_path_factory.mktemp("trained")
    config = changed(tiny_config, steps=1)
    shared = {k: v for k, v in config.model_dump().items() if v != getattr(RunConfig(), k)}
    (place / "tiny.yaml").write_text(yaml.safe_dump(shared))
    shutil.copytree(prepared_once, place / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "DATA", place / "data")
        record = train(config, place / RUN)
    about = {key: record[key] for key in ("config", "data_checksum")}
    rests_on = {"generator_checksum": record["generator_checksum"]}
    write_record(place / RUN / "evaluation.json", about | {"rests_on": rests_on, "metrics": {}})
    shutil.copytree(place / RUN, place / "run")
    return place


@pytest.fixture
def place(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it as the current folder, and in it data/ and results/ of this test alone."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    holed().save(tmp_path / "x.png")
    (tmp_path / "used" / "empty").mkdir(parents=True)
    (tmp_path / "used" / "mine.txt").write_text("mine")
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("PAPERLIB_PROGRESS", "none")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder: Path) -> dict[str, str]:
    """Every file and folder but locks, with a hash of what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
        if path.suffix != ".lock"
    }


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_named_in_one_line_and_leaves_no_trace(place, capsys, name):
    make, said = CASES[name]
    command = make()
    before = tree(place)
    status = main(command.split())
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if "error: " in line]
    assert len(errors) == 1 and said in errors[0] and len(errors[0]) < 2000, lines
    assert status == (1 if name.startswith(FAILS_ON_AN_IMAGE) else 2)
    assert not any("Traceback" in line for line in lines)
    after = tree(place)
    if command.startswith("train"):  # it may have prepared its data, and begun its run
        made = ("data", "results")
        after = {p: h for p, h in after.items() if p in before or p.split("/")[0] not in made}
    assert after == before


@pytest.mark.parametrize("fault", [TypeError, KeyError, RuntimeError])
def test_fault_of_ours_gives_its_traceback(place, monkeypatch, fault):
    def wrong(*_, **__):
        raise fault("a bug")

    monkeypatch.setattr("paperlib.data.prepare.prepare", wrong)
    with pytest.raises(fault, match="a bug"):
        main(["prepare", "smoke"])
