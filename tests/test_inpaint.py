"""Filling in a user's images: what was observed is kept, tiles blend, and bad input is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import changed
from holed_images import holes, picture, write
from PIL import Image
from torch import nn

from paperlib import paths
from paperlib.beyond.incomplete_files import read_incomplete
from paperlib.beyond.inpaint import fill_in, inpaint, reconstruct_tiled, tile_starts, tile_window
from paperlib.run import Run
from paperlib.training.loop import train

SAMPLES = 3
LABELS = [*(f"sample{k + 1}" for k in range(SAMPLES)), "mean", "std"]


@pytest.fixture(scope="module")
def run(tiny_config, prepared_once, tmp_path_factory) -> Path:
    """A trained run on 32 x 32 pixels in which z has an effect from the start."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "DATA", prepared_once)
        train(changed(tiny_config, steps=1, z_start=1.0, start_from_fill=False), folder)
    return folder


def stored(path: Path) -> np.ndarray:
    """What a file holds, (H, W, C)."""
    return read_incomplete(path, missing_value=-1).values


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# Results

FLOAT, DEEP = np.float32, np.uint16
INPUTS = {
    "rgba.png": (picture(), "alpha"),
    "float.npy": (picture(dtype=FLOAT), "nan"),
    "float.tif": (picture(dtype=FLOAT), "nan"),
    "deep.tif": (picture(dtype=DEEP), "mask"),
    "web.webp": (picture(), "mask"),
    "photo.jpg": (picture(), "mask"),
    "sub/Größe a_$.png": (picture(32, 32), "alpha"),
    "pixels.npy": (picture(1, 4, dtype=FLOAT), "nan"),
    "large 图像.npy": (picture(45, 70, dtype=FLOAT), "nan"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A folder of ``INPUTS``. Not to be changed."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "sub").mkdir()
    for name, (values, way) in INPUTS.items():
        write(folder / name, values, way)
    return folder


@pytest.fixture(scope="module")
def output(run, source, tmp_path_factory) -> Path:
    """The results of ``source``. Not to be changed."""
    folder = tmp_path_factory.mktemp("results") / "new"
    assert inpaint(run, source, folder, SAMPLES) == {}
    assert len(contents(folder)) == len(INPUTS) * len(LABELS)
    return folder


def results(folder: Path, name: str) -> dict[str, np.ndarray]:
    path = folder / name.replace(".jpg", ".png")
    return {label: stored(path.with_stem(f"{path.stem}-{label}")) for label in LABELS}


@pytest.mark.parametrize("name", INPUTS)
def test_observed_values_are_kept_to_the_bit_and_the_rest_is_painted(source, output, name):
    image = read_incomplete(source / name)
    seen = image.observed
    assert np.array_equal(seen, holes(image.values))
    found = results(output, name)
    for label, values in found.items():
        assert values.shape == image.values.shape and values.dtype == image.values.dtype
        assert np.isfinite(values).all()
        kept = np.zeros_like(image.values) if label == "std" else image.values
        assert values[seen].tobytes() == kept[seen].tobytes()
    assert (found["sample1"][~seen] != found["sample2"][~seen]).any()
    samples = np.stack([found[label] for label in LABELS[:SAMPLES]]).astype(float)
    rounded = image.values.dtype.kind == "u"  # to whole numbers, each sample too
    for label, expected, most in (
        ("mean", samples.mean(axis=0), 1.01),
        ("std", samples.std(axis=0, ddof=1), 1.51),
    ):
        np.testing.assert_allclose(found[label], expected, rtol=0, atol=most if rounded else 1e-6)
    assert found["std"][~seen].any()


def test_what_samples_depend_on(run, source, output, tmp_path):
    """Seed, name, number and what is observed; not the other images, nor what lies under holes."""

    def same(path: Path, theirs: str, seed: int = 0) -> list[bool]:
        assert inpaint(run, path, tmp_path / "out", SAMPLES, seed, overwrite=True) == {}
        ours, theirs = results(tmp_path / "out", path.name), results(output, theirs)
        return [np.array_equal(ours[label], theirs[label]) for label in LABELS]

    path = source / "float.npy"
    assert all(same(path, path.name))
    assert not any(same(path, path.name, seed=1))
    assert not any(same(Path(shutil.copy(path, tmp_path / "b.npy")), path.name))
    image = read_incomplete(source / "deep.tif")
    covered = np.where(image.observed[..., None], image.values, DEEP(7))
    assert all(same(write(tmp_path / "deep.tif", covered, "mask"), "deep.tif"))
    inpaint(run, path, one := tmp_path / "one", 1)  # the first of three
    assert contents(one)["float-sample1.npy"] == contents(output)["float-sample1.npy"]
    assert contents(one)["float-mean.npy"] == contents(one)["float-sample1.npy"]
    assert not stored(one / "float-std.npy").any()


# The range


def test_values_outside_the_range_are_named_and_samples_scale_with_it(run, tmp_path):
    found, path = {}, tmp_path / "a.npy"
    for low, high in ((0.0, 1.0), (-8.0, 56.0)):
        write(path, low + (high - low) * picture(dtype=np.float64), "nan")
        inpaint(run, path, out := tmp_path / f"{low}", 2, limits=(low, high))
        found[low] = [stored(out / f"a-{label}.npy") for label in ("sample1", "mean", "std")]
    for ours, theirs, shift in zip(found[0], found[-8], (-8, -8, 0), strict=True):
        np.testing.assert_allclose(theirs, 64 * ours + shift, rtol=0, atol=1e-3)
    assert "a.npy: observed values lie outside 0 to 1" in inpaint(run, path, tmp_path / "out")[path]


# Tiles


class Stub(nn.Linear):
    """A function of (y, m, z) in the place of a generator; keeps the z of every tile."""

    border, nz = 0, 2

    def __init__(self, answer) -> None:
        super().__init__(1, 1)  # its parameters say where the network is
        self.answer, self.codes = answer, []

    def forward(self, y, m, z):
        self.codes.extend(z)
        return self.answer(y, m, z)


def observation(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """y (3, H, W) and m (1, H, W) with missing pixels everywhere."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    m = (torch.rand(1, height, width, generator=generator) < 0.5).float()
    m[:, ::4, ::4] = 0
    return (torch.rand(3, height, width, generator=generator) * 2 - 1) * m, m


Z = torch.tensor([0.3, -1.2])


def test_tiles_overlap_by_half_with_weights_that_fall_to_the_edges():
    assert tile_starts(5, 16) == tile_starts(16, 16) == [0]
    assert tile_starts(37, 16) == [0, 8, 16, 21]
    window = tile_window(16, border=2)
    assert (window > 0).all() and torch.equal(window, window.T)
    torch.testing.assert_close(window, window.flip(0))
    assert (window[8, 1:8] > window[8, :7]).all() and window[8, :2].max() < 1e-3


@pytest.mark.parametrize("sides", [(1, 1), (5, 7), (16, 16), (33, 15), (64, 50)])
def test_tiles_are_put_where_they_were_taken_from_and_share_one_z(sides):
    y, m = observation(*sides)
    stub = Stub(lambda y, m, z: y + 2 * (1 - m))
    filled = reconstruct_tiled(stub, y, m, Z, 16)
    torch.testing.assert_close(filled, y + 2 * (1 - m), rtol=0, atol=1e-6)
    assert all(torch.equal(z, Z) for z in stub.codes)


@pytest.mark.parametrize("place, tiles", [((0, 0), 1), ((10, 0), 2), ((30, 30), 4), ((63, 63), 1)])
def test_tiles_without_missing_pixels_are_not_computed(place, tiles):
    y, m = observation(64, 64)
    m[:] = 1
    m[0, place[0], place[1]] = 0
    stub = Stub(lambda y, m, z: torch.full_like(y, 0.3))
    filled = reconstruct_tiled(stub, y, m, Z, 16)
    assert len(stub.codes) == tiles
    assert filled[:, place[0], place[1]] == pytest.approx([0.3] * 3)


def test_limits_of_training_are_those_of_each_band(run, source):
    image, brightest = read_incomplete(source / "float.npy"), Stub(lambda y, m, z: y * 0 + 1)
    limits = [[0.2, 0.4], [0, 1], [-1, 9]]
    found = fill_in(brightest, Run(run).config, image, "a", 1, 0, limits)
    assert np.allclose(found["mean"][~image.observed], [0.4, 1, 9])


# What goes wrong


def test_bad_images_are_named_and_do_not_stop_the_others(run, tmp_path):
    (folder := tmp_path / "in").mkdir()
    good = write(folder / "a.jpg", picture(), "mask")
    reasons = {
        write(folder / "a.png", picture(seed=1), "mask"): "would replace those of another a.png",
        folder / "b.png": "cannot identify image file",
        folder / "c.png": "nothing says what is missing",
        write(folder / "d.npy", picture(bands=2, dtype=FLOAT), "nan"): "2 bands",
    }
    (folder / "b.png").write_text("no image")
    Image.fromarray(picture()).save(folder / "c.png")
    last = write(folder / "z.png", picture(seed=1))
    failed = inpaint(run, folder, tmp_path / "out", 1)
    assert failed.keys() == reasons.keys()
    for path, reason in reasons.items():
        assert reason in failed[path] and str(path) in failed[path]
    labels = ("sample1", "mean", "std")
    written = {f"{path.stem}-{label}.png" for path in (good, last) for label in labels}
    assert set(contents(tmp_path / "out")) == written


def test_overwrite_leaves_what_is_of_others(run, tmp_path):
    path, out = write(tmp_path / "a.png", picture()), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "a-mean.png").write_text("stale")
    assert inpaint(run, path, out, 1, overwrite=True) == {}
    assert stored(out / "a-mean.png").shape == (20, 24, 3)
    assert (out / "notes.txt").read_text() == "mine"
