"""The loop around a method's step: batches, averaging, log, checkpoints, record.

A method is what it computes in a step (``core.algorithm1``, ``core.baselines``); the loop is one.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paperlib import seeds
from paperlib.config import RunConfig
from paperlib.core.baselines import GENERATORS, METHODS
from paperlib.data.datasets import DATA_SETS, law_of
from paperlib.data.prepare import Prepared, load_prepared
from paperlib.errors import Diverged, RunError, Terminated
from paperlib.progress import progress_bar
from paperlib.records import provenance
from paperlib.run import Run, plain_generator
from paperlib.training import processes
from paperlib.training.averages import RunningAverage
from paperlib.training.device import Computation, default_device, deterministic_algorithms

SHOWN_IN_PROGRESS = ("loss_d", "loss_g", "error_y", "error_z")
OnLog = Callable[[dict[str, Any], Any], None]


def train(
    config: RunConfig,
    folder: Path,
    device: torch.device | str | None = None,
    on_log: OnLog | None = None,
) -> dict[str, Any]:
    """Train a run in ``folder``, made if missing, or go on, until it is done; return its record.

    Args:
        device: where; the GPU if there is one, by default.
        on_log: called with every line of the log and the averaged G, e.g. to draw live curves.

    Raises:
        RunError: the directory belongs to another configuration or is in use by another process,
            its checkpoint is damaged, or the training diverged (``errors.Diverged``).
        DataError: the data set is not prepared, or is another than the run began with.
        OSError: the disk is full; what was written before is intact.
        KeyboardInterrupt: by Ctrl-C or SIGTERM, after a checkpoint.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    processes.own_rows(config.batch_size)  # refused before anything is made
    with ExitStack() as stack:
        processes.first(lambda: stack.enter_context(Run(folder).lock()))
        run = processes.first(lambda: Run.begin(folder, config))
        data = load_prepared(config.data)
        if run.is_trained:
            return run.record_on(data)
        training = Training(config, run, data, torch.device(device or default_device()))
        with deterministic_algorithms(config.deterministic):
            training.loop(on_log)
        return processes.first(training.finish)


