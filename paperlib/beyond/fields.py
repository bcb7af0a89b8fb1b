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

from paperlib import seeds
from paperlib.beyond.posterior import Mixture, condition, distances_to_posterior, random_field
from paperlib.beyond.selection import hide, over_images, score_hidden
from paperlib.config import RunConfig
from paperlib.core.algorithm1 import Networks
from paperlib.core.baselines import METHODS
from paperlib.core.corruption import DropPixel, corrupt
from paperlib.evaluation.sampling import Reconstruct, sampler
from paperlib.files import write_atomically
from paperlib.progress import track
from paperlib.records import file_checksum, provenance, read_record, write_record
from paperlib.training.averages import RunningAverage

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
    def field(self) -> Mixture:
        """p_X."""
        return random_field(self.side, self.modes, self.length_scale, self.nugget)

    @property
    def p_m(self) -> DropPixel:
        """The mask distribution."""
        return DropPixel(self.dropped)

    def observe(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Fields x (count, 1, H, W) float64, their observations y, masks m."""
        x = self.field.sample(count, generator)[:, 0]
        m = self.p_m.sample(count, self.side, generator)
        return x, corrupt(x, m), m

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Observations without end, (y, m) of (size, 1, H, W) float32."""
        for k in range(2**62):
            _, y, m = self.observe(PREPARED * size, seeds.generator(seed, "fields", k))
            yield from zip(y.float().split(size), m.split(size), strict=True)


class Dense(nn.Module):
    """Three hidden layers, on images and vectors in one row."""

    def __init__(self, c_in: int, c_out: int, width: int, batch_norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k in range(3):
            layers.append(nn.Linear(width if k else c_in, width))
            layers += [nn.BatchNorm1d(width)] * batch_norm + [nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Linear(width, c_out))

    def forward(self, *inputs: Tensor) -> Any:
        return self.net(torch.cat([each.flatten(1) for each in inputs], dim=1))


class DenseGenerator(Dense):
    """G(y, m, z) for fields: no tanh, a field has no bounds."""

    def __init__(self, entries: int, nz: int, width: int) -> None:
        super().__init__(2 * entries + nz, entries, width)
        self.nz = nz

    def forward(self, y: Tensor, m: Tensor, z: Tensor) -> Tensor:
        return super().forward(y, m, z).view_as(y)


class DenseEncoder(Dense):
    """E(y, m) for fields: mean and log variance of z, (B, nz) each."""

    def forward(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = super().forward(y, m).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 4)


def build_dense_networks(config: RunConfig) -> Networks:
    """G, D and E for fields of config.size x config.size, randomly initialised."""
    entries, (width, *_) = config.size**2, config.g_channels
    images_shown = 3 if config.method == "mask_aware" else 1  # an observation, and two masks
    return Networks(
        G=DenseGenerator(entries, config.nz, width),
        D=nn.Sequential(Dense(images_shown * entries, 1, width), nn.Flatten(0)),
        E=DenseEncoder(2 * entries, 2 * config.nz, width, batch_norm=True),
    )


def field_config(data: FieldData, **changes: Any) -> RunConfig:
    """The configuration of a run on fields: the keys that matter there, and ``changes``."""
    settings: dict[str, Any] = {
        "size": data.side, "corruption": "drop_pixel", "patch": 1, "attention": 0,
        "g_channels": [WIDTH], "d_channels": [WIDTH], "e_channels": [WIDTH],
        "nz": data.side**2 // 2, "batch_size": 256, "lr_g": 1e-3, "lr_d": 3e-3, "ema": 0.999,
        "threads": 1,
    }  # fmt: skip
    return RunConfig.parse(settings | changes, "field")


def train_on_fields(config: RunConfig, data: FieldData, folder: Path) -> dict[str, Any]:
    """Train on observations of a field, compare with the exact posterior, write a record.

    Does nothing if ``folder`` holds the record of the same run.

    Args:
        config: the run, e.g. from ``field_config``.
        data: what it learns from and is measured on.
        folder: gets the record (``record_path``), and beside it the averaged G.

    Returns:
        the record, with what ``measure`` found.
    """
    path = record_path(config, data, folder)
    if path.is_file():
        return read_record(path)
    torch.set_num_threads(config.threads)
    torch.manual_seed(seeds.fold(config.seed, "parameters"))
    method = METHODS[config.method](config, build_dense_networks(config), data.p_m)
    G = build_dense_networks(config).G.requires_grad_(False).eval()
    average = RunningAverage(method.nets.G, G, config.ema)
    batches = data.batches(config.batch_size, config.seed)
    start = time.perf_counter()
    for step in range(config.steps):
        drawn = [next(batches) for _ in range(method.batches_per_step)]
        method.step(drawn, seeds.generator(config.seed, "step", step))
        average.update(step + 1)
    seconds = round(time.perf_counter() - start, 1)
    weights = path.with_suffix(".safetensors")
    write_atomically(weights, lambda draft: save_file(G.state_dict(), draft))
    record = provenance(config, "none: drawn afresh")
    record |= {"field": asdict(data), "seconds": seconds}
    record["generator_checksum"] = file_checksum(weights)
    record |= measure(sampler(G, data.samples, config.evaluation_seed), data)
    return write_record(path, record)


def train_all(
    configs: Sequence[RunConfig], data: FieldData, folder: Path, workers: int | None = None
) -> list[dict[str, Any]]:
    """The records of many runs, trained side by side in ``workers`` processes, else one a core."""
    todo = [config for config in configs if not record_path(config, data, folder).is_file()]
    spawn = multiprocessing.get_context("spawn")  # a fork of a threaded torch may hang
    with ProcessPoolExecutor(workers or os.cpu_count(), spawn) as pool:
        futures = [pool.submit(train_on_fields, config, data, folder) for config in todo]
        for future in track(futures, len(futures), "training on fields"):
            future.result()
    return [read_record(record_path(config, data, folder)) for config in configs]


def record_path(config: RunConfig, data: FieldData, folder: Path) -> Path:
    """Where a run's record lies: elsewhere for every other configuration or field."""
    rest = seeds.fold(str(config.model_dump()), str(asdict(data))) % 16**6
    weights = f"lambda{config.lambda_y:g},{config.lambda_z:g}"
    return folder / f"{config.method}-{weights}-seed{config.seed}-{rest:06x}.json"


def load_field_generator(record: dict[str, Any], folder: Path) -> Any:
    """The averaged G of a record that ``train_all`` left in ``folder``."""
    config, data = RunConfig.parse(record["config"]), FieldData(**record["field"])
    G = build_dense_networks(config).G.eval()
    G.load_state_dict(load_file(record_path(config, data, folder).with_suffix(".safetensors")))
    return G


def measure(reconstruct: Reconstruct, data: FieldData) -> dict[str, Any]:
    """How good a model's samples are, on fields that no training saw.

    Returns:
        distances: to the exact posterior (``posterior.distances_to_posterior``);
        hidden: scores on hidden entries (``selection.score_hidden``), which no complete field
            enters.
    """
    rows = np.arange(data.hold_out)
    generator = seeds.generator("fields of the test")
    x, y, m = data.observe(data.hold_out, generator)
    samples, _ = reconstruct(y.float(), m, rows)
    samples = torch.where(m > 0, y, samples.double())
    distances = distances_to_posterior(samples, x, condition(data.field, y, m), generator)

    generator = seeds.generator("fields of the hold-out")
    _, y, m = data.observe(data.hold_out, generator)
    hidden = score_hidden(reconstruct, y.float(), m, hide(m, data.p_m, generator), rows)
    return {"distances": over_images(distances), "hidden": over_images(hidden)}
