"""Incomplete images: the ways to say what is missing, values kept as stored, and bad files."""

from __future__ import annotations

import importlib.util
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from paperlib.incomplete import (
    from_unit,
    image_header,
    incomplete_files,
    read_incomplete,
    to_unit,
    value_range,
    write_image,
)

H, W = 9, 7
OBSERVED = np.ones((H, W), dtype=bool)
OBSERVED[2:5, 1:4] = False


def picture(bands: int = 3, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    """Random values (H, W, bands), none of them 0."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.uniform(0.1, 1, (H, W, bands)).astype(dtype)
    return rng.integers(1, np.iinfo(dtype).max, (H, W, bands), dtype=dtype, endpoint=True)


def holed(values: np.ndarray, hole: float, observed: np.ndarray = OBSERVED) -> np.ndarray:
    """``values`` with ``hole`` in every band of the missing pixels."""
    return np.where(observed[..., None], values, values.dtype.type(hole))


def with_alpha(values: np.ndarray, observed: np.ndarray = OBSERVED) -> np.ndarray:
    alpha = np.where(observed, 255, 0).astype(values.dtype)
    return np.concatenate([values, alpha[..., None]], axis=2)


def write_mask(path: Path, observed: np.ndarray = OBSERVED) -> Path:
    """The mask of the image ``path``; gives back ``path``."""
    mask = Image.fromarray(np.where(observed, 255, 0).astype(np.uint8))
    mask.save(path.with_name(path.stem + ".mask.png"))
    return path


def png(
    width: int, height: int, depth: int, colour: int, data: bytes, *chunks: tuple[bytes, bytes]
) -> bytes:
    """A PNG by hand, of any depth, with any claim about its size and with more chunks."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def png_16(values: np.ndarray, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits from values (H, W, C)."""
    data = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(*values.shape[1::-1], 16, colour, data, *chunks)


def complaint(path: Path, **options) -> str:
    """The one line, naming the file or its mask, with which ``path`` is refused."""
    with pytest.raises(ValueError) as error:
        read_incomplete(path, **options)
    text = str(error.value)
    assert str(path.with_suffix("")) in text and len(text.splitlines()) == 1
    return text


# What is missing


def as_alpha(folder: Path, values: np.ndarray) -> tuple[Path, dict]:
    path = folder / "a.png"
    Image.fromarray(with_alpha(values)).save(path)
    return path, {}


def as_mask(folder: Path, values: np.ndarray) -> tuple[Path, dict]:
    path = folder / "a.png"
    write_image(path, values)
    return write_mask(path), {}


def as_value(folder: Path, values: np.ndarray) -> tuple[Path, dict]:
    path = folder / "a.png"
    write_image(path, holed(values, 0))
    return path, {"value": 0}


def as_nan(suffix: str):
    def write(folder: Path, values: np.ndarray) -> tuple[Path, dict]:
        path = folder / f"a{suffix}"
        write_image(path, holed(values.astype(np.float32), np.nan))
        return path, {}

    return write


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize(
    "write, rule",
    [
        (as_alpha, "alpha"),
        (as_mask, "mask"),
        (as_value, "value"),
        (as_nan(".npy"), "nan"),
        (as_nan(".tif"), "nan"),
    ],
)
def test_every_way_to_say_what_is_missing_gives_the_same(tmp_path, write, rule, bands):
    values = picture(bands)
    path, options = write(tmp_path, values)
    image = read_incomplete(path, **options)
    assert image.rule == rule
    assert np.array_equal(image.observed, OBSERVED)
    assert image.values.shape == values.shape
    assert np.array_equal(image.values[OBSERVED], values[OBSERVED])
    assert np.array_equal(read_incomplete(path, rule, **options).observed, OBSERVED)


@pytest.mark.parametrize("suffix", [".webp", ".tif"])
def test_alpha_of_other_formats(tmp_path, suffix):
    Image.fromarray(with_alpha(picture())).save(tmp_path / f"a{suffix}", lossless=True)
    image = read_incomplete(tmp_path / f"a{suffix}")
    assert image.rule == "alpha" and image.values.shape == (H, W, 3)
    assert np.array_equal(image.observed, OBSERVED)


def test_alpha_that_is_only_partly_transparent_is_observed(tmp_path):
    values = with_alpha(picture())
    values[0, 0, 3] = 1
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(read_incomplete(tmp_path / "a.png").observed, OBSERVED)


def test_nan_in_one_band_is_missing_and_the_value_in_one_band_is_not(tmp_path):
    values = holed(picture(dtype=np.float32), np.nan)
    values[0, 0, 1] = np.nan
    values[0, 1, 1] = 0
    write_image(tmp_path / "a.npy", values)
    expected = OBSERVED.copy()
    expected[0, 0] = False
    assert np.array_equal(read_incomplete(tmp_path / "a.npy").observed, expected)
    write_image(tmp_path / "a.npy", np.nan_to_num(values))
    assert np.array_equal(read_incomplete(tmp_path / "a.npy", value=0).observed, OBSERVED)


@pytest.mark.parametrize("dtype, value", [(np.uint8, 255), (np.uint16, 65535), (np.float32, -0.1)])
def test_any_value_can_stand_for_missing(tmp_path, dtype, value):
    values = np.where(OBSERVED[..., None], picture(dtype=dtype) / 2, value).astype(dtype)
    write_image(tmp_path / "a.npy", values)
    assert np.array_equal(read_incomplete(tmp_path / "a.npy", value=value).observed, OBSERVED)


def test_nan_as_the_value_is_the_rule_nan(tmp_path):
    write_image(tmp_path / "a.npy", holed(picture(dtype=np.float32), np.nan))
    image = read_incomplete(tmp_path / "a.npy", value=np.nan)
    assert image.rule == "nan" and np.array_equal(image.observed, OBSERVED)


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB", "P"])
def test_mask_may_be_of_any_kind_of_png(tmp_path, mode):
    write_image(tmp_path / "a.png", picture())
    levels = np.where(OBSERVED, 65535, 0).astype(np.uint16)
    mask = Image.fromarray(levels if mode == "I;16" else (levels >> 8).astype(np.uint8))
    mask.convert(mode).save(tmp_path / "a.mask.png")
    assert np.array_equal(read_incomplete(tmp_path / "a.png").observed, OBSERVED)


def test_the_first_of_mask_alpha_and_nan_is_taken_unless_one_is_asked_for(tmp_path):
    path = tmp_path / "a.tif"
    holes = {name: np.ones((H, W), dtype=bool) for name in ("mask", "alpha", "nan", "value")}
    for size, observed in zip((5, 4, 3, 2), holes.values(), strict=True):
        observed[:size, :size] = False
    values = holed(picture(dtype=np.float32), np.nan, holes["nan"])
    values[:2, :2] = 0
    holes["nan"][:2, :2] = True  # value and NaN side by side
    write_mask(path, holes["mask"])

    def rules(**options) -> str:
        image = read_incomplete(path, **options)
        assert np.array_equal(image.observed, holes[image.rule])
        return image.rule

    both = with_alpha(values, holes["alpha"])
    tifffile.imwrite(path, both, photometric="rgb", extrasamples=["unassalpha"])
    assert rules() == "mask" and rules(rule="alpha") == "alpha" and rules(rule="nan") == "nan"
    (tmp_path / "a.mask.png").unlink()
    assert rules() == "alpha" and rules(rule="nan") == "nan"
    write_image(path, values)
    assert rules() == "nan"
    write_image(path, np.nan_to_num(values, nan=0.5))
    assert rules(value=0) == "value" and rules(rule="value", value=0) == "value"
    assert "nothing says what is missing" in complaint(path)


def test_palette_with_transparency(tmp_path):
    indices = np.where(OBSERVED, np.arange(H * W).reshape(H, W) % 5 + 1, 0).astype(np.uint8)
    colours = picture()[0, :6]  # (6, 3)
    image = Image.fromarray(indices, mode="P")
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "a.png", transparency=0)
    assert Image.open(tmp_path / "a.png").mode == "P"
    image = read_incomplete(tmp_path / "a.png")
    assert image.rule == "alpha" and np.array_equal(image.observed, OBSERVED)
    assert np.array_equal(image.values[OBSERVED], colours[indices[OBSERVED]])


