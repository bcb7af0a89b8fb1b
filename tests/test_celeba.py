"""CelebA: the zip of aligned faces and the official partition, as they are distributed."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from image_files import FAULTS, decoded, encoded, jpegs
from PIL import Image

from paperlib.config import DataConfig
from paperlib.data import SPLITS, prepare
from paperlib.sources import DataError, open_source


def celeba_images(width: int = 89, height: int = 109, n: int = 12) -> dict[str, bytes]:
    images = jpegs(n, width, height, seed=width)
    return {f"{i + 1:06d}.jpg": content for i, content in enumerate(images)}


def celeba_zip(path: Path, images: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("img_align_celeba/", "")
        for name, content in images.items():
            archive.writestr(f"img_align_celeba/{name}", content)
    return path


@pytest.fixture(params=["zip", "folder"])
def celeba_source(request, empty_workspace):
    """A function that stores images as CelebA comes: in a zip, or unpacked."""

    def store(images: dict[str, bytes]) -> Path:
        if request.param == "zip":
            return celeba_zip(empty_workspace / "img_align_celeba.zip", images)
        folder = empty_workspace / "celeba" / "img_align_celeba"
        folder.mkdir(parents=True)
        for name, content in images.items():
            (folder / name).write_bytes(content)
        return folder.parent

    return store


@pytest.mark.parametrize("width, height, side, left, top", [(178, 218, 128, 25, 45), (89, 109, 64, 12, 22)])  # fmt: skip
def test_celeba_is_cropped_to_its_centre(celeba_source, width, height, side, left, top):
    images = celeba_images(width, height)
    config = DataConfig(dataset="celeba", source=str(celeba_source(images)), size=side)
    done = prepare(config)
    assert list(done.manifest["ids"]) == sorted(images) and not done.manifest["failed"]
    for row, name in enumerate(done.manifest["ids"]):
        whole = decoded(images[name])
        assert np.array_equal(done.images()[row], whole[top : top + side, left : left + side])


def test_celeba_at_64_is_the_mean_of_2_x_2_pixels_of_the_crop(celeba_source):
    images = celeba_images(178, 218)
    config = DataConfig(dataset="celeba", source=str(celeba_source(images)), size=64)
    source = open_source(config)
    whole = decoded(images["000001.jpg"]).astype(float)
    expected = whole[45:173, 25:153].reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(source.read("000001.jpg") - expected).max() <= 1  # Pillow rounds twice


def test_celeba_image_of_another_shape_is_bad_and_named(celeba_source):
    images = celeba_images(89, 109, n=101) | {"odd.jpg": encoded(Image.new("RGB", (100, 100)))}
    config = DataConfig(dataset="celeba", source=str(celeba_source(images)), size=32)
    assert "100 x 100" in prepare(config).manifest["failed"]["odd.jpg"]


def test_half_size_celeba_is_not_enlarged(celeba_source):
    config = DataConfig(
        dataset="celeba", source=str(celeba_source(celeba_images(89, 109))), size=128
    )
    with pytest.raises(DataError, match="64 px crop is smaller than the 128 px"):
        prepare(config)


def test_damaged_member_of_the_zip_is_a_bad_file_like_any_other(empty_workspace):
    images = celeba_images(89, 109, n=101)
    path = celeba_zip(empty_workspace / "celeba.zip", images)
    content = bytearray(path.read_bytes())
    at = content.find(images["000050.jpg"])
    content[at + 300 : at + 310] = bytes(10)  # its checksum in the zip no longer fits
    path.write_bytes(content)
    done = prepare(DataConfig(dataset="celeba", source=str(path), size=32))
    assert list(done.manifest["failed"]) == ["000050.jpg"]


def test_celeba_that_is_no_zip_says_where_to_get_it(empty_workspace):
    (empty_workspace / "celeba.zip").write_bytes(b"<html>quota exceeded</html>")
    config = DataConfig(dataset="celeba", source=str(empty_workspace / "celeba.zip"))
    with pytest.raises(DataError, match="not a zip.*mmlab"):
        prepare(config)


def test_celeba_zip_without_images_is_an_error(empty_workspace):
    config = DataConfig(dataset="celeba", source=str(celeba_zip(empty_workspace / "x.zip", {})))
    with pytest.raises(DataError, match=r"no \.jpg"):
        prepare(config)


def config_of(path: Path, **changes) -> DataConfig:
    return DataConfig(**{"dataset": "celeba", "source": str(path), "size": 32} | changes)


@FAULTS
def test_bad_image_is_left_out_and_named(celeba_source, fault, reason):
    images = celeba_images(n=101)
    images["000007.jpg"] = fault(images["000007.jpg"])
    done = prepare(config_of(celeba_source(images)))
    assert list(done.manifest["failed"]) == ["000007.jpg"]
    assert reason in done.manifest["failed"]["000007.jpg"]


def test_names_with_spaces_and_other_scripts_work(celeba_source):
    images = dict(zip(["a face.jpg", "été.jpg", "顔.jpg"], jpegs(3, 89, 109), strict=True))
    done = prepare(config_of(celeba_source(images), size=64, test=1, validation=1))
    assert list(done.manifest["ids"]) == sorted(images)
    for row, name in enumerate(done.manifest["ids"]):
        assert np.array_equal(done.images()[row], decoded(images[name])[22:86, 12:76])


# Members that lead out of the zip


@pytest.mark.parametrize("name", ["../../000001.jpg", "img/../../x.jpg", "/etc/000001.jpg", "C:\\x.jpg", "..\\x.jpg", "../readme.txt"])  # fmt: skip
def test_zip_member_that_points_out_of_the_archive_is_refused_by_name(empty_workspace, name):
    path = celeba_zip(empty_workspace / "celeba.zip", celeba_images())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), jpegs(1, 89, 109)[0])
    with pytest.raises(DataError, match="points out of the archive: refused") as error:
        prepare(config_of(path))
    assert repr(name) in str(error.value) and str(path) in str(error.value)


def test_zip_member_that_is_a_symbolic_link_is_refused_by_name(empty_workspace):
    path = celeba_zip(empty_workspace / "celeba.zip", celeba_images())
    link = zipfile.ZipInfo("img_align_celeba/000099.jpg")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16  # made on Unix
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="'img_align_celeba/000099.jpg' is a symbolic link"):
        prepare(config_of(path))


def test_dots_within_a_name_lead_nowhere(empty_workspace):
    path = celeba_zip(empty_workspace / "celeba.zip", celeba_images() | {"a..b.jpg": b"x"})
    assert "a..b.jpg" in open_source(config_of(path)).ids


# The official partition


def with_partition(path: Path, lines: list[str]) -> Path:
    (path.parent / "list_eval_partition.txt").write_text("".join(f"{line}\n" for line in lines))
    return path


PARTITION = [f"{i + 1:06d}.jpg {'0012'[i % 4]}" for i in range(12)]


def test_official_split_is_that_of_the_list(celeba_source):
    path = with_partition(celeba_source(celeba_images()), PARTITION)
    done = prepare(config_of(path, split="official"))
    ids = done.manifest["ids"]
    assert {s: sorted(ids[row] for row in done.indices(s)) for s in SPLITS} == {
        "training": [f"{i:06d}.jpg" for i in (1, 2, 5, 6, 9, 10)],
        "validation": [f"{i:06d}.jpg" for i in (3, 7, 11)],
        "test": [f"{i:06d}.jpg" for i in (4, 8, 12)],
    }


def test_list_may_name_images_that_are_not_there_and_names_with_spaces(celeba_source):
    images = dict(zip(["a face.jpg", "000002.jpg"], jpegs(2, 89, 109), strict=True))
    path = with_partition(celeba_source(images), [*PARTITION, "a face.jpg  2"])
    done = prepare(config_of(path, split="official"))
    assert [done.manifest["ids"][row] for row in done.indices("test")] == ["a face.jpg"]
    with pytest.raises(DataError, match="validation split .* is empty"):
        done.indices("validation")


def test_list_may_lie_in_the_unpacked_folder(empty_workspace):
    folder = empty_workspace / "celeba"
    folder.mkdir()
    for name, content in celeba_images().items():
        (folder / name).write_bytes(content)
    with_partition(folder / "x", PARTITION)
    assert len(prepare(config_of(folder, split="official")).indices("test")) == 3


def test_missing_list_says_what_to_download_and_where_to_put_it(celeba_source):
    path = celeba_source(celeba_images())
    with pytest.raises(DataError, match="download list_eval_partition.txt .*mmlab.*") as error:
        prepare(config_of(path, split="official"))
    assert str(path.parent / "list_eval_partition.txt") in str(error.value)
    assert "\n" not in str(error.value)
    assert prepare(config_of(path)).manifest["count"] == 12  # other splits need none


def test_image_that_the_list_lacks_is_named_before_any_is_decoded(celeba_source, monkeypatch):
    path = with_partition(celeba_source(celeba_images()), PARTITION[:7] + PARTITION[8:])
    monkeypatch.setattr("paperlib.celeba.CelebA.read", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"list_eval_partition.txt does not list 000008.jpg"):
        prepare(config_of(path, split="official"))


@pytest.mark.parametrize("line", ["000003.jpg", "000003.jpg 3", "000003.jpg,1", "1", "<html>", "000001.jpg 2", "\0"])  # fmt: skip
def test_malformed_line_of_the_list_is_named(celeba_source, line):
    path = with_partition(celeba_source(celeba_images()), [*PARTITION[:2], line, *PARTITION[3:]])
    with pytest.raises(DataError, match=r"list_eval_partition\.txt, line 3: expected") as error:
        prepare(config_of(path, split="official"))
    assert repr(line) in str(error.value)


def test_changed_list_is_noticed_where_it_matters(celeba_source):
    path = with_partition(celeba_source(celeba_images()), PARTITION)
    official, shuffled = config_of(path, split="official"), config_of(path)
    first, random = prepare(official), prepare(shuffled)
    with_partition(path, [line.replace(" 2", " 1") for line in PARTITION])
    second = prepare(official)
    assert second.checksum != first.checksum and len(second.indices("validation")) == 6
    assert prepare(shuffled).manifest["request"] == random.manifest["request"]


def test_list_without_training_images_is_an_error(celeba_source):
    path = with_partition(celeba_source(celeba_images()), [f"{line[:10]} 2" for line in PARTITION])
    with pytest.raises(DataError, match="no image .* training"):
        prepare(config_of(path, split="official"))


def test_official_split_needs_a_data_set_that_has_one(empty_workspace):
    for dataset in ("bluemarble", "folder"):
        with pytest.raises(DataError, match="split 'official' needs celeba or recipe1m"):
            prepare(DataConfig(dataset=dataset, split="official"))
