"""From a trained run, or a reference, to its evaluation record, which tables and claims rest on."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from paperlib import seeds
from paperlib.config import EvaluationConfig
from paperlib.data.datasets import CompleteImages, law_of
from paperlib.data.prepare import load_prepared
from paperlib.errors import RunError
from paperlib.evaluation import references
from paperlib.evaluation.features import BATCH, extract, load_extractor
from paperlib.evaluation.metrics import METRICS_VERSION, distances, evaluate
from paperlib.evaluation.sampling import Reconstruct, deterministic, sampler
from paperlib.files import write_atomically
from paperlib.records import provenance, read_record, write_record
from paperlib.run import Run
from paperlib.training.device import default_device, deterministic_algorithms


class EvaluationProtocol:
    """The images, originals' features and extractor that everything of a profile is measured by."""

    def __init__(self, config: EvaluationConfig, device: torch.device | str) -> None:
        self.config, self.data = config, load_prepared(config.data)
        about = config.eval_split, law_of(config), config.mask_seed, device
        self.images = CompleteImages(self.data, *about)
        self.count = min(config.eval_images, len(self.images))
        self.extractor = load_extractor(device)

    def rests_on(self) -> dict[str, Any]:
        """What a measurement depends on besides what is measured."""
        return {
            "data_checksum": self.data.checksum,
            "extractor": self.extractor.name,
            "split": self.config.eval_split,
            "images": self.config.eval_images,
            "metrics": METRICS_VERSION,
        }

    @cached_property
    def originals(self) -> torch.Tensor:
        """Their features, (count, F), computed once per data set and kept beside it."""
        about = self.extractor.name, self.config.eval_split, self.count, self.data.checksum[:16]
        path = self.data.folder / f"features-{'-'.join(map(str, about))}.safetensors"
        if not path.is_file():
            rows = torch.arange(self.count).split(BATCH)
            found = [extract(self.extractor, self.images.batch(r.numpy())[0]) for r in rows]
            write_atomically(path, partial(save_file, {"features": torch.cat(found)}))
        return load_file(path)["features"]

    def measure(self, reconstruct: Reconstruct, title: str) -> dict[str, dict[str, Any]]:
        """Every metric of ``metrics.evaluate``."""
        about = self.config.border, self.extractor, self.originals, title
        return evaluate(reconstruct, self.images, self.count, *about)


def evaluate_run(folder: Path, device: torch.device | str | None = None) -> dict[str, Any]:
    """Evaluate a trained run by the protocol of ``metrics`` and write ``evaluation.json``.

    Does nothing if it has been evaluated and nothing that it rests on has changed. Besides
    ``metrics`` the record holds ``course``, the distance and error of the snapshots against the
    seconds of training, and for MisGAN ``data_generator``, the distances of its own samples.

    Raises:
        RunError: the run is not trained, its files do not belong together, or another process
            evaluates it.
        DataError: its data set is not prepared, or has no complete images.
    """
    run, device = Run(folder), torch.device(device or default_device())
    config, trained, G = run.config, run.record, run.generator(device)
    if config.threads:
        torch.set_num_threads(config.threads)
    protocol = EvaluationProtocol(config.evaluation, device)
    if trained["data_checksum"] != protocol.data.checksum:
        raise RunError(
            f"{folder} was trained on other data than {protocol.data.folder} now holds: prepare "
            "those, or delete the run and train it again"
        )
    rests_on = {"generator_checksum": trained["generator_checksum"], "samples": config.eval_samples}
    rests_on |= protocol.rests_on()
    if (done := run.evaluation) and done["rests_on"] == rests_on:
        return done
    with run.lock("evaluation.lock"), deterministic_algorithms(config.deterministic):
        reconstruct = sampler(G, config.eval_samples, config.evaluation_seed)
        metrics = protocol.measure(reconstruct, f"evaluating {config.name}")
        record = provenance(config, protocol.data.checksum) | {
            "rests_on": rests_on,
            "training": {key: trained[key] for key in ("date", "seconds", "steps", "commit")},
            "metrics": metrics,
        }
        if config.snapshots:
            record["course"] = _course(run, protocol, metrics, device)
        if "data_generator_checksum" in trained:
            record["data_generator"] = _own_samples(run, protocol, device)
        return write_record(run.folder / "evaluation.json", record)


def _course(
    run: Run, protocol: EvaluationProtocol, final: dict[str, Any], device: torch.device
) -> list[dict[str, float]]:
    """Step, seconds of training, and metrics of each snapshot (one z an image) and of the end."""
    config = run.config
    looks = [(config.steps, run.record["seconds"], final)]
    for step in reversed(run.snapshots):
        reconstruct = sampler(run.snapshot(step, device), 2, config.evaluation_seed)
        measured = protocol.measure(reconstruct, f"evaluating {config.name} at step {step}")
        looks.insert(0, (step, run.snapshot_seconds(step), measured))
    shown = (protocol.extractor.name, "mse_missing")
    return [
        {"step": step, "seconds": seconds} | {name: measured[name]["value"] for name in shown}
        for step, seconds, measured in looks
    ]


@torch.inference_mode()
def _own_samples(run: Run, protocol: EvaluationProtocol, device: torch.device) -> dict[str, Any]:
    """The distances of as many images of MisGAN's data generator as are evaluated."""
    G_x = run.generator(device, "data_generator")
    generator = seeds.generator(run.config.evaluation_seed, "code")
    codes = torch.randn(protocol.count, G_x.nz, generator=generator).split(BATCH)
    fake = torch.cat([extract(protocol.extractor, G_x(code.to(device))) for code in codes])
    found = distances(protocol.originals, fake, protocol.extractor.name)
    return {name: vars(measurement) for name, measurement in found.items()}


def evaluate_reference(
    name: str, config: EvaluationConfig, path: Path, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Evaluate a reference without learning by the same protocol; write its record to ``path``.

    Args:
        name: one of ``references.REFERENCES``.
        config: what to measure on.
        path: the record's file; nothing is done if it rests on the same data.
        device: of the features.
    """
    protocol = EvaluationProtocol(config, device)
    rests_on = {"reference": name} | protocol.rests_on()
    if path.is_file():
        done = read_record(path)
        if done["rests_on"] == rests_on and done["config"] == config.model_dump():
            return done
    reconstruct = deterministic(partial(references.fill, name))
    metrics = protocol.measure(reconstruct, f"evaluating {config.corruption}-{name}")
    about = provenance(config, protocol.data.checksum)
    return write_record(path, about | {"rests_on": rests_on, "metrics": metrics})
