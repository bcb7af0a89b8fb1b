"""``python -m paperlib verify``: says nothing of what is well, and names what is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import MeanAndSpread

from paperlib import paths, records
from paperlib.__main__ import main
from paperlib.config import RunConfig

pytestmark = pytest.mark.usefixtures("own_signal_handlers")
BOTH, MISGAN = "small_patch-both-seed0", "small_patch-misgan-seed0"
SELECTED = f"selection/{BOTH}/lambda_z=2"


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
    patch.setattr("paperlib.evaluation.load_extractor", lambda device: Extractor())
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
    return status, faults, looked_at


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("part", ["results", "results/tiny"])
def test_what_the_commands_leave_is_well_and_stays_as_it_is(place, capsys, part):
    before = contents(place)
    status, faults, looked_at = verified(capsys, place / part)
    assert status == 0 and faults == []
    assert "2 runs, 1 selection, 5 references, 0 peers, 8 tables; 1 prepared" in looked_at
    assert contents(place) == before


def test_by_default_all_results_are_looked_at(place, capsys):
    assert verified(capsys) == verified(capsys, place / "results")


def test_record_from_before_there_were_checksums_is_well(place, capsys):
    for path in (place / "results").rglob("*.json"):
        if path.name != "config.json":
            record = records.read_json(path)
            records.write_json(
                path, {k: v for k, v in record.items() if k not in ("checksum", "files")}
            )
    assert verified(capsys)[:2] == (0, [])


def flip(path: Path) -> None:
    """One bit in the middle, as a bad disk does."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def without_a_line(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))


def with_another(key: str, value: object, sealed: bool = False) -> Callable[[Path], object]:
    """Another value in a JSON file; ``sealed``: as if it had been written so."""

    def change(path: Path) -> None:
        values = json.loads(path.read_text())
        inner = values
        *outer, last = key.split(".")
        for name in outer:
            inner = inner[name]
        inner[last] = value
        (records.write_record if sealed else records.write_json)(path, values)

    return change


