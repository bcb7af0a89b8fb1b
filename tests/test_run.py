"""A run's directory: whose it is, its records, log, checkpoints and generators, and its faults."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import changed, tiny

from paperlib import paths
from paperlib.beyond import pretrained
from paperlib.config import BOOKKEEPING, EvaluationConfig
from paperlib.data.prepare import load_prepared
from paperlib.errors import RunError
from paperlib.records import (
    file_checksum,
    provenance,
    read_json,
    read_record,
    write_json,
    write_record,
)
from paperlib.run import Run, plain_generator

SHIPPED = sorted(path.parent for path in pretrained.RUNS.glob("*/record.json"))
CONFIG = tiny(steps=8, snapshots=2)


def made(folder: Path, config=CONFIG, data_checksum: str = "d" * 64) -> Run:
    """What a training and an evaluation leave, without them."""
    run = Run.begin(folder, config)
    for step in (1, 2, 3, 4):
        run.append_to_log({"step": step, "seconds": step / 2})
        if step in run.snapshots:
            run.save_snapshot(step, step / 2, plain_generator(config))
        run.save_checkpoint(step, {"weights": torch.full((1000,), float(step))})
    about = provenance(config, data_checksum) | {"steps": config.steps}
    record = run.finish({"generator": plain_generator(config)}, about)
    about |= {"rests_on": {"generator_checksum": record["generator_checksum"]}, "metrics": {}}
    write_record(folder / "evaluation.json", about)
    return run


@pytest.fixture(scope="module")
def made_once(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("made") / "run").folder


@pytest.fixture
def run(made_once, tmp_path, empty_workspace) -> Run:
    """A run whose files a test may spoil."""
    return Run(shutil.copytree(made_once, tmp_path / "run"))


def spoil(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def rewrite(path: Path, **changes) -> None:
    """Change a record, and its checksum with it."""
    values = {k: v for k, v in read_json(path).items() if k != "checksum"}
    write_record(path, {k: v for k, v in (values | changes).items() if v is not None})


def state_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


# Whose directory it is


@pytest.mark.parametrize("key, value", [("seed", 1), ("lambda_y", 3.5), ("method", "base")])
def test_directory_of_another_configuration_is_refused_naming_the_key(run, key, value):
    before = state_of(run.folder)
    with pytest.raises(RunError, match=rf"{key}: .*{value}") as error:
        Run.begin(run.folder, changed(CONFIG, **{key: value, "log_every": 5}))
    assert "log_every" not in str(error.value) and "\n" not in str(error.value)
    assert state_of(run.folder) == before


def test_bookkeeping_may_change_in_a_run(run):
    others = {"resident": True, "log_every": 3, "checkpoint_seconds": 7.0, "threads": 2}
    assert set(others) == BOOKKEEPING
    assert Run.begin(run.folder, changed(CONFIG, **others)).config.log_every == 3


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="not a run directory"):
        _ = Run(tmp_path).config


# Records of earlier versions


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda f: f.name)
def test_shipped_run_loads(folder):
    run = Run(folder)
    assert run.config.name == folder.name and run.record["steps"] == run.config.steps
    with torch.inference_mode():
        y, m = torch.zeros(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
        x = run.generator()(y, m, torch.zeros(2, run.config.nz))
    assert x.shape == y.shape and x.isfinite().all()
    faults = [f for f in run.faults() if f.path.name != "evaluation.json"]
    assert not [f for f in faults if f.kind != "stale"], faults  # other data may lie here


def test_there_are_shipped_runs():
    assert len(SHIPPED) == 2


def test_configuration_from_before_a_key_had_its_default(run):
    younger = ("precision", "compile", "fused_adam", "resident", "fill_sweeps")
    for path in (run.folder / "config.json", run.folder / "record.json"):
        values = read_json(path)
        old = values if path.name == "config.json" else values["config"]
        for key in younger:
            del old[key]
        old["discriminator_sees"] = None  # a key that is gone
        values.pop("checksum", None)  # older still
        write_json(path, values)
    assert Run.begin(run.folder, CONFIG).record["steps"] == CONFIG.steps
    assert not [f for f in run.faults() if f.kind == "altered"]
    with pytest.raises(RunError, match="precision: 'auto', now 'bfloat16'"):
        Run.begin(run.folder, changed(CONFIG, precision="bfloat16"))


def test_run_with_a_removed_key_says_what_became_of_it(run):
    path = run.folder / "config.json"
    write_json(path, read_json(path) | {"discriminator_sees": "both_masks"})
    for attempt in (lambda: Run(run.folder).config, lambda: Run.begin(run.folder, CONFIG)):
        with pytest.raises(RunError, match="'discriminator_sees': removed .*mask_aware") as error:
            attempt()
        assert str(path) in str(error.value)


# Records


def test_record_says_where_its_numbers_come_from():
    about = provenance(changed(CONFIG, seed=3), "d" * 64)
    assert about["config"] == changed(CONFIG, seed=3).model_dump() and about["seed"] == 3
    assert about["data_checksum"] == "d" * 64
    assert about["date"].startswith("20") and about["python"].startswith("3.")
    assert torch.__version__.split("+")[0] == about["versions"]["torch"].split("+")[0]
    assert {"numpy", "torchmetrics", "pillow"} <= about["versions"].keys()
    assert about["hardware"]["processor"] and about["hardware"]["cores"] >= 1
    assert provenance(EvaluationConfig(), "d")["seed"] is None  # a reference has none
    if (paths.ROOT / ".git").exists():
        git = ["git", "-C", paths.ROOT, "rev-parse", "HEAD"]
        head = subprocess.run(git, capture_output=True, text=True).stdout.strip()
        assert about["commit"].startswith(head)


def test_record_comes_back_and_an_altered_one_is_refused(tmp_path):
    path = tmp_path / "record.json"
    written = write_record(path, {"metrics": {"a": 0.1}, "nan": float("nan")})
    assert read_record(path)["metrics"] == {"a": 0.1}
    assert json.loads(path.read_text())["checksum"] == written["checksum"]
    path.write_text(path.read_text().replace("0.1", "0.2"))
    with pytest.raises(RunError, match="altered after it was written") as error:
        read_record(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "content, message",
    [(None, "missing"), ('{"a": ', "damaged"), ("[]", "damaged"), ("[" * 10_000, "damaged"),
     ('{"config": 3}', "damaged"), ('"\\ud800"', "damaged")],
    ids=["missing", "half", "list", "deep", "no record", "text"],
)  # fmt: skip
def test_unreadable_record_is_named(tmp_path, content, message):
    path = tmp_path / "record.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RunError, match=message) as error:
        read_record(path)
    assert str(path) in str(error.value)


def test_training_of_another_configuration_is_no_record_of_this_one(run):
    rewrite(run.folder / "record.json", config=changed(CONFIG, seed=9).model_dump())
    with pytest.raises(RunError, match="seed: 9, now 0"):
        _ = run.record


# Generators


def test_generator_is_the_one_that_was_kept_in_evaluation_mode(tmp_path):
    net = plain_generator(CONFIG)
    run = Run.begin(tmp_path / "run", CONFIG)
    assert not run.is_trained
    with pytest.raises(RunError, match="not trained"):
        run.generator()
    record = run.finish({"generator": net}, provenance(CONFIG, "d"))
    assert record["generator_checksum"] == file_checksum(run.folder / "generator.safetensors")
    G = run.generator()
    assert not G.training and not any(p.requires_grad for p in G.parameters())
    assert G.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in G.state_dict().items())


def test_altered_or_missing_weights_are_refused(run):
    for step in (2, 4):
        spoil(run.folder / "snapshots" / f"generator-{step:08d}.safetensors")
        with pytest.raises(RunError, match=f"{step}.safetensors is not the file"):
            run.snapshot(step)
    rewrite(run.folder / "record.json", generator_checksum=None)
    with pytest.raises(RunError, match=r"record\.json lacks generator_checksum"):
        run.generator()
    (run.folder / "generator.safetensors").unlink()
    with pytest.raises(RunError, match=r"generator\.safetensors is missing"):
        run.generator()


@pytest.mark.parametrize(
    "steps, snapshots, expected",
    [(4, 2, [1, 2]), (4, 10, [1, 2]), (1000, 3, [125, 250, 500]), (7, 2, [1, 3]), (1, 3, [])],
)
def test_snapshots_are_at_halves_of_the_steps(tmp_path, steps, snapshots, expected):
    config = changed(CONFIG, steps=steps, snapshots=snapshots)
    assert Run.begin(tmp_path / "run", config).snapshots == expected


def test_snapshot_comes_back_with_its_time(run):
    assert [run.snapshot_seconds(step) for step in run.snapshots] == [1.0, 2.0]
    assert run.snapshot(2).nz == CONFIG.nz


# Log


def test_half_written_line_of_the_log_is_not_read(run):
    with (run.folder / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "sec')
    assert [line["step"] for line in run.log()] == [1, 2, 3, 4]
    assert run.load_checkpoint()["step"] == 4
    run.append_to_log({"step": 5})  # which would otherwise go on in the half line
    assert [line["step"] for line in run.log()] == [1, 2, 3, 4, 5]


def test_log_that_lost_lines_is_said(run):
    log = run.folder / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[1:]))
    with pytest.warns(UserWarning, match=f"{log} is not as it was at step 4"):
        run.load_checkpoint()


# Checkpoints


def checkpoints(run: Run) -> list[Path]:
    """Newest first."""
    return sorted(run.folder.glob("checkpoint-*.pt"), reverse=True)


DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "text": lambda content: b"not a checkpoint\n",
    "a full stop": lambda content: b".",  # a pickle that ends before it begins
    "a flipped bit of a weight": lambda content: content.replace(  # torch.load would not notice
        b"\x00\x00\x80\x40", b"\x00\x00\x80\x00", 1
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_falls_back_to_the_one_before(run, damage):
    last, before = checkpoints(run)  # two are kept
    content = last.read_bytes()
    last.write_bytes(DAMAGE[damage](content))
    assert last.read_bytes() != content
    with pytest.warns(UserWarning, match=f"{last} is damaged"):
        state = run.load_checkpoint()
    assert state["step"] == 3 and state["weights"].eq(3).all()
    assert [line["step"] for line in run.log()] == [1, 2, 3]  # training writes the rest again
    # the damaged one does not take the place of the good one
    run.save_checkpoint(4, state)
    assert checkpoints(run)[1:] == [before] and last not in checkpoints(run)


def test_run_with_all_checkpoints_damaged_is_refused_and_kept(run):
    for path in checkpoints(run):
        path.write_bytes(path.read_bytes()[:100])
    before = state_of(run.folder)
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(RunError, match=f"every checkpoint in {run.folder}"),
    ):
        run.load_checkpoint()
    assert state_of(run.folder) == before


def test_run_without_checkpoints_begins_with_an_empty_log(run):
    for path in checkpoints(run):
        path.unlink()
    assert run.load_checkpoint() is None
    assert run.log() == []


# Faults


def trained_again(run: Run) -> None:
    record = read_record(run.folder / "record.json")
    run.finish({"generator": plain_generator(CONFIG)}, record)


FAULTS = {
    "config.json missing": (lambda r: (r.folder / "config.json").unlink(), "missing", "config.json"),
    "config.json damaged": (
        lambda r: (r.folder / "config.json").write_text("{"), "altered", "config.json",
    ),
    "never trained": (lambda r: (r.folder / "record.json").unlink(), "missing", "record.json"),
    "record altered": (lambda r: spoil(r.folder / "record.json", 40), "altered", "record.json"),
    "of another seed": (
        lambda r: rewrite(r.folder / "record.json", seed=4), "altered", "record.json",
    ),
    "record lacks the checksum": (
        lambda r: (
            rewrite(r.folder / "record.json", generator_checksum=None),
            (r.folder / "generator.safetensors").unlink(),
        ),
        "stale", "evaluation.json",
    ),
    "weights altered": (
        lambda r: spoil(r.folder / "generator.safetensors"), "altered", "generator.safetensors",
    ),
    "weights missing": (
        lambda r: (r.folder / "generator.safetensors").unlink(), "missing", "generator.safetensors",
    ),
    "log altered": (lambda r: spoil(r.folder / "log.jsonl", 9), "altered", "log.jsonl"),
    "snapshot altered": (
        lambda r: spoil(next((r.folder / "snapshots").iterdir())), "altered", "generator-",
    ),
    "checkpoint damaged": (lambda r: spoil(checkpoints(r)[0]), "altered", "checkpoint-00000004"),
    "never evaluated": (
        lambda r: (r.folder / "evaluation.json").unlink(), "missing", "evaluation.json",
    ),
    "evaluation altered": (
        lambda r: spoil(r.folder / "evaluation.json", 40), "altered", "evaluation.json",
    ),
    "evaluated at another lambda": (
        lambda r: rewrite(
            r.folder / "evaluation.json", config=changed(CONFIG, lambda_y=3).model_dump()
        ),
        "altered", "evaluation.json",
    ),
    "trained again since": (trained_again, "stale", "evaluation.json"),
    "evaluated on other data": (
        lambda r: rewrite(r.folder / "evaluation.json", data_checksum="e"), "stale",
        "evaluation.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FAULTS)
def test_fault_is_found_naming_its_file(run, what):
    assert not [*run.faults()]
    damage, kind, name = FAULTS[what]
    damage(run)
    (fault,) = Run(run.folder).faults()
    assert fault.kind == kind and fault.path.name.startswith(name)
    assert str(fault).startswith(f"{kind}: {fault.path}: ") and "\n" not in str(fault)


def test_what_no_number_rests_on_can_be_left_out(run):
    for path in (run.folder / "log.jsonl", checkpoints(run)[0]):
        spoil(path)
    assert len([*run.faults()]) == 2 and not [*run.faults(numbers_only=True)]


def test_other_data_than_are_prepared_now_make_a_run_stale(workspace, tiny_config):
    (fault,) = made(workspace / "run", tiny_config).faults()
    assert fault.kind == "stale" and fault.path.name == "record.json"
    assert str(paths.DATA / tiny_config.data.folder) in str(fault)
    checksum = load_prepared(tiny_config.data).checksum
    assert not [*made(workspace / "other", tiny_config, checksum).faults()]
