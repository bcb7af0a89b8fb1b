"""UAIR as the library deepinv offers it, on our data and by our protocol: a row of Table 2.

    pip install -e '.[peers]'
    python benchmarks/uair.py quick

Its generator, discriminator and Adam are those of the profile's run ``both``, its observations
the same, its losses and trainer deepinv's own (``UAIRGeneratorLoss``, ``AdversarialTrainer``),
and it trains for as many seconds as ``both`` did. Differences that are deepinv's:

- no z: G is called with z = 0, so there is one reconstruction and std is 0;
- no fresh masks: a reconstruction is measured with the mask of its own observation;
- least squares instead of hinge, no running average of G.

In training G's output is measured as it is: composed with y, it would agree with y wherever it is
measured, and there would be nothing to learn.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.metadata import version
from pathlib import Path

import deepinv
import numpy as np
import torch
from deepinv.loss.adversarial import UAIRGeneratorLoss, UnsupAdversarialDiscriminatorLoss
from deepinv.training import AdversarialOptimizer, AdversarialTrainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import paperlib.beyond  # noqa: F401, its method has a name too
from paperlib import paths, records, seeds
from paperlib.config import RunConfig
from paperlib.core.algorithm1 import Algorithm1
from paperlib.core.corruption import composite, mask_law
from paperlib.data.datasets import Observations
from paperlib.data.prepare import prepare
from paperlib.evaluation.protocol import EvaluationProtocol
from paperlib.evaluation.sampling import deterministic
from paperlib.profiles import load_profile
from paperlib.run import Run

TRIAL_STEPS = 20  # by which the seconds of a step are measured


class WithoutZ(nn.Module):
    """Our G as a deepinv reconstructor: y -> x, z = 0. Its UAIR loss gives it y alone, so the mask
    is recovered from y: missing where every channel is 0."""

    def __init__(self, G: nn.Module) -> None:
        super().__init__()
        self.G = G

    def forward(self, y: Tensor, physics: deepinv.physics.Physics | None = None, **_) -> Tensor:
        m = (y != 0).any(dim=1, keepdim=True).float()  # (B, 1, H, W)
        return self.G(y, m, torch.zeros(len(y), self.G.nz, device=y.device))


class AsDeepinv(Dataset):
    """Observations as deepinv's trainer takes them: y and the parameters of its measurement."""

    def __init__(self, observed: Observations) -> None:
        self.observed = observed

    def __len__(self) -> int:
        return len(self.observed)

    def __getitem__(self, row: int) -> dict:
        y, m = self.observed.batch(np.asarray([row]))
        return {"y": y[0], "params": {"mask": m[0].expand_as(y[0])}}


class Scores(nn.Module):
    """D's scores as a column, the shape that deepinv's metric expects."""

    def __init__(self, D: nn.Module) -> None:
        super().__init__()
        self.D = D

    def forward(self, y: Tensor) -> Tensor:
        return self.D(y).unsqueeze(1)


def build_trainer(config: RunConfig, observed: Dataset | list, steps: int) -> AdversarialTrainer:
    """deepinv's trainer of our networks, on the CPU.

    Args:
        config: the networks, and Adam.
        observed: what ``AsDeepinv`` gives, item by item.
        steps: when it stops.
    """
    torch.manual_seed(seeds.fold(config.seed, "parameters"))
    nets = Algorithm1.build_networks(config)
    betas = (config.beta1, config.beta2)
    loader = DataLoader(
        observed,
        batch_size=config.batch_size,
        shuffle=True,
        drop_last=True,
        generator=seeds.generator(config.seed, "uair"),
    )
    size = (config.bands, config.size, config.size)
    return AdversarialTrainer(
        model=WithoutZ(nets.G),
        D=Scores(nets.D),
        physics=deepinv.physics.Inpainting(size, mask=1.0),
        optimizer=AdversarialOptimizer(
            torch.optim.Adam(nets.G.parameters(), config.lr_g, betas),
            torch.optim.Adam(nets.D.parameters(), config.lr_d, betas),
        ),
        train_dataloader=loader,
        epochs=-(-steps // (len(loader) - 1)),  # it leaves the last batch of an epoch out
        max_batch_steps=steps,
        losses=UAIRGeneratorLoss(),
        losses_d=UnsupAdversarialDiscriminatorLoss(),
        optimizer_step_multi_dataset=False,
        metrics=[],
        compute_train_metrics=False,
        save_path=None,
        device="cpu",
        verbose=False,
        show_progress_bar=False,
    )


def train(config: RunConfig, observed: Observations, steps: int) -> tuple[nn.Module, float]:
    """Train by deepinv; return G and the seconds."""
    trainer = build_trainer(config, AsDeepinv(observed), steps)
    start = time.perf_counter()
    trainer.train()
    return trainer.model.G.eval(), time.perf_counter() - start


def measure(profile: str, config: RunConfig, steps: int | None) -> Path:
    """Train and evaluate on one corruption; write and return the record's path."""
    torch.set_num_threads(config.threads or torch.get_num_threads())
    folder = paths.RESULTS / Path(profile).stem / "peers"
    path = folder / f"{config.corruption}-uair-seed{config.seed}.json"
    data = prepare(config.data)
    law = mask_law(config.corruption)
    observed = Observations(data, "training", law, config.mask_seed, "cpu")
    if steps is None:
        budget = Run(paths.runs(Path(profile).stem) / config.name).record["seconds"]
        _, trial = train(config, observed, TRIAL_STEPS)
        steps = int(budget / trial * TRIAL_STEPS)
        print(f"{config.corruption}: {steps} steps, as long as {config.name} ({budget:.0f} s)")
    G, seconds = train(config, observed, steps)

    def fill(y: Tensor, m: Tensor) -> Tensor:
        return composite(G(y, m, torch.zeros(len(y), G.nz)), y, m)

    title = f"evaluating {config.corruption}-uair"
    record = records.provenance(config.evaluation, data.checksum) | {
        "peer": "uair",
        "seed": config.seed,
        "deepinv": version("deepinv"),
        "run": config.model_dump(),
        "training": {"steps": steps, "seconds": round(seconds, 3)},
    }
    record |= EvaluationProtocol(config.evaluation, "cpu").measure(deterministic(fill), title)
    records.write_record(path, record)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", help="whose runs 'both' give networks, data and budget")
    parser.add_argument("--corruption", help="only this one")
    parser.add_argument("--steps", type=int, help="instead of the budget of seconds")
    options = parser.parse_args()
    for config in load_profile(options.profile):
        if config.method == "both" and options.corruption in (None, config.corruption):
            print(measure(options.profile, config, options.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
