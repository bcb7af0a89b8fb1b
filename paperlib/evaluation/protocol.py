"""From a trained run, or a reference, to its evaluation record, which tables and claims rest on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paperlib import records, seeds
from paperlib.config import EvaluationConfig
from paperlib.core.corruption import corrupt
from paperlib.data.datasets import CompleteImages, law_of
from paperlib.data.prepare import load_prepared
from paperlib.evaluation import metrics, references
from paperlib.evaluation.features import BATCH, extract, load_extractor
from paperlib.evaluation.sampling import Reconstruct, deterministic, sampler
from paperlib.files import write_atomically
from paperlib.progress import track
from paperlib.run import Run
from paperlib.training.device import default_device, deterministic_algorithms

MOST_FEATURES = 2000  # that a distance rests on, of either side, but all images are in


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
        self.rests_on = {
            "data_checksum": self.data.checksum,
            "extractor": self.extractor.name,
            "split": config.eval_split,
            "images": config.eval_images,
            "metrics": metrics.METRICS_VERSION,
        }

    def measure(
        self, reconstruct: Reconstruct, title: str, resamples: int = metrics.DISTANCE_RESAMPLES
    ) -> dict[str, Any]:
        """The "metrics" of reconstructions of the first ``count`` images, and "per_image" what claims
        compare in pairs; ``title`` is for the progress, ``resamples`` behind a distance's interval."""
        batches = [rows.numpy() for rows in torch.arange(self.count).split(BATCH)]
        measured, fakes, judged = [], [], max(1, MOST_FEATURES // self.count)
        for rows in track(batches, len(batches), title):
            x, m = self.images.batch(rows)
            x_tilde, without_z = reconstruct(corrupt(x, m), m, rows)
            measured.append(metrics.per_image(x_tilde, without_z, x, m, self.config.border))
            distinct = 1 if torch.equal(x_tilde[0], x_tilde[1]) else judged  # 1: it has no z
            fakes.append(torch.stack([extract(self.extractor, s) for s in x_tilde[:distinct]]))
        means, kept = metrics.over_images(measured)
        measures = means | self.distances(torch.cat(fakes, dim=1), resamples)
        return {"metrics": measures, "per_image": kept}

    def distances(
        self, fake: Tensor, resamples: int = metrics.DISTANCE_RESAMPLES
    ) -> dict[str, Any]:
        """Of images to complete ones of the training split, from features (samples, images, F)."""
        count = min(len(self.others), max(MOST_FEATURES, self.count))
        real = self.features(self.others, "training", count)
        return metrics.distances(real, fake, self.extractor.name, resamples)

    def features(self, images: CompleteImages, split: str, count: int) -> Tensor:
        """Of the first images of a split, (count, F); computed once, and kept beside the data."""
        key = f"{self.extractor.name}-{split}-{count}-{self.data.checksum[:16]}"
        path = self.data.folder / f"features-{key}.safetensors"
        if not path.is_file():
            rows = torch.arange(count).split(BATCH)
            found = [extract(self.extractor, images.batch(r.numpy())[0]) for r in rows]
            write_atomically(path, partial(save_file, {"features": torch.cat(found)}))
        return load_file(path)["features"]


def evaluate_run(folder: Path, device: torch.device | str | None = None) -> dict[str, Any]:
    """Evaluate a trained run by the protocol of ``metrics`` and write ``evaluation.json``.

    Does nothing if nothing that it rests on has changed. Besides ``metrics`` and ``per_image`` the
    record holds ``course``, distance and error of the snapshots against the seconds of training,
    and for MisGAN ``data_generator``, the distances of its own samples. RunError if the run is not
    trained, altered or in use; DataError if its data are not prepared, or are incomplete images.
    """
    run, device = Run(folder), torch.device(device or default_device())
    config = run.config
    if config.threads:
        torch.set_num_threads(config.threads)
    G, protocol = run.generator(device), EvaluationProtocol(config.evaluation, device)
    trained = run.record_on(protocol.data)
    rests_on = protocol.rests_on | {"samples": config.eval_samples}
    rests_on["generator_checksum"] = trained["generator_checksum"]
    if (done := run.evaluation) and done["rests_on"] == rests_on:
        return done
    with run.lock("evaluation.lock"), deterministic_algorithms(config.deterministic):
        reconstruct = sampler(G, config.eval_samples, config.evaluation_seed)
        record = records.provenance(config, protocol.data.checksum)
        record |= protocol.measure(reconstruct, f"evaluating {config.name}")
        record["rests_on"] = rests_on
        record["training"] = {k: trained[k] for k in ("date", "seconds", "steps", "commit")}
        if config.snapshots:
            record["course"] = _course(run, protocol, record["metrics"], device)
        if "data_generator_checksum" in trained:
            record["data_generator"] = protocol.distances(_own_samples(run, protocol, device))
        return records.write_record(run.folder / "evaluation.json", record)


def _course(
    run: Run, protocol: EvaluationProtocol, final: dict[str, Any], device: torch.device
) -> list[dict[str, float]]:
    """Seconds of training, distance and error at each snapshot (two z an image) and at the end."""
    config, log, course = run.config, run.log(), []
    for step in (*run.snapshots, config.steps):
        seconds, found = run.record["seconds"], final
        if step < config.steps:
            reconstruct = sampler(run.snapshot(step, device), 2, config.evaluation_seed)
            title = f"evaluating {config.name} at {step}"
            found = protocol.measure(reconstruct, title, resamples=2)["metrics"]  # no interval kept
            seconds = next(line["seconds"] for line in log if line["step"] >= step)
        values = {name: found[name]["value"] for name in (protocol.extractor.name, "mse_missing")}
        course.append({"step": step, "seconds": seconds} | values)
    return course


@torch.inference_mode()
def _own_samples(run: Run, protocol: EvaluationProtocol, device: torch.device) -> Tensor:
    """Features of as many images of MisGAN's data generator as are evaluated, (1, count, F)."""
    G_x = run.generator(device, "data_generator")
    generator = seeds.generator(run.config.evaluation_seed, "code")
    codes = torch.randn(protocol.count, G_x.nz, generator=generator).split(BATCH)
    return torch.cat([extract(protocol.extractor, G_x(code.to(device))) for code in codes])[None]


def evaluate_reference(
    name: str, config: EvaluationConfig, path: Path, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Evaluate one of ``references.ROWS`` by the same protocol into ``path``, if that is not done.

    Of "real", the floor, these are the distances of the originals to other complete images.
    """
    protocol = EvaluationProtocol(config, device)
    rests_on = {"reference": name, **protocol.rests_on}
    if path.is_file():
        done = records.read_record(path)
        if done["rests_on"] == rests_on and done["config"] == config.model_dump():
            return done
    if name == "real":
        originals = protocol.features(protocol.images, config.eval_split, protocol.count)
        measured = {"metrics": protocol.distances(originals[None])}
    else:
        fill = deterministic(partial(references.fill, name))
        measured = protocol.measure(fill, f"evaluating {config.corruption}-{name}")
    record = records.provenance(config, protocol.data.checksum) | measured
    return records.write_record(path, record | {"rests_on": rests_on})
