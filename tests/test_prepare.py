"""Preparing a data set: what is stored, what is left out, how it is split, and when it is done again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from paperlib import paths, seeds
from paperlib.config import DataConfig
from paperlib.data.prepare import SPLITS, load_prepared, prepare
from paperlib.data.sources import SOURCES, BlueMarble, Files, Source, open_source
from paperlib.errors import DataError


def folder_of(path: Path, **changes) -> DataConfig:
    return DataConfig(dataset="folder", source=str(path), size=8, **changes)


def tiny_images(folder: Path) -> Path:
    """120 images, all different, a few with odd names."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, odd = np.random.default_rng(0), {7: " é", 8: "寝室", 9: "\r", 10: "\u2028"}
    for i in range(120):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}{odd.get(i, '')}.png")
    return folder


@pytest.fixture
def images(empty_workspace) -> Path:
    return tiny_images(empty_workspace / "images")


class Noise(Source):
    """Random images; ids that end on 77 cannot be read, of those on 50 nothing is observed."""

    crop, ids = "none", [f"{i:040d}" for i in range(1000)]

    def read(self, image_id):
        if image_id.endswith("77"):
            return 1 / 0
        rng = np.random.default_rng(int(image_id))
        image = rng.integers(1, 256, (self.size, self.size, 3), dtype=np.uint8)
        if not self.masked:
            return image
        observed = rng.random((self.size, self.size)) < 0.5 * (not image_id.endswith("50"))
        return image * observed[..., None], observed

    def fingerprint(self):
        return "noise"


class MaskedNoise(Noise):
    masked, limits = True, [[0.0, 255.0]] * 3


@pytest.fixture
def noise(empty_workspace, monkeypatch) -> DataConfig:
    monkeypatch.setitem(SOURCES, "noise", Noise)
    monkeypatch.setitem(SOURCES, "masked", MaskedNoise)
    return DataConfig(dataset="noise", size=8)


# What is stored


def test_images_are_in_the_order_of_their_ids(images):
    done, source = prepare(folder_of(images)), open_source(folder_of(images))
    assert done.manifest["ids"] == source.ids == sorted(p.name for p in images.iterdir())
    for row, image_id in enumerate(source.ids):
        assert np.array_equal(done.images()[row], source.read(image_id))
        assert done.mask_ids()[row] == seeds.fold("image", image_id)
    with pytest.raises(ValueError, match="read-only"):
        done.images()[0] = 0
    about = done.manifest["request"]
    assert about["config"] == folder_of(images).model_dump() and "8 x 8 cropped" in about["crop"]


def test_blue_marble_is_prepared_as_ever(empty_workspace):
    checksum = "ac15726c1dd2568bf7124fd7e3d2b8304f1c017f921ef61c6db9461178a06f56"
    assert prepare(DataConfig(dataset="bluemarble")).checksum == checksum


# What is left out


def test_one_bad_file_in_a_hundred_is_left_out_and_named(images, capsys):
    (images / "0033.png").write_bytes((images / "0033.png").read_bytes()[:80])
    done = prepare(folder_of(images))
    assert list(done.manifest["failed"]) == ["0033.png"] and done.manifest["count"] == 119
    assert "1 of 120 images left out" in capsys.readouterr().out
    rows = np.concatenate([done.indices(name) for name in SPLITS])
    assert sorted(rows) == [row for row in range(120) if row != 33]  # the others keep their rows
    assert not done.images()[33].any()
    done.check()


def test_more_bad_files_are_an_error_that_names_them(images):
    (images / "0003.png").write_bytes(b"broken")
    (images / "0004.png").write_bytes(b"broken")  # 1.7 %
    with pytest.raises(DataError, match=r"2 of .*0003\.png.*0004\.png"):
        prepare(folder_of(images))


def test_masks_are_stored_and_what_is_not_seen_is_left_out_and_no_failure(noise):
    done = prepare(noise.model_copy(update={"dataset": "masked"}))
    assert len(done.manifest["failed"]) == 10 and done.manifest["count"] == 980
    seen = [row for row in range(1000) if row % 100 not in (50, 77)]
    assert sorted(np.concatenate([done.indices(s) for s in SPLITS])) == seen
    images, masks = done.images(), done.masks()
    assert masks.any(axis=(1, 2)).nonzero()[0].tolist() == seen
    assert np.array_equal(images.any(axis=3), masks)
    assert prepare(noise).masks() is None and done.manifest["limits"] == MaskedNoise.limits


# Preparing again


def content(config: DataConfig) -> dict[str, tuple[bytes, int]]:
    """All files of the prepared data set, and their inodes."""
    files = (paths.DATA / config.folder).iterdir()
    return {p.name: (p.read_bytes(), p.stat().st_ino) for p in files}


