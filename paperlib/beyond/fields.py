"""Algorithm 1 as it is, on random fields whose posterior is known (notebook 08).

Only what surrounds it is small: dense networks for a few entries, observations that never repeat,
and a record instead of checkpoints, since a run takes less than a minute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paperlib import seeds
from paperlib.beyond.posterior import condition, distances_to_posterior, random_field
from paperlib.beyond.selection import hide, over_images, score_hidden
from paperlib.config import RunConfig
from paperlib.core.algorithm1 import Networks
from paperlib.core.baselines import METHODS
from paperlib.core.corruption import DropPixel, corrupt
from paperlib.evaluation.sampling import Reconstruct, sampler
from paperlib.files import write_atomically
from paperlib.records import file_checksum, provenance, read_record, write_record
from paperlib.training.averages import RunningAverage

SIDE = 4  # of a field, pixels
FIELD = random_field(SIDE, length_scale=1.0, nugget=0.05)  # p_X
P_M = DropPixel(0.5)
WIDTH = 192  # of the networks' layers


def observe(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Fields x (count, 1, H, W) float64, their observations y, masks m."""
    x = FIELD.sample(count, generator)[:, 0]
    m = P_M.sample(count, SIDE, generator)
    return x, corrupt(x, m), m


class Dense(nn.Module):
    """Three hidden layers on images and vectors in one row; ``shaped`` makes of the output (B, n)
    and the first input what is asked for."""

    def __init__(self, config: RunConfig, c_in: int, c_out: int, shaped: Any, norm: bool = False):
        super().__init__()
        self.nz, self.shaped, width = config.nz, shaped, config.g_channels[0]
        layers: list[nn.Module] = []
        for k in range(3):
            layers.append(nn.Linear(width if k else c_in, width))
            layers += [nn.BatchNorm1d(width)] * norm + [nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Linear(width, c_out))

    def forward(self, *inputs: Tensor) -> Any:
        return self.shaped(self.net(torch.cat([each.flatten(1) for each in inputs], 1)), inputs[0])


def build_dense_networks(config: RunConfig) -> Networks:
    """G, D and E for fields, randomly initialised; G without tanh: a field has no bounds."""
    n, nz = SIDE**2, config.nz
    shown = 3 * n if config.method == "mask_aware" else n  # an observation, and two masks

    def law_of_z(out: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return out[:, :nz], out[:, nz:].clamp(-10, 4)  # mean, log variance

    return Networks(
        G=Dense(config, 2 * n + nz, n, Tensor.view_as),
        D=Dense(config, shown, 1, lambda score, _: score[:, 0]),
        E=Dense(config, 2 * n, 2 * nz, law_of_z, norm=True),
    )


def field_config(**changes: Any) -> RunConfig:
    """The configuration of a run on fields: the keys that matter there, and ``changes``."""
    settings: dict[str, Any] = {
        "size": SIDE, "corruption": "drop_pixel", "patch": 1, "attention": 0,
        "g_channels": [WIDTH], "d_channels": [WIDTH], "e_channels": [WIDTH],
        "nz": SIDE**2 // 2, "batch_size": 256, "lr_g": 1e-3, "lr_d": 3e-3, "ema": 0.999,
        "threads": 1, "eval_images": 300, "eval_samples": 200,
    }  # fmt: skip
    return RunConfig.parse(settings | changes, "field")


def train_on_fields(config: RunConfig, folder: Path) -> tuple[dict[str, Any], Any]:
    """Train on observations of the field, and compare with the exact posterior.

    Returns the record, with what ``measure`` found, and the averaged G; both are kept in ``folder``.
    """
    rest = seeds.fold(str(config.model_dump())) % 16**6
    path = folder / f"{config.method}-seed{config.seed}-{rest:06x}.json"
    weights = path.with_suffix(".safetensors")
    G = build_dense_networks(config).G.requires_grad_(False).eval()
    if path.is_file():
        G.load_state_dict(load_file(weights))
        return read_record(path), G
    torch.set_num_threads(config.threads)
    torch.manual_seed(seeds.fold(config.seed, "parameters"))
    method = METHODS[config.method](config, build_dense_networks(config), P_M)
    average = RunningAverage(method.nets.G, G, config.ema)
    for step in range(config.steps):
        generator = seeds.generator(config.seed, "step", step)
        drawn = [observe(config.batch_size, generator) for _ in range(method.batches_per_step)]
        method.step([(y.float(), m) for _, y, m in drawn], generator)
        average.update(step + 1)
    write_atomically(weights, lambda draft: save_file(G.state_dict(), draft))
    record = provenance(config, "none: drawn afresh")
    record |= {"generator_checksum": file_checksum(weights)}
    record |= measure(sampler(G, config.eval_samples, config.evaluation_seed), config)
    return write_record(path, record), G


def measure(reconstruct: Reconstruct, config: RunConfig) -> dict[str, Any]:
    """How good samples are, on ``config.eval_images`` fields that no training saw.

    Returns ``distances`` to the exact posterior, those of its own samples as ``exact_...``, and
    ``hidden``, the scores of ``selection.score_hidden``, which no complete field enters.
    """
    count = config.eval_images
    generator, rows = seeds.generator("fields not trained on"), np.arange(count)
    x, y, m = observe(count, generator)
    exact = condition(FIELD, y, m)
    samples = torch.where(m > 0, y, reconstruct(y.float(), m, rows)[0].double())
    distances = distances_to_posterior(samples, x, exact, generator)
    own = distances_to_posterior(exact.sample(len(samples), generator), x, exact, generator)
    distances |= {f"exact_{name}": values for name, values in own.items()}
    _, y, m = observe(count, generator)  # the hold-out
    hidden = score_hidden(reconstruct, y.float(), m, hide(m, P_M, generator), rows)
    return {"distances": over_images(distances), "hidden": over_images(hidden)}