CLEAR = {1: 7, 3: (7, 8, 9)}  # the level or colour that is transparent, by bands


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", CLEAR)
def test_png_with_one_transparent_colour(tmp_path, bands, dtype):
    values = np.maximum(picture(bands, dtype), 10)
    values = np.where(OBSERVED[..., None], values, np.array(CLEAR[bands], dtype))
    if dtype == np.uint8:
        image = Image.fromarray(values[..., 0] if bands == 1 else values)
        image.save(tmp_path / "a.png", transparency=CLEAR[bands])
    else:
        key = b"".join(level.to_bytes(2, "big") for level in np.atleast_1d(CLEAR[bands]).tolist())
        content = png_16(values, {1: 0, 3: 2}[bands], (b"tRNS", key))
        (tmp_path / "a.png").write_bytes(content)
    image = read_incomplete(tmp_path / "a.png")
    assert image.rule == "alpha" and np.array_equal(image.observed, OBSERVED)
    assert image.values.shape == values.shape
    assert np.array_equal(image.values[OBSERVED], values[OBSERVED])


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_png_of_few_levels_one_of_them_transparent_is_refused(tmp_path, depth):
    data = b"\0" + bytes(range(depth))
    content = png(8, 1, depth, 0, data, (b"tRNS", b"\0\1"))
    (tmp_path / "a.png").write_bytes(content)
    assert "transparent: save it with an alpha channel" in complaint(tmp_path / "a.png")


