"""The loop around a method's step: batches, averaging, log, checkpoints, record.

A method is what it computes in a step (``algorithm1.Algorithm1``); this loop exists once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paperlib import records, seeds
from paperlib.algorithm1 import Algorithm1, build_generator
from paperlib.config import RunConfig
from paperlib.corruption import mask_law
from paperlib.data import Observations, load_prepared
from paperlib.interruption import HeldInterrupt
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
    records.claim_directory(run, config)
    data = load_prepared(config.data)
    if (run / "record.json").is_file():
        record = records.read_json(run / "record.json")
        if record["data_checksum"] == data.checksum:
            return record
    torch.manual_seed(seeds.fold(config.seed, "parameters"))  # of the initialisation, nothing else
    method = Algorithm1(config, device)
    average = RunningAverage(method.nets.G, averaged_generator(config).to(device), config.ema)
    observed = Observations(data, "training", mask_law(config.corruption), config.mask_seed, device)

    step, seconds = _restore(run, method, average, data.checksum)
    records.truncate_log(run / "log.jsonl", step)
    batches = observed.batches(config.batch_size, config.seed, start=step * config.accumulate)
    progress = Progress(config.steps, run.name, done=step)
    images = config.batch_size * config.accumulate
    clock = Clock(seconds)
    checkpointed, logged = clock.seconds(), (step, clock.seconds())
    between_steps = True
    try:
        # Algorithm 1, line 1: until converged, here for a fixed number of steps
        while step < config.steps:
            generator = seeds.generator(config.seed, "step", step, device=device)
            between_steps = False  # D may have moved already and G not yet
            with HeldInterrupt():
                log = method.step(batches, generator)
                step += 1
                average.update(step)
                between_steps = True
            note = ""
            if step % config.log_every == 0 or step == config.steps:
                now = clock.seconds()
                line = {
                    "step": step,
                    "seconds": round(now, 3),
                    "images_per_second": round((step - logged[0]) * images / (now - logged[1]), 2),
                    **{key: float(value) for key, value in log.items()},
                    **_gradient_norms(method),
                }
                logged = (step, now)
                records.append_log(run / "log.jsonl", line)
                if on_log is not None:
                    on_log(line, average.model)
                shown = [key for key in SHOWN_IN_PROGRESS if key in line]
                note = ", ".join(f"{key} {line[key]:.3f}" for key in shown)
            if clock.seconds() - checkpointed > config.checkpoint_seconds:
                _save(run, step, clock.seconds(), method, average, data.checksum)
                checkpointed = clock.seconds()
            progress.update(note=note)
    except KeyboardInterrupt:
        if between_steps:
            _save(run, step, clock.seconds(), method, average, data.checksum)
        print(f"{run.name}: interrupted at step {step}; run it again to go on", flush=True)
        raise
    finally:
        progress.close()
    seconds = clock.seconds()
    _save(run, step, seconds, method, average, data.checksum)
    return _finish(run, config, data.checksum, method, average, seconds)


def _finish(
    run: Path,
    config: RunConfig,
    data_checksum: str,
    method: Algorithm1,
    average: RunningAverage,
    seconds: float,
) -> dict[str, Any]:
    """Write the averaged generator, then the record that vouches for it; return the record."""
    path = run / "generator.safetensors"
    weights = {name: tensor.contiguous() for name, tensor in average.model.state_dict().items()}
    records.write_atomically(path, lambda draft: save_file(weights, draft))
    images = config.steps * config.batch_size * config.accumulate
    record = records.provenance(config, data_checksum) | {
        "steps": config.steps,
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 2),
        "parameters": {
            name: sum(p.numel() for p in net.parameters())
            for name, net in vars(method.nets).items()
        },
        "generator_checksum": records.file_checksum(path),
    }
    records.write_json(run / "record.json", record)
    return record


class Clock:
    """Seconds of training, those before an interruption included."""

    def __init__(self, before: float) -> None:
        self.start = time.perf_counter() - before

    def seconds(self) -> float:
        return time.perf_counter() - self.start


def averaged_generator(config: RunConfig) -> Generator:
    """A G that holds normalised weights themselves, in evaluation mode, on the processor."""
    G = build_generator(config, spectral=False)
    return G.to(memory_format=torch.channels_last).requires_grad_(False).eval()


def load_generator(run: Path, device: torch.device | str = "cpu") -> Generator:
    """The averaged generator of a trained run; RunError where it is missing or altered."""
    path = run / "generator.safetensors"
    if not (run / "record.json").is_file() or not path.is_file():
        raise records.RunError(f"{run} is not trained yet: run 'python -m paperlib train' first")
    if records.read_json(run / "record.json")["generator_checksum"] != records.file_checksum(path):
        raise records.RunError(f"{path} is not the file that its record.json describes")
    G = averaged_generator(records.load_config(run))
    G.load_state_dict(load_file(path))
    return G.to(device)


class RunningAverage:
    """Exponential moving average of G's effective weights and of its BatchNorm statistics.

    Effective means spectrally normalised: the average is a plain network. The decay grows to
    ``decay`` as min(decay, (1 + step) / (10 + step)), so that the random start is forgotten.
    """

    def __init__(self, source: Generator, model: Generator, decay: float) -> None:
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
    run: Path, method: Algorithm1, average: RunningAverage, data_checksum: str
) -> tuple[int, float]:
    """Load the last checkpoint, if any; return (step, seconds trained)."""
    state = records.load_checkpoint(run)
    if state is None:
        return 0, 0.0
    if state["data_checksum"] != data_checksum:
        raise records.RunError(
            f"{run} was begun on other data: delete it, or prepare that data set again"
        )
    for name, module in _modules(method, average).items():
        module.load_state_dict(state[name])
    return state["step"], state["seconds"]


def _save(
    run: Path, step: int, seconds: float, method: Algorithm1, average: RunningAverage, checksum: str
) -> None:
    state = {name: module.state_dict() for name, module in _modules(method, average).items()}
    records.save_checkpoint(run, step, {"seconds": seconds, "data_checksum": checksum} | state)


def _modules(method: Algorithm1, average: RunningAverage) -> dict[str, Any]:
    """Everything with a state. Random numbers have none: each step's is a function of its number."""
    return {
        **vars(method.nets),
        "optimizer_d": method.optimizer_d,
        "optimizer_g": method.optimizer_g,
        "average": average.model,
    }


def _gradient_norms(method: Algorithm1) -> dict[str, float]:
    """Norms of the last gradients of each network."""
    norms = {}
    for name, net in vars(method.nets).items():
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        if gradients:
            norms[f"gradient_{name}"] = float(nn.utils.get_total_norm(gradients))
    return norms
