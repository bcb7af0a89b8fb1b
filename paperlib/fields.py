"""Algorithm 1 as it is, on random fields whose posterior is known (notebook 08).

Only what surrounds it is small: dense networks for a few entries, observations that never repeat,
and a record instead of checkpoints, since a run takes less than a minute.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paperlib import posterior, records, seeds
from paperlib.algorithm1 import MASKS_SHOWN, Algorithm1, Networks
from paperlib.config import RunConfig
from paperlib.corruption import DropPixel, corrupt
from paperlib.metrics import bootstrap_ratio
from paperlib.posterior import Field, condition, distances_to_posterior
from paperlib.progress import Progress, track
from paperlib.sampling import Reconstruct, sampler
from paperlib.selection import hide, score_hidden
from paperlib.training import RunningAverage

PREPARED = 64  # batches drawn at once, which is faster
WIDTH = 192  # of the networks' layers


@dataclass(frozen=True)
class FieldData:
    """Which field, how it is observed, and how much of it the measurement rests on."""

    side: int = 4
    modes: int = 1  # 1: Gaussian; 2: a mixture of two
    length_scale: float = 1.0  # pixels
    nugget: float = 0.05
    dropped: float = 0.5  # Drop Pixel, the share of the entries
    hold_out: int = 300  # observations
    samples: int = 200  # z an observation

    @property
    def field(self) -> Field:
        make = {1: posterior.gaussian_field, 2: posterior.two_mode_field}[self.modes]
        return make(self.side, self.length_scale, self.nugget)

    @property
    def p_m(self) -> DropPixel:
        return DropPixel(self.dropped)

    def observe(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Fields x (count, 1, H, W) float64, their observations y, masks m."""
        x = self.field.sample(count, generator)
        m = self.p_m.sample(count, self.side, generator)
        return x, corrupt(x, m), m

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Observations without end, (y, m) of (size, 1, H, W) float32."""
        for k in range(2**62):
            _, y, m = self.observe(PREPARED * size, seeds.generator(seed, "fields", k))
            yield from zip(y.float().split(size), m.split(size), strict=True)


def dense(c_in: int, c_out: int, width: int, batch_norm: bool = False) -> nn.Sequential:
    """Three hidden layers."""
    layers: list[nn.Module] = []
    for k in range(3):
        layers.append(nn.Linear(width if k else c_in, width))
        layers += [nn.BatchNorm1d(width)] * batch_norm + [nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(width, c_out))


class DenseGenerator(nn.Module):
    """G(y, m, z) for fields: no tanh, a field has no bounds."""

    def __init__(self, entries: int, nz: int, width: int) -> None:
        super().__init__()
        self.nz = nz
        self.net = dense(2 * entries + nz, entries, width)

    def forward(self, y: Tensor, m: Tensor, z: Tensor) -> Tensor:
        return self.net(torch.cat([y.flatten(1), m.flatten(1), z], dim=1)).view_as(y)


class DenseDiscriminator(nn.Module):
    """D(y), or of y and masks, for fields."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.net = dense(inputs, 1, width)

    def forward(self, y: Tensor) -> Tensor:
        return self.net(y.flatten(1)).squeeze(1)


