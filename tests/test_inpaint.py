"""Filling in a user's images: what was observed is kept, tiles blend, and bad input is named."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tifffile
import torch
from helpers import changed
from PIL import Image, ImageOps
from torch import nn

from paperlib import inpaint as module
from paperlib import paths
from paperlib.__main__ import main
from paperlib.incomplete import read_incomplete, write_image
from paperlib.inpaint import (
    InpaintError,
    Options,
    inpaint,
    reconstruct_tiled,
    tile_starts,
    tile_window,
)
from paperlib.records import RunError
from paperlib.training import train

SIZE = 32  # of the run
SAMPLES = 3
LABELS = [*(f"sample{k + 1}" for k in range(SAMPLES)), "mean", "std"]


@pytest.fixture(scope="module")
def run(tiny_config, prepared_once, tmp_path_factory) -> Path:
    """A trained run in which z has an effect from the start."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "DATA", prepared_once)
        train(changed(tiny_config, steps=1, z_start=1.0, start_from_fill=False), folder)
    return folder


def picture(
    height: int = 20, width: int = 24, bands: int = 3, dtype: type = np.uint8, seed: int = 0
) -> np.ndarray:
    """Random values (H, W, bands), none of them 0."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.uniform(0.1, 1, (height, width, bands)).astype(dtype)
    return rng.integers(1, np.iinfo(dtype).max, (height, width, bands), dtype=dtype, endpoint=True)


def holes(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """A mask (H, W): a third of the pixels missing, among them the first and the last."""
    observed = np.random.default_rng(seed).random(values.shape[:2]) < 2 / 3
    observed[0, 0] = observed[-1, -1] = False
    observed[0, 1] = True
    return observed


def write_alpha(path: Path, values: np.ndarray) -> Path:
    alpha = np.where(holes(values), 255, 0).astype(np.uint8)
    Image.fromarray(np.concatenate([values, alpha[..., None]], axis=2)).save(path)
    return path


def write_mask(path: Path, observed: np.ndarray) -> None:
    mask = Image.fromarray(np.where(observed, 255, 0).astype(np.uint8))
    mask.save(path.with_name(path.stem + ".mask.png"))


def write_masked(path: Path, values: np.ndarray) -> Path:
    write_mask(path, holes(values))
    if path.suffix == ".jpg":
        Image.fromarray(values).save(path)
    else:
        write_image(path, values)
    return path


def write_nan(path: Path, values: np.ndarray) -> Path:
    write_image(path, np.where(holes(values)[..., None], values, np.float32(np.nan)))
    return path


def stored(path: Path) -> np.ndarray:
    """What a file holds, (H, W, C)."""
    if path.suffix == ".npy":
        array = np.load(path)
    else:
        array = tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))
    return array if array.ndim == 3 else array[..., None]


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


# Results

FLOAT = np.float32
INPUTS = {
    "rgba.png": lambda p: write_alpha(p, picture()),
    "colour.png": lambda p: write_masked(p, picture()),
    "grey 16.png": lambda p: write_masked(p, picture(bands=1, dtype=np.uint16)),
    "float.npy": lambda p: write_nan(p, picture(dtype=FLOAT)),
    "grey.npy": lambda p: write_nan(p, picture(bands=1, dtype=FLOAT)),
    "float.tif": lambda p: write_nan(p, picture(dtype=FLOAT)),
    "deep.tif": lambda p: write_masked(p, picture(dtype=np.uint16)),
    "web.webp": lambda p: write_masked(p, picture()),
    "photo.jpg": lambda p: write_masked(p, picture()),
    "sub/Größe $.png": lambda p: write_alpha(p, picture(SIZE, SIZE)),
    "pixels.npy": lambda p: write_nan(p, picture(1, 3, dtype=FLOAT)),
    "odd.npy": lambda p: write_nan(p, picture(33, 31, dtype=FLOAT)),
    "large.npy": lambda p: write_nan(p, picture(45, 70, dtype=FLOAT)),
}
FLOATS = ["float.npy", "grey.npy", "float.tif", "odd.npy", "large.npy"]
every_input = pytest.mark.parametrize("name", INPUTS)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A folder of ``INPUTS``. Not to be changed."""
    folder = tmp_path_factory.mktemp("source")
    for name, write in INPUTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write(folder / name)
    return folder


