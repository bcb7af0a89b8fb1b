"""What several tests need: the smallest networks, a cheap extractor, and made-up records."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from paperlib import paths, seeds
from paperlib.config import RunConfig
from paperlib.core.corruption import corrupt, mask_law
from paperlib.core.models import LatentNorm, SelfAttention
from paperlib.data.prepare import load_prepared
from paperlib.records import file_checksum, write_json
from paperlib.run import Run

B, SIZE, NZ = 4, 16, 8


def changed(config: RunConfig, **changes) -> RunConfig:
    return RunConfig(**config.model_dump() | changes)


# What a step computes


def tiny(**changes) -> RunConfig:
    """The smallest networks, at 16 px."""
    return RunConfig(
        **{"dataset": "bluemarble", "size": SIZE, "batch_size": B, "attention": 4}
        | {"lambda_y": 10.0, "lambda_z": 3.0}
        | {"g_channels": [8, 8], "d_channels": [8, 8], "e_channels": [8, 8], "nz": NZ}
        | {"start_from_fill": False}  # whose last layer starts at 0 and lets no gradient pass
        | changes
    )


def load_script(name: str) -> ModuleType:
    """scripts/NAME.py as a module; the folder is no package."""
    spec = importlib.util.spec_from_file_location(name, paths.ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(seed=0) -> torch.Tensor:
    """x (B, 3, 16, 16)."""
    levels = torch.randint(256, (B, 3, SIZE, SIZE), generator=seeds.generator("x", seed))
    return levels.float() / 127.5 - 1


def observations(law="small_patch", seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    """y (B, 3, 16, 16), m (B, 1, 16, 16)."""
    m = mask_law(law).for_ids(range(seed, seed + B), SIZE, seed=0)
    return corrupt(images(seed), m), m


def grey(value: float) -> torch.Tensor:
    """Images (B, 3, 16, 16) of one value."""
    return torch.full((B, 3, SIZE, SIZE), value)


def mean_score(y: torch.Tensor) -> torch.Tensor:
    """A D whose score of an image is its mean."""
    return y.mean(dim=(1, 2, 3))


def awake(nets: Any) -> Any:
    """The networks, with the parameters that start at 0 (and block gradients so) moved off it."""
    generator = seeds.generator("awake")
    for module in [m for net in vars(nets).values() for m in net.modules()]:
        if isinstance(module, SelfAttention):
            nn.init.constant_(module.gamma, 0.5)
        if isinstance(module, LatentNorm):
            nn.init.normal_(module.scale_shift.weight, std=0.2, generator=generator)
    return nets


class Recorder(nn.Module):
    """Calls a function in the place of a network, and keeps what it was given."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer, self.calls = answer, []

    def forward(self, *arguments):
        self.calls.append(arguments)
        return self.answer(*arguments)


def gradients(net: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


def has_gradient(net: nn.Module) -> bool:
    return any(g.abs().max() > 0 for g in gradients(net).values())


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


# What lies on disk

TIMES = {"seconds": 0, "images_per_second": 0}  # what may differ between logs of equal runs


def weights(run: Path) -> dict[str, bytes]:
    """The averaged generators: G's, and MisGAN's of complete images."""
    found = {p.name: p.read_bytes() for p in run.glob("*.safetensors")}
    assert "generator.safetensors" in found
    return found


def assert_same_run(a: Path, b: Path) -> None:
    """The same averaged weights, and the same log but for the times."""
    assert weights(a) == weights(b)
    logs = [[line | TIMES for line in Run(run).log()] for run in (a, b)]
    assert logs[0] == logs[1] != []


def put_garbage_under_the_missing_pixels(config: RunConfig, rows: np.ndarray, rng) -> int:
    """Overwrite what the masks hide in the prepared images; return how many pixels that were."""
    data = load_prepared(config.data)
    images = np.load(data.folder / "images.npy", mmap_mode="r+")
    law = mask_law(config.corruption)
    masks = law.for_ids(data.mask_ids()[rows], config.size, config.mask_seed)
    missing = masks.numpy()[:, 0] == 0  # (rows, H, W)
    for row, hidden in zip(rows, missing, strict=True):
        images[row][hidden] = rng.integers(0, 256, (hidden.sum(), 3), dtype=np.uint8)
    images.flush()
    return int(missing.sum())


# What is measured


class MeanAndSpread(nn.Module):
    """A cheap extractor: means and deviations of the channels, (B, 6)."""

    name = "FD-cheap"

    def forward(self, levels):
        x = levels.float() / 255
        return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)


def measured(metrics: dict[str, float], spread: float = 0.1) -> dict[str, dict[str, float]]:
    """Values with intervals of +- ``spread`` times the value."""
    return {
        name: {"value": v, "low": v * (1 - spread), "high": v * (1 + spread), "images": 500}
        for name, v in metrics.items()
    }


def write_run(
    profile: str,
    config: RunConfig,
    metrics: dict[str, float],
    spread: float = 0.1,
    **more: Any,
) -> Path:
    """The made-up directory of a trained and evaluated run; its folder."""
    run = paths.runs(profile) / config.name
    write_json(run / "config.json", config.model_dump())
    (run / "generator.safetensors").write_bytes(b"weights")
    checksum = file_checksum(run / "generator.safetensors")
    about = {"config": config.model_dump(), "data_checksum": "def", "seed": config.seed}
    write_json(run / "record.json", about | {"generator_checksum": checksum, "steps": config.steps})
    record = about | {
        "rests_on": {"generator_checksum": checksum},
        "metrics": measured(metrics, spread),
    }
    write_json(run / "evaluation.json", record | more)
    return run
