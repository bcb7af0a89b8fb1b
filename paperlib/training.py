"""The loop around a method's step: batches, averaging, log, checkpoints, record.

A method is what it computes in a step (``methods.Method``); this loop exists once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paperlib import distributed, records, seeds
from paperlib.acceleration import LateLog, ahead
from paperlib.config import RunConfig
from paperlib.data import Prepared, law_of, load_prepared
from paperlib.interruption import HeldInterrupt
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
) -> dict[str, Any]:
    """Train a run in its directory; go on from its last checkpoint; do nothing if it is done.

    Args:
        config: what to train.
        run: the run's directory, made if missing.
        device: where; the GPU if there is one, by default.
        on_log: called with every line of the log and the averaged G, e.g. to draw live curves.

    Returns:
        the record.

    Raises:
        RunError: the directory belongs to another configuration, or every checkpoint is damaged.
        DataError: the data set is not prepared, or is another than the run began with.
    """
    device = torch.device(device or default_device())
    if config.threads:
        torch.set_num_threads(config.threads)
    own = distributed.own_rows(config.batch_size)
    distributed.first(lambda: records.claim_directory(run, config))
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
    if distributed.rank() == 0:
        where = "on the device" if seen.resident else "read by batches"
        how = f"{method.acceleration}, data {where} ({seen.nbytes / 1e6:.3g} MB)"
        print(f"{run.name}: {how}", file=sys.stderr, flush=True)

    step, seconds = _restore(run, method, averages, data.checksum)
    distributed.first(lambda: records.truncate_log(run / "log.jsonl", step))
    log = LateLog(run / "log.jsonl", writes=distributed.rank() == 0)
    start = step * method.batches_per_step
    batches = seen.batches(config.batch_size, config.seed, start, own)
    if device.type == "cuda" and not seen.resident:
        batches = ahead(batches, device)
    images = config.batch_size * method.batches_per_step
    progress = Progress(config.steps, f"training {run.name}", done=step, images=images)
    clock = Clock(seconds)
    kept_on_the_way = snapshot_steps(config)
    checkpointed, logged = clock.seconds(), (step, clock.seconds())
    between_steps, held = True, HeldInterrupt()
    try:
        # Algorithm 1, line 1: until converged, here for a fixed number of steps
        while step < config.steps:
            generator = seeds.generator(config.seed, "step", step, device=device)
            between_steps = False  # D may have moved already and G not yet
            with held:
                scalars = method.step(batches, generator)
                step += 1
                for average in averages.values():
                    average.update(step)
                if step in kept_on_the_way:
                    _save_snapshot(run, step, clock.seconds(), averages["generator"].model)
                line = log.write()  # of the step before: its numbers have arrived by now
                if step % config.log_every == 0 or step == config.steps:
                    now = clock.seconds()
                    rate = (step - logged[0]) * images / (now - logged[1])
                    about = {"seconds": round(now, 3), "images_per_second": round(rate, 2)}
                    scalars = distributed.means(scalars) | _gradient_norms(method)
                    log.hold({"step": step} | about, scalars)
                    logged = (step, now)
                between_steps = True
            if on_log is not None or step == config.steps:
                line = log.write() or line
            if on_log is not None and line and distributed.rank() == 0:
                on_log(line, averages["generator"].model)
            if clock.seconds() - checkpointed > config.checkpoint_seconds:
                line = log.write() or line
                _save(run, step, clock.seconds(), method, averages, data.checksum)
                checkpointed = clock.seconds()
            shown = [key for key in SHOWN_IN_PROGRESS if key in line]
            progress.update(note=", ".join(f"{key} {line[key]:.3f}" for key in shown))
    except KeyboardInterrupt:
        if between_steps:
            log.write()
            save = (run, step, clock.seconds(), method, averages, data.checksum)
            distributed.first(lambda: _save(*save))  # nobody leaves before it is written
        print(f"{run.name}: interrupted at step {step}; run it again to go on", flush=True)
        raise
    finally:
        progress.close()
        held.release()
    seconds = clock.seconds()
    _save(run, step, seconds, method, averages, data.checksum)
    return distributed.first(lambda: _finish(run, config, data, method, averages, seconds))


def _record(run: Path, data_checksum: str) -> dict[str, Any] | None:
    """The record of a run that is done on these data, or None."""
    if not (run / "record.json").is_file():
        return None
    record = records.read_json(run / "record.json")
    return record if record["data_checksum"] == data_checksum else None


def _finish(
    run: Path,
    config: RunConfig,
    data: Prepared,
    method: Method,
    averages: dict[str, RunningAverage],
    seconds: float,
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
    }
    if distributed.count() > 1:
        record["processes"] = distributed.count()
    if "limits" in data.manifest:  # the values that stand for -1 and 1, band by band
        record["limits"] = data.manifest["limits"]
    records.write_json(run / "record.json", record)
    return record


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


def load_generator(
    run: Path, device: torch.device | str = "cpu", name: str = "generator"
) -> Generator:
    """The averaged generator of a trained run; RunError where it is missing or altered.

    Args:
        run: the run's directory.
        device: where to put it.
        name: "generator", or MisGAN's "data_generator".
    """
    path = run / f"{name}.safetensors"
    if not (run / "record.json").is_file() or not path.is_file():
        raise records.RunError(f"{run} is not trained yet: run 'python -m paperlib train' first")
    vouched = records.read_json(run / "record.json").get(f"{name}_checksum")
    if vouched is None:
        raise records.RunError(
            f"{run / 'record.json'} lacks {name}_checksum, so {path.name} cannot be trusted: delete "
            f"{run} and train again"
        )
    if vouched != records.file_checksum(path):
        raise records.RunError(f"{path} is not the file that its record.json describes")
    G = plain_generator(records.load_config(run), name)
    G.load_state_dict(load_file(path))
    return G.to(device)


class RunningAverage:
    """Exponential moving average of a generator's effective weights and BatchNorm statistics.

    Effective means spectrally normalised: the average is a plain network. The decay grows to
    ``decay`` as min(decay, (1 + step) / (10 + step)), so that the random start is forgotten.
    """

    def __init__(self, source: nn.Module, model: nn.Module, decay: float) -> None:
        self.source, self.model, self.decay = source, model, decay
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
) -> tuple[int, float]:
    """Load the last checkpoint, if any; return (step, seconds trained)."""
    state = records.load_checkpoint(run)
    if state is None:
        return 0, 0.0
    if state["data_checksum"] != data_checksum:
        raise records.RunError(
            f"{run} was begun on other data: delete it, or prepare that data set again"
        )
    begun, now = state.get("precision", "float32"), method.acceleration.precision
    if begun != now:
        raise records.RunError(
            f"{run} was begun in {begun} and would go on in {now}, as this device has it: go on "
            "where it was begun, or delete it"
        )
    for name, module in _modules(method, averages).items():
        module.load_state_dict(state[name])
    return state["step"], state["seconds"]


def _save(
    run: Path,
    step: int,
    seconds: float,
    method: Method,
    averages: dict[str, RunningAverage],
    data_checksum: str,
) -> None:
    if distributed.rank() > 0:
        return
    state = {name: module.state_dict() for name, module in _modules(method, averages).items()}
    about = {"seconds": seconds, "data_checksum": data_checksum}
    about |= {"precision": method.acceleration.precision}
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
