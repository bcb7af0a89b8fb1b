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

    The centre 128 x 128 (paper, section 3.1), or 64 x 64 of half-size images, is resized. An id is
    the file's name, e.g. 000001.jpg.
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
        files = f"{self.path.name} {stamp(self.path)}"
        if self.config.split == "official" and self._list.is_file():
            files += f" {fingerprint_of_files(self._list.parent, [self._list.name])}"
        return files

    def where(self) -> np.ndarray | None:
        if self.config.split != "official":
            return None
        try:
            lines = self._list.read_text(encoding="utf-8-sig").splitlines()
            part_of = dict(line.rsplit(maxsplit=1) for line in lines)  # "000001.jpg 0"
            return np.array([("0", "1", "2").index(part_of[image_id]) for image_id in self.ids])
        except (OSError, ValueError, KeyError) as error:
            what = f"split 'official' needs {self._list}, all images, each with 0, 1 or 2"
            where = f"download it from {self.WEBSITE}, folder Eval"
            raise DataError(f"celeba: {what} ({error!r}): {where}") from None


class LSUN(Files):
    """The LMDB bedroom_train_lmdb: 3,033,042 JPEG or WebP files; an id is an image's key."""

    PARTS = ("data.mdb",)
    HOW_TO_GET_IT = (
        "download http://dl.yf.io/lsun/scenes/bedroom_train_lmdb.zip (43 GB), unpack it, and set "
        "source: to the folder with data.mdb in it"
    )

    def __init__(self, config: DataConfig) -> None:
        import lmdb  # here: only 'pip install .[lsun]' brings it along

        super().__init__(config)
        try:  # no lock file: the disk may be read-only; no read-ahead: the values lie scattered
            self._lmdb = lmdb.open(str(self.path), readonly=True, lock=False, readahead=False)
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

    The image ``abcdef.jpg`` is ``images/train/a/b/c/d/abcdef.jpg``. A partition that was not
    unpacked is not listed: the paper's 619,424 images are about those of train (619,508).
    """

    PARTS = ("layer1.json", "layer2.json", "images")
    PARTITIONS = ("train", "val", "test")
    HOW_TO_GET_IT = (
        "unpack recipe1M_layers.tar.gz into a folder, recipe1M_images_{train,val,test}.tar into "
        "images/ in it (research use only; https://github.com/torralba-lab/im2recipe links to the "
        "form for access), and set source: to the folder"
    )

    @cached_property
    def _partition_of(self) -> dict[str, str]:
        """Image id to its partition, in the order of the ids."""
        try:
            layer1, layer2 = (json.loads((self.path / p).read_bytes()) for p in self.PARTS[:2])
            part_of = {recipe["id"]: recipe["partition"] for recipe in layer1}
            found = [(i["id"], part_of[r["id"]]) for r in layer2 for i in r["images"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self.unusable(f"layer1.json or layer2.json is damaged ({error!r})") from None
        there = {folder.name for folder in (self.path / "images").iterdir()}
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
        found = [sorted(self.path.glob(f"images/{name}/?/?/?/?")) for name in self.PARTITIONS]
        names = [folder.relative_to(self.path).as_posix() for part in found for folder in part]
        return fingerprint_of_files(self.path, [*self.PARTS[:2], *names])

    def where(self) -> np.ndarray | None:
        if self.config.split != "official":
            return None
        return np.array([self.PARTITIONS.index(part) for part in self._partition_of.values()])


SOURCES |= {"celeba": CelebA, "lsun": LSUN, "recipe1m": Recipe1M}