# Upright


def exif(orientation: int) -> Image.Exif:
    values = Image.Exif()
    values[0x0112] = orientation
    return values


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_turned_images_are_read_as_people_see_them(tmp_path, suffix, orientation):
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(picture()).save(path, exif=exif(orientation), **options)
    seen = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    observed = OBSERVED if orientation < 5 else OBSERVED.T
    image = read_incomplete(write_mask(path, observed))
    assert np.array_equal(image.values, seen) and np.array_equal(image.observed, observed)
    assert image_header(path) == (seen.shape[:2], np.uint8)


@pytest.mark.parametrize("orientation", [3, 6])
def test_turned_masks_alpha_and_16_bits_too(tmp_path, orientation):
    turn = {3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a, -1)}[orientation]
    Image.fromarray(with_alpha(picture())).save(tmp_path / "a.png", exif=exif(orientation))
    assert np.array_equal(read_incomplete(tmp_path / "a.png").observed, turn(OBSERVED))
    deep = picture(dtype=np.uint16)
    chunk = b"eXIf", exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    (tmp_path / "b.png").write_bytes(png_16(deep, 2, chunk))
    mask = Image.fromarray(np.where(OBSERVED, 255, 0).astype(np.uint8))
    mask.save(tmp_path / "b.mask.png", exif=exif(orientation))
    image = read_incomplete(tmp_path / "b.png")
    assert np.array_equal(image.values, turn(deep))
    assert np.array_equal(image.observed, turn(OBSERVED))
    assert image_header(tmp_path / "b.png") == (image.observed.shape, np.uint16)


def test_turned_tiff(tmp_path):
    values = holed(picture(dtype=np.float32), np.nan)
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="rgb", extratags=[(0x0112, "H", 1, 6, True)]
    )
    image = read_incomplete(tmp_path / "a.tif")
    assert np.array_equal(image.values, np.rot90(values, -1), equal_nan=True)
    assert image_header(tmp_path / "a.tif") == ((W, H), np.float32)


def test_damaged_exif_data_are_no_reason_to_refuse_an_image(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff")
    assert read_incomplete(write_mask(tmp_path / "a.jpg")).values.shape == (H, W, 3)


# Values


@pytest.mark.parametrize(
    "suffix, bands, dtype",
    [
        (".png", 1, np.uint8),
        (".png", 3, np.uint8),
        (".png", 1, np.uint16),
        (".webp", 3, np.uint8),
        *[(".tif", c, t) for c in (1, 3, 5) for t in (np.uint8, np.uint16, np.float32)],
        *[(".npy", c, t) for c in (1, 2, 16) for t in (np.uint8, np.uint16, np.float32)],
    ],
)
def test_what_is_written_is_read_back_to_the_bit(tmp_path, suffix, bands, dtype):
    values = picture(bands, dtype)
    path = write_mask(tmp_path / f"a{suffix}")
    write_image(path, values)
    image = read_incomplete(path)
    assert image.values.dtype == dtype and image.values.shape == values.shape
    assert image.values.tobytes() == values.tobytes()


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bands", [2, 4, 5, 16])
def test_multi_band_tiff_planar_and_interleaved(tmp_path, bands, planar):
    path, values = write_mask(tmp_path / "a.tif"), picture(bands, np.uint16)
    stored = values if planar == "contig" else np.moveaxis(values, 2, 0)
    tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=planar)
    assert np.array_equal(read_incomplete(path).values, values)


