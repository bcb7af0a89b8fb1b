"""CelebA as it is distributed: a zip of aligned faces, and a list of the official partition."""

from __future__ import annotations

import io
import re
import stat
import zipfile
import zlib
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from paperlib.image_source import DataError, Source, fingerprint_of_files, open_image

WEBSITE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (non-commercial research only)"
PARTITION = "list_eval_partition.txt"
MAX_BYTES = 2**26  # of a member, unpacked; CelebA's have some 10,000


class CelebA(Source):
    """Aligned CelebA as distributed (img_align_celeba.zip, or its folder), or at half resolution.

    178 x 218 images are cropped to their centre 128 x 128 (paper, section 3.1), half-size ones
    (89 x 109) to their centre 64 x 64, then resized to the size asked for. An id is the file's
    name, e.g. 000001.jpg.

    Args:
        size: image side, pixels.
        path: the zip, or a folder of .jpg.
        max_pixels: of an image; larger ones are not decoded.
        official: whether ``official()`` will be asked for; its file is then part of the source.
    """

    CROPS = {(178, 218): 128, (89, 109): 64}
    HOW_TO_GET_IT = (
        f"download img_align_celeba.zip from {WEBSITE}, do not unpack it, and set source: to its "
        "path"
    )

    def __init__(self, size: int, path: Path, max_pixels: int, official: bool = False) -> None:
        self.size, self.path, self.max_pixels = size, path, max_pixels
        self.crop = f"centre 128 x 128 of 178 x 218 (64 of 89 x 109), resized to {size} x {size}"
        if not path.exists():
            raise DataError(f"celeba: {path} does not exist; {self.HOW_TO_GET_IT}")
        self._partition = self._find_partition() if official else None
        self._archive = None if path.is_dir() else self._open()

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except zipfile.BadZipFile:
            raise DataError(
                f"celeba: {self.path} is not a zip file; {self.HOW_TO_GET_IT}"
            ) from None

    def _find_partition(self) -> Path:
        beside = self.path.parent / PARTITION
        for path in (beside, self.path / PARTITION):
            if path.is_file():
                return path
        raise DataError(
            f"celeba: split 'official' needs {beside}, which does not exist; download {PARTITION} "
            f"from {WEBSITE}, folder Eval, and put it there"
        )

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()

    @cached_property
    def _names(self) -> dict[str, str]:
        """Image id to its path in the zip or folder."""
        if self._archive is not None:
            for member in self._archive.infolist():
                _refuse_link_out(self.path, member)
            names = self._archive.namelist()
        else:
            names = [p.relative_to(self.path).as_posix() for p in self.path.rglob("*.jpg")]
        found = {Path(n).name: n for n in names if n.lower().endswith(".jpg")}
        if not found:
            raise DataError(f"celeba: no .jpg in {self.path}; {self.HOW_TO_GET_IT}")
        return dict(sorted(found.items()))

    @property
    def ids(self) -> list[str]:
        return list(self._names)

    def read(self, image_id: str) -> np.ndarray:
        name = self._names[image_id]
        data = _unpacked(self._archive, name) if self._archive else (self.path / name).read_bytes()
        image = open_image(io.BytesIO(data), self.max_pixels)
        width, height = image.size
        side = self.CROPS.get(image.size)
        if side is None:
            raise ValueError(f"{width} x {height} px, expected 178 x 218 or 89 x 109")
        if side < self.size:
            raise ValueError(f"its {side} px crop is smaller than the {self.size} px asked for")
        left, top = (width - side) // 2, (height - side) // 2
        square = image.convert("RGB").crop((left, top, left + side, top + side))
        return np.asarray(square.resize((self.size, self.size), Image.Resampling.BOX))

    def fingerprint(self) -> str:
        if self._archive is None:
            files = fingerprint_of_files(self.path, list(self._names.values()))
        else:
            zipped = self.path.stat()
            files = f"{self.path.name} {zipped.st_size} {zipped.st_mtime_ns}"
        if self._partition is None:
            return files
        return f"{files} {fingerprint_of_files(self._partition.parent, [PARTITION])}"

    def official(self) -> np.ndarray:
        """The partition of list_eval_partition.txt, whose lines are "000001.jpg 0".

        Raises:
            DataError: a line is malformed, or the list lacks one of the images.
        """
        assert self._partition is not None  # it was opened as official
        path, listed = self._partition, dict[str, str]()
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                entry = re.fullmatch(r"(\S.*?)\s+([012])", line.strip())
                if entry is None or listed.get(entry[1], entry[2]) != entry[2]:
                    raise DataError(
                        f"{path}, line {number}: expected an image once, with 0, 1 or 2 after it "
                        f"('000001.jpg 0'), got {line.strip()[:80]!r}; download it again"
                    )
                listed[entry[1]] = entry[2]
        for image_id in self._names:
            if image_id not in listed:
                raise DataError(
                    f"{path} does not list {image_id}, which is in {self.path}: remove that image, "
                    "or choose another split"
                )
        return np.array([int(listed[i]) for i in self._names], dtype=np.uint8)


def _refuse_link_out(archive: Path, member: zipfile.ZipInfo) -> None:
    """DataError for what no honest archive has: a symbolic link, or a name outside of it."""
    name = member.filename.replace("\\", "/")
    link = stat.S_ISLNK(member.external_attr >> 16)
    if link or name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
        kind = "is a symbolic link" if link else "points out of the archive"
        raise DataError(
            f"celeba: {archive}: member {member.filename!r} {kind}: refused; {CelebA.HOW_TO_GET_IT}"
        )


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    if (length := archive.getinfo(name).file_size) > MAX_BYTES:
        raise ValueError(f"unpacks to {length} bytes, more than {MAX_BYTES}: no such picture")
    try:
        return archive.read(name)  # no more than it says
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise OSError(f"damaged in the zip, or encrypted ({error})") from None
