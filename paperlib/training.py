"""The loop around a method's step: batches, averaging, log, checkpoints, record.

A method is what it computes in a step (``methods.Method``); this loop exists once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paperlib import distributed, records, seeds
from paperlib.acceleration import LateLog, ahead, deterministic_algorithms
from paperlib.config import RunConfig
from paperlib.data import Prepared, law_of, load_prepared
from paperlib.divergence import Diverged, Watch, what_to_do
from paperlib.files import remove_stale_drafts
from paperlib.interruption import HeldInterrupt, terminated_in_order
from paperlib.locks import locked
from paperlib.methods import GENERATORS, Method, build_method, optimizers, plain_generator
from paperlib.models import Generator
from paperlib.progress import Progress

SHOWN_IN_PROGRESS = ("loss_d", "loss_g", "error_y", "error_z")


def default_device() -> torch.device:
    """The GPU where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    config: RunConfig,
    run: Path,
    device: torch.device | str | None = None,
    on_log: Callable[[dict[str, Any], Generator], None] | None = None,
    on_nan: Literal["stop", "rollback"] | None = None,
) -> dict[str, Any]:
    """Train a run in its directory; go on from its last checkpoint; do nothing if it is done.

    Args:
        config: what to train.
        run: the run's directory, made if missing.
        device: where; the GPU if there is one, by default.
        on_log: called with every line of the log and the averaged G, e.g. to draw live curves.
        on_nan: what to do where a loss or a gradient is NaN or infinite: stop, or go back to the
            last checkpoint and draw other masks and z from there, at most three times (the record
            says so). By default what the environment variable PAPERLIB_ON_NAN says, else stop.

    Returns:
        the record.

    Raises:
        RunError: the directory belongs to another configuration or is in use by another process,
            every checkpoint is damaged, or the training diverged (``divergence.Diverged``).
        DataError: the data set is not prepared, or is another than the run began with.
        DiskFull: there is no room; what was written before is intact.
        KeyboardInterrupt: by Ctrl-C or SIGTERM, after a checkpoint.
    """
    device = torch.device(device or default_device())
    at_nan = what_to_do(on_nan)
    rollbacks: list[dict[str, Any]] | None = None  # those of the checkpoint
    with terminated_in_order(), ExitStack() as stack:
        distributed.first(lambda: stack.enter_context(locked(run / "lock")))
        while True:
            try:
                return _train(config, run, device, on_log, rollbacks)
            except Diverged as fault:
                if at_nan == "stop":
                    raise
                rollbacks = fault.rolled_back()
            back = rollbacks[-1]
            _say(f"{run.name}: diverged at step {back['at']}, back to step {back['to']}")


