"""LSUN bedrooms: an LMDB of JPEG or WebP files, as it is distributed."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import smooth_image
from image_files import FAULTS, decoded, encoded, jpegs, shrunk_square

from paperlib.config import DataConfig
from paperlib.data import SPLITS, prepare
from paperlib.lsun import LSUN
from paperlib.sources import DataError, open_source


def key(number: int) -> str:
    """Keys as LSUN has them: 40 hexadecimal digits."""
    return hashlib.sha1(str(number).encode()).hexdigest()


def bedrooms(folder: Path, values: dict[str | bytes, bytes]) -> Path:
    """The LMDB bedroom_train_lmdb in ``folder``."""
    lmdb = pytest.importorskip("lmdb")
    path = folder / "bedroom_train_lmdb"
    with lmdb.open(str(path), map_size=1 << 26) as environment, environment.begin(write=True) as t:
        for k, value in values.items():
            t.put(k if isinstance(k, bytes) else k.encode(), value)
    return path


def some(n: int, width: int = 48, height: int = 32) -> dict[str, bytes]:
    return {key(i): content for i, content in enumerate(jpegs(n, width, height))}


def config_of(path: Path, **changes) -> DataConfig:
    return DataConfig(**{"dataset": "lsun", "source": str(path), "size": 16} | changes)


def test_images_are_resized_by_area_and_their_centre_is_cropped(empty_workspace):
    images = some(12) | {key(100): jpegs(1, 32, 64)[0]}  # and one that stands upright
    done = prepare(config_of(bedrooms(empty_workspace, images)))
    assert list(done.manifest["ids"]) == sorted(images) and not done.manifest["failed"]
    for row, image_id in enumerate(done.manifest["ids"]):
        expected = shrunk_square(images[image_id], 16)
        assert np.abs(done.images()[row] - expected).max() <= 1  # Pillow rounds twice


def test_webp_values_are_read_too(empty_workspace):
    image = smooth_image(np.random.default_rng(0), 16, 16)
    path = bedrooms(empty_workspace, some(11) | {key(11): encoded(image, "WEBP", lossless=True)})
    done = prepare(config_of(path))
    row = list(done.manifest["ids"]).index(key(11))
    assert np.array_equal(done.images()[row], np.asarray(image))


def test_splits_have_their_shares_of_all_images(empty_workspace):
    done = prepare(config_of(bedrooms(empty_workspace, some(40))))
    assert [len(done.indices(s)) for s in SPLITS] == [30, 6, 4]
    assert sorted(np.concatenate([done.indices(s) for s in SPLITS])) == list(range(40))


def test_keys_are_streamed_not_listed(empty_workspace):
    source = open_source(config_of(bedrooms(empty_workspace, some(5))))
    ids = source.ids
    assert len(ids) == 5 and key(3) in ids and key(7) not in ids
    assert list(ids) == sorted(map(key, range(5)))
    assert list(ids) == list(ids) and iter(ids) is not iter(ids)
    assert not isinstance(ids, list | tuple)
    source.close()


def test_preparing_again_reads_no_image(empty_workspace, monkeypatch):
    config = config_of(bedrooms(empty_workspace, some(12)))
    first = prepare(config)
    monkeypatch.setattr(LSUN, "read", lambda *_: pytest.fail("an image was read"))
    assert prepare(config).checksum == first.checksum


def test_the_database_is_let_go_of_after_a_failure_too(empty_workspace):
    # A process may have an LMDB open once; a notebook keeps the traceback, and so all its objects.
    config = config_of(bedrooms(empty_workspace, some(12)), size=64)
    with pytest.raises(DataError, match="48 x 32 px, smaller than the 64 px crop"):
        prepare(config)
    assert prepare(config_of(config.source)).manifest["count"] == 12


@FAULTS
def test_one_bad_value_in_a_hundred_is_left_out_and_named(empty_workspace, fault, reason):
    images = some(120, 24, 16)
    images[key(33)] = fault(images[key(33)])
    done = prepare(config_of(bedrooms(empty_workspace, images)))
    assert list(done.manifest["failed"]) == [key(33)]
    assert (
        reason in done.manifest["failed"][key(33)] and "0x" not in done.manifest["failed"][key(33)]
    )
    assert len(done.images()) == 119 == len(done.manifest["ids"])
    last = list(done.manifest["ids"])[-1]  # those after it keep their pixels
    assert np.abs(done.images()[-1] - decoded(images[last])[:, 4:20].astype(float)).max() <= 1


@pytest.mark.parametrize("name", ["one bedroom", "chambre à coucher", "寝室"])
def test_keys_with_spaces_and_other_scripts_work(empty_workspace, name):
    images = some(11) | {name: jpegs(1, 16, 16)[0]}
    done = prepare(config_of(bedrooms(empty_workspace, images)))
    row = list(done.manifest["ids"]).index(name)
    assert np.array_equal(done.images()[row], decoded(images[name]))


@pytest.mark.parametrize("bad, shown", [(b"\xff\xfe", "xff"), (b"two\nlines", "line break")])
def test_keys_that_are_no_line_of_text_are_refused_by_name(empty_workspace, bad, shown):
    with pytest.raises(DataError, match=shown) as error:
        prepare(config_of(bedrooms(empty_workspace, some(5) | {bad: b"x"})))
    assert "\n" not in str(error.value)


def test_database_without_images_is_an_error_that_says_where_to_get_it(empty_workspace):
    with pytest.raises(DataError, match=r"data\.mdb has no images; download .*bedroom_train_lmdb"):
        prepare(config_of(bedrooms(empty_workspace, {})))


def test_truncated_database_is_an_error_not_a_crash(empty_workspace):
    path = bedrooms(empty_workspace, some(40)) / "data.mdb"
    path.write_bytes(path.read_bytes()[:-8192])
    with pytest.raises(DataError, match=r"data\.mdb is truncated; download"):
        prepare(config_of(path.parent))


def test_file_that_is_no_database_is_an_error_that_names_it(empty_workspace):
    path = bedrooms(empty_workspace, some(1)) / "data.mdb"
    path.write_bytes(b"<html>quota exceeded</html>" * 1000)
    with pytest.raises(DataError, match="bedroom_train_lmdb is not an LMDB"):
        prepare(config_of(path.parent))


def test_missing_package_says_how_to_install_it(empty_workspace, monkeypatch):
    path = empty_workspace / "bedroom_train_lmdb"
    path.mkdir()
    (path / "data.mdb").touch()
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(DataError, match="pip install lmdb"):
        prepare(config_of(path))


def test_there_is_no_official_split_of_the_bedrooms(empty_workspace):
    with pytest.raises(DataError, match="lsun: split 'official' needs celeba or recipe1m"):
        prepare(config_of(empty_workspace, split="official"))