def test_multi_band_tiff_is_written_as_one_page(tmp_path):
    write_image(tmp_path / "a.tif", picture(5))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == 1 and file.pages[0].shape == (H, W, 5)


def test_big_endian_tiff(tmp_path):
    path, values = write_mask(tmp_path / "a.tif"), picture(dtype=np.uint16)
    tifffile.imwrite(path, values, photometric="rgb", byteorder=">")
    assert np.array_equal(read_incomplete(path).values, values)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_keep_their_values(tmp_path, dtype):
    values = picture(dtype=dtype)
    np.save(write_mask(tmp_path / "a.npy"), values)
    image = read_incomplete(tmp_path / "a.npy")
    assert image.values.dtype == (np.float32 if dtype == np.float16 else np.float64)
    assert np.array_equal(image.values, values.astype(image.values.dtype))


def test_16_bit_colour_png_is_not_silently_made_8_bits(tmp_path):
    values = picture(dtype=np.uint16)
    write_mask(tmp_path / "a.png").write_bytes(png_16(values, 2))
    assert np.array_equal(read_incomplete(tmp_path / "a.png").values, values)


@pytest.mark.parametrize("bands, colour", [(1, 4), (3, 6)])
def test_16_bit_png_with_alpha(tmp_path, bands, colour):
    values = picture(bands, np.uint16)
    alpha = np.where(OBSERVED, 65535, 0).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png_16(np.dstack([values, alpha]), colour))
    image = read_incomplete(tmp_path / "a.png")
    assert image.rule == "alpha" and np.array_equal(image.observed, OBSERVED)
    assert np.array_equal(image.values, values)