@pytest.fixture(scope="module")
def output(run, source, tmp_path_factory) -> Path:
    """The results of ``source``. Not to be changed."""
    folder = tmp_path_factory.mktemp("results") / "new"
    assert inpaint(run, source, folder, Options(samples=SAMPLES)) == {}
    return folder


def results(folder: Path, name: str) -> dict[str, np.ndarray]:
    path = folder / name
    suffix = path.suffix.replace(".jpg", ".png")
    return {label: stored(path.with_name(f"{path.stem}-{label}{suffix}")) for label in LABELS}


def test_every_image_has_its_results_and_nothing_else_is_left(output):
    expected = {
        f"{stem}-{label}{suffix.replace('.jpg', '.png')}"
        for stem, suffix in ((name[: name.rindex(".")], Path(name).suffix) for name in INPUTS)
        for label in LABELS
    }
    assert names(output) == expected | {"contact-sheet.png"}


@every_input
def test_size_and_type_are_those_of_the_input(source, output, name):
    values = read_incomplete(source / name).values
    for result in results(output, name).values():
        assert result.shape == values.shape and result.dtype == values.dtype


@every_input
def test_observed_values_are_kept_to_the_bit_and_the_rest_is_painted(source, output, name):
    image = read_incomplete(source / name)
    assert np.array_equal(image.observed, holes(image.values))
    found = results(output, name)
    painted = np.stack([found[label][~image.observed] for label in LABELS])
    assert np.isfinite(painted).all() and (painted[0] != painted[1]).any()
    for label in LABELS[:-1]:
        assert found[label][image.observed].tobytes() == image.values[image.observed].tobytes()
    assert (found["std"][image.observed] == 0).all()
    assert (found["std"][~image.observed] > 0).any()


