"""The paper's data sets as they are distributed: CelebA, LSUN bedrooms and Recipe1M."""

from __future__ import annotations

import zipfile
from functools import cached_property
from pathlib import Path

from PIL import Image

from paperlib.config import DataConfig
from paperlib.data.sources import SOURCES, Files, Folder, fingerprint_of_files


class CelebA(Files):
    """Aligned CelebA as distributed, img_align_celeba.zip, or the same at half resolution.

    The centre 128 x 128 (paper, section 3.1), or 64 x 64 of half-size images, is resized. An id is
    the file's name, e.g. 000001.jpg, so that ``split: file`` with ``validation: 19867`` and
    ``test: 19962`` is the official split.
    """

    crop = "centre 128 x 128 of 178 x 218 (64 of 89 x 109), resized to {size} x {size}"
    CROPS = {(178, 218): 128, (89, 109): 64}
    HOW_TO_GET_IT = (
        "download it from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (non-commercial research "
        "only), do not unpack it, and set source: to its path"
    )

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile):
            raise self.unusable(f"{self.path} is not a zip, img_align_celeba.zip") from None
        names = (name for name in self._zip.namelist() if name.lower().endswith(".jpg"))
        self._names = {Path(name).name: name for name in names}  # id -> path in the zip
        self.ids = sorted(self._names)

    def content(self, image_id: str) -> bytes:
        return self._zip.read(self._names[image_id])

    def framed(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if image.size not in self.CROPS:
            raise ValueError(f"{width} x {height} px, expected 178 x 218 or 89 x 109")
        side = self.CROPS[image.size]
        left, top = (width - side) // 2, (height - side) // 2
        return image.crop((left, top, left + side, top + side))


class LSUN(Files):
    """The LMDB bedroom_train_lmdb: 3,033,042 JPEG or WebP files; an id is an image's key."""

    PART = "data.mdb"
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


class Recipe1M(Folder):
    """Images of dishes: images/PARTITION/a/b/c/d/abcdef.jpg; an id is this path.

    A partition that was not unpacked is left out: the paper's 619,424 images are about those of
    train (619,508).
    """

    PART = "images"
    HOW_TO_GET_IT = (
        "unpack recipe1M_images_{train,val,test}.tar into images/ in a folder (research use only; "
        "https://github.com/torralba-lab/im2recipe links to the form for access), and set source: "
        "to the folder"
    )

    def fingerprint(self) -> str:
        """Of the hashed folders: tells what was added and removed, not rewritten."""
        found = sorted(self.path.glob("images/*/?/?/?/?"))
        return fingerprint_of_files(self.path, [p.relative_to(self.path).as_posix() for p in found])


SOURCES |= {"celeba": CelebA, "lsun": LSUN, "recipe1m": Recipe1M}
