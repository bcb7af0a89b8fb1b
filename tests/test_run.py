"""A run's directory: whose it is, its records, log, checkpoints and generators, and its faults."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers import changed, tiny

from paperlib.config import BOOKKEEPING
from paperlib.data.prepare import load_prepared
from paperlib.errors import RunError
from paperlib.records import provenance, read_json, write_json, write_record
from paperlib.run import Run, plain_generator

CONFIG = tiny(steps=8, snapshots=2)


def made(folder: Path, config=CONFIG, data_checksum: str = "d" * 64) -> Run:
    """What a training and an evaluation leave, without them."""
    run = Run.begin(folder, config)
    for step in (1, 2, 3, 4):
        run.append_to_log({"step": step})
        if step in run.snapshots:
            run.save_snapshot(step, plain_generator(config))
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


def edit(path: Path, **changes) -> None:
    """Change a file of JSON; without a checksum, as a record from before there was one."""
    write_json(path, {k: v for k, v in read_json(path).items() if k != "checksum"} | changes)


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
    others = {"resident": True, "log_every": 3, "checkpoint_seconds": 7.0, "threads": 2}
    assert set(others) == BOOKKEEPING  # may change
    assert Run.begin(run.folder, changed(CONFIG, **others)).config.log_every == 3


def test_configuration_from_before_a_key_had_its_default(run):
    gone = {"discriminator_sees": None}  # a key that is gone, and some that were not yet there
    old = {k: v for k, v in CONFIG.model_dump().items() if k not in ("precision", "fill_sweeps")}
    write_json(run.folder / "config.json", old | gone)
    edit(run.folder / "record.json", config=old | gone)
    Run.begin(run.folder, CONFIG).check()
    with pytest.raises(RunError, match="precision: 'auto', now 'bfloat16'"):
        Run.begin(run.folder, changed(CONFIG, precision="bfloat16"))


def test_misgan_s_data_generator_is_kept_beside_its_imputer(tmp_path):
    config = changed(CONFIG, method="misgan", nz_x=5)
    net = plain_generator(config, "data_generator")
    made(tmp_path, config).finish({"data_generator": net}, {"config": config.model_dump()})
    G_x = Run(tmp_path).generator(name="data_generator")
    assert not G_x.training and not any(p.requires_grad for p in G_x.parameters())
    assert torch.equal(G_x(torch.ones(2, 5)), net(torch.ones(2, 5)))


# Log and checkpoints


DAMAGE = {
    "a full stop": lambda content: b".",  # a pickle that ends before it begins
    # torch.load would not notice: 4.0 becomes another number
    "a weight": lambda content: content.replace(b"\x00\x00\x80\x40", b"\x00\x00\x80\x00", 1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_refused_and_kept(run, damage):
    run.append_to_log({"step": 5})
    path = run.folder / "checkpoint.pt"
    content = path.read_bytes()
    state = run.load_checkpoint()
    assert state["step"] == 4 and state["weights"].eq(4).all()
    assert [line["step"] for line in run.log()] == [1, 2, 3, 4]  # training writes the rest again
    path.write_bytes(DAMAGE[damage](content))
    assert path.read_bytes() != content
    before = state_of(run.folder)
    with pytest.raises(RunError, match=f"{path} is damaged"):
        run.load_checkpoint()
    assert state_of(run.folder) == before


# What does not belong together

EVALUATION, RECORD, WEIGHTS = "evaluation.json", "record.json", "generator.safetensors"
FAULTS = {
    "of another run": (lambda r: edit(r / "config.json", nz=3), RECORD),
    "record altered": (lambda r: spoil(r / RECORD, 40), RECORD),
    "weights altered": (lambda r: spoil(r / WEIGHTS), WEIGHTS),
    "evaluation altered": (lambda r: spoil(r / EVALUATION, 40), EVALUATION),
    "of other weights": (lambda r: edit(r / EVALUATION, rests_on={}), EVALUATION),
    "on other data": (lambda r: edit(r / EVALUATION, data_checksum="e"), EVALUATION),
}


@pytest.mark.parametrize("what", FAULTS)
def test_fault_is_found_naming_its_file(run, what):
    run.check()
    damage, name = FAULTS[what]
    damage(run.folder)
    with pytest.raises(RunError, match=f"^{run.folder / name}") as error:
        Run(run.folder).check()
    assert "\n" not in str(error.value)
    if name in (WEIGHTS, RECORD):  # such a generator is not to be had
        with pytest.raises(RunError):
            Run(run.folder).generator()


def test_other_data_than_are_prepared_now_make_a_run_stale(workspace, tiny_config):
    with pytest.raises(RunError, match=f"{RECORD} is stale.* than .*{tiny_config.data.folder}"):
        made(workspace / "run", tiny_config).check()
    checksum = load_prepared(tiny_config.data).checksum
    made(workspace / "other", tiny_config, checksum).check()