def _train(
    config: RunConfig,
    run: Path,
    device: torch.device,
    on_log: Callable[[dict[str, Any], Generator], None] | None,
    rollbacks: list[dict[str, Any]] | None,
) -> dict[str, Any]:
    """Train from the last checkpoint to the end.

    ``rollbacks``: those so far, where there is one that the checkpoint does not know yet.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    own = distributed.own_rows(config.batch_size)
    distributed.first(lambda: _take_over(run, config))
    data = load_prepared(config.data)
    if record := distributed.first(lambda: _record(run, data.checksum)):
        return record
    torch.manual_seed(seeds.fold(config.seed, "parameters"))  # of the initialisation, nothing else
    method = build_method(config, device)
    averages = {
        name: RunningAverage(net, plain_generator(config, name).to(device), config.ema)
        for name, (key, _) in GENERATORS.items()
        if (net := getattr(method.nets, key, None)) is not None
    }
    distributed.share(method, optimizers(method).values())
    law = law_of(config)
    seen = method.data_set(data, "training", law, config.mask_seed, device, config.resident)
    where = "on the device" if seen.resident else "read by batches"
    _say(f"{run.name}: {method.acceleration}, data {where} ({seen.nbytes / 1e6:.3g} MB)")

    begun = _restore(run, method, averages, data.checksum)
    step, rollbacks = begun["step"], begun["rollbacks"] if rollbacks is None else rollbacks
    log_path = run / "log.jsonl"
    distributed.first(lambda: records.truncate_log(log_path, step, begun["log_bytes"]))
    log = LateLog(log_path, writes=distributed.rank() == 0)
    watch = Watch(run.name, step, rollbacks)
    stream = ("rollback", len(rollbacks)) if rollbacks else ()  # other masks and z than before
    start = step * method.batches_per_step
    batches = seen.batches(config.batch_size, config.seed, start, own)
    if device.type == "cuda" and not seen.resident:
        batches = ahead(batches, device)
    images = config.batch_size * method.batches_per_step
    bar = Progress(config.steps, f"training {run.name}", done=step, images=images)
    clock = Clock(begun["seconds"])
    kept_on_the_way = snapshot_steps(config)
    checkpointed, logged = clock.seconds(), (step, clock.seconds())
    between_steps = True

    def save() -> dict[str, Any]:
        """Write what is held of the log, and a checkpoint, if all numbers up to now are finite."""
        line = log.write()
        watch.check()
        about = {"seconds": clock.seconds(), "data_checksum": data.checksum, "rollbacks": rollbacks}
        distributed.first(lambda: _save(run, step, about, method, averages))
        watch.good = step
        return line

    with (
        HeldInterrupt() as held,
        closing(bar) as progress,
        deterministic_algorithms(config.deterministic),
    ):
        try:
            # Algorithm 1, line 1: until converged, here for a fixed number of steps
            while step < config.steps:
                generator = seeds.generator(config.seed, "step", step, *stream, device=device)
                between_steps = False  # D may have moved already and G not yet
                scalars = method.step(batches, generator)
                step += 1
                for average in averages.values():
                    average.update(step)
                between_steps = True
                gradients = _gradient_norms(method)
                watch.note(step, scalars | gradients)
                line = log.write()  # of the step before: its numbers have arrived by now
                if step in kept_on_the_way:
                    watch.check()
                    _save_snapshot(run, step, clock.seconds(), averages["generator"].model)
                if step % config.log_every == 0 or step == config.steps:
                    now = clock.seconds()
                    rate = (step - logged[0]) * images / (now - logged[1])
                    about = {"seconds": round(now, 3), "images_per_second": round(rate, 2)}
                    scalars = distributed.means(scalars) | gradients
                    log.hold({"step": step} | about, scalars, watch.look())
                    logged = (step, now)
                if on_log is not None or step == config.steps:
                    line = log.write() or line
                if on_log is not None and line and distributed.rank() == 0:
                    on_log(line, averages["generator"].model)
                due = clock.seconds() - checkpointed > config.checkpoint_seconds
                any_due, signal = distributed.highest(due, held.signal)  # all processes do the same
                held.raise_noted(signal)
                if any_due:
                    line = save() or line
                    checkpointed = clock.seconds()
                shown = [key for key in SHOWN_IN_PROGRESS if key in line]
                progress.update(note=", ".join(f"{key} {line[key]:.3f}" for key in shown))
        except KeyboardInterrupt as stop:
            if between_steps:
                save()
            what = f"{run.name}: interrupted at step {step}; run it again to go on"
            raise type(stop)(what) from None
        seconds = clock.seconds()
        save()
        return distributed.first(
            lambda: _finish(run, config, data, method, averages, seconds, rollbacks)
        )


def _take_over(run: Path, config: RunConfig) -> None:
    """Make the directory that of ``config``, and clean up after a process that was killed."""
    records.claim_directory(run, config)
    for folder in (run, run / "snapshots"):
        remove_stale_drafts(folder)


def _say(text: str) -> None:
    """One line on standard error, from the first process alone."""
    if distributed.rank() == 0:
        print(text, file=sys.stderr, flush=True)


def _record(run: Path, data_checksum: str) -> dict[str, Any] | None:
    """The record of a run that is done on these data, or None."""
    if not (run / "record.json").is_file():
        return None
    record = records.read_record(run / "record.json")
    return record if record["data_checksum"] == data_checksum else None


def _finish(
    run: Path,
    config: RunConfig,
    data: Prepared,
    method: Method,
    averages: dict[str, RunningAverage],
    seconds: float,
    rollbacks: list[dict[str, Any]],
) -> dict[str, Any]:
    """Write the averaged generators, then the record that vouches for them; return the record."""
    checksums = {}
    for name, average in averages.items():
        path = run / f"{name}.safetensors"
        _save_weights(path, average.model)
        checksums[f"{name}_checksum"] = records.file_checksum(path)
    images = config.steps * config.batch_size * method.batches_per_step
    record = records.provenance(config, data.checksum) | {
        "steps": config.steps,
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 2),
        "computed": str(method.acceleration),
        "parameters": {
            name: sum(p.numel() for p in net.parameters())
            for name, net in vars(method.nets).items()
        },
        **checksums,
        # of the rest that is left: what evaluation and claims read, besides the generators
        "files": {
            path.relative_to(run).as_posix(): records.file_checksum(path)
            for path in (
                run / "log.jsonl",
                *(snapshot_path(run, s) for s in snapshot_steps(config)),
            )
            if path.is_file()
        },
    }
    if distributed.count() > 1:
        record["processes"] = distributed.count()
    if rollbacks:
        record["rollbacks"] = rollbacks
    if "limits" in data.manifest:  # the values that stand for -1 and 1, band by band
        record["limits"] = data.manifest["limits"]
    return records.write_record(run / "record.json", record)


def _save_weights(path: Path, net: nn.Module, about: dict[str, str] | None = None) -> None:
    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    records.write_atomically(path, lambda draft: save_file(weights, draft, about))


def snapshot_steps(config: RunConfig) -> list[int]:
    """The steps at which the averaged G is kept on the way, ascending: ..., steps/4, steps/2."""
    halves = {config.steps >> k for k in range(1, config.snapshots + 1)}
    return sorted(halves - {0})


def snapshot_path(run: Path, step: int) -> Path:
    """Where the averaged G of a step is kept; its metadata holds the seconds of training."""
    return run / "snapshots" / f"generator-{step:08d}.safetensors"


def _save_snapshot(run: Path, step: int, seconds: float, model: nn.Module) -> None:
    if distributed.rank() == 0:
        _save_weights(snapshot_path(run, step), model, {"seconds": f"{seconds:.3f}"})


class Clock:
    """Seconds of training, those before an interruption included."""

    def __init__(self, before: float) -> None:
        self.start = time.perf_counter() - before

    def seconds(self) -> float:
        return time.perf_counter() - self.start


def load_generator(run: Path, device: torch.device | str = "cpu", name: str = "generator") -> Any:
    """The averaged generator of a trained run; RunError where it is missing or altered.

    Args:
        run: the run's directory.
        device: where to put it.
        name: "generator", or MisGAN's "data_generator".
    """
    path = run / f"{name}.safetensors"
    if not (run / "record.json").is_file() or not path.is_file():
        raise records.RunError(f"{run} is not trained yet: run 'python -m paperlib train' first")
    record, config = records.read_record(run / "record.json"), records.load_config(run)
    records.refuse_other_configuration(run / "record.json", record.get("config", {}), config)
    vouched = record.get(f"{name}_checksum")
    if vouched is None:
        raise records.RunError(
            f"{run / 'record.json'} lacks {name}_checksum, so {path.name} cannot be trusted: delete "
            f"{run} and train again"
        )
    if vouched != records.file_checksum(path):
        raise records.RunError(
            f"{path} is not the file that its record.json describes: delete {run} and train it again"
        )
    G = plain_generator(config, name)
    G.load_state_dict(load_file(path))
    return G.to(device)


def load_snapshot(run: Path, step: int, device: torch.device | str = "cpu") -> Generator:
    """The averaged generator as it was after ``step`` updates; RunError where it is not that."""
    path = snapshot_path(run, step)
    if not path.is_file():
        raise records.RunError(f"{path} is missing: delete {run} and train it again")
    vouched = records.read_record(run / "record.json").get("files", {})
    if vouched.get(path.relative_to(run).as_posix()) not in (None, records.file_checksum(path)):
        raise records.RunError(f"{path} was altered: delete {run} and train it again")
    G = plain_generator(records.load_config(run))
    G.load_state_dict(load_file(path))
    return G.to(device)


class RunningAverage:
    """Exponential moving average of a generator's effective weights and BatchNorm statistics.

    Effective means spectrally normalised: the average is a plain network. The decay grows to
    ``decay`` as min(decay, (1 + step) / (10 + step)), so that the random start is forgotten.
    """

    def __init__(self, source: nn.Module, model: Any, decay: float) -> None:
        self.source, self.model, self.decay = source, model, decay  # model: a plain copy of source
        with torch.no_grad():
            for target, value in self._pairs():
                target.copy_(value)

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = [(t, v) for t, v in self._pairs() if t.is_floating_point()]
        targets, values = map(list, zip(*pairs, strict=True))
        torch._foreach_lerp_(targets, values, 1 - decay)

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """(tensor of the average, effective tensor of the source)."""
        self.source.eval()  # reading a normalised weight must not advance its power iteration
        modules = dict(self.source.named_modules())
        pairs = []
        for name, target in self.model.state_dict().items():
            owner, _, leaf = name.rpartition(".")
            pairs.append((target, getattr(modules[owner], leaf)))
        self.source.train()
        return pairs


def _restore(
    run: Path, method: Method, averages: dict[str, RunningAverage], data_checksum: str
) -> dict[str, Any]:
    """Load the last checkpoint, if any; return what it says beside the modules' states."""
    begun = {"step": 0, "seconds": 0.0, "rollbacks": [], "log_bytes": None}
    state = records.load_checkpoint(run)
    if state is None:
        return begun
    if state["data_checksum"] != data_checksum:
        raise records.RunError(
            f"{run} was begun on other data: delete it, or prepare that data set again"
        )
    before, now = state.get("precision", "float32"), method.acceleration.precision
    if before != now:
        raise records.RunError(
            f"{run} was begun in {before} and would go on in {now}, as this device has it: go on "
            "where it was begun, or delete it"
        )
    for name, module in _modules(method, averages).items():
        module.load_state_dict(state[name])
    return {key: state.get(key, default) for key, default in begun.items()}


def _save(
    run: Path,
    step: int,
    about: dict[str, Any],
    method: Method,
    averages: dict[str, RunningAverage],
) -> None:
    state = {name: module.state_dict() for name, module in _modules(method, averages).items()}
    about = about | {"precision": method.acceleration.precision}
    records.save_checkpoint(run, step, about | state)


def _modules(method: Method, averages: dict[str, RunningAverage]) -> dict[str, Any]:
    """Everything with a state. Random numbers have none: each step's is a function of its number."""
    averaged = {f"average_{name}": average.model for name, average in averages.items()}
    return {**vars(method.nets), **optimizers(method), **averaged}


def _gradient_norms(method: Method) -> dict[str, Tensor]:
    """Norms of the last gradients of each network, scalars on the device."""
    norms = {}
    for name, net in vars(method.nets).items():
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        if gradients:
            norms[f"gradient_{name}"] = nn.utils.get_total_norm(gradients)
    return norms
