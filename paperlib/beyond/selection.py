"""Choosing settings without a complete image: hide a part of what was observed, and guess it.

The paper gives no values for lambda_y and lambda_z and does not say what its hold-out was scored
with. Here a run is scored on observations of the hold-out alone: of each one a part is hidden
again, G fills in what is left several times, and the samples are compared with what was hidden.
The energy score is proper, so no over-confident and no over-dispersed run can win by its spread;
coverage says which of the two it is.
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
from paperlib.data.prepare import load_prepared
from paperlib.errors import ConfigurationError, DataError, Diverged, RunError
from paperlib.evaluation.calibration import coverage, energy_score
from paperlib.evaluation.metrics import BATCH, bootstrap_ratio
from paperlib.evaluation.sampling import Reconstruct, sampler
from paperlib.progress import track
from paperlib.records import provenance, read_record, write_record
from paperlib.run import Run
from paperlib.training.loop import default_device, train

SELECTION_VERSION = 1  # a score by another one is made again
HIDDEN = 0.25  # at most this share of an image's observed pixels
DRAWS = 200  # of fresh masks, at most, to find what to hide
SAMPLES = 20  # z an image
LEVELS = (0.5, 0.8)  # of the intervals whose coverage is reported


def hide(m: Tensor, p_m: MaskLaw, generator: torch.Generator) -> Tensor:
    """Masks that show a part of what ``m`` shows; what they hide is shaped as p_M hides.

    A pixel stays visible if any of k fresh masks observes it, with the least k that hides at most
    the share HIDDEN of what an image shows. A fresh mask that would leave nothing hidden is passed
    over.

    Args:
        m: masks, (B, 1, H, W), 1 = observed.
        p_m: their distribution.
        generator: draws the fresh ones.

    Returns:
        (B, 1, H, W); equal to ``m`` where nothing could be hidden.
    """
    batch, _, size, _ = m.shape
    most = HIDDEN * _pixels(m)  # (B, 1, 1, 1)
    hidden = m
    for _ in range(DRAWS):
        done = _pixels(hidden) <= most
        if done.all():
            break
        fewer = hidden * (1 - p_m.sample(batch, size, generator, m))
        hidden = torch.where(~done & (_pixels(fewer) > 0), fewer, hidden)
    return torch.where(_pixels(hidden) <= most, m - hidden, m)


def _pixels(m: Tensor) -> Tensor:
    return m.sum(dim=(1, 2, 3), keepdim=True)


def score_hidden(
    reconstruct: Reconstruct, y: Tensor, m: Tensor, shown: Tensor, rows: np.ndarray
) -> dict[str, Tensor]:
    """Per observation, (B,), how well samples guess what ``shown`` hides of it; NaN for nothing.

    Args:
        reconstruct: what fills in, e.g. ``sampling.sampler(G, SAMPLES, seed)``.
        y, m: observations (B, C, H, W) and their masks (B, 1, H, W).
        shown: what is shown of them, (B, 1, H, W), from ``hide``.
        rows: their numbers.

    Returns:
        energy: energy score, in units of y; coverage_50, coverage_80; mse: of the samples' mean.
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
    """The mean of each score over images (B,), as value, low, high, images.

    Images of which nothing was to be guessed do not count: their coverage is NaN, which it is not
    for a G that diverged.

    Raises:
        DataError: of none of them was anything to be guessed.
    """
    counts = ~scores["coverage_50"].isnan()
    if not counts.any():
        raise DataError(
            "no fresh mask hides a part of what the hold-out shows, so there is nothing to score; "
            "mask_shift or mask_flips may help"
        )
    return {k: vars(bootstrap_ratio(v[counts].double().numpy())) for k, v in scores.items()}