@pytest.mark.parametrize("name", FLOATS)
def test_mean_and_std_are_those_of_the_samples(output, name):
    found = results(output, name)
    samples = np.stack([found[label] for label in LABELS[:SAMPLES]]).astype(float)
    np.testing.assert_allclose(found["mean"], samples.mean(axis=0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["std"], samples.std(axis=0, ddof=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["rgba.png", "grey 16.png", "deep.tif"])
def test_mean_and_std_of_integers_are_rounded(output, name):
    found = results(output, name)
    samples = np.stack([found[label] for label in LABELS[:SAMPLES]]).astype(float)
    np.testing.assert_allclose(found["mean"], samples.mean(axis=0), rtol=0, atol=1.01)
    np.testing.assert_allclose(found["std"], samples.std(axis=0, ddof=1), rtol=0, atol=1.51)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_round_trip_of_images_whose_missing_pixels_have_a_value(run, tmp_path, suffix, dtype):
    if suffix == ".png" and dtype == np.float32:
        return
    values, path = picture(dtype=dtype), tmp_path / f"a{suffix}"
    observed = holes(values)
    write_image(path, np.where(observed[..., None], values, dtype(0)))
    options = Options(samples=1, missing_value=0)
    assert inpaint(run, path, tmp_path / "out", options) == {}
    result = tmp_path / "out" / f"a-sample1{suffix}"
    write_mask(result, observed)  # without which it cannot be read as incomplete
    result = read_incomplete(result).values
    assert result.dtype == dtype and result.shape == values.shape
    assert result[observed].tobytes() == values[observed].tobytes()


def test_every_way_to_say_what_is_missing_gives_the_same_samples(run, tmp_path):
    values = picture()
    observed = holes(values)[..., None]
    found = {}
    for way in ("alpha", "mask", "value", "nan"):
        path = tmp_path / way / ("a.npy" if way == "nan" else "a.png")
        path.parent.mkdir()
        if way == "alpha":
            write_alpha(path, values)
        elif way == "mask":
            write_masked(path, values)
        elif way == "value":
            write_image(path, np.where(observed, values, np.uint8(0)))
        else:
            np.save(path, np.where(observed, values.astype(np.float32), np.nan))
        missing = {"missing_value": 0} if way == "value" else {"missing": way}
        options = Options(samples=1, limits=(0, 255), **missing)
        out = tmp_path / f"out {way}"
        assert inpaint(run, path, out, options) == {}
        found[way] = stored(next(out.glob("a-sample1.*"))).astype(float)
    assert np.array_equal(found["alpha"], found["mask"])
    assert np.array_equal(found["alpha"], found["value"])
    seen = observed[..., 0]  # z hangs on the file's name, which is another for .npy
    assert np.array_equal(found["nan"][seen], values[seen])


@pytest.mark.filterwarnings("error:Glyph")
def test_names_in_any_script_give_no_warnings(run, tmp_path):
    path = write_alpha(tmp_path / "scène 图像.png", picture())
    assert inpaint(run, path, tmp_path / "out", Options(samples=1)) == {}


def test_one_sample_has_no_std(run, source, tmp_path):
    inpaint(run, source / "float.npy", tmp_path / "out", Options(samples=1))
    sample, mean, std = (
        stored(tmp_path / "out" / f"float-{label}.npy") for label in ("sample1", "mean", "std")
    )
    assert (std == 0).all()
    np.testing.assert_allclose(sample, mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["float.npy", "rgba.png"])
def test_samples_do_not_depend_on_the_other_images(run, source, output, tmp_path, name):
    inpaint(run, source / name, tmp_path / "out", Options(samples=SAMPLES))
    alone, together = results(tmp_path / "out", name), results(output, name)
    assert all(np.array_equal(alone[label], together[label]) for label in LABELS)


def test_another_seed_gives_other_samples(run, source, output, tmp_path):
    inpaint(run, source / "float.npy", tmp_path / "out", Options(samples=SAMPLES, seed=1))
    ours, theirs = (results(folder, "float.npy") for folder in (tmp_path / "out", output))
    missing = ~read_incomplete(source / "float.npy").observed
    for label in LABELS:
        assert (ours[label][missing] != theirs[label][missing]).any()


def test_equal_images_of_different_names_get_different_samples(run, source, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.npy", "b.npy"):
        shutil.copy(source / "float.npy", tmp_path / "in" / name)
    inpaint(run, tmp_path / "in", tmp_path / "out", Options(samples=1))
    a, b = (stored(tmp_path / "out" / f"{name}-sample1.npy") for name in "ab")
    assert not np.array_equal(a, b)


def test_more_samples_leave_the_first_ones_as_they_are(run, source, output, tmp_path):
    inpaint(run, source / "float.npy", tmp_path / "out", Options(samples=1))
    first = stored(tmp_path / "out" / "float-sample1.npy")
    assert np.array_equal(first, results(output, "float.npy")["sample1"])


def test_what_is_stored_where_it_is_missing_has_no_influence(run, source, output, tmp_path):
    image = read_incomplete(source / "colour.png")
    write_masked(
        tmp_path / "colour.png", np.where(image.observed[..., None], image.values, np.uint8(7))
    )
    inpaint(run, tmp_path / "colour.png", tmp_path / "out", Options(samples=SAMPLES))
    ours, theirs = results(tmp_path / "out", "colour.png"), results(output, "colour.png")
    assert all(np.array_equal(ours[label], theirs[label]) for label in LABELS)


def test_contact_sheet_is_a_picture(output):
    with Image.open(output / "contact-sheet.png") as sheet:
        sheet.load()
        assert sheet.format == "PNG" and min(sheet.size) > 300
        assert np.asarray(sheet.convert("L")).std() > 10


def test_contact_sheet_does_not_hold_whole_images(run, source, tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(module, "THUMBNAIL", 4)
    monkeypatch.setattr(module, "_contact_sheet", lambda path, sheet: sheets.append(sheet))
    inpaint(run, source / "float.npy", tmp_path / "out", Options(samples=1))
    for thumbnail in sheets[0]["float.npy"].values():
        assert thumbnail.base is None or thumbnail.base.size <= 2 * thumbnail.size


def test_no_figure_is_left_open(run, source, tmp_path):
    before = plt.get_fignums()
    inpaint(run, source / "float.npy", tmp_path / "out", Options(samples=1))
    assert plt.get_fignums() == before


@pytest.mark.parametrize("name", ["a_b.png", "a$_$.png"])  # fmt: skip
def test_any_name_can_stand_on_the_contact_sheet(run, tmp_path, name):
    write_alpha(tmp_path / name, picture())
    assert inpaint(run, tmp_path / name, tmp_path / "out", Options(samples=1)) == {}
    assert (tmp_path / "out" / "contact-sheet.png").is_file()


# Tiles


class Stub(nn.Module):
    """A function of (y, m, z) in the place of a generator; counts the tiles, keeps every z."""

    def __init__(self, answer, border: int = 0) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))  # says where the network is
        self.answer, self.border, self.nz = answer, border, 2
        self.tiles, self.codes = 0, []

    def forward(self, y, m, z):
        assert len(y) == len(m) == len(z) <= module.TILES
        self.tiles += len(y)
        self.codes.extend(z)
        return self.answer(y, m, z)


def observation(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """y (3, H, W) and m (1, H, W) with missing pixels everywhere."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    m = (torch.rand(1, height, width, generator=generator) < 0.5).float()
    m[:, ::4, ::4] = 0
    return (torch.rand(3, height, width, generator=generator) * 2 - 1) * m, m


Z = torch.tensor([0.3, -1.2])
SIDES = [(1, 1), (5, 7), (16, 16), (17, 40), (33, 15), (64, 50)]
every_side = pytest.mark.parametrize("sides", SIDES)


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_tiles_cover_every_pixel(size):
    for length in range(1, 5 * size):
        starts = tile_starts(length, size)
        assert starts[0] == 0 and starts[-1] + size == max(length, size)
        assert all(0 < b - a <= size // 2 for a, b in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize("size, border", [(8, 0), (16, 2), (32, 4), (128, 4), (512, 4)])
def test_weights_of_a_tile_are_positive_symmetric_and_highest_inside(size, border):
    window = tile_window(size, border)
    assert window.shape == (size, size) and (window > 0).all() and window.max() <= 1
    assert torch.equal(window, window.T)
    torch.testing.assert_close(window, window.flip(0))
    middle = window[size // 2]
    assert (middle[1 : size // 2] > middle[: size // 2 - 1]).all()
    if border:
        assert middle[:border].max() < 1e-3


@every_side
@pytest.mark.parametrize("border", [0, 4])
def test_equal_tiles_blend_to_the_same_value_everywhere(sides, border):
    y, m = observation(*sides)
    filled = reconstruct_tiled(Stub(lambda y, m, z: torch.full_like(y, 0.3), border), y, m, Z, 16)
    assert filled.shape == y.shape
    torch.testing.assert_close(filled, torch.full_like(y, 0.3), rtol=0, atol=1e-6)


@every_side
def test_tiles_are_put_where_they_were_taken_from(sides):
    y, m = observation(*sides)
    filled = reconstruct_tiled(Stub(lambda y, m, z: y + 2 * (1 - m)), y, m, Z, 16)
    torch.testing.assert_close(filled, y + 2 * (1 - m), rtol=0, atol=1e-6)


def test_borders_of_tiles_hardly_show_inside_the_image():
    def framed(y, m, z):
        tile = torch.full_like(y, -1)
        tile[..., 4:-4, 4:-4] = 1
        return tile

    y, m = observation(50, 70)
    filled = reconstruct_tiled(Stub(framed, border=4), y, m, Z, 32)
    assert filled[:, 4:-4, 4:-4].min() > 0.95
    assert filled[:, :4].max() < 0  # no other tile knows more there


def test_small_images_are_surrounded_by_missing_pixels():
    seen = []
    y, m = observation(5, 7)
    m[:] = 1
    m[0, 2, 2] = 0
    reconstruct_tiled(Stub(lambda y, m, z: seen.append((y, m)) or y), y, m, Z, 16)
    ((tile, mask),) = seen
    assert tile.shape == (1, 3, 16, 16) and mask.sum() == m.sum()
    assert torch.equal(tile[0, :, :5, :7], y) and torch.equal(mask[0, :, :5, :7], m)
    assert tile[..., 5:, :].abs().max() == 0 and tile[..., 7:].abs().max() == 0


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_result_does_not_depend_on_how_many_tiles_are_computed_at_once(monkeypatch, chunk):
    def answer(y, m, z):
        return torch.sin(9 * y) + z[:, :1, None, None] * torch.linspace(0, 1, 16)

    y, m = observation(64, 50)
    expected = reconstruct_tiled(Stub(answer), y, m, Z, 16)
    monkeypatch.setattr(module, "TILES", chunk)
    assert torch.equal(reconstruct_tiled(Stub(answer), y, m, Z, 16), expected)


def test_tiles_without_missing_pixels_are_not_computed():
    y, m = observation(64, 64)
    m[:] = 1
    for place, tiles in (((0, 0), 1), ((10, 0), 2), ((30, 30), 4), ((63, 63), 1)):
        hole = m.clone()
        hole[0, place[0], place[1]] = 0
        stub = Stub(lambda y, m, z: torch.full_like(y, 0.3))
        filled = reconstruct_tiled(stub, y, hole, Z, 16)
        assert stub.tiles == tiles
        assert filled[:, place[0], place[1]] == pytest.approx([0.3] * 3)


def test_all_tiles_share_one_z():
    y, m = observation(64, 50)
    stub = Stub(lambda y, m, z: y)
    reconstruct_tiled(stub, y, m, Z, 16)
    assert len(stub.codes) == stub.tiles > 30
    assert all(torch.equal(z, Z) for z in stub.codes)


# The range


def test_values_outside_the_range_are_named_and_a_wider_range_is_taken(run, tmp_path):
    path = write_nan(tmp_path / "warm.npy", 20 + 10 * picture(dtype=FLOAT))
    failed = inpaint(run, path, tmp_path / "out", Options(samples=2))
    assert "warm.npy" in failed[path] and "outside 0 to 1" in failed[path]
    options = Options(samples=2, limits=(20.0, 30.0))
    assert inpaint(run, path, tmp_path / "out", options) == {}
    sample, std = (stored(tmp_path / "out" / f"warm-{n}.npy") for n in ("sample1", "std"))
    assert sample.min() >= 20 and sample.max() <= 30 and 0 < std.max() <= 10


def test_samples_scale_with_the_range(run, source, tmp_path):
    values = stored(source / "float.npy")
    folders = []
    for low, high in ((0, 1), (-8, 56)):
        folders.append(tmp_path / f"from {low}")
        folders[-1].mkdir()
        np.save(folders[-1] / "a.npy", low + (high - low) * values)
        options = Options(samples=2, limits=(low, high))
        assert inpaint(run, folders[-1] / "a.npy", folders[-1] / "out", options) == {}
    for label in ("sample1", "mean", "std"):
        ours, theirs = (stored(folder / "out" / f"a-{label}.npy") for folder in folders)
        shift = 0 if label == "std" else -8
        np.testing.assert_allclose(theirs, 64 * ours + shift, rtol=0, atol=1e-3)


# What goes wrong


def test_image_of_two_bands_is_refused_by_name(run, tmp_path):
    path = write_nan(tmp_path / "two.npy", picture(bands=2, dtype=FLOAT))
    failed = inpaint(run, path, tmp_path / "out", Options())
    assert "two.npy" in failed[path] and "2 bands" in failed[path]
    assert not (tmp_path / "out").exists()


def test_two_images_whose_results_would_have_the_same_name(run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    first = write_masked(folder / "a.jpg", picture())
    second = write_masked(folder / "a.png", picture(seed=1))
    failed = inpaint(run, folder, tmp_path / "out", Options(samples=1))
    assert list(failed) == [second] and str(second) in failed[second]
    kept = stored(tmp_path / "out" / "a-sample1.png")[holes(kept_from := stored(first))]
    assert np.array_equal(kept, kept_from[holes(kept_from)])


def test_an_image_that_fails_does_not_take_the_name_of_another(run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    first = write_masked(folder / "a.jpg", picture())
    write_masked(folder / "a.png", picture() // 3)
    failed = inpaint(run, folder, tmp_path / "out", Options(samples=1, limits=(0, 100)))
    assert list(failed) == [first]


@pytest.fixture
def one_bad(tmp_path) -> Path:
    """A folder of two good images and one that is none, between them."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_alpha(folder / "a.png", picture())
    (folder / "b.png").write_text("no image")
    write_alpha(folder / "c.png", picture(seed=1))
    return folder


def test_one_bad_image_does_not_stop_the_others(run, one_bad, tmp_path):
    failed = inpaint(run, one_bad, tmp_path / "out", Options(samples=1))
    assert list(failed) == [one_bad / "b.png"] and "b.png" in failed[one_bad / "b.png"]
    assert names(tmp_path / "out") == {"contact-sheet.png"} | {
        f"{stem}-{label}.png" for stem in "ac" for label in ("sample1", "mean", "std")
    }


failures = pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), MemoryError(), RuntimeError("can't allocate memory")],
    ids=lambda error: type(error).__name__,
)


