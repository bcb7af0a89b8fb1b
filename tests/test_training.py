"""The training loop: determinism, resumption, what it may see, and what it leaves on disk."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_same_run, changed, weights
from safetensors import safe_open
from safetensors.torch import load_file

from paperlib import algorithm1, paths, records, seeds
from paperlib.algorithm1 import Algorithm1
from paperlib.baselines import MisGAN
from paperlib.config import BOOKKEEPING, RunConfig
from paperlib.corruption import mask_law
from paperlib.data import load_prepared
from paperlib.methods import BASELINES, METHODS, plain_generator
from paperlib.records import RunError
from paperlib.training import (
    RunningAverage,
    load_generator,
    snapshot_path,
    snapshot_steps,
    train,
)


def interrupt_at(step: int):
    """An on_log that presses Ctrl-C after ``step``."""

    def on_log(line, *_):
        if line["step"] == step:
            raise KeyboardInterrupt

    return on_log


@pytest.fixture(scope="module")
def whole(tiny_config, prepared_once, tmp_path_factory) -> Path:
    """A run of ``tiny_config`` from start to end, to compare others with. Not to be changed."""
    run = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "DATA", prepared_once)
        train(tiny_config, run)
    return run


# Determinism


@pytest.mark.parametrize("method", METHODS)
def test_equal_runs_are_identical_to_the_bit(workspace, tiny_config, method):
    config = changed(tiny_config, method=method)
    for name in ("a", "b"):
        torch.manual_seed(ord(name))  # the caller's generators must not matter
        np.random.seed(ord(name))
        train(config, workspace / name)
    assert_same_run(workspace / "a", workspace / "b")


def test_misgan_leaves_both_its_generators(workspace, tiny_config):
    config = changed(tiny_config, method="misgan", nz_x=5, steps=1)
    record = train(config, workspace / "run")
    assert weights(workspace / "run").keys() == {
        "generator.safetensors",
        "data_generator.safetensors",
    }
    assert record["parameters"].keys() == {"G", "D", "G_x", "D_x"}
    G_x = load_generator(workspace / "run", name="data_generator")
    assert not G_x.training and not any(p.requires_grad for p in G_x.parameters())
    assert sum(p.numel() for p in G_x.parameters()) == record["parameters"]["G_x"]
    with torch.inference_mode():
        assert G_x(torch.zeros(2, 5)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("change", [{"seed": 1}, {"mask_seed": 1}, {"method": "base"}, {"lambda_z": 2.0}, {"start_from_fill": False}])  # fmt: skip
def test_what_determines_a_run_does_change_it(workspace, whole, tiny_config, change):
    # Otherwise the identity of equal runs would mean nothing.
    train(changed(tiny_config, **change), workspace / "b")
    assert weights(whole) != weights(workspace / "b")


def test_every_step_draws_its_own_masks_and_codes(workspace, tiny_config, monkeypatch):
    # m~ and z are fresh at every step (Algorithm 1, lines 3 and 4); m belongs to the image.
    passes = []

    def spied(*arguments):
        passes.append(forward(*arguments))
        return passes[-1]

    forward = algorithm1.forward
    monkeypatch.setattr(algorithm1, "forward", spied)
    train(changed(tiny_config, steps=3, accumulate=2), workspace / "run")
    assert len(passes) == 6
    masks = torch.cat([p.m_tilde for p in passes]).flatten(1)
    codes = torch.cat([p.z for p in passes])
    assert len(masks.unique(dim=0)) == len(codes.unique(dim=0)) == 24
    m = torch.cat([p.m for p in passes]).flatten(1)
    assert not (masks[:, None] == m[None]).all(-1).any()
    data = load_prepared(tiny_config.data)
    ids = data.mask_ids()[data.indices("training")]
    stored = mask_law(tiny_config.corruption).for_ids(ids, 32, tiny_config.mask_seed).flatten(1)
    assert (m[:, None] == stored[None]).all(-1).any(1).all()


def test_log_has_a_line_every_few_steps_and_one_at_the_end(workspace, tiny_config):
    seen = []
    config = changed(tiny_config, steps=5, log_every=2)
    train(config, workspace / "a", on_log=lambda line, *_: seen.append(line))
    log = records.read_log(workspace / "a")
    assert [line["step"] for line in log] == [2, 4, 5]
    assert seen == log
    expected = {"loss_d", "d_real", "d_fake", "loss_g", "adv_y_tilde", "adv_y_hat", "error_y"}
    expected |= {"error_z", "gradient_G", "gradient_D", "gradient_E"}
    for line in log:
        assert expected <= line.keys()
        assert all(np.isfinite(v) for v in line.values())


# Resumption


@pytest.mark.parametrize("method", ["base", "both", "mask_aware", *BASELINES])
@pytest.mark.parametrize("step", [1, 3])
def test_resumed_run_equals_an_uninterrupted_one(workspace, tiny_config, method, step):
    several = {"critic_steps": 2} if method == "misgan" else {"accumulate": 2}
    config = changed(tiny_config, method=method, **several)
    whole = workspace / "whole"
    train(config, whole)
    with pytest.raises(KeyboardInterrupt):
        train(config, workspace / "parts", on_log=interrupt_at(step))
    assert not (workspace / "parts" / "record.json").exists()
    resumed = []
    record = train(
        config, workspace / "parts", on_log=lambda line, *_: resumed.append(line["step"])
    )
    assert resumed == list(range(step + 1, config.steps + 1))  # goes on, does not start again
    assert record["steps"] == config.steps
    assert_same_run(whole, workspace / "parts")


def test_run_interrupted_every_step_equals_an_uninterrupted_one(workspace, whole, tiny_config):
    for step in range(1, tiny_config.steps):
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config, workspace / "parts", on_log=interrupt_at(step))
    train(tiny_config, workspace / "parts")
    assert_same_run(whole, workspace / "parts")


@pytest.mark.parametrize("where", ["forward", "discriminator_loss", "generator_loss"])
def test_interruption_in_the_middle_of_a_step_does_no_harm(
    workspace, whole, tiny_config, where, monkeypatch
):
    # Ctrl-C almost always falls inside a step, where D may have moved already and G not yet.
    original, calls = getattr(algorithm1, where), []

    def interrupted_in_the_third_step(*arguments):
        calls.append(1)
        result = original(*arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(algorithm1, where, interrupted_in_the_third_step)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config, workspace / "parts")
    train(tiny_config, workspace / "parts")
    assert_same_run(whole, workspace / "parts")


def test_interruption_between_critics_and_generators_of_misgan_does_no_harm(
    workspace, tiny_config, monkeypatch
):
    config = changed(tiny_config, method="misgan", critic_steps=2, checkpoint_seconds=1e-9)
    train(config, workspace / "whole")
    original, calls = MisGAN.generator_losses, []

    def interrupted_in_the_third_step(self, p):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, p)

    with monkeypatch.context() as patch:
        patch.setattr(MisGAN, "generator_losses", interrupted_in_the_third_step)
        with pytest.raises(KeyboardInterrupt):
            train(config, workspace / "parts")
    train(config, workspace / "parts")
    assert_same_run(workspace / "whole", workspace / "parts")


def test_killed_run_goes_on_from_its_last_checkpoint(workspace, whole, tiny_config):
    # A kill leaves no time to save, and may leave a half-written line in the log.
    config = changed(tiny_config, checkpoint_seconds=1e-9)  # a checkpoint at every step

    def die(line, *_):
        if line["step"] == 3:
            raise SystemExit

    with pytest.raises(SystemExit):
        train(config, workspace / "parts", on_log=die)
    with (workspace / "parts" / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "sec')
    resumed = []
    train(config, workspace / "parts", on_log=lambda line, *_: resumed.append(line["step"]))
    assert resumed == [3, 4]
    assert_same_run(whole, workspace / "parts")


def test_bookkeeping_keys_may_change_when_a_run_goes_on(workspace, whole, tiny_config):
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config, workspace / "parts", on_log=interrupt_at(2))
    others = {"resident": True, "log_every": 3, "checkpoint_seconds": 7.0, "threads": 0}
    assert set(others) == BOOKKEEPING
    torch.set_num_threads(1)
    train(changed(tiny_config, **others), workspace / "parts")
    assert weights(whole) == weights(workspace / "parts")


@pytest.mark.parametrize("key, value", [("seed", 1), ("lambda_y", 3.0), ("method", "base"), ("steps", 9), ("source", "elsewhere")])  # fmt: skip
def test_directory_of_another_configuration_is_refused_naming_the_key(
    workspace, tiny_config, key, value
):
    train(tiny_config, workspace / "run")
    before = {p: p.read_bytes() for p in (workspace / "run").iterdir()}
    with pytest.raises(RunError, match=rf"{key}: .*{value}") as error:
        train(changed(tiny_config, **{key: value, "log_every": 5}), workspace / "run")
    assert "log_every" not in str(error.value) and "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in (workspace / "run").iterdir()} == before


def test_trained_run_is_not_trained_again(workspace, tiny_config):
    record = train(tiny_config, workspace / "run")
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (workspace / "run").iterdir()}

    def must_not_be_called(*_):
        raise AssertionError("trained again")

    assert train(tiny_config, workspace / "run", on_log=must_not_be_called) == record
    for path, (mtime, content) in before.items():
        assert path.read_bytes() == content
        if path.name != "config.json":
            assert path.stat().st_mtime_ns == mtime


def test_other_data_is_refused(workspace, tiny_config):
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config, workspace / "run", on_log=interrupt_at(2))
    manifest = paths.DATA / tiny_config.data.folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"checksum": "0" * 64}))
    with pytest.raises(RunError, match="other data"):
        train(tiny_config, workspace / "run")


# Damaged checkpoints


@pytest.fixture(scope="module")
def parts_once(tiny_config, prepared_once, tmp_path_factory) -> Path:
    """A run interrupted after step 3, with two checkpoints. Not to be changed."""
    run = tmp_path_factory.mktemp("parts")
    config = changed(tiny_config, checkpoint_seconds=1e-9)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(paths, "DATA", prepared_once)
        train(config, run, on_log=interrupt_at(3))
    return run


@pytest.fixture
def parts(workspace, parts_once) -> Path:
    """A copy of ``parts_once`` in the workspace."""
    return Path(shutil.copytree(parts_once, workspace / "parts"))


def checkpoints(run: Path) -> list[Path]:
    """Newest first."""
    found = sorted(run.glob("checkpoint-*.pt"), reverse=True)
    assert len(found) == 2  # the last two are kept
    return found


DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeroed tail": lambda content: content[:1000] + bytes(len(content) - 1000),
    "text": lambda content: b"not a checkpoint\n",
    "a full stop": lambda content: b".",  # a pickle that ends before it begins
    "undecodable": lambda content: b"X\x01\x00\x00\x00\xff.",  # a pickled string, not UTF-8
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_damaged_checkpoint_falls_back_to_the_one_before(parts, whole, tiny_config, damage, capsys):
    last, before = checkpoints(parts)
    assert [torch.load(p, weights_only=True)["step"] for p in (last, before)] == [3, 2]
    last.write_bytes(DAMAGE[damage](last.read_bytes()))
    resumed = []
    train(tiny_config, parts, on_log=lambda line, *_: resumed.append(line["step"]))
    assert f"warning: {last} is damaged" in capsys.readouterr().err
    assert resumed == [3, 4]
    assert_same_run(whole, parts)


def test_checkpoint_with_an_altered_weight_is_not_trusted(parts, whole, tiny_config):
    # torch.load does not notice a flipped bit in a tensor: the run would end in other numbers.
    last = checkpoints(parts)[0]
    content = bytearray(last.read_bytes())
    weight = torch.load(last, weights_only=True)["G"]["stem.parametrizations.weight.original"]
    memory = weight.permute(0, 2, 3, 1).contiguous().numpy().tobytes()  # it is channels_last
    at = content.find(memory)
    assert at >= 0
    content[at + 3] ^= 0x40  # a bit of the first number's exponent
    last.write_bytes(content)
    train(tiny_config, parts)
    assert_same_run(whole, parts)


def test_run_with_all_checkpoints_damaged_is_refused_and_kept(parts, tiny_config):
    for path in checkpoints(parts):
        path.write_bytes(path.read_bytes()[:100])
    before = {p.name: p.read_bytes() for p in parts.iterdir() if p.name != "config.json"}
    with pytest.raises(RunError, match="every checkpoint") as error:
        train(tiny_config, parts)
    assert str(parts) in str(error.value)
    assert {p.name: p.read_bytes() for p in parts.iterdir() if p.name != "config.json"} == before


# Snapshots


@pytest.mark.parametrize("steps, snapshots, expected", [(4, 2, [1, 2]), (4, 10, [1, 2]), (1000, 3, [125, 250, 500]), (7, 2, [1, 3]), (4, 0, []), (1, 3, [])])  # fmt: skip
def test_snapshots_are_taken_at_halves_of_the_steps(tiny_config, steps, snapshots, expected):
    assert snapshot_steps(changed(tiny_config, steps=steps, snapshots=snapshots)) == expected


def snapshots(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {p.name: load_file(p) for p in (run / "snapshots").iterdir()}


def assert_same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("method", ["both", "misgan"])
def test_snapshots_are_the_averages_of_their_steps(workspace, tiny_config, method):
    config, averages = changed(tiny_config, method=method, snapshots=2), {}

    def keep(line, G):
        averages[line["step"]] = {name: v.clone() for name, v in G.state_dict().items()}

    run = workspace / "run"
    record = train(config, run, on_log=keep)
    assert snapshots(run).keys() == {snapshot_path(run, step).name for step in (1, 2)}
    seconds = []
    for step in (1, 2):
        assert_same_tensors(load_file(snapshot_path(run, step)), averages[step])
        with safe_open(snapshot_path(run, step), "pt") as file:
            seconds.append(float(file.metadata()["seconds"]))
    assert 0 < seconds[0] <= seconds[1] <= record["seconds"]
    assert_same_tensors(load_file(run / "generator.safetensors"), averages[4])
    weight = "stem.weight"
    assert not torch.equal(averages[1][weight], averages[2][weight])


def test_snapshots_change_nothing_in_a_run(workspace, whole, tiny_config):
    train(changed(tiny_config, snapshots=2), workspace / "run")
    assert_same_run(whole, workspace / "run")
    assert not (whole / "snapshots").exists()


@pytest.mark.parametrize("step", [1, 2, 3])
def test_resumed_run_leaves_the_same_snapshots(workspace, tiny_config, step):
    config = changed(tiny_config, snapshots=2)
    train(config, workspace / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, workspace / "parts", on_log=interrupt_at(step))
    train(config, workspace / "parts")
    whole, parts = snapshots(workspace / "whole"), snapshots(workspace / "parts")
    assert len(whole) == 2 and whole.keys() == parts.keys()
    for name in whole:
        assert_same_tensors(whole[name], parts[name])


def test_ctrl_c_in_the_very_step_of_a_snapshot_does_not_lose_it(
    workspace, tiny_config, monkeypatch
):
    config, step, calls = changed(tiny_config, snapshots=1), Algorithm1.step, []

    def pressed_in_the_second_step(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(Algorithm1, "step", pressed_in_the_second_step)
    with pytest.raises(KeyboardInterrupt):
        train(config, workspace / "run")
    train(config, workspace / "run")
    assert snapshot_path(workspace / "run", 2).is_file()


# The averaged generator


def test_altered_generator_is_refused(workspace, tiny_config):
    run = workspace / "run"
    train(tiny_config, run)
    load_generator(run)
    content = bytearray((run / "generator.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "generator.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="generator.safetensors"):
        load_generator(run)


def test_untrained_run_has_no_generator(workspace, tiny_config):
    with pytest.raises(RunError, match="not trained"):
        load_generator(workspace / "run")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config, workspace / "run", on_log=interrupt_at(2))
    with pytest.raises(RunError, match="not trained"):
        load_generator(workspace / "run")


def test_record_without_the_checksum_is_named(workspace, tiny_config):
    run = workspace / "run"
    train(tiny_config, run)
    record = records.read_json(run / "record.json")
    del record["generator_checksum"], record["checksum"]  # as of an older version
    records.write_json(run / "record.json", record)
    with pytest.raises(records.RunError, match=r"record\.json lacks generator_checksum"):
        load_generator(run)


def test_loaded_generator_is_the_average_in_evaluation_mode(workspace, tiny_config):
    run = workspace / "run"
    record = train(tiny_config, run)
    G = load_generator(run)
    assert not G.training and not any(p.requires_grad for p in G.parameters())
    stored = load_file(run / "generator.safetensors")
    assert stored.keys() == G.state_dict().keys()
    for name, value in G.state_dict().items():
        assert torch.equal(value, stored[name]), name
    assert record["parameters"]["G"] == sum(p.numel() for p in G.parameters())


def effective(method: Algorithm1, name: str) -> torch.Tensor:
    """A tensor of G as it is used: divided by its largest singular value where that is normalised."""
    owner, _, leaf = name.rpartition(".")
    module = method.nets.G.get_submodule(owner)
    if not hasattr(module, "parametrizations") or leaf != "weight":
        return getattr(module, leaf).detach().clone()
    original = module.parametrizations.weight.original.detach()
    norm = module.parametrizations.weight[0]
    matrix = original.flatten(1)
    sigma = torch.dot(norm._u, matrix @ norm._v)  # the estimate that the power iteration has
    return original / sigma


def moved(method: Algorithm1, step: int) -> None:
    """Change G, running statistics included, as a training step does."""
    levels = torch.randint(256, (4, 3, 32, 32), generator=seeds.generator("x", step))
    m = mask_law("small_patch").for_ids(range(4), 32, 0)
    y = (levels / 127.5 - 1) * m
    method.step(iter([(y, m)]), seeds.generator("step", step))


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.999])
def test_running_average_equals_one_by_hand(tiny_config, decay):
    torch.manual_seed(0)
    config = changed(tiny_config, lr_g=0.01, start_from_fill=False)
    method = Algorithm1(config)
    average = RunningAverage(method.nets.G, plain_generator(config), decay)
    names = [n for n, v in average.model.state_dict().items() if v.is_floating_point()]
    assert any(n.endswith("running_var") for n in names)
    expected = {n: effective(method, n).double() for n in names}
    for step in (1, 2, 3):
        moved(method, step)
        average.update(step)
        d = min(decay, (1 + step) / (10 + step))  # the decay grows as the random start recedes
        for n in names:
            expected[n] = d * expected[n] + (1 - d) * effective(method, n).double()
    averaged = average.model.state_dict()
    for n in names:
        assert torch.allclose(averaged[n].double(), expected[n], rtol=1e-4, atol=1e-5), n


@pytest.mark.parametrize("start_from_fill", [False, True])
def test_average_of_a_standing_generator_computes_what_it_computes(tiny_config, start_from_fill):
    torch.manual_seed(0)
    config = changed(tiny_config, start_from_fill=start_from_fill)
    method = Algorithm1(config)
    for step in range(3):
        moved(method, step)
    average = RunningAverage(method.nets.G, plain_generator(config), 0.9)
    y, m, z = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32), torch.randn(2, config.nz)
    with torch.no_grad():
        assert torch.allclose(average.model(y, m, z), method.nets.G.eval()(y, m, z), atol=1e-5)


def test_running_average_does_not_disturb_the_generator(tiny_config):
    # Reading a normalised weight in training mode would advance its power iteration.
    torch.manual_seed(0)
    method = Algorithm1(tiny_config)
    average = RunningAverage(method.nets.G, plain_generator(tiny_config), 0.9)
    before = {n: v.clone() for n, v in method.nets.G.state_dict().items()}
    assert any(n.endswith("_u") for n in before)
    for step in (1, 2):
        average.update(step)
    assert all(torch.equal(v, before[n]) for n, v in method.nets.G.state_dict().items())
    assert all(module.training for module in method.nets.G.modules())


# The record


def test_record_says_where_the_run_comes_from(workspace, tiny_config):
    record = train(tiny_config, workspace / "run")
    assert json.loads((workspace / "run" / "record.json").read_text()) == record
    assert record["config"] == tiny_config.model_dump() and record["seed"] == tiny_config.seed
    assert RunConfig.parse(record["config"]) == tiny_config  # enough to run it again
    assert record["data_checksum"] == load_prepared(tiny_config.data).checksum
    assert record["steps"] == tiny_config.steps and record["seconds"] > 0
    assert torch.__version__.split("+")[0] == record["versions"]["torch"].split("+")[0]
    assert {"numpy", "torchmetrics", "pillow"} <= record["versions"].keys()
    assert record["hardware"]["processor"] and record["hardware"]["cores"] >= 1
    assert record["date"].startswith("20") and record["python"].startswith("3.")
    assert record["generator_checksum"] == records.file_checksum(
        workspace / "run" / "generator.safetensors"
    )
    assert "commit" in record  # None where the code is not in git


def test_commit_of_the_record_is_that_of_the_repository(workspace, tiny_config):
    if not (paths.ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    head = subprocess.run(
        ["git", "-C", paths.ROOT, "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    assert head in train(tiny_config, workspace / "run")["commit"]


def test_seconds_add_up_over_interruptions(workspace, tiny_config):
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config, workspace / "run", on_log=interrupt_at(3))
    first = records.read_log(workspace / "run")[-1]["seconds"]
    record = train(tiny_config, workspace / "run")
    seconds = [line["seconds"] for line in records.read_log(workspace / "run")]
    assert seconds == sorted(seconds) and record["seconds"] > first


def test_nothing_half_written_is_left(workspace, tiny_config):
    train(changed(tiny_config, checkpoint_seconds=1e-9), workspace / "run")
    names = {p.name for p in (workspace / "run").iterdir()}
    fixed = {"config.json", "log.jsonl", "generator.safetensors", "record.json"}
    assert fixed <= names
    assert all(n.startswith("checkpoint-0") and n.endswith(".pt") for n in names - fixed)
    assert len(names - fixed) == records.CHECKPOINTS_KEPT


def test_failed_write_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "x.json"
    records.write_json(path, {"a": 1})

    def fails(draft):
        draft.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        records.write_atomically(path, fails)
    assert records.read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content, message", [(None, "missing"), ('{"a": ', "damaged")])
def test_unreadable_record_is_named(tmp_path, content, message):
    path = tmp_path / "record.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RunError, match=message) as error:
        records.read_json(path)
    assert str(path) in str(error.value)
