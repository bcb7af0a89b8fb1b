"""Where images come from: digits, Blue Marble, folders, and the paper's data sets as distributed."""

from __future__ import annotations

import itertools
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import smooth_image
from image_files import decoded, encoded, jpegs, shrunk_square
from PIL import Image

from paperlib.config import DataConfig
from paperlib.data.prepare import prepare
from paperlib.data.sources import BlueMarble, open_source
from paperlib.errors import DataError


def config_of(dataset: str, path: Path, **changes) -> DataConfig:
    return DataConfig(**{"dataset": dataset, "source": str(path), "size": 8} | changes)


def read(config: DataConfig) -> dict[str, np.ndarray]:
    """All images of a source by their ids."""
    source = open_source(config)
    return {image_id: source.read(image_id) for image_id in source.ids}


# What comes with a package


def test_digits_are_500_of_each_in_a_black_frame():
    source = open_source(DataConfig(dataset="digits", size=33))
    assert [name[0] for name in source.ids] == sorted("0123456789" * 500)
    image = source.read("7-03512")
    assert image.shape == (33, 33, 1) and image.dtype == np.uint8 and image.max() == 255
    assert not image[:2].any() and not image[:, -3:].any() and image[4:-4, 4:-4].mean() > 20
    with pytest.raises(DataError, match="digits: size 16 is below 28 px: raise size"):
        open_source(DataConfig(dataset="digits", size=16))


def test_the_map_comes_with_a_package_and_is_cut_into_tiles_without_overlap():
    source = open_source(DataConfig(dataset="bluemarble", size=256))
    whole = np.asarray(Image.open(BlueMarble.path))
    assert whole.shape == (2700, 5400, 3) and len(set(source.ids)) == len(source.ids)
    for row, column in itertools.product(range(10), range(21)):
        tile = whole[256 * row : 256 * row + 256, 256 * column : 256 * column + 256]
        name = f"r{row:03d}c{column:03d}"
        varied = tile.std(axis=(0, 1)).mean() >= 8  # sea and ice are left out, and no others
        assert varied == (name in source.ids) and source.place(name) == (row, column)
        assert not varied or np.array_equal(source.read(name), tile)


# A folder of images


@pytest.mark.parametrize("mode, suffix", [("RGB", "png"), ("L", "PNG"), ("P", "png"), ("RGBA", "png"), ("1", "png"), ("CMYK", "tif"), ("L", "jpeg"), ("RGB", "webp")])  # fmt: skip
def test_formats_and_colour_modes_become_rgb_as_pillow_reads_them(tmp_path, mode, suffix):
    path = tmp_path / f"x.{suffix}"
    smooth_image(np.random.default_rng(1), 8, 8).convert(mode).save(path)
    (image,) = read(config_of("folder", tmp_path)).values()
    assert np.array_equal(image, np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("width, height", [(48, 40), (24, 64), (16, 16), (31, 17)])
def test_images_are_turned_upright_resized_and_their_centre_cropped(tmp_path, width, height):
    size, side = 16, min(width, height)
    image, exif = smooth_image(np.random.default_rng(1), width, height), Image.Exif()
    exif[0x0112] = 3  # orientation: the camera was held upside down
    image.save(tmp_path / "x.png", exif=exif)
    left, top = (width - side) / 2, (height - side) / 2  # the centre square, to the half pixel
    square = (left, top, left + side, top + side)
    upright = image.transpose(Image.Transpose.ROTATE_180)
    expected = upright.resize((size, size), Image.Resampling.BOX, box=square)
    assert np.array_equal(read(config_of("folder", tmp_path, size=size))["x.png"], expected)


def test_images_below_subfolders_are_found_and_other_files_are_not(tmp_path):
    for name in ("a/é.png", "b/c/x.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty.png").mkdir()
    assert list(read(config_of("folder", tmp_path))) == ["a/é.png", "b/c/x.png"]
    with pytest.raises(DataError, match=r"no images in .*empty"):
        prepare(config_of("folder", tmp_path / "empty.png"))


# CelebA


def faces(width: int = 89, height: int = 109, n: int = 12) -> dict[str, bytes]:
    images = jpegs(n, width, height, seed=width)
    return {f"{i + 1:06d}.jpg": content for i, content in enumerate(images)}


def celeba(folder: Path, images: dict[str, bytes]) -> Path:
    """img_align_celeba.zip in ``folder``."""
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for name, content in images.items():
            archive.writestr(f"img_align_celeba/{name}", content)
    return folder / "img_align_celeba.zip"


@pytest.mark.parametrize("width, height, side, left, top", [(178, 218, 128, 25, 45), (89, 109, 64, 12, 22)])  # fmt: skip
def test_celeba_is_cropped_to_its_centre(tmp_path, width, height, side, left, top):
    images = faces(width, height, 3) | {"été 顔.jpg": jpegs(1, width, height)[0]}
    path = celeba(tmp_path, images)
    found, halved = (read(config_of("celeba", path, size=size)) for size in (side, side // 2))
    assert list(found) == sorted(images)
    for name, image in found.items():
        crop = decoded(images[name])[top : top + side, left : left + side]
        assert np.array_equal(image, crop)
        means = crop.astype(float).reshape(side // 2, 2, side // 2, 2, 3).mean(axis=(1, 3))
        assert np.abs(halved[name] - means).max() <= 1  # Pillow rounds twice


@pytest.mark.parametrize("sides, said", [((100, 100), "100 x 100 px, expected 178 x 218 or 89 x 109"), ((89, 109), "64 px of it, smaller than the 128 px")])  # fmt: skip
def test_celeba_of_another_shape_is_refused_and_half_size_is_not_enlarged(tmp_path, sides, said):
    with pytest.raises(ValueError, match=said):
        read(config_of("celeba", celeba(tmp_path, faces(*sides, n=1)), size=128))


# LSUN


def bedrooms(folder: Path, images: dict[str, bytes]) -> Path:
    """The LMDB bedroom_train_lmdb in ``folder``."""
    lmdb, path = pytest.importorskip("lmdb"), folder / "bedroom_train_lmdb"
    with lmdb.open(str(path), map_size=1 << 26) as environment, environment.begin(write=True) as t:
        for key, value in images.items():
            t.put(os.fsencode(key), value)
    return path


def test_bedrooms_are_resized_by_area_and_their_centre_is_cropped(tmp_path):
    webp = encoded(smooth_image(np.random.default_rng(0), 32, 64), "WEBP", lossless=True)
    images = faces(48, 32) | {"chambre à coucher 寝室": webp}
    found = read(config_of("lsun", bedrooms(tmp_path, images), size=16))
    assert list(found) == sorted(images)
    for key, image in found.items():
        assert np.abs(image - shrunk_square(images[key], 16)).max() <= 1  # Pillow rounds twice
