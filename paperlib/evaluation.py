"""From a trained run, or a reference, to its evaluation record, which tables and claims rest on."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paperlib import records, references, seeds
from paperlib.acceleration import deterministic_algorithms
from paperlib.config import EvaluationConfig, RunConfig
from paperlib.data import CompleteImages, Prepared, law_of, load_prepared
from paperlib.features import extract, load_extractor
from paperlib.locks import locked
from paperlib.metrics import BATCH, METRICS_VERSION, distances, evaluate
from paperlib.sampling import Reconstruct, sampler
from paperlib.sources import DataError
from paperlib.training import (
    default_device,
    load_generator,
    load_snapshot,
    snapshot_path,
    snapshot_steps,
)


class EvaluationProtocol:
    """The images, originals' features and extractor that everything of a profile is measured by."""

    def __init__(self, config: EvaluationConfig, device: torch.device | str) -> None:
        self.config = config
        self.data = load_prepared(config.data)
        if self.data.masks() is not None:
            raise DataError(
                f"{self.data.folder} has no complete images to measure against: see README, choosing "
                "settings without complete images"
            )
        self.extractor = load_extractor(device)
        self.images = CompleteImages(
            self.data, config.eval_split, law_of(config), config.mask_seed, device
        )
        self.count = min(config.eval_images, len(self.images))

    def rests_on(self) -> dict[str, Any]:
        """What a measurement depends on besides what is measured."""
        return {
            "data_checksum": self.data.checksum,
            "extractor": self.extractor.name,
            "split": self.config.eval_split,
            "images": self.config.eval_images,
            "metrics": METRICS_VERSION,
        }

    def measure(self, reconstruct: Reconstruct, title: str) -> dict[str, dict[str, Any]]:
        """Every metric of ``metrics.evaluate``."""
        return evaluate(
            reconstruct,
            self.images,
            self.count,
            self.config.border,
            self.extractor,
            self.originals,
            title,
        )

    def measure_generated(self, images: Tensor) -> dict[str, dict[str, Any]]:
        """The distances of images that reconstruct nothing, (count, 3, H, W)."""
        fake = extract(self.extractor, images).cpu()
        measured = distances(self.originals, fake, self.extractor.name)
        return {name: asdict(measurement) for name, measurement in measured.items()}

    @cached_property
    def originals(self) -> Tensor:
        """Their features, (count, F)."""
        return original_features(self.data, self.images, self.config, self.extractor)


def evaluate_run(run: Path, device: torch.device | str | None = None) -> dict[str, Any]:
    """Evaluate a trained run by the protocol of ``metrics`` and write ``evaluation.json``.

    Does nothing if it has been evaluated and nothing that it rests on has changed. Besides
    ``metrics`` the record holds ``course``, the distance and error of the snapshots against the
    seconds of training, and for MisGAN ``data_generator``, the distances of its own samples.

    Raises:
        RunError: the run is not trained, its files do not belong together, or another process
            evaluates it.
        DataError: its data set is not prepared.
    """
    device = torch.device(device or default_device())
    config = records.load_config(run)
    if config.threads:
        torch.set_num_threads(config.threads)
    G = load_generator(run, device)
    trained = records.read_record(run / "record.json")
    protocol = EvaluationProtocol(config.evaluation, device)
    if trained["data_checksum"] != protocol.data.checksum:
        raise records.RunError(
            f"{run} was trained on other data than {protocol.data.folder} now holds: prepare those, or "
            "delete the run and train it again"
        )
    rests_on = {
        "generator_checksum": trained["generator_checksum"],
        "samples": config.eval_samples,
    } | protocol.rests_on()
    path = run / "evaluation.json"
    if path.is_file():
        done = records.read_record(path)
        if done["rests_on"] == rests_on:
            return done
    with locked(run / "evaluation.lock"):
        reconstruct = sampler(G, config.eval_samples, config.evaluation_seed)
        with deterministic_algorithms(config.deterministic):
            metrics = protocol.measure(reconstruct, f"evaluating {config.name}")
        record = records.provenance(config, protocol.data.checksum) | {
            "rests_on": rests_on,
            "training": {key: trained[key] for key in ("date", "seconds", "steps", "commit")},
            "metrics": metrics,
        }
        if config.snapshots:
            record["course"] = _course(run, config, protocol, trained["seconds"], metrics, device)
        if "data_generator_checksum" in trained:
            samples = _generated(load_generator(run, device, "data_generator"), protocol, config)
            record["data_generator"] = protocol.measure_generated(samples)
        return records.write_record(path, record)


def _course(
    run: Path,
    config: RunConfig,
    protocol: EvaluationProtocol,
    seconds: float,
    final: dict[str, dict[str, Any]],
    device: torch.device | str,
) -> list[dict[str, float]]:
    """Step, seconds of training, and metrics of each snapshot (one z an image) and of the end."""
    shown = (protocol.extractor.name, "mse_missing")
    course = []
    for step in snapshot_steps(config):
        G = load_snapshot(run, step, device)
        with safe_open(snapshot_path(run, step), "pt") as file:
            then = float(file.metadata()["seconds"])
        reconstruct = sampler(G, 2, config.evaluation_seed)
        measured = protocol.measure(reconstruct, f"evaluating {config.name} at step {step}")
        course.append({"step": step, "seconds": then} | {k: measured[k]["value"] for k in shown})
    end = {k: final[k]["value"] for k in shown}
    return [*course, {"step": config.steps, "seconds": seconds} | end]


@torch.inference_mode()
def _generated(G_x: Any, protocol: EvaluationProtocol, config: RunConfig) -> Tensor:
    """As many images of MisGAN's data generator as are evaluated, (count, 3, H, W)."""
    generator = seeds.generator(config.evaluation_seed, "code")
    codes = torch.randn(protocol.count, G_x.nz, generator=generator)
    device = next(G_x.parameters()).device
    return torch.cat([G_x(code.to(device)) for code in codes.split(BATCH)])


def evaluate_reference(
    name: str, config: EvaluationConfig, path: Path, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Evaluate a reference without learning by the same protocol; write its record to ``path``.

    Args:
        name: one of ``references.REFERENCES``.
        config: what to measure on.
        path: the record's file; nothing is done if it rests on the same data.
    """
    protocol = EvaluationProtocol(config, device)
    rests_on = {"reference": name} | protocol.rests_on()
    if path.is_file():
        done = records.read_record(path)
        if done["rests_on"] == rests_on and done["config"] == config.model_dump():
            return done
    title = f"evaluating {config.corruption}-{name}"
    record = records.provenance(config, protocol.data.checksum) | {
        "rests_on": rests_on,
        "metrics": protocol.measure(references.reconstruct(name), title),
    }
    return records.write_record(path, record)


def original_features(
    data: Prepared, images: CompleteImages, config: EvaluationConfig, extractor: nn.Module
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