class Training:
    """A run under way: its method, averages, batches, and how far it is."""

    def __init__(self, config: RunConfig, run: Run, data: Prepared, device: torch.device) -> None:
        self.config, self.run, self.data, self.device = config, run, data, device
        self.computation = Computation.choose(config, device)
        torch.manual_seed(seeds.fold(config.seed, "parameters"))  # of the initialisation alone
        build = METHODS[config.method]
        nets, law = build.build_networks(config), law_of(config)
        self.computation.prepare(nets, build.differentiated_twice)
        self.method = build(config, nets, law, self.computation.adam)
        processes.join(nets, self.method.optimizers.values())
        self.averages = {
            name: RunningAverage(net, plain_generator(config, name).to(device), config.ema)
            for name, (key, _) in GENERATORS.items()
            if (net := getattr(nets, key, None)) is not None
        }
        # Everything with a state; random numbers have none, they are functions of the step
        averages = {f"average_{name}": average.model for name, average in self.averages.items()}
        self.stateful = {**vars(nets), **self.method.optimizers, **averages}
        self.begun_with = {"data_checksum": data.checksum, "precision": self.computation.precision}
        self.step, seconds = 0, 0.0
        if (state := processes.first(run.load_checkpoint)) is not None:
            self.step, seconds = state["step"], state["seconds"]
            for key, now in self.begun_with.items():
                if state[key] != now:
                    what = f"{run.folder} was begun with another {key}, {state[key]}, now {now}"
                    raise RunError(f"{what}: go on as it was begun, or delete it")
            for name, part in self.stateful.items():
                part.load_state_dict(state[name])
        self.started = time.perf_counter() - seconds
        seen = DATA_SETS[self.method.learns_from](data, "training", law, config.mask_seed, device)
        if self.computation.keeps_resident(config, seen.nbytes):
            seen.keep_on_device()
        start = self.step * self.method.batches_per_step
        rows = processes.own_rows(config.batch_size)
        self.batches = seen.batches(config.batch_size, config.seed, start, rows)

    @property
    def seconds(self) -> float:
        """Of training, those before an interruption included."""
        return time.perf_counter() - self.started

    def loop(self, on_log: OnLog | None) -> None:
        """Algorithm 1, line 1: until converged, here for a fixed number of steps."""
        c, method, name = self.config, self.method, self.run.folder.name
        writes, G = processes.rank() == 0, self.averages["generator"].model
        checkpointed, bar = self.seconds, progress_bar(c.steps, f"training {name}", self.step)
        with signals_noted() as noted, bar:
            while self.step < c.steps:
                rank = [] if writes else [processes.rank()]
                generator = seeds.generator(c.seed, "step", self.step, *rank, device=self.device)
                drawn = [next(self.batches) for _ in range(method.batches_per_step)]
                scalars = method.step(drawn, generator)
                self.step += 1
                for average in self.averages.values():
                    average.update(self.step)

                ends, keeps = self.step == c.steps, self.step in self.run.snapshots
                logs = ends or keeps or self.step % c.log_every == 0
                late = self.seconds - checkpointed > c.checkpoint_seconds
                due, stop = processes.highest(ends or late, max(noted, default=0))
                if logs or due or stop:
                    line = self._checked(scalars)  # nothing that is not finite is kept
                if logs and writes:
                    self.run.append_to_log(line)
                    shown = [f"{k} {line[k]:.3f}" for k in SHOWN_IN_PROGRESS if k in line]
                    bar.set_postfix_str(", ".join(shown), refresh=False)
                    if on_log is not None:
                        on_log(line, G)
                if keeps and writes:
                    self.run.save_snapshot(self.step, G)
                if due or stop:
                    checkpointed = self.seconds
                    processes.first(self._save_checkpoint)
                bar.update()
                if stop:
                    kind = Terminated if stop == signal.SIGTERM else KeyboardInterrupt
                    raise kind(f"{name}: interrupted at step {self.step}; run it again to go on")

    def _save_checkpoint(self) -> None:
        state = {name: part.state_dict() for name, part in self.stateful.items()}
        self.run.save_checkpoint(self.step, {"seconds": self.seconds} | self.begun_with | state)

    def _checked(self, scalars: dict[str, Tensor]) -> dict[str, Any]:
        """A line of the log: the step's scalars, and the norms of each network's last gradients.

        Raises Diverged where one of them is not finite, in any process.
        """
        values = {name: value.item() for name, value in scalars.items()}
        for name, net in vars(self.method.nets).items():
            if gradients := [p.grad for p in net.parameters() if p.grad is not None]:
                values[f"gradient_{name}"] = nn.utils.get_total_norm(gradients).item()
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if any(processes.highest(len(wrong))):
            what = f"{self.run.folder.name} diverged at step {self.step}: {', '.join(wrong)}"
            raise Diverged(f"{what} not finite: try a lower learning rate")
        return {"step": self.step, "seconds": round(self.seconds, 3)} | values

    def finish(self) -> dict[str, Any]:
        """Write the averaged generators and the record; return the record."""
        c, seconds, nets = self.config, self.seconds, vars(self.method.nets).items()
        images = c.steps * c.batch_size * self.method.batches_per_step
        record = provenance(c, self.data.checksum) | {
            "steps": c.steps,
            "seconds": round(seconds, 3),
            "images_per_second": round(images / seconds, 2),
            "computed": str(self.computation),
            "parameters": {name: sum(p.numel() for p in net.parameters()) for name, net in nets},
            "processes": processes.count(),
        }
        if "limits" in self.data.manifest:  # the values that stand for -1 and 1, band by band
            record["limits"] = self.data.manifest["limits"]
        averages = {name: average.model for name, average in self.averages.items()}
        return self.run.finish(averages, record)


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Within, the numbers of Ctrl-C and SIGTERM are only noted, in the list: no step is cut short."""
    noted: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()  # no other one is sent any
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    before = {n: signal.signal(n, lambda number, _: noted.append(number)) for n in numbers}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
