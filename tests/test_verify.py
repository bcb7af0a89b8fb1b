"""``python -m paperlib verify``: says nothing of what is well, and names what is not.

What may be wrong with one run is tested in test_run.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers import MeanAndSpread

from paperlib import paths, records
from paperlib.__main__ import main
from paperlib.config import RunConfig

pytestmark = pytest.mark.usefixtures("own_signal_handlers")
BOTH, MISGAN = "small_patch-both-seed0", "small_patch-misgan-seed0"


class Extractor(MeanAndSpread):
    """The cheap one under a name that tables know."""

    name = "FD-efflite0"


@pytest.fixture(scope="module")
def complete(tiny_config, prepared_once, tmp_path_factory) -> Path:
    """data/, results/ and configs/ with all that the commands make of a profile. Not to be changed."""
    place = tmp_path_factory.mktemp("complete")
    shutil.copytree(prepared_once, place / "data")
    shared = {k: v for k, v in tiny_config.model_dump().items() if v != getattr(RunConfig(), k)}
    shared |= {"snapshots": 1, "critic_steps": 1, "eval_images": 4, "eval_samples": 2}
    shared |= {"matrix": {"method": ["base", "both", "misgan"]}}
    (place / "configs").mkdir()
    (place / "configs" / "tiny.yaml").write_text(yaml.safe_dump(shared))
    with pytest.MonkeyPatch.context() as patch:
        at(place, patch)
        for run in (BOTH, MISGAN):  # base has not been run yet, which is no fault
            assert main(["train", "tiny", "--run", run]) == 0
            assert main(["evaluate", "tiny", "--run", run]) == 0
        assert main(["references", "tiny"]) == 0
        assert main(["select", "tiny", "--run", BOTH, "lambda_z=2"]) == 0
        assert main(["tables", "tiny"]) == 0
    return place


def at(place: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("paperlib.evaluation.protocol.load_extractor", lambda _: Extractor())
    for name in ("DATA", "RESULTS", "CONFIGS"):
        patch.setattr(paths, name, place / name.lower())


@pytest.fixture
def place(complete, tmp_path, monkeypatch) -> Path:
    """A copy of ``complete``."""
    shutil.copytree(complete, tmp_path, dirs_exist_ok=True)
    at(tmp_path, monkeypatch)
    return tmp_path


def verified(capsys, *arguments: str | Path) -> tuple[int, list[str], str]:
    """The status of the command, the faults, and the line about what was looked at."""
    capsys.readouterr()
    status = main(["verify", *map(str, arguments)])
    *faults, looked_at = capsys.readouterr().out.splitlines()
    assert len(faults) == len(set(faults))  # each is said once
    return status, faults, looked_at


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_the_commands_leave_is_well_and_stays_as_it_is(place, capsys):
    before = contents(place)
    status, faults, looked_at = verified(capsys)
    assert status == 0 and faults == []
    references = len([*place.glob("results/tiny/references/*.json")])
    assert f"3 runs, {references} references and peers" in looked_at  # one is a candidate of select
    assert "1 profiles' tables, 1 prepared data sets" in looked_at
    assert contents(place) == before


def without_tables(place: Path) -> None:
    """They take seconds to write anew."""
    for path in place.glob("results/tiny/*.*"):
        path.unlink()


def flip(path: Path) -> None:
    """One bit in the middle, as a bad disk does."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def with_another(key: str, value: object, sealed: bool = True) -> Callable[[Path], object]:
    """Another value in a record; ``sealed``: as if it had been written so."""

    def change(path: Path) -> None:
        values = inner = json.loads(path.read_text())
        *outer, last = key.split(".")
        for name in outer:
            inner = inner[name]
        inner[last] = value
        (records.write_record if sealed else records.write_json)(path, values)

    return change


def overwrite(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


TINY, DATA = "results/tiny", "data/{folder}"
RUN, REFERENCE = f"{TINY}/runs/{BOTH}", f"{TINY}/references/small_patch-mean.json"
SELECTED = f"{TINY}/selection/{BOTH}/lambda_z=2"
FAULTS = {  # what was hurt, and how
    f"{RUN}/generator.safetensors": [flip],
    f"{RUN}/evaluation.json": [with_another("rests_on.metrics", 1)],
    f"{SELECTED}/selection.json": [with_another("rests_on.generator_checksum", "0")],
    REFERENCE: [
        overwrite("["),
        with_another("metrics.mse.value", 0.0, sealed=False),
        with_another("data_checksum", "0"),
        with_another("rests_on.metrics", 1),
    ],
    DATA: [shutil.rmtree],
    f"{DATA}/images.npy": [flip, overwrite("cut")],
    f"{DATA}/manifest.json": [overwrite("{")],
}
CASES = [(file, hurt) for file, ways in FAULTS.items() for hurt in ways]


@pytest.mark.parametrize("file, hurt", CASES, ids=[file for file, _ in CASES])
def test_fault_is_named_in_a_line_and_the_status_is_1(place, tiny_config, capsys, file, hurt):
    path = place / file.format(folder=tiny_config.data.folder)
    hurt(path)
    without_tables(place)
    before = contents(place)
    status, faults, looked_at = verified(capsys)
    assert status == 1 and f"{len(faults)} faults" in looked_at
    named = place / "data" / tiny_config.data.folder if "data/" in file else path
    assert any(str(named) in line for line in faults), faults
    assert contents(place) == before  # verifying mends nothing and deletes nothing


@pytest.mark.parametrize("name", ["table1.csv", "claims.md"])
def test_tables_and_claims_that_are_not_what_the_records_say_are_named(place, capsys, name):
    (place / TINY / name).write_text("mse,0")
    _, (fault,), _ = verified(capsys)
    assert fault.startswith(f"{place / TINY / name} is stale")
