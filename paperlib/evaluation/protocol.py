"""From a trained run, or a reference, to its evaluation record, which tables and claims rest on."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paperlib import records, seeds
from paperlib.config import EvaluationConfig
from paperlib.data.datasets import CompleteImages, law_of
from paperlib.data.prepare import load_prepared
from paperlib.errors import RunError
from paperlib.evaluation import references
from paperlib.evaluation.features import extract, load_extractor
from paperlib.evaluation.metrics import BATCH, METRICS_VERSION, distances, evaluate
from paperlib.evaluation.sampling import Reconstruct, deterministic, sampler
from paperlib.files import write_atomically
from paperlib.run import Run
from paperlib.training.device import default_device, deterministic_algorithms

REAL_IMAGES = 2000  # of the training split, at most, but as many as are evaluated


class EvaluationProtocol:
    """The images, complete ones to compare with, and features by which a profile is measured."""

    def __init__(self, config: EvaluationConfig, device: torch.device | str) -> None:
        self.config = config
        self.data = load_prepared(config.data)
        self.extractor = load_extractor(device)
        about = law_of(config), config.mask_seed, device
        self.images = CompleteImages(self.data, config.eval_split, *about)
        self.others = CompleteImages(self.data, "training", *about)  # not those filled in
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

    def measure(self, reconstruct: Reconstruct, title: str) -> dict[str, Any]:
        """What ``metrics.evaluate`` returns."""
        about = self.config.border, self.extractor, self.real, title
        return evaluate(reconstruct, self.images, self.count, *about)

    def measure_images(self, features: Tensor) -> dict[str, Any]:
        """The distances of images that reconstruct nothing, from their features (images, F)."""
        measured = distances(self.real, features[None], self.extractor.name)
        return {name: asdict(measurement) for name, measurement in measured.items()}

    @cached_property
    def real(self) -> Tensor:
        """Features of complete images of the training split, (N, F)."""
        count = min(len(self.others), max(REAL_IMAGES, self.count))
        return self._features(self.others, "training", count)

    @cached_property
    def originals(self) -> Tensor:
        """Features of the very images that are filled in, (count, F)."""
        return self._features(self.images, self.config.eval_split, self.count)

    def _features(self, images: CompleteImages, split: str, count: int) -> Tensor:
        """Of the first images of a split; computed once per data set and kept beside it."""
        key = f"{self.extractor.name}-{split}-{count}-{self.data.checksum[:16]}"
        path = self.data.folder / f"features-{key}.safetensors"
        if not path.is_file():
            rows = torch.arange(count).split(BATCH)
            found = [extract(self.extractor, images.batch(r.numpy())[0]) for r in rows]
            features = {"features": torch.cat(found)}
            write_atomically(path, lambda draft: save_file(features, draft))
        return load_file(path)["features"]


def evaluate_run(folder: Path, device: torch.device | str | None = None) -> dict[str, Any]:
    """Evaluate a trained run by the protocol of ``metrics`` and write ``evaluation.json``.

    Does nothing if it has been evaluated and nothing that it rests on has changed. Besides
    ``metrics`` and ``per_image`` the record holds ``course``, the distance and error of the
    snapshots against the seconds of training, and for MisGAN ``data_generator``, the distances of
    its own samples.

    Raises:
        RunError: the run is not trained, its files do not belong together, or another process
            evaluates it.
        DataError: its data set is not prepared, or has no complete images.
    """
    run, device = Run(folder), torch.device(device or default_device())
    config, trained = run.config, run.record
    if config.threads:
        torch.set_num_threads(config.threads)
    G, protocol = run.generator(device), EvaluationProtocol(config.evaluation, device)
    if trained["data_checksum"] != protocol.data.checksum:
        raise RunError(
            f"{folder} was trained on other data than {protocol.data.folder} now holds: prepare "
            "those, or delete the run and train it again"
        )
    about = {key: trained[key] for key in ("date", "seconds", "steps", "commit")}
    rests_on = {"generator_checksum": trained["generator_checksum"]} | protocol.rests_on()
    rests_on["samples"] = config.eval_samples
    if (done := run.evaluation) and done["rests_on"] == rests_on:
        return done
    with run.lock("evaluation.lock"), deterministic_algorithms(config.deterministic):
        reconstruct = sampler(G, config.eval_samples, config.evaluation_seed)
        measured = protocol.measure(reconstruct, f"evaluating {config.name}")
        record = records.provenance(config, protocol.data.checksum) | measured
        record |= {"rests_on": rests_on, "training": about}
        if config.snapshots:
            record["course"] = _course(run, protocol, measured["metrics"], device)
        if "data_generator_checksum" in trained:
            generated = _generated(run.generator(device, "data_generator"), protocol.count, run)
            features = extract(protocol.extractor, generated)
            record["data_generator"] = protocol.measure_images(features)
        return records.write_record(run.folder / "evaluation.json", record)


def _course(
    run: Run, protocol: EvaluationProtocol, final: dict[str, Any], device: torch.device
) -> list[dict[str, float]]:
    """Step, seconds of training, and metrics of each snapshot (two z an image) and of the end."""
    config, course = run.config, []
    shown = (protocol.extractor.name, "mse_missing")
    for step in run.snapshots:
        reconstruct = sampler(run.snapshot(step, device), 2, config.evaluation_seed)
        measured = protocol.measure(reconstruct, f"evaluating {config.name} at step {step}")
        values = {k: measured["metrics"][k]["value"] for k in shown}
        course.append({"step": step, "seconds": run.snapshot_seconds(step)} | values)
    end = {"step": config.steps, "seconds": run.record["seconds"]}
    return [*course, end | {k: final[k]["value"] for k in shown}]


@torch.inference_mode()
def _generated(G_x: Any, count: int, run: Run) -> Tensor:
    """As many images of MisGAN's data generator as are evaluated, (count, C, H, W)."""
    generator = seeds.generator(run.config.evaluation_seed, "code")
    codes = torch.randn(count, G_x.nz, generator=generator)
    device = next(G_x.parameters()).device
    return torch.cat([G_x(code.to(device)) for code in codes.split(BATCH)])


def evaluate_reference(
    name: str, config: EvaluationConfig, path: Path, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Evaluate a reference without learning by the same protocol; write its record to ``path``.

    Args:
        name: one of ``references.REFERENCES``; "start", what G starts from; or "real", the
            distances of the originals themselves to other complete images, the floor.
        config: what to measure on.
        path: the record's file; nothing is done if it rests on the same data.
        device: of the features.
    """
    protocol = EvaluationProtocol(config, device)
    rests_on = {"reference": name} | protocol.rests_on()
    if path.is_file():
        done = records.read_record(path)
        if done["rests_on"] == rests_on and done["config"] == config.model_dump():
            return done
    if name == references.REAL:
        measured = {"metrics": protocol.measure_images(protocol.originals)}
    else:
        fill = deterministic(partial(references.fill, name))
        measured = protocol.measure(fill, f"evaluating {config.corruption}-{name}")
    record = records.provenance(config, protocol.data.checksum) | measured
    return records.write_record(path, record | {"rests_on": rests_on})