def test_palette_tiff_is_not_taken_for_grey(tmp_path):
    path = write_mask(tmp_path / "a.tif")
    image = Image.fromarray(picture()).quantize(8)
    image.save(path)
    try:
        values = read_incomplete(path).values
    except ValueError:
        return
    assert np.array_equal(values, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_survives_the_way_to_unit_and_back(dtype):
    levels = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    low, high = value_range(levels)
    x = to_unit(levels, low, high)
    assert x.dtype == np.float32 and x[0] == -1 and x[-1] == 1
    back = from_unit(x, low, high, dtype)
    assert back.dtype == dtype and np.array_equal(back, levels)


def test_from_unit_clips_integers():
    assert from_unit(np.array([-1.5, 1.5]), 0, 255, np.uint8).tolist() == [0, 255]
    assert from_unit(np.array([-1.0, 1.0]), -50, 500, np.uint8).tolist() == [0, 255]


def test_floats_are_scaled_by_the_range():
    assert value_range(picture(dtype=np.float32)) == (0, 1)
    assert to_unit(np.array([-2.0, 0.0, 2.0]), -2, 2).tolist() == [-1, 0, 1]
    assert from_unit(np.array([-1.0, 0.0, 1.0]), -2, 2, np.float32).tolist() == [-2, 0, 2]


# Files


@pytest.mark.parametrize("name", ["two words.png", "Überschrift ñ 图像.png", "dots.in.it.PNG", "$.tif"])  # fmt: skip
def test_names_with_spaces_and_letters_of_any_language(tmp_path, name):
    folder = tmp_path / "Größe 1"
    folder.mkdir()
    write_image(write_mask(folder / name), picture())
    assert incomplete_files(tmp_path) == [folder / name]
    assert np.array_equal(read_incomplete(folder / name).observed, OBSERVED)


def test_images_of_a_folder_are_found_in_order_without_masks(tmp_path):
    (tmp_path / "sub").mkdir()
    names = ["b.png", "a.JPG", "c.npy", "sub/a.tiff", "sub/d.webp"]
    for name in [*names, "b.mask.png", "notes.txt", "sub/a.mask.png"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert incomplete_files(tmp_path) == sorted(tmp_path / name for name in names)


def test_folder_without_images_is_named(tmp_path):
    (tmp_path / "a.mask.png").touch()
    with pytest.raises(ValueError, match="no image") as error:
        incomplete_files(tmp_path)
    assert str(tmp_path) in str(error.value)


# Bad files


def test_animations_are_refused(tmp_path):
    pictures = [Image.fromarray(picture(seed=k)) for k in range(3)]
    for name, kind in (("a.png", "PNG"), ("b.webp", "WEBP"), ("gif.png", "GIF")):
        pictures[0].save(tmp_path / name, kind, save_all=True, append_images=pictures[1:])
        assert "an animation of 3 pictures" in complaint(write_mask(tmp_path / name))
    pictures[0].save(tmp_path / "c.gif", save_all=True, append_images=pictures[1:])
    assert "unknown suffix '.gif'" in complaint(write_mask(tmp_path / "c.gif"))


def test_second_picture_of_a_camera_s_jpeg_does_not_matter(tmp_path):
    first, second = (Image.fromarray(picture(seed=k)) for k in (0, 1))
    first.save(write_mask(tmp_path / "a.jpg"), "MPO", save_all=True, append_images=[second])
    expected = np.asarray(Image.open(tmp_path / "a.jpg"))
    assert np.array_equal(read_incomplete(tmp_path / "a.jpg").values, expected)


@pytest.mark.parametrize("shape", [(H, W), (H + 1, W)])
def test_tiff_of_several_pages_is_refused(tmp_path, shape):
    path = write_mask(tmp_path / "a.tif")
    with tifffile.TiffWriter(path) as file:
        for size in ((H, W), shape):
            file.write(np.ones(size, np.uint8), photometric="minisblack")
    assert "a TIFF of several pages" in complaint(path)


def test_smaller_copies_in_a_tiff_do_not_matter(tmp_path):
    path, values = write_mask(tmp_path / "a.tif"), picture(dtype=np.uint16)
    with tifffile.TiffWriter(path) as file:
        file.write(values, photometric="rgb")
        file.write(values[::2, ::2], photometric="rgb", subfiletype=1)
    assert np.array_equal(read_incomplete(path).values, values)


def test_compressed_tiff_without_its_decoder_says_what_to_install(tmp_path):
    path, image = write_mask(tmp_path / "a.tif"), Image.fromarray(picture())
    image.save(path, compression="tiff_lzw")
    if importlib.util.find_spec("imagecodecs"):
        assert np.array_equal(read_incomplete(path).values, np.asarray(image))
    else:
        assert "compressed by LZW: run 'pip install imagecodecs'" in complaint(path)


@pytest.mark.parametrize("rule", ["mask", "alpha", "nan"])
def test_a_rule_and_a_value_contradict_each_other(tmp_path, rule):
    write_image(write_mask(tmp_path / "a.png"), picture())
    assert "contradict" in complaint(tmp_path / "a.png", rule=rule, value=0)


def test_unknown_rule(tmp_path):
    with pytest.raises(ValueError, match="'guess'.*mask"):
        read_incomplete(tmp_path / "a.png", "guess")


@pytest.mark.parametrize(
    "rule, part",
    [
        ("auto", "nothing says what is missing"),
        ("mask", "a.mask.png is missing"),
        ("alpha", "no alpha channel"),
        ("nan", "no pixel is missing"),
        ("value", "needs the value"),
    ],
)
def test_complete_image(tmp_path, rule, part):
    write_image(tmp_path / "a.png", picture())
    assert part in complaint(tmp_path / "a.png", rule=rule)


def test_value_that_no_pixel_has(tmp_path):
    write_image(tmp_path / "a.png", picture())
    assert "no pixel is missing" in complaint(tmp_path / "a.png", value=0)


def test_nothing_observed_and_nothing_missing(tmp_path):
    path = tmp_path / "a.png"
    write_image(path, picture())
    write_mask(path, np.zeros((H, W), dtype=bool))
    assert "nothing at all is observed" in complaint(path)
    write_mask(path, np.ones((H, W), dtype=bool))
    assert "no pixel is missing" in complaint(path)


def test_mask_of_another_size_and_damaged_mask(tmp_path):
    path = tmp_path / "a.png"
    write_image(path, picture())
    write_mask(path, OBSERVED.T)
    text = complaint(path)
    assert "a.mask.png" in text and "7 x 9" in text and "9 x 7" in text
    mask = tmp_path / "a.mask.png"
    for content in (b"not a mask", mask.read_bytes()[:50]):
        mask.write_bytes(content)
        text = complaint(path)
        assert "a.mask.png" in text and ("not an image" in text or "9 x 7" in text)


@pytest.mark.parametrize("limit", [None, 1_000_000])
def test_huge_mask_is_refused_before_it_is_decoded(tmp_path, monkeypatch, limit):
    # Pillow's own limit is in force until the first image that is not .npy is read
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    np.save(tmp_path / "a.npy", picture())
    (tmp_path / "a.mask.png").write_bytes(png(30000, 30000, 8, 0, b"\0"))
    assert "more" in complaint(tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".npy"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.6])
def test_truncated_file(tmp_path, suffix, kept):
    path = write_mask(tmp_path / f"a{suffix}")
    if suffix == ".npy":
        np.save(path, picture())
    else:
        Image.fromarray(picture()).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    complaint(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".npy"])
