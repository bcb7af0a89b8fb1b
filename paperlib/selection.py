"""Choosing settings without a complete image: hide a part of what was observed, and guess it.

The paper gives no values for lambda_y and lambda_z and does not say what its hold-out was scored
with. Here a run is scored on observations of the hold-out alone: of each one a part is hidden
again, G fills in what is left several times, and the samples are compared with what was hidden.
The energy score is proper, so no over-confident and no over-dispersed run can win by its spread;
coverage says which of the two it is.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperlib import records, seeds
from paperlib.calibration import coverage, energy_score
from paperlib.config import ConfigurationError, EvaluationConfig, RunConfig
from paperlib.corruption import MaskLaw, corrupt
from paperlib.data import Observations, law_of, load_prepared
from paperlib.divergence import Diverged
from paperlib.image_source import DataError
from paperlib.metrics import BATCH, bootstrap_ratio
from paperlib.progress import track
from paperlib.sampling import Reconstruct, sampler
from paperlib.training import default_device, load_generator, train

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
    observed = m.sum(dim=(1, 2, 3))
    hidden = m.clone()
    for _ in range(DRAWS):
        hides_enough = hidden.sum(dim=(1, 2, 3)) <= HIDDEN * observed
        if hides_enough.all():
            break
        fewer = hidden * (1 - p_m.sample(batch, size, generator, m))
        take = ~hides_enough & (fewer.sum(dim=(1, 2, 3)) > 0)
        hidden = torch.where(take[:, None, None, None], fewer, hidden)
    done = hidden.sum(dim=(1, 2, 3)) <= HIDDEN * observed
    return torch.where(done[:, None, None, None], m - hidden, m)


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


def score_run(run: Path, device: torch.device | str | None = None) -> dict[str, Any]:
    """Score a trained run on the observations of its hold-out; write ``selection.json``.

    No complete image is looked at. Does nothing if it has been done for the same generator.

    Returns:
        the record; under ``scores`` each of ``score_hidden`` as value, low, high, images. Images of
        which nothing could be hidden do not count.

    Raises:
        RunError: the run is not trained, or was trained on other data.
        DataError: its data set is not prepared or has no hold-out, or nothing of that could be
            hidden.
    """
    device = torch.device(device or default_device())
    G = load_generator(run, device)
    config = records.load_config(run)
    trained = records.read_record(run / "record.json")
    data = load_prepared(config.data)
    if trained["data_checksum"] != data.checksum:
        raise records.RunError(
            f"{run} was trained on other data than {data.folder} now holds: prepare those, or delete "
            "the run and train it again"
        )
    rests_on = {
        "generator_checksum": trained["generator_checksum"],
        "data_checksum": data.checksum,
        "selection": SELECTION_VERSION,
    }
    path = run / "selection.json"
    if path.is_file() and (done := records.read_record(path)).get("rests_on") == rests_on:
        return done
    p_m = law_of(config)
    observed = Observations(data, "validation", p_m, config.mask_seed, device)
    count = min(len(observed), config.eval_images)
    reconstruct = sampler(G, SAMPLES, config.evaluation_seed)
    scores: dict[str, list[Tensor]] = {}
    for start in range(0, count, BATCH):
        rows = np.arange(start, min(start + BATCH, count))
        y, m = observed.batch(rows)
        # what is hidden of an image is a function of (mask_seed, its number) alone
        draws = [seeds.generator("hide", config.mask_seed, int(r), device=device) for r in rows]
        shown = torch.cat([hide(m[i : i + 1], p_m, draw) for i, draw in enumerate(draws)])
        for name, values in score_hidden(reconstruct, y, m, shown, rows).items():
            scores.setdefault(name, []).append(values.cpu())
    kept = {name: torch.cat(values).double().numpy() for name, values in scores.items()}
    any_hidden = ~np.isnan(kept["coverage_50"])  # of a G that diverged it is 0: it counts
    if not any_hidden.any():
        raise DataError(
            f"{data.folder}: no fresh mask hides a part of what the hold-out shows, so there is "
            "nothing to score; mask_shift or mask_flips may help"
        )
    record = records.provenance(config, data.checksum) | {
        "rests_on": rests_on,
        "scores": {name: vars(bootstrap_ratio(v[any_hidden])) for name, v in kept.items()},
    }
    return records.write_record(path, record)


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
            continue
        found.append(score_run(folder / name) | {"name": name})
    if not found:
        raise diverged
    return sorted(found, key=_energy)


def _energy(record: dict[str, Any]) -> float:
    value = record["scores"]["energy"]["value"]
    return math.inf if math.isnan(value) else value


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")


def as_lines(found: Iterable[dict[str, Any]]) -> str:
    """A table of what ``search`` returns, for the terminal."""
    lines = [f"{'energy score (95 %)':>26}  {'MSE':>8}  {'50 %':>6}  {'80 %':>6}  settings"]
    for record in found:
        s = record["scores"]
        energy = "{value:.4f} [{low:.4f}, {high:.4f}]".format(**s["energy"])
        lines.append(
            f"{energy:>26}  {s['mse']['value']:8.4f}  {s['coverage_50']['value']:6.1%}  "
            f"{s['coverage_80']['value']:6.1%}  {record['name']}"
        )
    return "\n".join(lines)
