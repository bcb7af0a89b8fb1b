"""Data sets: reading, cropping, splitting, and what training is shown of them."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import N_IMAGES, smooth_image
from image_files import claiming, jpegs
from PIL import Image

from paperlib import data as data_module
from paperlib import paths, seeds
from paperlib.config import DataConfig
from paperlib.corruption import CORRUPTIONS, corrupt, mask_law
from paperlib.data import SPLITS, CompleteImages, Observations, Prepared, load_prepared, prepare
from paperlib.sources import BlueMarble, DataError, Source, open_source


def folder_of(path: Path, size: int = 8, **changes) -> DataConfig:
    return DataConfig(dataset="folder", source=str(path), size=size, **changes)


def tiny_images(folder: Path, n: int, side: int = 8) -> Path:
    """``n`` images, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(n)
    for i in range(n):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}.png")
    return folder


# A folder of images


@pytest.mark.parametrize("suffix, options", [(".png", {}), (".PNG", {}), (".tif", {}), (".tiff", {"compression": "tiff_lzw"}), (".webp", {"lossless": True})])  # fmt: skip
def test_lossless_formats_are_read_exactly(empty_workspace, suffix, options):
    tiny_images(empty_workspace / "images", 10)
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path = empty_workspace / "images" / f"special{suffix}"
    Image.fromarray(pixels).save(path, **options)
    done = prepare(folder_of(empty_workspace / "images"))
    row = done.manifest["ids"].index(path.name)
    assert np.array_equal(done.images()[row], pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_are_read_as_pillow_reads_them(empty_workspace, suffix):
    tiny_images(empty_workspace / "images", 10)
    path = empty_workspace / "images" / f"special{suffix}"
    smooth_image(np.random.default_rng(1), 8, 8).save(path, quality=90)
    done = prepare(folder_of(empty_workspace / "images"))
    row = done.manifest["ids"].index(path.name)
    assert np.array_equal(done.images()[row], np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_other_colour_modes_become_rgb(tmp_path, mode):
    image = smooth_image(np.random.default_rng(1), 8, 8).convert(mode)
    image.save(tmp_path / "x.tif" if mode == "CMYK" else tmp_path / "x.png")
    source = open_source(folder_of(tmp_path))
    assert np.array_equal(source.read(source.ids[0]), np.asarray(image.convert("RGB")))


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / "deep.png")
    source = open_source(folder_of(tmp_path))
    with pytest.raises(ValueError, match="8 bits"):
        source.read("deep.png")


@pytest.mark.parametrize("width, height", [(48, 40), (24, 64), (16, 16), (31, 17)])
def test_short_side_is_resized_then_the_centre_cropped(tmp_path, width, height):
    size, side = 16, min(width, height)
    image = smooth_image(np.random.default_rng(1), width, height)
    image.save(tmp_path / "x.png")
    left, top = (width - side) / 2, (height - side) / 2  # the centre square, to the half pixel
    square = (left, top, left + side, top + side)
    expected = image.resize((size, size), Image.Resampling.BOX, box=square)
    read = open_source(folder_of(tmp_path, size)).read("x.png")
    assert read.shape == (size, size, 3) and read.dtype == np.uint8
    assert np.abs(read.astype(int) - np.asarray(expected)).max() <= 1


def test_photographs_are_turned_upright(tmp_path):
    image = smooth_image(np.random.default_rng(1), 8, 8)
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: the camera was held upside down
    image.save(tmp_path / "x.png", exif=exif)
    read = open_source(folder_of(tmp_path)).read("x.png")
    assert np.array_equal(read, np.asarray(image)[::-1, ::-1])


def test_images_below_subfolders_are_found_and_other_files_are_not(empty_workspace):
    tiny_images(empty_workspace / "images" / "a", 6)
    tiny_images(empty_workspace / "images" / "b", 5)
    (empty_workspace / "images" / "notes.txt").write_text("not an image")
    (empty_workspace / "images" / "folder.png").mkdir()
    done = prepare(folder_of(empty_workspace / "images"))
    assert done.manifest["count"] == 11 and not done.manifest["failed"]
    assert "a/0000.png" in done.manifest["ids"] and "b/0000.png" in done.manifest["ids"]


def test_prepared_images_are_in_the_order_of_their_ids(workspace, tiny_config, image_folder):
    done = load_prepared(tiny_config.data)
    assert list(done.manifest["ids"]) == sorted(p.name for p in image_folder.iterdir())
    source = open_source(folder_of(image_folder, 32))
    for row, image_id in enumerate(done.manifest["ids"]):
        assert np.array_equal(done.images()[row], source.read(image_id))


def test_prepared_images_cannot_be_written(workspace, tiny_config):
    with pytest.raises(ValueError, match="read-only"):
        load_prepared(tiny_config.data).images()[0] = 0


# What goes wrong


@pytest.mark.parametrize(
    "content", [b"", b"not an image", None], ids=["empty", "text", "truncated"]
)
def test_one_bad_file_in_a_hundred_is_left_out_and_named(empty_workspace, content, capsys):
    images = tiny_images(empty_workspace / "images", 120)
    bad = images / "0033.png"
    bad.write_bytes(bad.read_bytes()[:80] if content is None else content)
    done = prepare(folder_of(images))
    assert list(done.manifest["failed"]) == ["0033.png"] and done.manifest["failed"]["0033.png"]
    assert done.manifest["count"] == len(done.images()) == 119
    assert "0033.png" not in done.manifest["ids"]
    assert "0033.png" in capsys.readouterr().out
    # those after it keep their pixels
    row = done.manifest["ids"].index("0119.png")
    assert np.array_equal(done.images()[row], np.asarray(Image.open(images / "0119.png")))
    assert sum(len(done.indices(s)) for s in SPLITS) == 119


def test_more_bad_files_are_an_error_that_names_them(empty_workspace):
    images = tiny_images(empty_workspace / "images", 120)
    for name in ("0003.png", "0044.png"):  # 1.7 %
        (images / name).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"2 of 120 .*0003\.png.*0044\.png"):
        prepare(folder_of(images))
    assert not (paths.DATA / folder_of(images).folder).exists()


