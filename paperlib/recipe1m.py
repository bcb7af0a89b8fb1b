"""Recipe1M as it is distributed: two lists of recipes, and images in folders of hashed names."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import numpy as np

from paperlib.image_source import (
    DataError,
    Source,
    central_square,
    fingerprint_of_files,
    open_image,
)
from paperlib.json_list import read_objects

PARTITIONS = ("train", "val", "test")
NAME = re.compile(
    r"[^./\\]{4}[^/\\]*"
)  # of an image; it becomes a path and must not lead elsewhere


class Recipe1M(Source):
    """Images of dishes: layer1.json, layer2.json and images/, below one folder.

    ``layer1.json`` gives each recipe's partition, ``layer2.json`` its images. The image
    ``abcdef.jpg`` is ``images/a/b/c/d/abcdef.jpg`` or, as the tar files unpack,
    ``images/train/a/b/c/d/abcdef.jpg``. Where only some of train, val and test were unpacked, the
    images of the others are not listed: the paper's 619,424 are about those of train (619,508).
    The short side is resized to the size, then the centre is cropped. An id is the image's.

    Args:
        size: image side, pixels.
        path: the folder.
        max_pixels: of an image; larger ones are not decoded.
    """

    HOW_TO_GET_IT = (
        "download recipe1M_layers.tar.gz and recipe1M_images_{train,val,test}.tar (research use "
        "only; access by the form that https://github.com/torralba-lab/im2recipe links to), unpack "
        "the first into a folder and the others into images/ in it, and set source: to that folder"
    )

    def __init__(self, size: int, path: Path, max_pixels: int) -> None:
        self.size, self.path, self.max_pixels = size, path, max_pixels
        self.crop = f"short side resized to {size}, centre {size} x {size} cropped"
        for needed in ("layer1.json", "layer2.json", "images"):
            if not (path / needed).exists():
                raise DataError(f"recipe1m: {path / needed} does not exist; {self.HOW_TO_GET_IT}")

    @cached_property
    def _roots(self) -> dict[str, Path]:
        """Where images lie in hashed folders: "" for images/ itself, or partition to folder."""
        images = self.path / "images"
        roots = {name: images / name for name in PARTITIONS if (images / name).is_dir()}
        if any(images.glob("?/?/?/?")):
            roots = {"": images} | roots
        if not roots:
            raise DataError(f"recipe1m: no images in {images}; {self.HOW_TO_GET_IT}")
        return roots

    @cached_property
    def _partition_of(self) -> dict[str, int]:
        """Image id to the number of its partition in PARTITIONS, in the order of the ids."""
        recipes = self._read_layer1()  # 1,029,720 of them
        layer2 = self.path / "layer2.json"
        found: dict[str, int] = {}
        for number, recipe in enumerate(read_objects(layer2)):
            try:
                partition = recipes[recipe["id"]]
                images = [image["id"] for image in recipe["images"]]
            except (KeyError, TypeError):
                raise DataError(
                    f"{layer2}: entry {number} (from 0) has no images, or an id that layer1.json "
                    "lacks: download both again"
                ) from None
            for image_id in images:
                if not isinstance(image_id, str) or not NAME.fullmatch(image_id):
                    raise DataError(
                        f"{layer2}: entry {number} (from 0): image {image_id!r} refused, for it is no "
                        "name of a file: download it again"
                    )
                found.setdefault(image_id, partition)  # a recipe may repeat another's image
        if "" not in self._roots:
            there = {PARTITIONS.index(name) for name in self._roots}
            found = {i: partition for i, partition in found.items() if partition in there}
        if not found:
            raise DataError(f"recipe1m: {layer2} lists no images; {self.HOW_TO_GET_IT}")
        return dict(sorted(found.items()))

    def _read_layer1(self) -> dict[str, int]:
        """Recipe id to the number of its partition."""
        layer1 = self.path / "layer1.json"
        found = {}
        for number, recipe in enumerate(read_objects(layer1)):
            try:
                found[recipe["id"]] = PARTITIONS.index(recipe["partition"])
            except (KeyError, TypeError, ValueError):
                raise DataError(
                    f"{layer1}: entry {number} (from 0) lacks an id, or a partition of "
                    f"{', '.join(PARTITIONS)}: download it again"
                ) from None
        return found

    @property
    def ids(self) -> list[str]:
        return list(self._partition_of)

    def read(self, image_id: str) -> np.ndarray:
        for root in self._roots.values():
            try:
                file = root.joinpath(*image_id[:4], image_id).open("rb")
            except FileNotFoundError:
                continue
            with file:
                return central_square(open_image(file, self.max_pixels), self.size)
        raise ValueError(f"listed in layer2.json, but not in {self.path / 'images'}")

    def fingerprint(self) -> str:
        """Of the lists and the hashed folders: tells what was added and removed, not rewritten."""
        folders = [f for root in self._roots.values() for f in sorted(root.glob("?/?/?/?"))]
        names = [f.relative_to(self.path).as_posix() for f in folders]
        return fingerprint_of_files(self.path, ["layer1.json", "layer2.json", *names])

    def official(self) -> np.ndarray:
        missing = [n for n in PARTITIONS if "" not in self._roots and n not in self._roots]
        if missing:
            folders = " and ".join(str(self.path / "images" / name) for name in missing)
            raise DataError(
                f"recipe1m: split 'official' needs {folders}; unpack recipe1M_images_{missing[0]}"
                ".tar, or choose another split"
            )
        return np.fromiter(self._partition_of.values(), np.uint8, len(self._partition_of))