def overwrite(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def other_row(path: Path) -> None:
    rows = np.load(path)
    rows[0] += 1
    np.save(path, rows)


RUN = f"results/tiny/runs/{BOTH}"
REFERENCE = "results/tiny/references/small_patch-mean.json"
DATA = "data/{folder}"
FAULTS = {
    # what, how it was hurt, and the beginning of the line that names it
    "config gone": (f"{RUN}/config.json", Path.unlink, f"missing: {RUN}/config.json"),
    "config broken": (f"{RUN}/config.json", overwrite("{"), f"altered: {RUN}/config.json"),
    "config of another run": (f"{RUN}/config.json", with_another("seed", 1), f"stale: {RUN}/config.json"),
    "config not the profile's": (f"{RUN}/config.json", with_another("lambda_y", 7.0), f"stale: {RUN}/config.json"),
    "unknown key": (f"{RUN}/config.json", with_another("nokey", 1), f"altered: {RUN}/config.json"),
    "record gone": (f"{RUN}/record.json", Path.unlink, f"missing: {RUN}/record.json"),
    "record's number": (f"{RUN}/record.json", with_another("seconds", 1.0), f"altered: {RUN}/record.json"),
    "record of another configuration": (f"{RUN}/record.json", with_another("config.lambda_z", 9.0, True), f"stale: {RUN}/record.json"),
    "record on other data": (f"{RUN}/record.json", with_another("data_checksum", "0", True), f"stale: {RUN}/record.json"),
    "weights' bit": (f"{RUN}/generator.safetensors", flip, f"altered: {RUN}/generator.safetensors"),
    "weights gone": (f"{RUN}/generator.safetensors", Path.unlink, f"missing: {RUN}/generator.safetensors"),
    "MisGAN's second weights": (f"results/tiny/runs/{MISGAN}/data_generator.safetensors", flip, f"altered: results/tiny/runs/{MISGAN}/data_generator.safetensors"),
    "checkpoint's bit": (f"{RUN}/checkpoint-00000004-*.pt", flip, f"altered: {RUN}/checkpoint-00000004-"),
    "snapshot's bit": (f"{RUN}/snapshots/generator-00000002.safetensors", flip, f"altered: {RUN}/snapshots/generator-00000002"),
    "snapshot gone": (f"{RUN}/snapshots/generator-00000002.safetensors", Path.unlink, f"missing: {RUN}/snapshots/generator-00000002"),
    "log gone": (f"{RUN}/log.jsonl", Path.unlink, f"missing: {RUN}/log.jsonl"),
    "log's line": (f"{RUN}/log.jsonl", without_a_line, f"altered: {RUN}/log.jsonl"),
    "evaluation gone": (f"{RUN}/evaluation.json", Path.unlink, f"missing: {RUN}/evaluation.json"),
    "evaluation's number": (f"{RUN}/evaluation.json", with_another("metrics.mse.value", 0.0), f"altered: {RUN}/evaluation.json"),
    "evaluation of another G": (f"{RUN}/evaluation.json", with_another("rests_on.generator_checksum", "0", True), f"stale: {RUN}/evaluation.json"),
    "evaluation by other metrics": (f"{RUN}/evaluation.json", with_another("rests_on.metrics", 1, True), f"stale: {RUN}/evaluation.json"),
    "selection gone": (f"results/tiny/{SELECTED}/selection.json", Path.unlink, f"missing: results/tiny/{SELECTED}/selection.json"),
    "selection of another G": (f"results/tiny/{SELECTED}/selection.json", with_another("rests_on.generator_checksum", "0", True), f"stale: results/tiny/{SELECTED}/selection.json"),
    "candidate's weights": (f"results/tiny/{SELECTED}/generator.safetensors", flip, f"altered: results/tiny/{SELECTED}/generator.safetensors"),
    "reference broken": (REFERENCE, overwrite("["), f"altered: {REFERENCE}"),
    "reference's number": (REFERENCE, with_another("metrics.mse.value", 0.0), f"altered: {REFERENCE}"),
    "reference otherwise": (REFERENCE, with_another("config.mask_seed", 5, True), f"stale: {REFERENCE}"),
    "reference renamed": (REFERENCE, lambda p: p.rename(p.with_name("small_patch-linear.json")), "altered: results/tiny/references/small_patch-linear.json"),
    "table's number": ("results/tiny/table1.csv", overwrite("mse,0"), "stale: results/tiny/table1.csv"),
    "table gone": ("results/tiny/table2.md", Path.unlink, "missing: results/tiny/table2.md"),
    "verdict": ("results/tiny/claims.md", lambda p: p.write_text(p.read_text() + "reproduced\n"), "stale: results/tiny/claims.md"),
    "data gone": (DATA, shutil.rmtree, f"missing: {DATA}/manifest.json"),
    "image's bit": (f"{DATA}/images.npy", flip, f"altered: {DATA}"),
    "images cut": (f"{DATA}/images.npy", lambda p: p.write_bytes(p.read_bytes()[:-9]), f"altered: {DATA}"),
    "splits gone": (f"{DATA}/splits.npz", Path.unlink, f"altered: {DATA}"),
    "name gone": (f"{DATA}/ids.txt", without_a_line, f"altered: {DATA}/ids.txt"),
    "numbers of masks": (f"{DATA}/mask_ids.npy", other_row, f"altered: {DATA}/mask_ids.npy"),
    "manifest broken": (f"{DATA}/manifest.json", overwrite("{"), f"altered: {DATA}"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named_in_a_line_and_the_status_is_1(place, tiny_config, capsys, name):
    where, hurt, begins = (
        part.format(folder=tiny_config.data.folder) if isinstance(part, str) else part
        for part in FAULTS[name]
    )
    (path,) = place.glob(where)
    hurt(path)
    if "table" not in path.name and "claims" not in path.name:  # they take time to write anew
        for table in place.glob("results/tiny/*.*"):
            table.unlink()
    before = contents(place)
    status, faults, looked_at = verified(capsys)
    assert status == 1 and faults and f"{len(faults)} faults" in looked_at
    kind, _, file = begins.partition(": ")
    assert any(line.startswith(f"{kind}: {place / file}") for line in faults), faults
    assert contents(place) == before  # verifying mends nothing and deletes nothing


@pytest.mark.parametrize(
    "part, hurt, kind",
    [(".json", with_another("seconds", 1.0), "altered"), (".safetensors", flip, "altered"), (".safetensors", Path.unlink, "missing")],
)  # fmt: skip
def test_run_on_fields(place, capsys, part, hurt, kind):
    run = place / "results" / "fields" / "runs" / "both.json"
    run.parent.mkdir(parents=True)
    weights = run.with_suffix(".safetensors")
    weights.write_bytes(b"weights")
    records.write_record(run, {"generator_checksum": records.file_checksum(weights)})
    assert verified(capsys)[0] == 0
    hurt(run.with_suffix(part))
    status, faults, _ = verified(capsys, place / "results" / "fields")
    assert status == 1 and [f.partition(":")[0] for f in faults] == [kind]
    assert str(run.with_suffix(part)) in faults[0]


def test_log_without_a_checksum_is_counted(place, capsys):
    run = place / RUN
    record = records.read_json(run / "record.json")
    older = {k: v for k, v in record.items() if k not in ("checksum", "files")}
    records.write_json(run / "record.json", older)
    without_a_line(run / "log.jsonl")
    status, faults, _ = verified(capsys)
    assert status == 1 and len(faults) == 1
    assert "log.jsonl: it lacks the lines of steps 2" in faults[0]


def test_unfinished_run_is_missing_its_record(place, capsys):
    (place / RUN / "record.json").unlink()
    _, faults, _ = verified(capsys)
    assert any("missing" in line and "record.json" in line for line in faults)


@pytest.mark.parametrize(
    "file",
    [f"{RUN}/record.json", f"{RUN}/evaluation.json", REFERENCE,
     f"results/tiny/{SELECTED}/selection.json", "data/*/manifest.json"],
)  # fmt: skip
def test_record_of_any_shape_gives_no_traceback(place, capsys, file):
    shutil.rmtree(place / "results/tiny/runs" / MISGAN)  # they take time
    for path in (*place.glob("results/tiny/*.*"), *place.rglob("*.pt")):
        path.unlink()
    (path,) = place.glob(file)
    values = json.loads(path.read_text())
    if not file.startswith("data"):
        values.pop("checksum")  # which would tell
    for key in values:
        path.write_text(json.dumps(values | {key: [{}]}))
        assert verified(capsys)[0] in (0, 1)


def test_table_of_records_that_are_refused_is_stale(place, capsys):
    FAULTS["evaluation's number"][1](place / RUN / "evaluation.json")
    _, faults, _ = verified(capsys)
    assert len([line for line in faults if "altered" in line and "evaluation.json" in line]) > 0
    assert len([line for line in faults if line.startswith("stale: ")]) == 8  # tables and claims


def test_each_fault_is_said_once_and_all_are_said(place, capsys):
    for name in ("weights' bit", "log gone", "reference's number"):
        where, hurt, _ = FAULTS[name]
        hurt(place / where)
    _, faults, _ = verified(capsys)
    assert len(faults) == len(set(faults))
    for part in ("generator.safetensors", "log.jsonl", "small_patch-mean.json"):
        assert any(part in line for line in faults)


@pytest.mark.parametrize("name", ["nowhere", "data"])
def test_folder_without_results(place, capsys, name):
    assert main(["verify", str(place / name)]) == 2
    assert f"{place / name} holds no results" in capsys.readouterr().err


def test_profile_from_elsewhere_is_verified_without_its_tables(place, capsys):
    (place / "configs" / "tiny.yaml").unlink()
    status, faults, looked_at = verified(capsys)
    assert status == 0 and faults == [] and "so no tables" in looked_at