def test_strict_tolerates_no_bad_file(empty_workspace):
    images = tiny_images(empty_workspace / "images", 120)
    (images / "0003.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"1 of 120 .*0003\.png"):
        prepare(folder_of(images), strict=True)
    assert not (paths.DATA / folder_of(images).folder).exists()
    prepare(folder_of(images))
    with pytest.raises(DataError, match=r"0003\.png"):  # also where it is prepared already
        prepare(folder_of(images), strict=True)


@pytest.mark.parametrize("limit, kept", [(256, True), (255, False)])
def test_images_of_more_than_max_pixels_are_refused_undecoded(
    empty_workspace, monkeypatch, limit, kept
):
    images = tiny_images(empty_workspace / "images", 120)
    Image.new("RGB", (32, 8)).save(images / "wide.png")
    decode, sizes = Image.Image.load, []
    monkeypatch.setattr(Image.Image, "load", lambda i: sizes.append(i.size) or decode(i))
    failed = prepare(folder_of(images, max_pixels=limit)).manifest["failed"]
    assert ("wide.png" not in failed) == kept == ((32, 8) in sizes)
    assert kept or failed["wide.png"] == "32 x 8 px, more than max_pixels (255) allows"


def test_image_of_30000_x_30000_pixels_is_refused_by_default(empty_workspace):
    images = tiny_images(empty_workspace / "images", 120)
    sides = {"huge.jpg": (30_000, 30_000), "large.jpg": (10_001, 10_000)}  # just above 100 million
    for name, (width, height) in sides.items():
        (images / name).write_bytes(claiming(jpegs(1, 16, 16)[0], width, height))
    with pytest.raises(DataError) as error:
        prepare(folder_of(images))
    for name, (width, height) in sides.items():
        said = f"{name}: {width} x {height} px, more than max_pixels (100000000)"
        assert said in str(error.value)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_max_pixels_takes_the_place_of_pillow_s_limit(empty_workspace, monkeypatch):
    images = tiny_images(empty_workspace / "images", 120)
    Image.new("RGB", (64, 64)).save(images / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses twice that
    assert not prepare(folder_of(images)).manifest["failed"]
    assert list(prepare(folder_of(images, max_pixels=4095)).manifest["failed"]) == ["large.png"]
    assert Image.MAX_IMAGE_PIXELS == 100  # for those who use Pillow beside us


def test_images_smaller_than_the_size_are_bad(empty_workspace):
    images = tiny_images(empty_workspace / "images", 100)
    Image.new("RGB", (30, 7)).save(images / "small.png")
    done = prepare(folder_of(images))
    assert "30 x 7" in done.manifest["failed"]["small.png"]
    with pytest.raises(DataError, match="8 x 8 px, smaller than the 16 px"):
        prepare(folder_of(images, size=16))


@pytest.mark.parametrize("name", ["with a space", "été", "寝室", "semi;colon", "car\rriage"])
def test_names_with_spaces_and_other_scripts_work(empty_workspace, name):
    images = tiny_images(empty_workspace / "images" / name, 10)
    (images / "0003.png").rename(images / f"{name}.png")
    done = prepare(folder_of(images.parent))
    row = list(done.manifest["ids"]).index(f"{name}/{name}.png")
    expected = np.asarray(Image.open(images / f"{name}.png"))
    assert np.array_equal(done.images()[row], expected) and len(set(done.mask_ids())) == 10


@pytest.mark.parametrize("name, fault", [(b"a\nb", "line break"), (b"a\xff", "not UTF-8")])
def test_names_that_are_no_line_of_text_are_refused(empty_workspace, name, fault):
    images = tiny_images(empty_workspace / "images", 10)
    os.rename(images / "0003.png", os.fsencode(images) + b"/" + name + b".png")
    with pytest.raises(DataError, match=f"folder: .*{fault}.* rename it") as error:
        prepare(folder_of(images))
    assert "\n" not in str(error.value)


def test_hopeless_data_are_given_up_early(empty_workspace, monkeypatch):
    source = Noise(5000)
    monkeypatch.setattr(data_module, "open_source", lambda _: source)
    monkeypatch.setattr(source, "read", lambda image_id: 1 / 0)
    with pytest.raises(DataError, match="1024 of the first 1024 images cannot be used .*division"):
        prepare(DataConfig(size=8))


def test_a_long_list_of_bad_files_is_not_printed_whole(empty_workspace, monkeypatch, capsys):
    source = Noise(3000)
    read = source.read
    monkeypatch.setattr(data_module, "open_source", lambda _: source)
    monkeypatch.setattr(source, "read", lambda i: 1 / 0 if i.endswith("77") else read(i))
    done = prepare(DataConfig(size=8))
    printed = capsys.readouterr().out
    assert len(done.manifest["failed"]) == 30
    assert printed.count("division by zero") == 20 and "and 10 more" in printed


def test_folder_without_images_is_an_error_that_says_what_it_looked_for(empty_workspace):
    (empty_workspace / "images").mkdir()
    (empty_workspace / "images" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"no images .*\.png.*images"):
        prepare(folder_of(empty_workspace / "images"))


@pytest.mark.parametrize("dataset", ["folder", "celeba", "lsun", "recipe1m"])
def test_missing_source_is_an_error_that_names_the_path_and_what_to_do(empty_workspace, dataset):
    path = empty_workspace / "nowhere"
    with pytest.raises(DataError, match=rf"{path}.*set source") as error:
        prepare(DataConfig(dataset=dataset, source=str(path)))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no source given"):
        prepare(DataConfig(dataset=dataset))


def test_unknown_dataset_names_the_known_ones(empty_workspace):
    with pytest.raises(
        DataError, match="'mnist'.*bluemarble, celeba, lsun, recipe1m, incomplete or folder"
    ):
        prepare(DataConfig(dataset="mnist"))


def test_unprepared_data_says_how_to_prepare_it(empty_workspace):
    with pytest.raises(DataError, match="paperlib prepare"):
        load_prepared(DataConfig())


def test_damaged_manifest_is_named(workspace, tiny_config):
    path = paths.DATA / tiny_config.data.folder / "manifest.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(DataError, match="manifest.json"):
        load_prepared(tiny_config.data)


# Many images


class Noise(Source):
    """Many random images, whose ids are made when they are asked for."""

    crop = "none"

    def __init__(self, n: int, size: int = 8) -> None:
        self.n, self.size = n, size

    @property
    def ids(self):
        return self

    def __len__(self):
        return self.n

    def __iter__(self):
        return (f"{i:040d}" for i in range(self.n))

    def read(self, image_id):
        shape = (self.size, self.size, 3)
        return np.random.default_rng(int(image_id)).integers(0, 256, shape, dtype=np.uint8)

    def fingerprint(self):
        return "noise"


def test_memory_grows_by_numbers_alone_not_by_names_or_images(empty_workspace, monkeypatch):
    peaks = []
    for n in (1000, 6000, 14_000):  # the first one pays for what is loaded once
        monkeypatch.setattr(data_module, "open_source", lambda _, n=n: Noise(n))
        tracemalloc.start()
        prepare(DataConfig(size=8, split_seed=n))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # A row number takes 8 bytes; the 40 letters of an id 89 in Python, an image 192.
    assert peaks[2] - peaks[1] < 8000 * 40


def test_rows_names_and_masks_of_many_images_belong_together(empty_workspace, monkeypatch):
    source = Noise(3000)
    monkeypatch.setattr(data_module, "open_source", lambda _: source)
    done = prepare(DataConfig(size=8))
    ids = done.manifest["ids"]
    assert list(ids) == list(source) and len(ids) == len(done.images()) == 3000
    for row in (0, 1023, 1024, 2047, 2999):
        assert ids[row] == f"{row:040d}"
        assert np.array_equal(done.images()[row], source.read(ids[row]))
        assert done.mask_ids()[row] == seeds.fold("image", ids[row])
    assert ids[-1] == ids[2999] and ids[5:7] == [ids[5], ids[6]]
    with pytest.raises(IndexError):
        ids[3000]


@pytest.mark.parametrize("counts", [(0, 1, 2), (4096, 4097, 0), (8192, 1, 9000)])
def test_checksum_is_over_the_splits_as_plain_json(counts):
    # So was it when the manifest held the splits: checksums in older records stay valid.
    splits = {name: np.arange(n) for name, n in zip(SPLITS, counts, strict=True)}
    whole = json.dumps({name: rows.tolist() for name, rows in splits.items()})
    assert "".join(data_module._as_json(splits)) == whole


# Preparing again


def images_file(config: DataConfig) -> Path:
    return paths.DATA / config.folder / "images.npy"


def content(config: DataConfig) -> dict[str, bytes]:
    """All files of the prepared data set."""
    return {p.name: p.read_bytes() for p in (paths.DATA / config.folder).iterdir()}


def test_preparing_again_does_nothing(empty_workspace):
    config = folder_of(tiny_images(empty_workspace / "images", 12))
    prepare(config)
    before, files = images_file(config).stat(), content(config)
    prepare(config)
    assert content(config) == files
    assert images_file(config).stat().st_mtime_ns == before.st_mtime_ns
    assert images_file(config).stat().st_ino == before.st_ino


@pytest.mark.parametrize("change", ["added", "removed", "rewritten"])
def test_changed_source_is_prepared_again(empty_workspace, change):
    images = tiny_images(empty_workspace / "images", 12)
    config = folder_of(images)
    first = prepare(config)
    if change == "added":
        Image.new("RGB", (9, 9)).save(images / "new.png")
    elif change == "removed":
        (images / "0003.png").unlink()
    else:
        Image.new("RGB", (8, 8), "red").save(images / "0003.png")
    second = prepare(config)
    assert second.checksum != first.checksum
    assert second.manifest["count"] == {"added": 13, "removed": 11, "rewritten": 12}[change]
    assert load_prepared(config).checksum == second.checksum


def test_equal_sources_have_equal_checksums_and_the_split_is_part_of_it(empty_workspace):
    a = prepare(folder_of(tiny_images(empty_workspace / "a", 12)))
    b = prepare(folder_of(tiny_images(empty_workspace / "b", 12)))
    c = prepare(folder_of(empty_workspace / "b", split_seed=1))
    assert a.checksum == b.checksum != c.checksum
    assert len({a.folder, b.folder, c.folder}) == 3  # none overwrites another


def test_data_of_an_older_format_are_prepared_again(workspace, tiny_config):
    config = tiny_config.data
    before = content(config)
    path = paths.DATA / config.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    lists = {"ids": ["000.png"], "splits": {"training": [0]}}
    old = manifest["request"] | {"format": 1}
    path.write_text(json.dumps(manifest | lists | {"request": old}))
    (paths.DATA / config.folder / "splits.npz").unlink()
    with pytest.raises(DataError, match="another version: run 'python -m paperlib prepare'"):
        load_prepared(config)
    prepare(config)
    assert content(config) == before


def test_damaged_splits_are_named(workspace, tiny_config):
    path = paths.DATA / tiny_config.data.folder / "splits.npz"
    for damage in (b"", b"nonsense", path.read_bytes()[:100]):
        path.write_bytes(damage)
        with pytest.raises(DataError, match=r"splits\.npz is damaged: delete"):
            load_prepared(tiny_config.data)


def test_folder_s_name_stays_where_a_later_key_is_at_its_default():
    config = DataConfig(dataset="celeba", source="data/a.zip", split="file")
    values = '{"source": "data/a.zip", "split": "file"}'  # what differs from the defaults
    assert config.folder == f"celeba-32-{seeds.fold(values) % 16**6:06x}"
    assert config.model_copy(update={"max_pixels": 5}).folder != config.folder


def test_failed_preparation_leaves_the_earlier_one(empty_workspace):
    images = tiny_images(empty_workspace / "images", 12)
    config = folder_of(images)
    prepare(config)
    before = content(config)
    (images / "0003.png").write_bytes(b"broken")  # 8 %: too many
    with pytest.raises(DataError):
        prepare(config)
    assert content(config) == before
    assert [p.name for p in paths.DATA.iterdir()] == [config.folder]  # no draft is left


def test_interrupted_preparation_leaves_the_earlier_one(empty_workspace, monkeypatch):
    images = tiny_images(empty_workspace / "images", 12)
    config = folder_of(images)
    prepare(config)
    before = content(config)
    Image.new("RGB", (9, 9)).save(images / "new.png")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(data_module, "_split", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(config)
    assert content(config) == before
    assert [p.name for p in paths.DATA.iterdir()] == [config.folder]


def test_number_of_decoding_threads_changes_nothing(empty_workspace):
    images = tiny_images(empty_workspace / "images", 30)
    checksums = []
    for workers in (1, 4):
        checksums.append(prepare(folder_of(images), workers=workers).checksum)
        os.utime(images / "0000.png", (1, 1))  # so that it is prepared again
    assert checksums[0] == checksums[1]


# Splits


@pytest.mark.parametrize("split", ["auto", "random", "file"])
def test_splits_are_disjoint_cover_all_and_have_their_shares(empty_workspace, split):
    done = prepare(folder_of(tiny_images(empty_workspace / "images", 60), split=split))
    rows = {name: done.indices(name).tolist() for name in SPLITS}
    assert {name: len(r) for name, r in rows.items()} == {
        "training": 45,
        "validation": 9,
        "test": 6,
    }
    assert sorted(sum(rows.values(), [])) == list(range(60))


def test_random_split_is_seeded(empty_workspace):
    images = tiny_images(empty_workspace / "images", 40)
    test_sets = [
        prepare(folder_of(images, split_seed=s)).indices("test").tolist() for s in (0, 0, 1)
    ]
    assert test_sets[0] == test_sets[1] != test_sets[2]
    assert test_sets[0] != list(range(36, 40))


def test_split_by_file_puts_the_last_in_test(empty_workspace):
    config = folder_of(tiny_images(empty_workspace / "images", 20), split="file")
    done = prepare(config)
    assert done.indices("training").tolist() == list(range(15))
    assert done.indices("validation").tolist() == [15, 16, 17]
    assert done.indices("test").tolist() == [18, 19]


def test_splits_may_be_given_as_numbers_of_images(empty_workspace):
    done = prepare(folder_of(tiny_images(empty_workspace / "images", 20), validation=3, test=7))
    assert [len(done.indices(s)) for s in SPLITS] == [10, 3, 7]


def test_empty_split_is_an_error_where_it_is_used(empty_workspace):
    done = prepare(folder_of(tiny_images(empty_workspace / "images", 20), validation=0))
    assert len(done.indices("training")) == 18
    with pytest.raises(DataError, match="validation split .* is empty"):
        done.indices("validation")


@pytest.mark.parametrize(
    "shares", [{"validation": 0.6, "test": 0.4}, {"validation": 15, "test": 5}]
)
def test_splits_that_leave_nothing_to_train_on_are_refused(empty_workspace, shares):
    config = folder_of(tiny_images(empty_workspace / "images", 20), **shares)
    with pytest.raises(DataError, match="none of 20 images for training"):
        prepare(config)


def test_regions_are_refused_where_there_is_no_map(empty_workspace):
    config = folder_of(tiny_images(empty_workspace / "images", 20), split="region")
    with pytest.raises(DataError, match="needs bluemarble"):
        prepare(config)


# Blue Marble


@pytest.fixture
def small_map(empty_workspace, monkeypatch) -> np.ndarray:
    """A map of 30 x 60 tiles of 8 pixels in the place of NASA's, every fifth one open sea."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (240 + 3, 480 + 5, 3), dtype=np.uint8)  # and a remainder
    for r in range(30):
        for c in range(60):
            if (7 * r + c) % 5 == 0:
                sea = rng.integers(20, 24, (8, 8, 3), dtype=np.uint8)
                pixels[8 * r : 8 * r + 8, 8 * c : 8 * c + 8] = sea
    path = empty_workspace / "map.png"
    Image.fromarray(pixels).save(path)
    monkeypatch.setattr(BlueMarble, "path", path)
    return pixels


def test_tiles_are_cut_from_the_map_without_overlap(small_map):
    done = prepare(DataConfig(size=8))
    places = [BlueMarble.place(i) for i in done.manifest["ids"]]
    assert len(set(places)) == len(places)
    for row, (r, c) in enumerate(places):
        tile = small_map[8 * r : 8 * r + 8, 8 * c : 8 * c + 8]
        assert np.array_equal(done.images()[row], tile)


def test_nearly_uniform_tiles_are_left_out_and_no_others(small_map):
    places = {BlueMarble.place(i) for i in BlueMarble(8).ids}
    assert places == {(r, c) for r in range(30) for c in range(60) if (7 * r + c) % 5}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_tile_touches_one_of_another_split(small_map, seed):
    done = prepare(DataConfig(size=8, split_seed=seed))
    places = {
        name: {BlueMarble.place(done.manifest["ids"][i]) for i in done.indices(name)}
        for name in SPLITS
    }

    def neighbours(tiles):  # also across a corner, and across the date line
        return {(r + i, (c + j) % 60) for r, c in tiles for i in (-1, 0, 1) for j in (-1, 0, 1)}

    for a, b in [("training", "validation"), ("training", "test"), ("validation", "test")]:
        assert not places[a] & neighbours(places[b])
    total = done.manifest["count"]
    assert len(places["training"]) > 0.4 * total  # not bought by throwing most tiles away
    assert len(places["validation"]) > 0.05 * total and len(places["test"]) > 0.05 * total


def test_blue_marble_can_be_split_at_random_too(small_map):
    done = prepare(DataConfig(size=8, split="random"))
    assert sum(len(done.indices(s)) for s in SPLITS) == done.manifest["count"]


def test_map_too_small_for_the_tiles_is_an_error(small_map):
    with pytest.raises(DataError, match="too small"):
        prepare(DataConfig(size=128, dataset="bluemarble"))


def test_the_map_comes_with_the_package():
    with Image.open(BlueMarble(32).path) as image:
        assert image.size == (5400, 2700)


# What training is shown


@pytest.fixture
def prepared(workspace, tiny_config) -> Prepared:
    return load_prepared(tiny_config.data)


def observations(prepared: Prepared, law="small_patch", seed=0, split="training") -> Observations:
    return Observations(prepared, split, mask_law(law), seed, "cpu")


@pytest.mark.parametrize("law", list(CORRUPTIONS))
def test_batches_are_the_corrupted_images(prepared, law):
    rows = np.array([3, 0, 11])
    y, m = observations(prepared, law).batch(rows)
    indices = prepared.indices("training")[rows]
    x = torch.from_numpy(prepared.images()[indices]).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.equal(m, mask_law(law).for_ids(prepared.mask_ids()[indices], 32, 0))
    assert torch.equal(y, corrupt(x, m))
    assert y.dtype == m.dtype == torch.float32


def test_complete_images_are_those_that_are_corrupted(prepared):
    rows = np.arange(5)
    data = CompleteImages(prepared, "test", mask_law("small_patch"), 0, "cpu")
    x, m = data.batch(rows)
    y, m_again = observations(prepared, split="test").batch(rows)
    assert torch.equal(m, m_again) and torch.equal(corrupt(x, m), y)
    assert torch.equal(((x + 1) * 127.5).round().permute(0, 2, 3, 1).byte(),
                       torch.from_numpy(prepared.images()[prepared.indices("test")[rows]]))  # fmt: skip


def test_mask_of_an_image_does_not_depend_on_order_or_company(prepared):
    observed = observations(prepared)
    rows = np.arange(10)
    y, m = observed.batch(rows)
    order = np.array([7, 2, 9, 0])
    y_some, m_some = observed.batch(order)
    assert torch.equal(m_some, m[order]) and torch.equal(y_some, y[order])
    alone = torch.cat([observed.batch(np.array([r]))[1] for r in rows])
    assert torch.equal(alone, m)


def test_mask_of_an_image_depends_on_its_id_alone(empty_workspace):
    images = tiny_images(empty_workspace / "images", 20)
    few = prepare(folder_of(images))
    before = dict(zip(few.manifest["ids"], few.mask_ids(), strict=True))
    Image.new("RGB", (8, 8)).save(images / "0000a.png")  # shifts the rows of all that follow
    many = prepare(folder_of(images))
    after = dict(zip(many.manifest["ids"], many.mask_ids(), strict=True))
    assert {i: after[i] for i in before} == before
    assert len(set(after.values())) == 21


def test_masks_differ_between_images_and_between_mask_seeds(prepared):
    rows = np.arange(len(prepared.indices("training")))
    m = observations(prepared).batch(rows)[1]
    assert len(m.flatten(1).unique(dim=0)) == len(rows)
    other = observations(prepared, seed=1).batch(rows)[1]
    assert (m != other).flatten(1).any(1).all()


def which_images(observed: Observations, batches, n: int) -> list[int]:
    """Rows of the images in the first ``n`` batches, told by their masks, which all differ."""
    known = observed.batch(np.arange(len(observed)))[1].flatten(1)
    rows = []
    for _ in range(n):
        for mask in next(batches)[1].flatten(1):
            (row,) = (known == mask).all(1).nonzero().flatten().tolist()
            rows.append(row)
    return rows


def test_every_image_comes_once_per_epoch_reshuffled(prepared):
    observed = observations(prepared)  # 45 images
    rows = which_images(observed, observed.batches(5, seed=0), 27)
    epochs = [rows[45 * e : 45 * e + 45] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(45))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != list(range(45))


def test_batches_span_the_end_of_an_epoch_without_loss(prepared):
    observed = observations(prepared)
    rows = which_images(observed, observed.batches(7, seed=0), 13)  # 91 of 2 x 45
    assert sorted(rows[:45]) == sorted(rows[45:90]) == list(range(45))


def test_batches_larger_than_the_split_are_filled_from_several_epochs(prepared):
    observed = observations(prepared, split="test")  # 6 images
    y, m = next(observed.batches(20, seed=0))
    assert len(y) == 20 and len(m.flatten(1).unique(dim=0)) == 6


@pytest.mark.parametrize("start", [1, 6, 7, 40])
def test_batches_from_k_on_are_those_of_the_whole_sequence(prepared, start):
    observed = observations(prepared)
    whole, part = observed.batches(7, seed=3), observed.batches(7, seed=3, start=start)
    for _ in range(start):
        next(whole)
    for _ in range(3):
        (y, m), (y_part, m_part) = next(whole), next(part)
        assert torch.equal(y, y_part) and torch.equal(m, m_part)


def test_order_of_batches_depends_on_the_seed(prepared):
    observed = observations(prepared)
    a, b = (which_images(observed, observed.batches(5, seed=s), 9) for s in (0, 1))
    assert a != b


@pytest.mark.parametrize("law", list(CORRUPTIONS))
def test_garbage_under_the_missing_pixels_leaves_batches_identical(prepared, law):
    def batches():
        of = observations(prepared, law).batches(8, seed=0)
        return [next(of) for _ in range(12)]

    before = batches()
    rows = prepared.indices("training")
    missing = mask_law(law).for_ids(prepared.mask_ids()[rows], 32, 0).numpy()[:, 0] == 0
    images = np.load(prepared.folder / "images.npy", mmap_mode="r+")
    original = images.copy()
    noise = np.random.default_rng(1).integers(0, 256, images[rows].shape, dtype=np.uint8)
    images[rows] = np.where(missing[..., None], noise, images[rows])
    images.flush()
    assert (images[rows] != original[rows]).any(-1).mean() > 0.9 * missing.mean()
    for (y, m), (y_garbage, m_garbage) in zip(before, batches(), strict=True):
        assert torch.equal(y, y_garbage) and torch.equal(m, m_garbage)


def test_observations_offer_no_complete_image():
    # Whoever trains unsupervised is handed this class: its public face must not give x away.
    public = {name for name in dir(Observations) if not name.startswith("_")}
    assert public == {"batch", "batches", "resident", "nbytes"}  # where they lie, how large


def test_manifest_says_what_was_asked_for(prepared, tiny_config):
    manifest = json.loads((prepared.folder / "manifest.json").read_text())
    assert manifest["request"]["config"] == tiny_config.data.model_dump()
    assert "cropped" in manifest["request"]["crop"]
    assert manifest["count"] == N_IMAGES == len(prepared.manifest["ids"])
