"""Random and mutated input (hypothesis): what is refused is refused by the errors that say so.

``make test`` tries some hundred examples, always the same; ``make fuzz`` tens of thousands, always
others. What was ever found stands below as an ``@example``, or as a case of ``test_bad_input``.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from image_files import encoded
from PIL import Image

from paperlib.celeba import CelebA
from paperlib.config import ConfigurationError, RunConfig, load_profile
from paperlib.corruption import (
    CORRUPTIONS,
    DropPixel,
    MaskLaw,
    ObservedMasks,
    Patch,
    composite,
    corrupt,
    recover_mask,
)
from paperlib.image_source import DataError, central_square, open_image
from paperlib.incomplete import RULES, SUFFIXES, image_header, read_incomplete
from paperlib.json_list import read_objects
from paperlib.records import RunError, read_record
from paperlib.seeds import generator

# The configuration

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 600),
    st.floats(),
    st.floats(0, 2),
    st.text(max_size=9),
    st.sampled_from(["auto", "observed", "incomplete", "both", "misgan", "one_patch", "1e-4"]),
)
values = st.one_of(scalars, st.lists(scalars, max_size=4), st.dictionaries(st.text(), scalars))
configurations = st.dictionaries(
    st.one_of(st.sampled_from([*RunConfig.model_fields]), st.text(max_size=9)), values, max_size=6
)


def assert_one_line(error: Exception, *names: str) -> None:
    assert str(error) and "\n" not in str(error) and all(name in str(error) for name in names)


@given(configurations)
@example({"\n": None})
def test_configuration_is_refused_in_a_line_or_can_be_used(values):
    try:
        config = RunConfig.parse(values, "mine")
    except ConfigurationError as error:
        assert_one_line(error, "mine: ")
        return
    said = json.loads(json.dumps(config.model_dump(), allow_nan=False))
    assert RunConfig.parse(said) == config
    assert config.name and config.data.folder and config.border >= 0
    assert config.evaluation.model_dump().items() <= config.model_dump().items()


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_profile_of_any_bytes_is_refused_by_its_name_or_read(scratch, content):
    path = scratch / "mine.yaml"
    path.write_bytes(content)
    assert_profile_or_refusal(path)


@given(
    st.dictionaries(st.text(max_size=4), values, max_size=3)
    | st.fixed_dictionaries({"matrix": values, "overrides": values})
    | st.fixed_dictionaries(
        {"matrix": st.dictionaries(st.sampled_from([*RunConfig.model_fields]), values, max_size=2)}
    )
)
@example({"matrix": "\n"})
def test_profile_of_any_mapping_is_refused_by_its_name_or_read(scratch, mapping):
    path = scratch / "mine.yaml"
    path.write_text(json.dumps(mapping))  # which is YAML too
    assert_profile_or_refusal(path)


def assert_profile_or_refusal(path: Path) -> None:
    try:
        runs = load_profile(str(path))
    except ConfigurationError as error:
        assert_one_line(error, str(path))
    else:
        assert len({run.name for run in runs}) == len(runs) > 0


# Masks

sizes = st.sampled_from([4, 8, 16, 31, 32, 64])


@st.composite
def laws(draw) -> MaskLaw:
    """Named ones, and any that can be made; those that cannot say so by ValueError."""
    law = draw(st.sampled_from([Patch, DropPixel, None]))
    try:
        if law is Patch:
            return Patch(
                draw(st.integers(-1, 40)), draw(st.integers(-1, 140)), draw(st.integers(-1, 70))
            )
        if law is DropPixel:
            return DropPixel(draw(st.floats()))
    except ValueError as error:
        assert_one_line(error)
        assume(False)
    return draw(st.sampled_from([*CORRUPTIONS.values()]))


@given(laws(), sizes, st.integers(0, 5), st.integers(0, 2**63 - 1))
def test_masks_of_any_law_are_what_they_promise(law, size, n, seed):
    fresh = law.sample(n, size, generator(seed))
    fixed = law.for_ids([seed, 0, seed][:n], size, seed)
    border = law.interior_border(size)
    for masks in (fresh, fixed):
        assert masks.shape[1:] == (1, size, size) and masks.dtype == torch.float32
        assert set(masks.unique().tolist()) <= {0.0, 1.0}
        assert masks.sum() == masks[..., border : size - border, border : size - border].sum()
        if isinstance(law, DropPixel):
            assert (masks.sum(dim=(1, 2, 3)) == size**2 - round(law.p * size**2)).all()
        else:
            k, _ = law.pixels_at(size)
            assert (masks.sum(dim=(1, 2, 3)) >= k * k).all()
    assert torch.equal(fixed, law.for_ids([seed, 0, seed][:n], size, seed))
    if n >= 3:
        assert torch.equal(fixed[0], fixed[2])  # of one image, whatever its place


shapes = st.lists(st.integers(0, 4), max_size=5).map(tuple)


@given(shapes, shapes, st.booleans())
def test_mask_of_any_shape_fits_or_is_refused(of_x, of_m, fitting):
    if fitting and len(of_x) == 4:
        of_m = (of_x[0], 1, *of_x[2:])
    x, m = torch.full(of_x, math.nan), torch.zeros(of_m)
    for function in (lambda: corrupt(x, m, 0.5), lambda: composite(torch.full(of_x, 0.5), x, m)):
        try:
            filled = function()
        except ValueError as error:
            assert_one_line(error)
            assert len(of_x) != 4 or of_m != (of_x[0], 1, *of_x[2:])
        else:
            assert filled.shape == x.shape and (filled == 0.5).all()


@given(st.integers(1, 5), st.integers(1, 5), st.booleans(), st.integers(0, 9), st.integers(0, 99))
def test_observed_masks_of_any_set_are_drawn_from_it_or_refused(n, size, flips, shift, seed):
    random = generator("masks", seed)
    masks = torch.rand(n, 1, size, size, generator=random) < 0.5
    try:
        law = ObservedMasks(masks, flips, shift)
    except ValueError as error:
        assert_one_line(error)
        assert (masks == masks[0]).all()
        return
    fresh = law.sample(n, size, random, masks.float())
    seen = set(masks.sum(dim=(1, 2, 3)).tolist())
    assert fresh.shape == masks.shape and set(fresh.sum(dim=(1, 2, 3)).int().tolist()) <= seen
    with pytest.raises(ValueError, match="px"):
        law.sample(n, size + 1, random)


@given(st.integers(0, 2**32), st.integers(1, 3), sizes, st.floats(0, 1))
def test_mask_is_recovered_from_any_8_bit_image(seed, channels, size, share):
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (2, channels, size, size), dtype=np.uint8)
    x = torch.from_numpy(levels).float() / 127.5 - 1
    m = torch.from_numpy(rng.random((2, 1, size, size)) < share).float()
    assert torch.equal(recover_mask(corrupt(x, m)), m)


floats = st.one_of(
    st.floats(), st.floats(-1, 1), st.integers(0, 255).map(lambda u8: u8 / 127.5 - 1), st.just(0.0)
)


@given(st.lists(floats, min_size=4, max_size=4), floats)
@example([0.0] * 4, math.inf)
@example([math.nan] * 4, math.nan)
def test_mask_of_any_values_is_recovered_rightly_or_refused(four, tau):
    y = torch.tensor(four, dtype=torch.float32).view(1, 2, 1, 2)  # two pixels of two channels
    try:
        m = recover_mask(y, tau)
    except ValueError as error:
        assert_one_line(error)
        return
    levels = (y.double() + 1) * 127.5
    is_level = ((levels - levels.round()).abs() < 1e-3) & (levels > -0.5) & (levels < 255.5)
    assert (is_level | (y == tau)).all()  # nothing else is an image of 8 bits
    assert torch.equal(m, (y != tau).any(1, keepdim=True).float())


# Images


def sound_files() -> dict[str, list[bytes]]:
    """Small images of every suffix and many kinds."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    rgba = Image.fromarray(rng.integers(0, 256, (12, 10, 4), dtype=np.uint8))
    deep = rng.integers(0, 2**16, (12, 10), dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6

    def tiff(array: np.ndarray, **options) -> bytes:
        file = io.BytesIO()
        tifffile.imwrite(file, array, **options)
        return file.getvalue()

    def npy(array: np.ndarray) -> bytes:
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()

    holes = np.where(rng.random((12, 10)) < 0.5, np.nan, 1.0)
    jpegs = [
        encoded(rgb),
        encoded(rgb, exif=exif),
        encoded(rgb.convert("CMYK")),
        encoded(rgb, progressive=True),
    ]
    pngs = [
        encoded(image, "PNG")
        for image in (rgb, rgba, rgba.quantize(9), rgb.convert("1"), Image.fromarray(deep))
    ]
    tiffs = [tiff(np.asarray(rgba), extrasamples="unassalpha"), tiff(holes), tiff(deep)]
    return {
        ".png": [*pngs, encoded(rgb.quantize(5), "PNG", transparency=0)],
        ".jpg": jpegs,
        ".jpeg": jpegs,
        ".webp": [encoded(rgba, "WEBP", lossless=True), encoded(rgb, "WEBP")],
        ".tif": tiffs,
        ".tiff": [encoded(rgb, "TIFF"), encoded(rgb, "TIFF", compression="jpeg")],
        ".npy": [npy(holes), npy(deep), npy(np.zeros((3, 4, 5), np.float16))],
    }  # fmt: skip


SOUND = sound_files()


def with_an_empty_page(tiff: bytes) -> bytes:
    """A second page without a size, which Pillow notices when it is asked for the number of pages."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (tags,) = struct.unpack_from("<H", tiff, start)
    following = struct.pack("<I", len(tiff))
    at = start + 2 + 12 * tags
    return tiff[:at] + following + tiff[at + 4 :] + bytes(6)


@st.composite
def mutated(draw, contents: list[bytes]) -> bytes:
    """One of them with bytes changed, inserted, cut out or cut off."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(len(content) - 1, 0)) | st.integers(0, 60))
        how = draw(st.sampled_from(["byte", "byte", "insert", "cut out", "cut off"]))
        if how == "byte":
            content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif how == "insert":
            content[at:at] = draw(st.binary(max_size=20))
        elif how == "cut out":
            del content[at : at + draw(st.integers(1, 20))]
        else:
            del content[at:]
    return bytes(content)


@st.composite
def image_files(draw) -> tuple[str, bytes]:
    """A suffix, and bytes that are mostly no image of that kind."""
    suffix = draw(st.sampled_from(sorted(SUFFIXES)))
    sound = SOUND[draw(st.just(suffix) | st.sampled_from(sorted(SUFFIXES)))]
    return suffix, draw(st.one_of(mutated(sound), mutated(sound), st.binary(max_size=99)))


@given(image_files(), st.sampled_from(RULES))
def test_incomplete_image_is_read_or_refused_by_its_name(scratch, file, rule):
    suffix, content = file
    path = scratch / f"x{suffix}"
    path.write_bytes(content)
    value = 0.0 if rule == "value" else None
    try:
        image = read_incomplete(path, rule, value, max_pixels=10_000, complete=True)
    except DataError as error:
        assert_one_line(error, "x.")
    else:
        height, width, bands = image.values.shape
        assert image.observed.shape == (height, width) and image.observed.any()
        assert height * width <= 10_000 and 1 <= bands <= 16
        assert np.isfinite(image.values[image.observed].astype(float)).all()
    try:
        shape, dtype = image_header(path)
    except DataError as error:
        assert_one_line(error, path.name)


@given(image_files())
@example((".png", with_an_empty_page(SOUND[".tif"][0])))
def test_mask_of_any_bytes_is_read_or_refused_by_its_name(scratch, file):
    image, mask = scratch / "y.png", scratch / "y.mask.png"
    Image.new("RGB", (10, 12)).save(image)
    mask.write_bytes(file[1])
    try:
        read = read_incomplete(image, "mask", max_pixels=10_000, complete=True)
    except DataError as error:
        assert_one_line(error, "y.")
    else:
        assert read.observed.shape == (12, 10)


@given(image_files())
def test_photograph_is_read_or_refused(file):
    try:
        levels = central_square(open_image(io.BytesIO(file[1]), 10_000), 8)
    except (ValueError, OSError) as error:
        assert str(error)
    else:
        assert levels.shape == (8, 8, 3) and levels.dtype == np.uint8


# Archives and lists


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(2):
            archive.writestr(f"faces/{number}.jpg", SOUND[".jpg"][0])
    return file.getvalue()


@given(mutated([zipped()]))
def test_zip_of_any_bytes_is_read_or_refused(scratch, content):
    path = scratch / "faces.zip"
    path.write_bytes(content)
    source = None
    try:
        source = CelebA(8, path, 10_000)
        names = source.ids
    except DataError as error:
        assert_one_line(error, str(path))
    else:
        for name in names:
            with pytest.raises((ValueError, OSError)):  # if only for its size, not a face's
                source.read(name)
    finally:
        if source is not None:
            source.close()


@given(st.binary(max_size=60) | st.lists(values).map(json.dumps).map(str.encode))
def test_list_of_any_bytes_is_read_or_refused_by_its_name(scratch, content):
    path = scratch / "layer.json"
    path.write_bytes(content)
    try:
        assert all(isinstance(entry, dict) for entry in read_objects(path))
    except DataError as error:
        assert_one_line(error, str(path))


@given(st.binary(max_size=60) | values.map(json.dumps).map(str.encode))
@example(b"[" * 100_000)
def test_record_of_any_bytes_is_read_or_refused_by_its_name(scratch, content):
    path = scratch / "record.json"
    path.write_bytes(content)
    try:
        assert isinstance(read_record(path), dict)
    except RunError as error:
        assert_one_line(error, str(path))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    """A folder whose files every example writes anew."""
    return tmp_path_factory.mktemp("fuzz")
