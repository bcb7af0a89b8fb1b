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
    """Aligned CelebA as distributed (img_align_celeba.zip, or its folder), or at half resolution.

    178 x 218 images are cropped to their centre 128 x 128 (paper, section 3.1), half-size ones
    (89 x 109) to their centre 64 x 64, then resized to the size asked for. An id is the file's
    name, e.g. 000001.jpg.
    """

    CROPS = {(178, 218): 128, (89, 109): 64}
    WEBSITE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (non-commercial research only)"
    HOW_TO_GET_IT = (
        f"download img_align_celeba.zip from {WEBSITE}, do not unpack it, and set source: to its "
        "path"
    )

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        size = f"{config.size} x {config.size}"
        self.crop = f"centre 128 x 128 of 178 x 218 (64 of 89 x 109), resized to {size}"
        try:
            self._zip = None if self.path.is_dir() else zipfile.ZipFile(self.path)
        except zipfile.BadZipFile:
            raise self.unusable(f"{self.path} is not a zip file") from None
        names = self._zip.namelist() if self._zip else map(str, self.path.rglob("*.jpg"))
        found = {Path(name).name: name for name in names if name.lower().endswith(".jpg")}
        self._names = dict(sorted(found.items()))  # id -> path in the zip or folder
        self.ids = self.some(self._names)
        within = self.path / "list_eval_partition.txt"  # official; it may also lie beside
        self._list = within if within.is_file() else self.path.with_name(within.name)

    def content(self, image_id: str) -> bytes:
        name = self._names[image_id]
        return self._zip.read(name) if self._zip else Path(name).read_bytes()

    def framed(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if image.size not in self.CROPS:
            raise ValueError(f"{width} x {height} px, expected 178 x 218 or 89 x 109")
        side = self.CROPS[image.size]
        left, top = (width - side) // 2, (height - side) // 2
        return image.crop((left, top, left + side, top + side))

    def fingerprint(self) -> str:
        files = f"{self.path.name} {stamp(self.path)}"
        if self._zip is None:
            names = [Path(name).relative_to(self.path).as_posix() for name in self._names.values()]
            files = fingerprint_of_files(self.path, names)
        if self.config.split == "official" and self._list.is_file():
            files += f" {fingerprint_of_files(self._list.parent, [self._list.name])}"
        return files

    def where(self) -> np.ndarray | None:
        if self.config.split != "official":
            return super().where()
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
            return self.some(key.decode(errors="surrogateescape") for key in keys)

    def content(self, image_id: str) -> bytes:
        with self._lmdb.begin() as transaction:
            return transaction.get(image_id.encode()) or b""

    def fingerprint(self) -> str:
        return f"data.mdb {stamp(self.path / 'data.mdb')}"


class Recipe1M(Files):
    """Images of dishes: layer1.json (the recipes' partitions), layer2.json (their images), images/.

    The image ``abcdef.jpg`` is ``images/train/a/b/c/d/abcdef.jpg``, as the tar files unpack, or
    ``images/a/b/c/d/abcdef.jpg``. A partition that was not unpacked is not listed: the paper's
    619,424 images are about those of train (619,508).
    """

    PARTS = ("layer1.json", "layer2.json", "images")
    PARTITIONS = ("train", "val", "test")
    HOW_TO_GET_IT = (
        "download recipe1M_layers.tar.gz and recipe1M_images_{train,val,test}.tar (research use "
        "only; access by the form that https://github.com/torralba-lab/im2recipe links to), unpack "
        "the first into a folder and the others into images/ in it, and set source: to that folder"
    )

    @cached_property
    def _roots(self) -> list[Path]:
        """The folders of the partitions, whether they exist or not."""
        images = self.path / "images"
        roots = [images / name for name in self.PARTITIONS]
        return roots if any(root.is_dir() for root in roots) else [images] * 3

    @cached_property
    def _partition_of(self) -> dict[str, int]:
        """Image id to the number of its partition in PARTITIONS, in the order of the ids."""
        try:
            layer1, layer2 = (json.loads((self.path / p).read_bytes()) for p in self.PARTS[:2])
            part_of = {r["id"]: self.PARTITIONS.index(r["partition"]) for r in layer1}
            found = [(str(i["id"]), part_of[r["id"]]) for r in layer2 for i in r["images"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"layer1.json or layer2.json is damaged or not as expected ({error!r})"
            raise self.unusable(what) from None
        found = sorted(dict(reversed(found)).items())  # a recipe may repeat another's image
        return {image_id: part for image_id, part in found if self._roots[part].is_dir()}

    @cached_property
    def ids(self) -> list[str]:  # type: ignore[override]
        return self.some(self._partition_of)

    def content(self, image_id: str) -> bytes:
        root = self._roots[self._partition_of[image_id]]
        return root.joinpath(*image_id[:4], image_id).read_bytes()

    def fingerprint(self) -> str:
        """Of the lists and the hashed folders: tells what was added and removed, not rewritten."""
        folders = [f for root in dict.fromkeys(self._roots) for f in sorted(root.glob("?/?/?/?"))]
        names = [f.relative_to(self.path).as_posix() for f in folders]
        return fingerprint_of_files(self.path, ["layer1.json", "layer2.json", *names])

    def where(self) -> np.ndarray | None:
        if self.config.split == "official":
            return np.array(list(self._partition_of.values()))
        return super().where()


SOURCES |= {"celeba": CelebA, "lsun": LSUN, "recipe1m": Recipe1M}
