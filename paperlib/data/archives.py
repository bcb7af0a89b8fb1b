"""The paper's data sets as they are distributed: CelebA, LSUN bedrooms and Recipe1M."""

from __future__ import annotations

import json
import zipfile
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from paperlib.config import DataConfig
from paperlib.data.sources import SOURCES, Files, fingerprint_of_files, stamp
from paperlib.errors import DataError


class CelebA(Files):
    """Aligned CelebA as distributed, img_align_celeba.zip, or the same at half resolution.

    178 x 218 images are cropped to their centre 128 x 128 (paper, section 3.1), half-size ones
    (89 x 109) to their centre 64 x 64, then resized to the size asked for. An id is the file's
    name, e.g. 000001.jpg.
    """

    crop = "centre 128 x 128 of 178 x 218 (64 of 89 x 109), resized to {size} x {size}"
    CROPS = {(178, 218): 128, (89, 109): 64}
    WEBSITE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (non-commercial research only)"
    HOW_TO_GET_IT = f"download it from {WEBSITE}, do not unpack it, and set source: to its path"

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile):
            raise self.unusable(f"{self.path} is not a zip, img_align_celeba.zip") from None
        names = (name for name in self._zip.namelist() if name.lower().endswith(".jpg"))
        self._names = {Path(name).name: name for name in names}  # id -> path in the zip
        self.ids = sorted(self._names)
        self._list = self.path.with_name("list_eval_partition.txt")  # the official split

    def content(self, image_id: str) -> bytes:
        return self._zip.read(self._names[image_id])

    def framed(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if image.size not in self.CROPS:
            raise ValueError(f"{width} x {height} px, expected 178 x 218 or 89 x 109")
        side = self.CROPS[image.size]
        left, top = (width - side) // 2, (height - side) // 2
        return image.crop((left, top, left + side, top + side))

    def fingerprint(self) -> str:
        archive = f"{self.path.name} {stamp(self.path)}"
        if self.config.split == "official" and self._list.is_file():
            return f"{archive} {fingerprint_of_files(self._list.parent, [self._list.name])}"
        return archive

    def where(self) -> np.ndarray | None:
        if self.config.split != "official":
            return None
        try:
            lines = self._list.read_text(encoding="utf-8-sig").splitlines()
            part_of = dict(line.rsplit(maxsplit=1) for line in lines)  # "000001.jpg 0"
            return np.array([("0", "1", "2").index(part_of[image_id]) for image_id in self.ids])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"celeba: split 'official' needs the list {self._list} of all images, each with 0, "
                f"1 or 2 ({error!r}): download it from {self.WEBSITE}, folder Eval"
            ) from None


class LSUN(Files):
    """The LMDB bedroom_train_lmdb: 3,033,042 JPEG or WebP files; an id is an image's key.

    It is read by lmdb itself: torchvision's class leaves a cache in the current folder.
    """

    PARTS = ("data.mdb",)
    HOW_TO_GET_IT = (
        "download http://dl.yf.io/lsun/scenes/bedroom_train_lmdb.zip (43 GB), unpack it, and set "
        "source: to the folder bedroom_train_lmdb with data.mdb in it"
    )

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        try:  # no lock file: the disk may be read-only; no read-ahead: the values lie scattered
            import lmdb

            self._lmdb = lmdb.open(str(self.path), readonly=True, lock=False, readahead=False)
        except ImportError:
            raise DataError("lsun: the package lmdb is missing; run 'pip install lmdb'") from None
        except lmdb.Error as error:
            raise self.unusable(f"{self.path} is not an LMDB, or damaged ({error})") from None

    def close(self) -> None:
        self._lmdb.close()

    @cached_property
    def ids(self) -> list[str]:  # type: ignore[override]
        with self._lmdb.begin() as transaction:
            keys = transaction.cursor().iternext(keys=True, values=False)
            return [key.decode(errors="surrogateescape") for key in keys]

    def content(self, image_id: str) -> bytes:
        with self._lmdb.begin() as transaction:
            return transaction.get(image_id.encode()) or b""

    def fingerprint(self) -> str:
        return f"data.mdb {stamp(self.path / 'data.mdb')}"


class Recipe1M(Files):
    """Images of dishes: layer1.json (the recipes' partitions), layer2.json (their images), images/.

    The image ``abcdef.jpg`` is ``images/train/a/b/c/d/abcdef.jpg``, as the tar files unpack. A
    partition that was not unpacked is not listed: the paper's 619,424 images are about those of
    train (619,508).
    """

    PARTS = ("layer1.json", "layer2.json", "images")
    PARTITIONS = ("train", "val", "test")
    HOW_TO_GET_IT = (
        "download recipe1M_layers.tar.gz and recipe1M_images_{train,val,test}.tar (research use "
        "only; access by the form that https://github.com/torralba-lab/im2recipe links to), unpack "
        "the first into a folder and the others into images/ in it, and set source: to that folder"
    )

    @cached_property
    def _partition_of(self) -> dict[str, str]:
        """Image id to its partition, in the order of the ids."""
        try:
            layer1, layer2 = (json.loads((self.path / p).read_bytes()) for p in self.PARTS[:2])
            part_of = {recipe["id"]: recipe["partition"] for recipe in layer1}
            found = [(i["id"], part_of[r["id"]]) for r in layer2 for i in r["images"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"layer1.json or layer2.json is damaged or not as expected ({error!r})"
            raise self.unusable(what) from None
        there = {name for name in self.PARTITIONS if (self.path / "images" / name).is_dir()}
        found = sorted(dict(reversed(found)).items())  # a recipe may repeat another's image
        return {image_id: part for image_id, part in found if part in there}

    @cached_property
    def ids(self) -> list[str]:  # type: ignore[override]
        return list(self._partition_of)

    def content(self, image_id: str) -> bytes:
        folder = self.path / "images" / self._partition_of[image_id]
        return folder.joinpath(*image_id[:4], image_id).read_bytes()

    def fingerprint(self) -> str:
        """Of the lists and the hashed folders: tells what was added and removed, not rewritten."""
        roots = [self.path / "images" / name for name in self.PARTITIONS]
        folders = [folder for root in roots for folder in sorted(root.glob("?/?/?/?"))]
        names = [folder.relative_to(self.path).as_posix() for folder in folders]
        return fingerprint_of_files(self.path, ["layer1.json", "layer2.json", *names])

    def where(self) -> np.ndarray | None:
        if self.config.split != "official":
            return None
        return np.array([self.PARTITIONS.index(part) for part in self._partition_of.values()])


SOURCES |= {"celeba": CelebA, "lsun": LSUN, "recipe1m": Recipe1M}
