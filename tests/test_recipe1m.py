"""Recipe1M: layer1.json, layer2.json and hashed folders of images, as it is distributed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from image_files import FAULTS, decoded, jpegs, shrunk_square

from paperlib import json_list
from paperlib.config import DataConfig
from paperlib.data import SPLITS, prepare
from paperlib.json_list import read_objects
from paperlib.sources import DataError, open_source

PARTITIONS = {"train": "training", "val": "validation", "test": "test"}


def hexadecimal(text: str) -> str:
    """Ids as Recipe1M has them: 10 hexadecimal digits."""
    return hashlib.md5(text.encode()).hexdigest()[:10]


class Kitchen:
    """A small Recipe1M below a folder: recipe k of partition k % 3, as many images as recipes."""

    def __init__(self, folder: Path, recipes: int = 36, per_partition: bool = True) -> None:
        self.folder, self.per_partition = folder, per_partition
        self.images: dict[str, bytes] = {}
        self.partition: dict[str, str] = {}  # of an image
        self.layer1, self.layer2 = [], []
        images = [1, 2, 0, 2, 0, 1, 0, 1, 2]  # of a recipe
        contents = iter(jpegs(2 * recipes, 48, 32))
        for k in range(recipes):
            recipe, partition = hexadecimal(f"recipe {k}"), list(PARTITIONS)[k % 3]
            about = {"title": f"Soup no. {k} “à la crème”", "instructions": [{"text": "Stir."}] * 9}
            self.layer1.append({"id": recipe, "partition": partition, "url": "http://x"} | about)
            names = [f"{hexadecimal(f'image {k} {i}')}.jpg" for i in range(images[k % 9])]
            for name in names:
                self.add(name, next(contents), partition)
            if names:
                listed = [{"id": name, "url": "http://x/y.jpg"} for name in names]
                self.layer2.append({"id": recipe, "images": listed})
        self.write_layers()

    def path(self, name: str) -> Path:
        root = self.folder / "images"
        if self.per_partition:
            root = root / self.partition[name]
        return root / name[0] / name[1] / name[2] / name[3] / name

    def add(self, name: str, content: bytes, partition: str) -> None:
        self.images[name], self.partition[name] = content, partition
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_bytes(content)

    def list_image(self, name: str, content: bytes) -> None:
        """One more image of the first recipe of layer2.json."""
        first = self.layer2[0]
        partition = {r["id"]: r["partition"] for r in self.layer1}[first["id"]]
        self.add(name, content, partition)
        first["images"].append({"id": name, "url": "http://x"})
        self.write_layers()

    def write_layers(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for name in ("layer1", "layer2"):
            layer = json.dumps(getattr(self, name), indent=2)
            (self.folder / f"{name}.json").write_text(layer)

    def config(self, **changes) -> DataConfig:
        values = {"dataset": "recipe1m", "source": str(self.folder), "size": 16}
        return DataConfig(**values | changes)


@pytest.fixture(params=["partitions", "hashed"])
def kitchen(request, empty_workspace) -> Kitchen:
    """36 images, in images/train/a/b/c/d or in images/a/b/c/d."""
    return Kitchen(empty_workspace / "recipe1M", per_partition=request.param == "partitions")


def test_images_are_resized_by_area_and_their_centre_is_cropped(kitchen):
    done = prepare(kitchen.config())
    assert list(done.manifest["ids"]) == sorted(kitchen.images) and not done.manifest["failed"]
    for row, name in enumerate(done.manifest["ids"]):
        expected = shrunk_square(kitchen.images[name], 16)
        assert np.abs(done.images()[row] - expected).max() <= 1  # Pillow rounds twice


def test_official_split_is_that_of_the_recipes(kitchen):
    done = prepare(kitchen.config(split="official"))
    ids = done.manifest["ids"]
    split = {ids[row]: name for name in SPLITS for row in done.indices(name)}
    assert split == {name: PARTITIONS[p] for name, p in kitchen.partition.items()}


def test_official_split_survives_images_that_are_left_out(empty_workspace):
    kitchen = Kitchen(empty_workspace / "recipe1M", recipes=150)
    bad = sorted(kitchen.images)[20]
    kitchen.path(bad).write_bytes(b"broken")
    done = prepare(kitchen.config(split="official"))
    assert list(done.manifest["failed"]) == [bad]
    ids = done.manifest["ids"]
    split = {ids[row]: name for name in SPLITS for row in done.indices(name)}
    expected = {name: PARTITIONS[p] for name, p in kitchen.partition.items() if name != bad}
    assert split == expected


def test_random_split_mixes_the_partitions(kitchen):
    done = prepare(kitchen.config())
    held = {kitchen.partition[done.manifest["ids"][row]] for row in done.indices("validation")}
    assert len(held) > 1


def test_an_image_of_two_recipes_comes_once(kitchen):
    name = kitchen.layer2[0]["images"][0]["id"]
    kitchen.layer2[-1]["images"].append({"id": name, "url": "http://x"})
    kitchen.write_layers()
    assert list(prepare(kitchen.config()).manifest["ids"]).count(name) == 1


def test_absent_images_count_as_failures(empty_workspace):
    kitchen = Kitchen(empty_workspace / "recipe1M", recipes=150)
    first, second = sorted(kitchen.images)[:2]
    kitchen.path(first).unlink()
    done = prepare(kitchen.config())
    assert "not in" in done.manifest["failed"][first] and len(done.images()) == 149
    kitchen.path(second).unlink()  # 1.3 %; and the folder tells that something has changed
    with pytest.raises(DataError, match=f"2 of 150 .*{first}: listed in layer2.json, but not in"):
        prepare(kitchen.config())


def test_partition_that_was_not_unpacked_is_not_listed(empty_workspace):
    kitchen = Kitchen(empty_workspace / "recipe1M")
    (kitchen.folder / "images" / "val").rename(empty_workspace / "elsewhere")
    done = prepare(kitchen.config())
    there = {name for name, partition in kitchen.partition.items() if partition != "val"}
    assert set(done.manifest["ids"]) == there and not done.manifest["failed"]
    with pytest.raises(DataError, match="images/val; unpack recipe1M_images_val.tar"):
        prepare(kitchen.config(split="official"))


@pytest.mark.parametrize("missing", ["layer1.json", "layer2.json", "images"])
def test_missing_part_is_named_with_what_to_download(kitchen, missing):
    (kitchen.folder / missing).rename(kitchen.folder / "elsewhere")
    with pytest.raises(DataError, match=rf"{missing} does not exist; download recipe1M") as error:
        prepare(kitchen.config())
    assert "\n" not in str(error.value)


def test_folder_of_images_that_is_empty_is_an_error(empty_workspace):
    kitchen = Kitchen(empty_workspace / "recipe1M")
    (kitchen.folder / "images").rename(empty_workspace / "elsewhere")
    (kitchen.folder / "images").mkdir()
    with pytest.raises(DataError, match="no images in .*images; download"):
        prepare(kitchen.config())


@pytest.mark.parametrize("name", ["one dish.jpg", "crème brûlée.jpg", "ラーメン一杯.jpg"])
def test_names_with_spaces_and_other_scripts_work(kitchen, name):
    kitchen.list_image(name, jpegs(1, 16, 16, seed=9)[0])
    done = prepare(kitchen.config())
    row = list(done.manifest["ids"]).index(name)
    assert np.array_equal(done.images()[row], decoded(kitchen.images[name]))


@pytest.mark.parametrize("name", ["../../../../secret.jpg", "/etc/x.jpg", "....jpg", "abc", 12345])
def test_image_whose_name_leads_elsewhere_is_refused_by_name(kitchen, name):
    kitchen.layer2[3]["images"][0]["id"] = name
    kitchen.write_layers()
    with pytest.raises(DataError, match="layer2.json: entry 3 .*refused") as error:
        prepare(kitchen.config())
    assert repr(name) in str(error.value)


@FAULTS
def test_bad_images_are_named(kitchen, fault, reason):
    name = sorted(kitchen.images)[0]
    kitchen.path(name).write_bytes(fault(kitchen.images[name]))
    with pytest.raises(DataError, match=f"1 of 36 .*{name}: .*{reason}"):
        prepare(kitchen.config())


@pytest.mark.parametrize(
    "layer, entry, fault",
    [
        ("layer1", {"id": "0123456789"}, "layer1.json: entry 36 .*partition"),
        ("layer1", {"id": "0123456789", "partition": "dev"}, "layer1.json: entry 36 .*partition"),
        ("layer2", {"id": "0123456789", "images": []}, "layer2.json: entry 24 .*layer1.json lacks"),
        ("layer2", {"id": hexadecimal("recipe 0")}, "layer2.json: entry 24 .*no images"),
    ],
)
def test_malformed_entry_is_named(kitchen, layer, entry, fault):
    getattr(kitchen, layer).append(entry)
    kitchen.write_layers()
    with pytest.raises(DataError, match=fault) as error:
        prepare(kitchen.config())
    assert "\n" not in str(error.value)


def test_list_without_images_is_an_error(kitchen):
    kitchen.layer2.clear()
    kitchen.write_layers()
    with pytest.raises(DataError, match=r"layer2\.json lists no images"):
        prepare(kitchen.config())


def test_only_the_partition_of_a_recipe_is_kept_of_layer1(kitchen):
    source = open_source(kitchen.config())
    recipes = source._read_layer1()
    assert recipes == {r["id"]: list(PARTITIONS).index(r["partition"]) for r in kitchen.layer1}


# Long JSON lists


@pytest.mark.parametrize("piece", [1, 7, 64, 10_000])
@pytest.mark.parametrize("indent", [None, 2])
def test_objects_are_read_whole_whatever_the_pieces(tmp_path, monkeypatch, piece, indent):
    objects = [{"text": ']}, {["\\', "n": [k, {"é": None}]} for k in range(12)]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(objects, indent=indent))
    monkeypatch.setattr(json_list, "PIECE", piece)
    assert list(read_objects(path)) == objects


def test_empty_list_has_no_objects(tmp_path):
    (tmp_path / "list.json").write_text(" [ ]\n")
    assert list(read_objects(tmp_path / "list.json")) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"<html>", b"[1, 2]", b'[{"a": 1}, {"b": 2', b'[{"a": 1}', b'[{"a": }]', b"\xff\xfe["],
)  # fmt: skip
def test_what_is_no_list_of_objects_is_an_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "layer1.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"layer1\.json is not .*download it again") as error:
        list(read_objects(path))
    assert "\n" not in str(error.value)


def test_endless_object_is_given_up_before_it_fills_the_memory(tmp_path, monkeypatch):
    path = tmp_path / "layer1.json"
    path.write_text('[{"a": "' + "x" * 1000)
    monkeypatch.setattr(json_list, "PIECE", 10)
    monkeypatch.setattr(json_list, "LONGEST", 100)
    decoded_lengths = []

    class Decoder(json.JSONDecoder):
        def raw_decode(self, text, at=0):
            decoded_lengths.append(len(text))
            return super().raw_decode(text, at)

    monkeypatch.setattr(json_list.json, "JSONDecoder", Decoder)
    with pytest.raises(DataError, match="from character 1 on"):
        list(read_objects(path))
    assert max(decoded_lengths) < 150
