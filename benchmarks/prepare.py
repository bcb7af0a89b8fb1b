"""How much of the decoder's speed preparing a data set keeps, and whether its memory is flat.

    make bench        (nothing else should run meanwhile; about a minute)
    python benchmarks/prepare.py [IMAGES [LARGEST]]

``prepare`` against a bare parallel loop of the same decoder (``source.read``) on the same
files, with as many threads: JPEGs of CelebA's size in a zip and in a folder, and PNGs with an alpha
channel as incomplete images. In one process, in turns; medians over the rounds. A process of its
own for IMAGES and one for LARGEST JPEGs tell the peak of the memory. Writes results/bench/prepare.json.
"""

from __future__ import annotations

import io
import os
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from measure import in_a_process, own_peak
from PIL import Image

import paperlib.beyond  # noqa: F401, its data set has a name too
from paperlib import paths, records
from paperlib.config import EvaluationConfig
from paperlib.data.prepare import load_prepared, prepare
from paperlib.data.sources import open_source

IMAGES = 3000  # JPEGs of a data set; a quarter as many PNGs, which take longer
LARGEST = 4 * IMAGES  # of the second of the two whose memory is measured
ROUNDS = 5
WORKERS = min(32, (os.cpu_count() or 1) + 4)  # those of prepare: the default of a pool
DIFFERENT = 50  # pictures, under as many names as files are asked for
WIDTH, HEIGHT = 178, 218  # of CelebA's images
SIZE = 64


def picture(rng: np.random.Generator) -> Image.Image:
    """Smooth with some grain, so that a JPEG of it is about as long as a photograph's."""
    coarse = Image.fromarray(rng.integers(0, 256, (14, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=float)
    grain = rng.normal(0, 4, smooth.shape)
    return Image.fromarray((smooth + grain).round().clip(0, 255).astype(np.uint8))


def jpeg(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    picture(rng).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def incomplete_png(rng: np.random.Generator) -> bytes:
    """A third of it transparent, in blocks."""
    image, buffer = picture(rng), io.BytesIO()
    blocks = Image.fromarray(np.where(rng.random((28, 23)) < 2 / 3, 255, 0).astype(np.uint8))
    image.putalpha(blocks.resize(image.size, Image.Resampling.NEAREST))
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_zip(path: Path, images: int) -> None:
    contents = different(jpeg)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(images):
            archive.writestr(f"img_align_celeba/{i + 1:06d}.jpg", contents[i % DIFFERENT])


def write_folder(path: Path, images: int, make: Callable = jpeg, suffix: str = "jpg") -> None:
    contents = different(make)
    path.mkdir()
    for i in range(images):
        (path / f"{i + 1:06d}.{suffix}").write_bytes(contents[i % DIFFERENT])


def different(make: Callable) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [make(rng) for _ in range(DIFFERENT)]


def celeba(path: Path) -> EvaluationConfig:
    return EvaluationConfig(dataset="celeba", source=str(path), size=SIZE)


def jpegs(path: Path) -> EvaluationConfig:
    return EvaluationConfig(dataset="folder", source=str(path), size=SIZE)


def incomplete(path: Path) -> EvaluationConfig:
    about = {"dataset": "incomplete", "corruption": "observed"}
    return EvaluationConfig(source=str(path), size=SIZE, **about)


def bare(config: EvaluationConfig) -> tuple[int, float]:
    """The images decoded by nothing but a parallel loop, and the seconds that it took."""
    source = open_source(config.data)
    with ThreadPoolExecutor(WORKERS) as pool:
        names = list(source.ids)
        start = time.perf_counter()
        count = sum(1 for _ in pool.map(source.read, names))
        return count, time.perf_counter() - start


def whole(config: EvaluationConfig) -> tuple[int, float]:
    """The same by ``prepare``, from listing the files to the checksum."""
    (paths.DATA / config.data.folder / "manifest.json").unlink(missing_ok=True)
    start = time.perf_counter()
    count = prepare(config.data).manifest["count"]
    return count, time.perf_counter() - start


def measure(name: str, config: EvaluationConfig) -> dict:
    """Print and give back the medians for one data set."""
    rates: dict[str, list[float]] = {"bare": [], "prepare": []}
    bare(config)  # the files are then in the system's memory
    for _ in range(ROUNDS):
        for way, work in (("bare", bare), ("prepare", whole)):
            count, seconds = work(config)
            rates[way].append(count / seconds)
    median = {way: statistics.median(values) for way, values in rates.items()}
    share = median["prepare"] / median["bare"]
    print(
        f"{name}: {count} images, {WORKERS} threads; bare loop {median['bare']:.0f} images/s, "
        f"prepare {median['prepare']:.0f} images/s; share {share:.0%}"
    )
    return {
        "config": config.model_dump(),
        "data_checksum": load_prepared(config.data).checksum,
        "images": count,
        "images_per_second": rates,
        "medians": median,
        "share_of_bare_loop": share,
    }


def peak(path: Path, images: int) -> int:
    """Bytes that a process of its own needs at most to prepare ``images`` images."""
    write_folder(path, images)
    (used,) = in_a_process(__file__, "--peak", path)
    print(f"memory: {images} images, at most {used / 1e6:.0f} MB resident")
    return used


def print_own_peak(path: Path) -> None:
    """Prepare a folder, print the peak of this process in bytes."""
    paths.DATA = path.parent / "data"
    prepare(jpegs(path).data, strict=True)
    print(own_peak())


def main(images: int = IMAGES, largest: int = LARGEST) -> None:
    with tempfile.TemporaryDirectory(prefix="paperlib-bench-") as temporary:
        folder = Path(temporary)
        paths.DATA = folder / "data"
        write_zip(folder / "img_align_celeba.zip", images)
        write_folder(folder / "jpegs", images)
        write_folder(folder / "pngs", images // 4, incomplete_png, "png")
        cases = {
            "celeba zip": celeba(folder / "img_align_celeba.zip"),
            "folder": jpegs(folder / "jpegs"),
            "incomplete PNG": incomplete(folder / "pngs"),
        }
        result = records.provenance(cases["celeba zip"], "none: synthetic images") | {
            "threads": WORKERS,
            "cases": {name: measure(name, config) for name, config in cases.items()},
            "peak_bytes": {n: peak(folder / f"peak {n}", n) for n in (images, largest)},
        }
    records.write_json(paths.RESULTS / "bench" / "prepare.json", result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print_own_peak(Path(sys.argv[2]))
    else:
        main(*map(int, sys.argv[1:]))