def score_run(folder: Path, device: torch.device | str | None = None) -> dict[str, Any]:
    """Score a trained run on the observations of its hold-out; write ``selection.json``.

    No complete image is looked at. Does nothing if it has been done for the same generator.

    Returns:
        the record; under ``scores`` each of ``score_hidden``, as of ``over_images``.

    Raises:
        RunError: the run is not trained, or was trained on other data.
        DataError: its data set is not prepared or has no hold-out, or nothing of that could be
            hidden.
    """
    run, device = Run(folder), torch.device(device or default_device())
    config, G, data = run.config, run.generator(device), load_prepared(run.config.data)
    if run.record["data_checksum"] != data.checksum:
        raise RunError(
            f"{folder} was trained on other data than {data.folder} now holds: prepare those, or "
            "delete the run and train it again"
        )
    rests_on = {key: run.record[key] for key in ("generator_checksum", "data_checksum")}
    rests_on["selection"] = SELECTION_VERSION
    path = folder / "selection.json"
    if path.is_file() and (done := read_record(path)).get("rests_on") == rests_on:
        return done
    p_m = law_of(config)
    observed = Observations(data, "validation", p_m, config.mask_seed, device)
    reconstruct = sampler(G, SAMPLES, config.evaluation_seed)
    batches = []
    for rows in torch.arange(min(len(observed), config.eval_images)).split(BATCH):
        y, m = observed.batch(rows.numpy())
        # what is hidden of an image is a function of (mask_seed, its number) alone
        draws = [seeds.generator("hide", config.mask_seed, int(r), device=device) for r in rows]
        shown = torch.cat([hide(m[i : i + 1], p_m, draw) for i, draw in enumerate(draws)])
        batches.append(score_hidden(reconstruct, y, m, shown, rows.numpy()))
    scores = over_images({k: torch.cat([b[k] for b in batches]).cpu() for k in batches[0]})
    about = provenance(config, data.checksum)
    return write_record(path, about | {"rests_on": rests_on, "scores": scores})


def candidates(config: RunConfig, grid: dict[str, list[Any]]) -> list[RunConfig]:
    """The product of the values that a run's keys may take, e.g. {"lambda_z": [0.5, 2]}.

    Raises:
        ConfigurationError: a key or a value that the configuration refuses, or a key of what the
            runs are scored on, which must be the same for all.
    """
    if shared := [key for key in grid if key in EvaluationConfig.model_fields]:
        raise ConfigurationError(
            f"select compares runs on the same observations: {', '.join(shared)} cannot vary"
        )
    return [
        RunConfig.parse(config.model_dump() | dict(zip(grid, values, strict=True)), "select")
        for values in itertools.product(*grid.values())
    ]


def search(config: RunConfig, grid: dict[str, list[Any]], folder: Path) -> list[dict[str, Any]]:
    """Train every candidate and score it; goes on where it stopped.

    Args:
        config: the run whose keys are to be chosen.
        grid: key -> values to try.
        folder: gets a run's directory for each candidate, named by its values.

    Returns:
        the records, the best (least energy score) first, and last those that are not numbers. A
        candidate whose training diverges is left out, and said on standard error.

    Raises:
        ConfigurationError: as ``candidates``.
        Diverged: all of them do.
        DataError, RunError: as ``score_run`` and ``train``.
    """
    found = []
    trials = candidates(config, grid)
    load_prepared(config.data).indices("validation")  # its lack is said before hours of work
    for candidate in track(trials, len(trials), f"selecting {', '.join(grid)} of {config.name}"):
        name = "-".join(f"{key}={_short(getattr(candidate, key))}" for key in grid)
        try:
            train(candidate, folder / name)
        except Diverged as fault:
            print(f"left out: {fault}", file=sys.stderr)
            diverged = fault
        else:
            found.append(score_run(folder / name) | {"name": name})
    if not found:
        raise diverged
    return sorted(found, key=lambda r: np.nan_to_num(r["scores"]["energy"]["value"], nan=np.inf))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")


def as_lines(found: list[dict[str, Any]]) -> str:
    """A table of what ``search`` returns, for the terminal."""
    rows = []
    for record in found:
        scores = {name: score["value"] for name, score in record["scores"].items()}
        interval = "[{low:.4f}, {high:.4f}]".format(**record["scores"]["energy"])
        rows.append({"settings": record["name"]} | scores | {"energy, 95 %": interval})
    return pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format)