@failures
def test_an_image_for_which_there_is_no_room_is_named(run, one_bad, tmp_path, monkeypatch, error):
    def fill_in(G, config, image, name, *options):
        if name == "a.png":
            raise error
        return original(G, config, image, name, *options)

    original = module.fill_in
    monkeypatch.setattr(module, "fill_in", fill_in)
    failed = inpaint(run, one_bad, tmp_path / "out", Options(samples=1))
    assert "a.png" in failed[one_bad / "a.png"]
    assert (tmp_path / "out" / "c-mean.png").is_file()


@pytest.mark.parametrize("suffix, kind", [(".gif", "GIF"), (".jfif", "JPEG")])
def test_formats_that_cannot_be_written_without_loss_are_refused(run, tmp_path, suffix, kind):
    path = tmp_path / f"a{suffix}"
    write_masked(tmp_path / "a.jpg", picture())
    Image.fromarray(picture()).save(path, format=kind)
    try:
        failed = inpaint(run, path, tmp_path / "out", Options(samples=1))
    except InpaintError as error:
        assert path.name in str(error)
    else:
        assert path.name in failed[path]


def test_folder_in_use_is_refused_and_left_as_it_is(run, source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InpaintError, match="not empty"):
        inpaint(run, source, tmp_path, Options())
    assert contents(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("name", [".", "out", "sub/../out"])
def test_folder_within_the_input_is_refused(run, tmp_path, name):
    write_alpha(tmp_path / "a.png", picture())
    (tmp_path / "sub").mkdir()
    with pytest.raises(InpaintError, match="whose images the next run"):
        inpaint(run, tmp_path, tmp_path / name, Options(), overwrite=True)
    assert names(tmp_path) == {"a.png"}
    assert inpaint(run, tmp_path / "a.png", tmp_path / "out", Options(samples=1)) == {}


def test_turned_photograph_comes_back_upright(run, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).save(path, exif=turned)
    seen = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    observed = holes(seen)
    write_mask(path, observed)
    assert inpaint(run, path, tmp_path / "out", Options(samples=1)) == {}
    with Image.open(tmp_path / "out" / "a-sample1.png") as result:
        assert not result.getexif()
        assert np.array_equal(np.asarray(result)[observed], seen[observed])


def test_empty_folder_is_taken(run, source, tmp_path):
    assert inpaint(run, source / "float.npy", tmp_path, Options(samples=1)) == {}
    assert len(names(tmp_path)) == 4


def test_what_is_not_a_run_is_named(source, tmp_path):
    with pytest.raises(RunError, match="nowhere"):
        inpaint(tmp_path / "nowhere", source, tmp_path / "out", Options())
    assert not (tmp_path / "out").exists()


# The command line


@pytest.fixture
def command(own_signal_handlers, capsys, monkeypatch):
    """A function that runs the command and returns its status and the lines of its errors."""
    monkeypatch.setenv("PAPERLIB_PROGRESS", "lines")  # as outside of tests, not nbval's bars

    def go(*arguments: str | Path) -> tuple[int, list[str]]:
        capsys.readouterr()
        status = main(["inpaint", *map(str, arguments)])
        captured = capsys.readouterr()
        assert not captured.out
        return status, captured.err.splitlines()

    return go


def assert_refused(outcome: tuple[int, list[str]], *parts: str) -> None:
    status, lines = outcome
    assert status == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    assert all(part in lines[0] for part in parts)


def test_command_does_as_it_is_told(command, run, tmp_path):
    values = picture()
    path = tmp_path / "zeros.png"
    write_image(path, np.where(holes(values)[..., None], values, np.uint8(0)))
    status, lines = command(
        run, path, tmp_path / "out", "--samples", "2", "--seed", "3", "--missing-value", "0",
        "--range", "0", "255", "--max-pixels", "480",
    )  # fmt: skip
    assert status == 0 and not any(line.startswith("error") for line in lines)
    inpaint(run, path, tmp_path / "same", Options(samples=2, seed=3, missing_value=0))
    assert contents(tmp_path / "out") == contents(tmp_path / "same")
    assert len(names(tmp_path / "out")) == 5


def test_same_command_writes_the_same_and_another_seed_other_samples(command, run, tmp_path):
    path = write_alpha(tmp_path / "a.png", picture())
    for name, seed in (("one", "0"), ("two", "0"), ("three", "1")):
        assert command(run, path, tmp_path / name, "--samples", "1", "--seed", seed)[0] == 0
    one, two, three = (contents(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two and one["a-sample1.png"] != three["a-sample1.png"]


def test_missing_rule_of_the_command(command, run, tmp_path):
    path = write_alpha(tmp_path / "a.png", picture())
    status, lines = command(run, path, tmp_path / "out", "--missing", "mask")
    assert status == 1 and any("a.mask.png is missing" in line for line in lines)


def test_rule_and_value_contradict_each_other(command, run, source, tmp_path):
    outcome = command(run, source, tmp_path / "out", "--missing", "mask", "--missing-value", "0")
    assert_refused(outcome, "--missing mask and --missing-value contradict")


def test_most_pixels_of_the_command(command, run, source, tmp_path):
    assert_refused(command(run, source, tmp_path / "out", "--max-pixels", "0"), "--max-pixels")
    status, lines = command(run, source / "rgba.png", tmp_path / "out", "--max-pixels", "479")
    assert status == 1 and "24 x 20 px, more than max_pixels (479) allows" in lines[-2]


def test_status_is_1_where_an_image_failed_and_the_line_names_it(command, run, one_bad, tmp_path):
    status, lines = command(run, one_bad, tmp_path / "out", "--samples", "1")
    errors = [line for line in lines if line.startswith("error: ")]
    assert status == 1 and len(errors) == 1 and str(one_bad / "b.png") in errors[0]
    assert lines[-1].startswith("1 of the images")
    assert (tmp_path / "out" / "c-mean.png").is_file()


def write_clear_sky(path: Path, seed: int = 5) -> Path:
    """With an alpha channel, and nothing missing."""
    values = picture(seed=seed)
    alpha = np.full((*values.shape[:2], 1), 255, np.uint8)
    Image.fromarray(np.concatenate([values, alpha], axis=2)).save(path)
    return path


def test_complete_image_among_others_comes_back_as_it_is_and_is_named(command, run, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_alpha(folder / "a.png", picture())
    clear = write_clear_sky(folder / "b.png")
    status, lines = command(run, folder, out, "--samples", "2")
    assert status == 0
    notes = [line for line in lines if line.startswith("note: ")]
    assert len(notes) == 1 and str(clear) in notes[0] and "no pixel is missing" in notes[0]
    for label in ("sample1", "sample2", "mean"):
        assert np.array_equal(stored(out / f"b-{label}.png"), stored(clear)[..., :3])
    assert not stored(out / "b-std.png").any()
    assert stored(out / "a-std.png").any()


def test_nothing_missing_at_all_says_what_to_check(command, run, tmp_path):
    path = write_clear_sky(tmp_path / "a.png")
    status, lines = command(run, path, tmp_path / "out", "--samples", "1")
    assert status == 0 and lines[-1].startswith("note: ") and "--missing-value" in lines[-1]


def test_image_that_does_not_say_what_is_missing_is_not_taken_for_complete(command, run, tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    status, lines = command(run, tmp_path / "a.png", tmp_path / "out")
    assert status == 1 and any("nothing says what is missing" in line for line in lines)
    assert not (tmp_path / "out").exists()


def test_overwrite_writes_into_a_folder_in_use(command, run, tmp_path):
    path = write_alpha(tmp_path / "a.png", picture())
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "a-mean.png").write_text("stale")
    before = contents(out)
    assert_refused(command(run, path, out), str(out), "--overwrite")
    assert contents(out) == before
    assert command(run, path, out, "--samples", "1", "--overwrite")[0] == 0
    after = contents(out)
    assert after["notes.txt"] == b"mine" and after["a-mean.png"] != b"stale"
    assert stored(out / "a-mean.png").shape == (20, 24, 3)


def test_input_that_does_not_exist(command, run, tmp_path):
    missing = tmp_path / "nowhere.png"
    assert_refused(command(run, missing, tmp_path / "out"), str(missing), "does not exist")


def test_folder_without_images(command, run, tmp_path):
    (tmp_path / "in").mkdir()
    assert_refused(command(run, tmp_path / "in", tmp_path / "out"), str(tmp_path / "in"))


def test_run_that_is_not_trained(command, source, tmp_path):
    (tmp_path / "run").mkdir()
    assert_refused(command(tmp_path / "run", source, tmp_path / "out"), str(tmp_path / "run"))
    assert not (tmp_path / "out").exists()


def test_weights_that_were_altered(command, run, source, tmp_path):
    altered = shutil.copytree(run, tmp_path / "run")
    with (altered / "generator.safetensors").open("ab") as file:
        file.write(b"\0")
    assert_refused(command(altered, source, tmp_path / "out"), "generator.safetensors")


@pytest.mark.parametrize("count", ["0", "-1"])
def test_number_of_samples(command, run, source, tmp_path, count):
    assert_refused(command(run, source, tmp_path / "out", "--samples", count), "--samples")


@pytest.mark.parametrize("limits", [("0", "0"), ("255", "0"), ("nan", "1"), ("0", "inf")])
def test_range_that_is_none(command, run, tmp_path, limits):
    values = np.zeros((8, 8, 3), dtype=np.uint8)
    write_alpha(tmp_path / "black.png", values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NaN, until this is refused
        outcome = command(run, tmp_path / "black.png", tmp_path / "out", "--range", *limits)
    assert_refused(outcome, "--range")


def test_output_that_is_a_file(command, run, source, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert_refused(command(run, source, tmp_path / "out"), str(tmp_path / "out"))
