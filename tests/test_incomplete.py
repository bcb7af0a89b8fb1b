"""Incomplete images: the ways to say what is missing, values kept as stored, and odd files.

The commands' answers to bad files are in test_bad_input, those to random ones in test_fuzz.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from holed_images import holes, picture, write
from PIL import Image, ImageOps

from paperlib.beyond.incomplete_files import incomplete_files, read_incomplete, write_image

H, W = 20, 24
OBSERVED = holes(picture())


def write_mask(path: Path, observed: np.ndarray = OBSERVED, **options) -> Path:
    """The mask of the image ``path``; gives back ``path``."""
    Image.fromarray(observed).save(path.with_name(path.stem + ".mask.png"), **options)
    return path


# What is missing

WAYS = {"alpha": (".png", ".tif", ".webp"), "nan": (".npy", ".tif")}
WAYS |= dict.fromkeys(("mask", "value"), (".png", ".tif", ".npy"))


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("way, suffix", [(way, s) for way, known in WAYS.items() for s in known])
def test_every_way_to_say_what_is_missing_gives_the_same(tmp_path, way, suffix, bands):
    values = picture(bands=3 if suffix == ".webp" else bands)
    path = write(tmp_path / f"a{suffix}", values, way)
    for asked in ("auto", way):
        image = read_incomplete(path, asked, 0 if way == "value" else None)
        assert np.array_equal(image.observed, OBSERVED) and image.values.shape == values.shape
        assert np.array_equal(image.values[OBSERVED], values[OBSERVED])


def test_what_counts_as_missing_in_a_pixel(tmp_path):
    values = np.dstack([picture(), np.where(OBSERVED, 1, 0).astype(np.uint8)])
    Image.fromarray(values).save(tmp_path / "a.png")  # nearly transparent: observed
    assert np.array_equal(read_incomplete(tmp_path / "a.png").observed, OBSERVED)
    floats = np.where(OBSERVED[..., None], picture(dtype=np.float32), np.float32(np.nan))
    floats[0, 1, 1] = np.nan  # in one band: missing
    floats[0, 2, 1] = -0.1  # the value in one band: observed
    expected = OBSERVED.copy()
    expected[0, 1] = False
    np.save(path := tmp_path / "a.npy", floats)
    for value in (None, np.nan):
        assert np.array_equal(read_incomplete(path, missing_value=value).observed, expected)
    np.save(path, np.nan_to_num(floats, nan=-0.1))
    assert np.array_equal(read_incomplete(path, missing_value=-0.1).observed, OBSERVED)


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB"])
def test_mask_may_be_of_any_kind_of_png(tmp_path, mode):
    write_image(tmp_path / "a.png", picture())
    levels = np.where(OBSERVED, 65535, 0).astype(np.uint16)
    mask = Image.fromarray(levels if mode == "I;16" else (levels >> 8).astype(np.uint8))
    mask.convert(mode).save(tmp_path / "a.mask.png")
    assert np.array_equal(read_incomplete(tmp_path / "a.png").observed, OBSERVED)


def test_the_first_of_mask_alpha_and_nan_is_taken_unless_one_is_asked_for(tmp_path):
    seen = {rule: np.ones((H, W), bool) for rule in ("nan", "mask", "alpha")}
    for column, observed in enumerate(seen.values()):
        observed[0, [0, column]] = False
    values = np.where(seen["nan"][..., None], picture(dtype=np.float32), np.float32(np.nan))
    path = write_mask(tmp_path / "a.tif", seen["mask"])
    both = np.dstack([values, seen["alpha"].astype(np.float32)])
    tifffile.imwrite(path, both, photometric="rgb", extrasamples=["unassalpha"])
    for rule, observed in [*seen.items(), ("auto", seen["mask"])]:
        assert np.array_equal(read_incomplete(path, rule).observed, observed)
    (tmp_path / "a.mask.png").unlink()
    assert np.array_equal(read_incomplete(path).observed, seen["alpha"])
    write_image(path, values)
    assert np.array_equal(read_incomplete(path).observed, seen["nan"])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_turned_images_and_masks_are_read_as_people_see_them(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_mask(tmp_path / f"a{suffix}", exif=exif)
    Image.fromarray(picture()).save(path, exif=exif)
    image = read_incomplete(path)
    seen, observed = (
        np.asarray(ImageOps.exif_transpose(Image.open(file)))
        for file in (path, tmp_path / "a.mask.png")
    )
    assert np.array_equal(image.values, seen) and np.array_equal(image.observed, observed)


# Values

BITS = (np.uint8, np.uint16)
WRITTEN = [
    *[(".webp", 3, np.uint8), (".png", 3, np.uint8)],
    *[(".png", 1, dtype) for dtype in BITS],
    *[(".tif", bands, dtype) for bands in (1, 3, 5) for dtype in (*BITS, np.float32)],
    *[(".npy", bands, dtype) for bands in (1, 2, 16) for dtype in (*BITS, np.float64)],
]


@pytest.mark.parametrize("suffix, bands, dtype", WRITTEN)
def test_what_is_written_is_read_back_to_the_bit(tmp_path, suffix, bands, dtype):
    values = picture(bands=bands, dtype=dtype)
    path = write(tmp_path / f"a{suffix}", values, "mask")
    image = read_incomplete(path)
    assert image.values.dtype == dtype and image.values.shape == values.shape
    assert image.values.tobytes() == values.tobytes()
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "a.mask.png"}


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bands", [2, 16])
def test_multi_band_tiff_planar_and_interleaved(tmp_path, bands, planar):
    path, values = write_mask(tmp_path / "a.tif"), picture(bands=bands, dtype=np.uint16)
    stored = values if planar == "contig" else np.moveaxis(values, 2, 0)
    about = {"photometric": "minisblack", "planarconfig": planar, "byteorder": ">"}
    tifffile.imwrite(path, stored, **about)
    assert np.array_equal(read_incomplete(path).values, values)


# Files


@pytest.mark.parametrize("name", ["two words.png", "Überschrift 图像.png", "a.b.PNG", "$.tif"])
def test_images_of_a_folder_are_found_whatever_their_names(tmp_path, name):
    (folder := tmp_path / "Größe 1").mkdir()
    for other in ("b.mask.png", "notes.txt", "c.npy", "a.JPG"):
        (folder / other).touch()
    (folder / "folder.png").mkdir()
    path = write(folder / name, picture(), "mask")
    assert incomplete_files(tmp_path) == sorted([path, folder / "a.JPG", folder / "c.npy"])
    assert np.array_equal(read_incomplete(path).observed, OBSERVED)
