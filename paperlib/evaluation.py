"""From a trained run to its evaluation record, which tables and claims rest on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paperlib import records
from paperlib.config import RunConfig
from paperlib.corruption import mask_law
from paperlib.data import CompleteImages, Prepared, load_prepared
from paperlib.features import extract, load_extractor
from paperlib.metrics import BATCH, evaluate
from paperlib.training import default_device, load_generator


def evaluate_run(run: Path, device: torch.device | str | None = None) -> dict[str, Any]:
    """Evaluate a trained run by the protocol of ``metrics`` and write ``evaluation.json``.

    Does nothing if it has been evaluated and nothing that it rests on has changed.

    Raises:
        RunError: the run is not trained, or its files do not belong together.
        DataError: its data set is not prepared.
    """
    device = torch.device(device or default_device())
    config = records.load_config(run)
    if config.threads:
        torch.set_num_threads(config.threads)
    G = load_generator(run, device)
    trained = records.read_json(run / "record.json")
    data = load_prepared(config.data)
    if trained["data_checksum"] != data.checksum:
        raise records.RunError(f"{run} was trained on other data than {data.folder} now holds")
    extractor = load_extractor(device)
    rests_on = {
        "generator_checksum": trained["generator_checksum"],
        "data_checksum": data.checksum,
        "extractor": extractor.name,
        "split": config.eval_split,
        "images": config.eval_images,
        "samples": config.eval_samples,
    }
    path = run / "evaluation.json"
    if path.is_file():
        done = records.read_json(path)
        if done["rests_on"] == rests_on:
            return done
    law = mask_law(config.corruption)
    images = CompleteImages(data, config.eval_split, law, config.mask_seed, device)
    metrics = evaluate(
        G,
        images,
        config.eval_images,
        config.eval_samples,
        law.interior_border(config.size),
        config.evaluation_seed,
        extractor,
        device,
        original_features(data, images, config, extractor),
    )
    record = records.provenance(config, data.checksum) | {
        "rests_on": rests_on,
        "training": {key: trained[key] for key in ("date", "seconds", "steps", "commit")},
        "metrics": metrics,
    }
    records.write_json(path, record)
    return record


def original_features(
    data: Prepared, images: CompleteImages, config: RunConfig, extractor: nn.Module
) -> Tensor:
    """Features of the split's originals, computed once per data set and kept by its checksum."""
    count = min(config.eval_images, len(images))
    key = f"{extractor.name}-{config.eval_split}-{count}-{data.checksum[:16]}"
    path = data.folder / f"features-{key}.safetensors"
    if not path.is_file():
        batches = [
            extract(extractor, images.batch(np.arange(start, min(start + BATCH, count)))[0]).cpu()
            for start in range(0, count, BATCH)
        ]
        features = {"features": torch.cat(batches)}
        records.write_atomically(path, lambda draft: save_file(features, draft))
    return load_file(path)["features"]