class DenseEncoder(nn.Module):
    """E(y, m) for fields."""

    def __init__(self, entries: int, nz: int, width: int) -> None:
        super().__init__()
        self.net = dense(2 * entries, 2 * nz, width, batch_norm=True)

    def forward(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        h = self.net(torch.cat([y.flatten(1), m.flatten(1)], dim=1))
        mean, log_variance = h.chunk(2, dim=1)  # (B, nz) each
        return mean, log_variance.clamp(-10, 4)


def build_dense_networks(config: RunConfig) -> Networks:
    """G, D and E for fields of config.size x config.size, randomly initialised."""
    entries, (width, *_) = config.size**2, config.g_channels
    return Networks(
        G=DenseGenerator(entries, config.nz, width),
        D=DenseDiscriminator(entries * (1 + MASKS_SHOWN[config.sees]), width),
        E=DenseEncoder(entries, config.nz, width),
    )


class Algorithm1OnFields(Algorithm1):
    """Algorithm 1 with dense networks and the fields' masks; every line of it is inherited."""

    build_networks = staticmethod(build_dense_networks)

    def __init__(self, config: RunConfig, p_m: DropPixel) -> None:
        super().__init__(config)
        self.p_m = p_m


def field_config(data: FieldData, **changes: Any) -> RunConfig:
    """The configuration of a run on fields: the keys that matter there, and ``changes``."""
    settings: dict[str, Any] = {
        "size": data.side, "patch": 1, "attention": 0, "corruption": "drop_pixel",
        "g_channels": [WIDTH], "d_channels": [WIDTH], "e_channels": [WIDTH], "nz": data.side**2 // 2, "batch_size": 256,
        "lr_g": 1e-3, "lr_d": 3e-3, "ema": 0.999, "threads": 1,
    }  # fmt: skip
    return RunConfig.parse(settings | changes, "field")


def train_on_fields(
    config: RunConfig, data: FieldData, path: Path, quiet: bool = False
) -> dict[str, Any]:
    """Train on observations of a field, compare with the exact posterior, write a record.

    Does nothing if ``path`` holds the record of the same run.

    Args:
        config: the run, e.g. from ``field_config``.
        data: what it learns from and is measured on.
        path: of the record; the averaged G is kept beside it.
        quiet: show no progress.

    Returns:
        the record: ``distances``, each of ``posterior.distances_to_posterior``, and ``hidden``,
        each of ``selection.score_hidden`` (which no complete field enters), as value, low, high.
    """
    about = {"field": asdict(data), "config": config.model_dump()}
    if path.is_file():
        done = records.read_record(path)
        if {key: done[key] for key in about} == about:
            return done
    torch.set_num_threads(config.threads)
    torch.manual_seed(seeds.fold(config.seed, "parameters"))
    method = Algorithm1OnFields(config, data.p_m)
    average = RunningAverage(
        method.nets.G,
        build_dense_networks(config).G.requires_grad_(False).eval(),
        config.ema,
    )
    batches = data.batches(config.batch_size, config.seed)
    start = time.perf_counter()
    steps = range(config.steps)
    for step in steps if quiet else track(steps, config.steps, f"{config.row}, seed {config.seed}"):
        method.step(batches, seeds.generator(config.seed, "step", step))
        average.update(step + 1)
    seconds = time.perf_counter() - start
    G = average.model
    weights = {name: tensor.contiguous() for name, tensor in G.state_dict().items()}
    file = path.with_suffix(".safetensors")
    records.write_atomically(file, lambda draft: save_file(weights, draft))
    record = (
        records.provenance(config, "none: drawn afresh")
        | about
        | {
            "seconds": round(seconds, 1),
            "generator_checksum": records.file_checksum(file),
            "distances": compare(sampler(G, data.samples, config.evaluation_seed), data),
            "hidden": guess_hidden(sampler(G, data.samples, config.evaluation_seed), data),
        }
    )
    return records.write_record(path, record)


def train_all(
    configs: Sequence[RunConfig], data: FieldData, folder: Path, workers: int | None = None
) -> list[dict[str, Any]]:
    """The records of many runs, trained side by side, one a core; those done are only read.

    Args:
        configs: the runs.
        data: what they learn from.
        folder: gets a record for each.
        workers: processes; by default one a core.
    """
    files = [folder / f"{record_name(config, data)}.json" for config in configs]
    todo = [pair for pair in zip(configs, files, strict=True) if not pair[1].is_file()]
    workers = min(workers or os.cpu_count() or 1, max(len(todo), 1))
    if workers > 1:
        spawn = multiprocessing.get_context("spawn")  # a fork of a threaded torch may hang
        progress = Progress(len(todo), "training on fields")
        with ProcessPoolExecutor(workers, spawn) as pool:
            for future in [pool.submit(train_on_fields, c, data, f, True) for c, f in todo]:
                future.result()
                progress.update()
        progress.close()
    return [train_on_fields(c, data, file) for c, file in zip(configs, files, strict=True)]


def record_name(config: RunConfig, data: FieldData) -> str:
    """The name of a run's record, other for every other configuration or field."""
    rest = seeds.fold(str(config.model_dump()), str(asdict(data))) % 16**6
    return (
        f"{config.row}-lambda{config.lambda_y:g},{config.lambda_z:g}-seed{config.seed}-{rest:06x}"
    )


def load_field_generator(record: dict[str, Any], folder: Path) -> Any:
    """The averaged G of a record that ``train_all`` left in ``folder``."""
    config, data = RunConfig.parse(record["config"]), FieldData(**record["field"])
    G = build_dense_networks(config).G.eval()
    G.load_state_dict(load_file(folder / f"{record_name(config, data)}.safetensors"))
    return G


def compare(reconstruct: Reconstruct, data: FieldData) -> dict[str, Any]:
    """The distances of a model's samples to the posterior, on fields that no training saw."""
    generator = seeds.generator("fields of the test")
    x, y, m = data.observe(data.hold_out, generator)
    samples, _ = reconstruct(y.float(), m, np.arange(len(y)))
    samples = torch.where(m > 0, y, samples.double())
    exact = condition(data.field, y, m)
    measured = distances_to_posterior(samples, x, exact, generator)
    return {k: vars(bootstrap_ratio(v.numpy())) for k, v in measured.items()}


def guess_hidden(reconstruct: Reconstruct, data: FieldData) -> dict[str, Any]:
    """The scores on hidden entries of observations of a hold-out: no field is complete."""
    generator = seeds.generator("fields of the hold-out")
    _, y, m = data.observe(data.hold_out, generator)
    shown = hide(m, data.p_m, generator)
    scores = score_hidden(reconstruct, y.float(), m, shown, np.arange(len(y)))
    kept = {k: v.double().numpy() for k, v in scores.items()}
    return {k: vars(bootstrap_ratio(v[np.isfinite(v)])) for k, v in kept.items()}