def test_file_that_is_not_an_image(tmp_path, suffix):
    path = write_mask(tmp_path / f"a{suffix}")
    path.write_text("These are words.\nOn two lines.")
    complaint(path)


def test_file_that_does_not_exist(tmp_path):
    complaint(tmp_path / "a.png")


@pytest.mark.parametrize(
    "array, part",
    [
        (np.zeros((H, W), dtype=np.int32), "int32"),
        (np.zeros((H, W), dtype=bool), "bool"),
        (np.zeros((H, W), dtype=complex), "complex"),
        (np.zeros(12, dtype=np.uint8), "(12,)"),
        (np.zeros((2, H, W, 3), dtype=np.uint8), "(2, 9, 7, 3)"),
        (np.zeros((0, W), dtype=np.uint8), "(0, 7)"),
        (np.zeros((H, W, 0), dtype=np.uint8), "(9, 7, 0)"),
        (np.zeros((H, W, 18), dtype=np.uint8), "(9, 7, 18)"),
        (np.zeros((H, W, 17), dtype=np.uint8), "(9, 7, 17)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_array_that_is_not_an_image(tmp_path, array, part):
    np.save(write_mask(tmp_path / "a.npy"), array)
    assert part in complaint(tmp_path / "a.npy")


@pytest.mark.parametrize("bands", [pytest.param(17), 18])
def test_tiff_of_too_many_bands(tmp_path, bands):
    path = write_mask(tmp_path / "a.tif")
    tifffile.imwrite(path, picture(bands), photometric="minisblack", planarconfig="contig")
    assert str(bands) in complaint(path)


def test_npy_with_a_long_header(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((H, W), [(f"f{i:05d}", "u1") for i in range(1000)]))
    complaint(tmp_path / "a.npy")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_observed_value_that_is_not_finite(tmp_path, value):
    values = picture(dtype=np.float32)
    values[0, 0, 1] = value
    np.save(write_mask(tmp_path / "a.npy"), values)
    assert "NaN or infinite" in complaint(tmp_path / "a.npy")


def test_missing_values_may_be_anything(tmp_path):
    values = holed(picture(dtype=np.float32), np.inf)
    np.save(write_mask(tmp_path / "a.npy"), values)
    assert np.array_equal(read_incomplete(tmp_path / "a.npy").observed, OBSERVED)


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("bare", [False, True])
def test_objects_in_npy_are_refused_and_nothing_is_executed(tmp_path, bare):
    attack = Attack(tmp_path / "executed")
    if bare:
        (tmp_path / "a.npy").write_bytes(pickle.dumps(attack))
    else:
        np.save(tmp_path / "a.npy", np.array([[attack]], dtype=object))
    complaint(tmp_path / "a.npy")
    assert not (tmp_path / "executed").exists()
    np.load(tmp_path / "a.npy", allow_pickle=True)
    assert (tmp_path / "executed").exists()


def huge_png(path: Path) -> None:
    path.write_bytes(png(30000, 30000, 8, 2, b"\0"))  # there are no such data


def huge_npy(path: Path) -> None:
    np.lib.format.open_memmap(path, "w+", np.uint8, (30000, 30000))  # a hole in the file


def huge_tiff(path: Path) -> None:
    tifffile.memmap(path, shape=(30000, 30000), dtype=np.uint8)


@pytest.mark.parametrize("write", [huge_png, huge_npy, huge_tiff])
def test_huge_image_is_refused_before_it_is_decoded(tmp_path, write):
    path = tmp_path / {huge_png: "a.png", huge_npy: "a.npy", huge_tiff: "a.tif"}[write]
    write(path)
    assert "max_pixels" in complaint(path)
    path.unlink()


@pytest.mark.parametrize("suffix", [".png", ".npy", ".tif"])
def test_most_pixels_can_be_chosen(tmp_path, suffix):
    path = write_mask(tmp_path / f"a{suffix}")
    write_image(path, picture())
    assert "max_pixels" in complaint(path, max_pixels=H * W - 1)
    assert read_incomplete(path, max_pixels=H * W).values.shape == (H, W, 3)
