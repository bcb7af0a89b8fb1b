"""Random and mutated input (hypothesis): what is refused is refused by the errors that say so.

``make test`` tries some hundred examples, always the same; ``make fuzz`` tens of thousands, always
others. What was ever found stands below as an ``@example``, or as a case of ``test_bad_input``.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from image_files import encoded, holed, npy, photo, tiff
from PIL import Image

from paperlib.beyond.incomplete_files import RULES, SUFFIXES, read_incomplete
from paperlib.config import RunConfig
from paperlib.data.sources import decode
from paperlib.errors import ConfigurationError, DataError, RunError
from paperlib.profiles import load_profile
from paperlib.records import read_record

# The configuration

words = ["auto", "observed", "incomplete", "both", "misgan", "one_patch", "1e-4"]
scalars = st.none() | st.booleans() | st.integers() | st.integers(-2, 600) | st.floats()
scalars |= st.floats(0, 2) | st.text(max_size=9) | st.sampled_from(words)
values = st.one_of(scalars, st.lists(scalars, max_size=4), st.dictionaries(st.text(), scalars))
keys = st.sampled_from([*RunConfig.model_fields])
configurations = st.dictionaries(keys | st.text(max_size=9), values, max_size=6)


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


mappings = st.one_of(
    st.dictionaries(st.text(max_size=4), values, max_size=3),
    st.fixed_dictionaries({"matrix": values, "overrides": values}),
    st.fixed_dictionaries({"matrix": st.dictionaries(keys, values, max_size=2)}),
)
as_bytes = mappings.map(json.dumps).map(str.encode)  # JSON is YAML too


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | as_bytes | as_bytes)
@example(b'{"matrix": "\\n"}')
def test_profile_is_refused_by_its_name_or_read(scratch, content):
    path = scratch / "mine.yaml"
    path.write_bytes(content)
    try:
        runs = load_profile(str(path))
    except ConfigurationError as error:
        assert_one_line(error, str(path))
    else:
        assert len({run.name for run in runs}) == len(runs) > 0


@given(st.binary(max_size=60) | values.map(json.dumps).map(str.encode))
@example(b"[" * 100_000)
@example(b'{"config": 3}')
def test_record_is_refused_by_its_name_or_read(scratch, content):
    path = scratch / "record.json"
    path.write_bytes(content)
    try:
        assert isinstance(read_record(path), dict)
    except RunError as error:
        assert_one_line(error, str(path))


# Images


def sound_files() -> dict[str, list[bytes]]:
    """Small images of every suffix and many kinds."""
    rgb, rgba = photo(0, (10, 12)), holed(size=12)
    deep = np.random.default_rng(0).integers(0, 2**16, (12, 10), dtype=np.uint16)
    gaps = np.where(deep < 2**15, np.nan, 1.0)
    jpegs = [encoded(rgb), encoded(rgb.convert("CMYK")), encoded(rgb, progressive=True)]
    kinds = (rgb, rgba, rgba.quantize(9), rgb.convert("1"), Image.fromarray(deep))
    return {
        ".png": [encoded(image, "PNG") for image in kinds],
        ".jpg": jpegs,
        ".jpeg": jpegs,
        ".webp": [encoded(rgba, "WEBP", lossless=True), encoded(rgb, "WEBP")],
        ".tif": [tiff(np.asarray(rgba), extrasamples="unassalpha"), tiff(gaps), tiff(deep)],
        ".tiff": [encoded(rgb, "TIFF"), encoded(rgb, "TIFF", compression="jpeg")],
        ".npy": [npy(gaps), npy(deep), npy(np.zeros((3, 4, 5), np.float16))],
    }


SOUND = sound_files()


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


@given(image_files(), st.sampled_from([*RULES, "its mask"]))
def test_incomplete_image_is_read_or_refused_by_its_name(scratch, file, rule):
    suffix, content = file
    path = scratch / f"x{suffix}"
    path.write_bytes(content)
    if rule == "its mask":  # the bytes are those of the mask beside a sound image
        path, rule = scratch / "y.png", "mask"
        path.write_bytes(SOUND[".png"][0])
        path.with_suffix(".mask.png").write_bytes(content)
    try:
        image = read_incomplete(path, rule, 0.0 if rule == "value" else None, max_pixels=10_000)
    except DataError as error:
        assert_one_line(error, path.stem)
    else:
        height, width, bands = image.values.shape
        assert image.observed.shape == (height, width) and image.observed.any()
        assert height * width <= 10_000 and bands >= 1
        assert np.isfinite(image.values[image.observed].astype(float)).all()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(image_files())
def test_photograph_is_read_or_refused(file):
    try:
        image = decode(io.BytesIO(file[1]), 10_000)
    except (ValueError, OSError) as error:
        assert str(error)
    else:
        assert image.mode == "RGB" and image.width * image.height <= 10_000


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    """A folder whose files every example writes anew."""
    return tmp_path_factory.mktemp("fuzz")
