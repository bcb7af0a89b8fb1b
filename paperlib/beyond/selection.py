"""Choosing settings without a complete image: hide a part of what was observed, and guess it.

A run is scored on observations of the hold-out alone: of each a part is hidden again, and samples
of it are compared with what was there. The energy score is proper: no over-confident and no
over-dispersed run can win by its spread; coverage says which of the two it is.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paperlib import seeds
from paperlib.config import EvaluationConfig, RunConfig
from paperlib.core.corruption import MaskLaw, corrupt
from paperlib.data.datasets import Observations, law_of
from paperlib.data.prepare import load_prepared, prepare
from paperlib.errors import ConfigurationError, DataError, Diverged
from paperlib.evaluation.calibration import coverage, energy_score
from paperlib.evaluation.features import BATCH, as_stored
from paperlib.evaluation.metrics import bootstrap_ratio
from paperlib.evaluation.sampling import Reconstruct, sampler
from paperlib.progress import track
from paperlib.records import provenance, write_record
from paperlib.run import Run
from paperlib.training.device import default_device
from paperlib.training.loop import train

HIDDEN = 0.25  # at most this share of an image's observed pixels
DRAWS = 200  # of fresh masks, at most, to find what to hide
SAMPLES = 20  # z an image
LEVELS = (0.5, 0.8)  # of the intervals whose coverage is reported


def hide(m: Tensor, p_m: MaskLaw, generator: torch.Generator) -> Tensor:
    """Masks that show a part of what ``m`` shows; what they hide is shaped as p_M hides.

    A pixel stays visible if any of k fresh masks observes it, with the least k that hides at most
    the share HIDDEN of what an image shows; a fresh mask that would leave nothing hidden is passed
    over. Masks are (B, 1, H, W), 1 = observed; one of which nothing could be hidden comes back.
    """

    def share(masks: Tensor) -> Tensor:
        return masks.mean(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)

    most, hidden = HIDDEN * share(m), m
    for _ in range(DRAWS):
        many = share(hidden) > most
        if not many.any():
            break
        fewer = hidden * (1 - p_m.sample(len(m), m.shape[-1], generator, m))
        hidden = torch.where(many & (share(fewer) > 0), fewer, hidden)
    return torch.where(share(hidden) > most, m, m - hidden)


def score_hidden(
    reconstruct: Reconstruct, y: Tensor, m: Tensor, shown: Tensor, rows: np.ndarray
) -> dict[str, Tensor]:
    """Per observation, (B,), how well samples guess what is hidden of it; NaN for nothing.

    Observations y (B, C, H, W) and masks m (B, 1, H, W), of which ``shown``, from ``hide``, is what
    ``reconstruct`` is given, and their numbers ``rows``. Returns energy (in units of y), mse of the
    samples' mean, coverage_50 and coverage_80.
    """
    hidden = (m > 0) & (shown == 0)  # (B, 1, H, W)
    samples, _ = reconstruct(corrupt(y, shown), shown, rows)  # (S, B, C, H, W)
    error = (samples.mean(dim=0) - y).square() * hidden
    return {
        "energy": energy_score(samples, y, hidden),
        "mse": error.sum(dim=(1, 2, 3)) / (hidden.sum(dim=(1, 2, 3)) * y.shape[1]),
        **{f"coverage_{100 * p:.0f}": coverage(samples, y, hidden, p) for p in LEVELS},
    }


def over_images(scores: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The mean of each score (B,) as value, low, high, images: of those that something was hidden
    of, where coverage is a number; DataError if there is none."""
    counts = ~scores["coverage_50"].isnan()
    if not counts.any():
        raise DataError("no fresh mask hides a part of the hold-out: try mask_flips")
    return {k: bootstrap_ratio(v[counts].double().numpy()) for k, v in scores.items()}


def score_run(folder: Path) -> dict[str, Any]:
    """Score a trained run on the observations of its hold-out; write ``selection.json``.

    No complete image is looked at. Returns the record; its ``scores`` are as of ``over_images``.
    """
    run, device = Run(folder), default_device()
    config, G, data = run.config, run.generator(device), load_prepared(run.config.data)
    trained = run.record_on(data)
    rests_on = {key: trained[key] for key in ("generator_checksum", "data_checksum")}
    p_m = law_of(config)
    observed = Observations(data, "validation", p_m, config.mask_seed, device)
    sample = sampler(G, SAMPLES, config.evaluation_seed)

    def reconstruct(*given: Any) -> Any:
        return tuple(map(as_stored, sample(*given)))

    batches = []
    for rows in torch.arange(min(len(observed), config.eval_images)).split(BATCH):
        y, m = observed.batch(rows.numpy())
        draws = [seeds.generator("hide", config.mask_seed, int(r), device=device) for r in rows]
        shown = torch.cat([hide(m[i : i + 1], p_m, draw) for i, draw in enumerate(draws)])
        batches.append(score_hidden(reconstruct, y, m, shown, rows.numpy()))
    scores = over_images({k: torch.cat([b[k] for b in batches]).cpu() for k in batches[0]})
    record = provenance(config, data.checksum) | {"rests_on": rests_on, "scores": scores}
    return write_record(folder / "selection.json", record)


def search(config: RunConfig, grid: dict[str, list[Any]], folder: Path) -> pd.DataFrame:
    """Train a run for every combination of the values that keys may take, and score it.

    Each is in a folder of its own, and the search goes on where it stopped. Returns the mean of each
    score, one run a row, the least energy score first and those that are not numbers last. A run that
    diverges is left out, and said on standard error.

    Raises:
        ConfigurationError: a value is refused, or the key is of what the runs are scored on.
        DataError: there is no hold-out. Diverged: every run diverges.
    """
    if shared := [key for key in grid if key in EvaluationConfig.model_fields]:
        raise ConfigurationError(f"select compares on equal data: {', '.join(shared)} cannot vary")
    choices = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    trials = [RunConfig.parse(config.model_dump() | choice, "select") for choice in choices]
    prepare(config.data).indices("validation")  # its lack is said before hours of work
    found = dict[str, dict[str, float]]()
    for trial in track(trials, len(trials), f"selecting {', '.join(grid)} of {config.name}"):
        values = {key: str(getattr(trial, key)).removesuffix(".0") for key in grid}
        name = "-".join(f"{key}={value}" for key, value in values.items()).replace(" ", "")
        try:
            train(trial, folder / name)
        except Diverged as fault:
            print(f"left out: {fault}", file=sys.stderr)
        else:
            scores = score_run(folder / name)["scores"]
            found[name] = {score: measured["value"] for score, measured in scores.items()}
    if not found:
        raise Diverged("every candidate did")
    return pd.DataFrame.from_dict(found, orient="index").sort_values("energy")