def test_preparing_again_does_nothing_until_the_source_changes(images):
    config = folder_of(images)
    checksums, before = [prepare(config).checksum], content(config)
    assert prepare(config).checksum == checksums[0] and content(config) == before
    for name in ("new.png", "0004.png"):
        Image.new("RGB", (9, 9), "red").save(images / name)
        checksums.append(prepare(config).checksum)
    assert len(set(checksums)) == 3 and load_prepared(config).checksum == checksums[-1]


def test_equal_sources_have_equal_checksums_and_the_split_is_part_of_it(images):
    a, c = (prepare(folder_of(images, split_seed=seed)) for seed in (0, 1))
    b = prepare(folder_of(tiny_images(images.parent / "b")))
    assert a.checksum == b.checksum != c.checksum
    assert len({a.folder, b.folder, c.folder}) == 3  # none overwrites another


def test_failed_preparation_leaves_the_earlier_one_and_no_draft(images, monkeypatch):
    config = folder_of(images)
    prepare(config)
    before = content(config)
    Image.new("RGB", (9, 9)).save(images / "new.png")
    (paths.DATA / f".{config.folder}.999999.draft").mkdir()  # of a process that was killed
    monkeypatch.setattr(Files, "read", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(config)
    assert content(config) == before
    assert [p.name for p in paths.DATA.iterdir() if not p.name.endswith(".lock")] == [config.folder]


def test_what_is_prepared_is_read_without_the_lock(images, monkeypatch):
    done = prepare(folder_of(images))
    monkeypatch.setattr(FileLock, "acquire", Mock(side_effect=PermissionError("read-only")))
    assert prepare(folder_of(images)).checksum == done.checksum


def test_of_two_prepares_at_once_one_waits_for_the_other(noise, monkeypatch):
    read, calls = Noise.read, []
    monkeypatch.setattr(Noise, "read", lambda self, i: calls.append(i) or read(self, i))
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(prepare, [noise, noise])
    assert a.checksum == b.checksum and len(calls) == 1000
    a.check()


# What is damaged


def test_a_damaged_manifest_or_one_of_another_version_is_prepared_again(workspace, tiny_config):
    path = paths.DATA / tiny_config.data.folder / "manifest.json"
    before = path.read_text()
    for damaged in (before[:50], "[]", "{}", before.replace('"ids"', '"names"')):
        path.write_text(damaged)
        prepare(tiny_config.data)
        assert path.read_text() == before
    with pytest.raises(DataError, match="is not prepared: run 'python -m paperlib prepare'"):
        load_prepared(DataConfig(split_seed=7))


# Splits


def rows_of(config: DataConfig) -> dict[str, list[int]]:
    return prepare(config).manifest["splits"]


def test_splits_are_disjoint_cover_all_and_have_their_shares(images):
    for split in ("auto", "random", "file"):
        rows = rows_of(folder_of(images, split=split))
        sizes = {"training": 90, "validation": 18, "test": 12}
        assert {name: len(found) for name, found in rows.items()} == sizes
        assert sorted(sum(rows.values(), [])) == list(range(120))
    assert sum(rows.values(), []) == list(range(120))  # by file: the last ones are the test images
    first, again, other = (rows_of(folder_of(images, split_seed=s))["test"] for s in (0, 0, 1))
    assert first == again != other and first != list(range(108, 120))
    numbers = rows_of(folder_of(images, validation=0, test=7))
    assert [len(found) for found in numbers.values()] == [113, 0, 7]
    with pytest.raises(DataError, match="validation split .* is empty: set 'validation' above 0"):
        load_prepared(folder_of(images, validation=0, test=7)).indices("validation")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_tile_of_the_map_touches_one_of_another_split(empty_workspace, monkeypatch, seed):
    pixels = np.random.default_rng(0).integers(0, 256, (240, 480, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(empty_workspace / "map.png")  # 30 x 60 tiles
    monkeypatch.setattr(BlueMarble, "path", empty_workspace / "map.png")
    done = prepare(DataConfig(dataset="bluemarble", size=8, split_seed=seed))
    tiles = [BlueMarble.place(None, image_id) for image_id in done.manifest["ids"]]
    training, validation, test = ({tiles[row] for row in done.indices(name)} for name in SPLITS)

    def neighbours(tiles):  # also across a corner, and across the date line
        moves = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        return {(r + i, (c + j) % 60) for r, c in tiles for i, j in moves}

    assert not training & neighbours(validation | test) and not validation & neighbours(test)
    # not bought by throwing most tiles away
    assert len(training) > 0.4 * 1800 and min(len(validation), len(test)) > 0.05 * 1800
