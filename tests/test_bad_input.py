"""Bad input of every kind, through the command line: one clear line, the right status, no trace.

Each case makes its input in a folder of its own, and says what the command is to answer: the
status, and what its error must name. Nothing else may be printed as an error, no traceback may
come, and no file may be left behind, changed or lost. Some odd input is legal: then it is to be
read properly, which ``LEGAL`` says of each.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from conftest import smooth_image
from helpers import changed
from image_files import claiming, encoded
from PIL import Image, ImageOps

from paperlib import paths, records
from paperlib.__main__ import main
from paperlib.config import RunConfig, load_profile
from paperlib.data import load_prepared
from paperlib.training import train

pytestmark = pytest.mark.usefixtures("own_signal_handlers")
Arguments = list[str | Path]


# What is not bad


def photo(seed: int = 0, size: tuple[int, int] = (40, 36)) -> Image.Image:
    return smooth_image(np.random.default_rng(seed), *size)


def holed(seed: int = 0, size: int = 32) -> Image.Image:
    """RGBA, a third of it missing."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 256, (size, size, 4), dtype=np.uint8)
    values[..., 3] = np.where(rng.random((size, size)) < 2 / 3, 255, 0)
    return Image.fromarray(values)


def with_profile(place: Path, **keys) -> Path:
    """A profile of the smallest run, with other keys."""
    smallest = {"size": 16, "attention": 0, "steps": 1, "batch_size": 2, "threads": 1}
    nets = {f"{net}_channels": [8, 8] for net in "gde"}
    path = place / "mine.yaml"
    path.write_text(yaml.safe_dump(smallest | nets | keys))
    return path


def photos(place: Path, **keys) -> Path:
    """A profile of four photographs in place/images."""
    (place / "images").mkdir()
    for i in range(4):
        photo(i).save(place / "images" / f"{i}.png")
    return with_profile(place, **{"dataset": "folder", "source": str(place / "images")} | keys)


def scenes(place: Path, **keys) -> Path:
    """A profile of four incomplete images in place/images."""
    (place / "images").mkdir()
    for i in range(4):
        holed(i).save(place / "images" / f"{i}.png")
    about = {"dataset": "incomplete", "corruption": "observed", "test": 0}
    return with_profile(place, **about | {"source": str(place / "images")} | keys)


# Image files


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises a huge image."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


def npy_claiming(*shape: int) -> bytes:
    """A .npy whose header promises a huge array."""
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(64)


def npy(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def animation() -> bytes:
    frames = [photo(i) for i in range(3)]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


JPEG, PNG = encoded(photo()), encoded(photo(), "PNG")
GREY_16 = encoded(Image.fromarray(np.full((40, 40), 1000, np.uint16)), "PNG")

BAD_PHOTOS = {  # of the data set folder: file name, content, what is said of it
    "truncated JPEG": ("x.jpg", JPEG[:-200], "truncated"),
    "truncated PNG": ("x.png", PNG[:200], "truncated"),
    "no bytes": ("x.png", b"", "not an image"),
    "text": ("x.png", b"no image", "not an image"),
    "only a signature": ("x.png", PNG[:8], "x.png"),
    "only a marker": ("x.jpg", JPEG[:2], "not an image"),
    "a page of HTML": ("x.jpg", b"<html>404 Not Found</html>", "not an image"),
    "16 bits grey": ("x.png", GREY_16, "more than 8 bits"),
    "float TIFF": ("x.tif", tiff(np.ones((40, 40), np.float32)), "more than 8 bits"),
    "huge JPEG": ("x.jpg", claiming(JPEG, 30_000, 30_000), "max_pixels"),
    "huge PNG": ("x.png", png_claiming(100_000, 100_000), "max_pixels"),
    "one pixel": ("x.png", encoded(photo(0, (1, 1)), "PNG"), "smaller than the 16 px"),
    "a line": ("x.png", encoded(photo(0, (400, 2)), "PNG"), "smaller than the 16 px"),
    "line break in its name": ("x\ny.png", PNG, "line break"),
    "name that is not UTF-8": (os.fsdecode(b"x\xff.png"), PNG, "not UTF-8"),
}

BAD_SCENES = {  # of the data set incomplete
    "no sign of what is missing": ("x.png", PNG, "nothing says what is missing"),
    "no bytes": ("x.png", b"", "not an image"),
    "truncated": ("x.png", encoded(holed(), "PNG")[:-900], "truncated"),
    "animation": ("x.webp", animation(), "animation of 3 pictures"),
    "huge image": ("x.png", png_claiming(100_000, 100_000), "max_pixels"),
    "huge array": ("x.npy", npy_claiming(10**6, 10**6, 3), "truncated"),
    "array of one dimension": ("x.npy", npy(np.ones(64)), "not an image"),
    "array of four dimensions": ("x.npy", npy(np.ones((1, 32, 32, 3))), "shape"),
    "array without pixels": ("x.npy", npy(np.ones((0, 32, 3))), "not an image"),
    "array of objects": ("x.npy", npy(np.array([{}], dtype=object), allow_pickle=True), "x.npy"),
    "array of text": ("x.npy", npy(np.full((32, 32), "a")), "expected uint8, uint16 or float"),
    "complex array": ("x.npy", npy(np.ones((32, 32), complex)), "expected uint8, uint16 or float"),
    "signed array": ("x.npy", npy(np.ones((32, 32), np.int16)), "expected uint8, uint16 or float"),
    "another number of bands": ("x.npy", npy(np.full((32, 32, 5), np.nan)), "x.npy"),
    "all missing": ("x.npy", npy(np.full((32, 32, 3), np.nan)), "nothing at all is observed"),
    "several pages": ("x.tif", tiff(np.ones((3, 32, 32), np.uint8), photometric="minisblack", metadata=None), "several pages"),
    "truncated TIFF": ("x.tif", tiff(np.ones((32, 32), np.float32))[:200], "x.tif"),
    "zip called .npy": ("x.npy", b"PK\x03\x04" + bytes(60), "x.npy"),
    "TIFF that is none": ("x.tif", PNG, "x.tif"),
}  # fmt: skip


def bad_image(
    command: str, good_ones: Callable[[Path], Path], file: str, content: bytes
) -> Callable[[Path], Arguments]:
    def make(place: Path) -> Arguments:
        profile = good_ones(place)
        (place / "images" / file).write_bytes(content)
        return [command, profile]

    return make


def bad_for_inpainting(name: str) -> Callable[[Path], Arguments]:
    def make(place: Path) -> Arguments:
        file, content, _ = BAD_SCENES[name]
        (place / file).write_bytes(content)
        return ["inpaint", place / "run", place / file, place / "out"]

    return make


# Masks


def bad_mask(content: bytes, keys: dict | None = None) -> Callable[[Path], Arguments]:
    """A mask beside an image; b"" for none."""

    def make(place: Path) -> Arguments:
        profile = scenes(place, **keys or {})
        for i in range(4):
            shutil.copy(place / "images" / f"{i}.png", place / "images" / f"{i}b.png")
            Image.new("L", (32, 32), 255).save(place / "images" / f"{i}b.mask.png")
            Image.new("L", (32, 32), 255).save(place / "images" / f"{i}.mask.png")
        photo(9, (32, 32)).save(place / "images" / "x.png")
        if content:
            (place / "images" / "x.mask.png").write_bytes(content)
        return ["prepare", profile]

    return make


def grey_png(level: int, size: tuple[int, int] = (32, 32)) -> bytes:
    return encoded(Image.new("L", size, level), "PNG")


def only(write: Callable[[Path, int], None], **keys) -> Callable[[Path], Arguments]:
    """An incomplete data set of four files that ``write(folder, number)`` makes; trained on."""

    def make(place: Path) -> Arguments:
        profile = scenes(place, **keys)
        for i in range(4):
            (place / "images" / f"{i}.png").unlink()
            write(place / "images", i)
        return ["train", profile]

    return make


def opaque(folder: Path, number: int) -> None:
    photo(number, (32, 32)).convert("RGBA").save(folder / f"{number}.png")


# Archives


def zipped(members: dict[str, bytes], link: str | None = None) -> Callable[[Path], Arguments]:
    """CelebA's zip of these members; ``link`` is one of them that is a symbolic link."""

    def make(place: Path) -> Arguments:
        with zipfile.ZipFile(place / "faces.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                about = zipfile.ZipInfo(name)
                about.compress_type = zipfile.ZIP_DEFLATED
                if name == link:
                    about.external_attr = 0o120777 << 16
                archive.writestr(about, content)
        return celeba(place)

    return make


def celeba(place: Path, **keys) -> Arguments:
    keys = {"dataset": "celeba", "source": str(place / "faces.zip")} | keys
    return ["prepare", with_profile(place, **keys)]


def cut_zip(place: Path) -> Arguments:
    arguments = zipped({f"{i}.jpg": FACE for i in range(4)})(place)
    content = (place / "faces.zip").read_bytes()
    (place / "faces.zip").write_bytes(content[: len(content) // 2])
    return arguments


def text_as_zip(place: Path) -> Arguments:
    (place / "faces.zip").write_text("<html>")
    return celeba(place)


def no_partition(place: Path) -> Arguments:
    zipped({"1.jpg": FACE})(place)
    return celeba(place, split="official")


FACE = encoded(photo(0, (178, 218)))


def recipes(entries: str) -> Callable[[Path], Arguments]:
    def make(place: Path) -> Arguments:
        folder = place / "recipes"
        (folder / "images" / "a" / "b" / "c" / "d").mkdir(parents=True)
        (folder / "layer1.json").write_text('[{"id": "r", "partition": "train"}]')
        (folder / "layer2.json").write_text(entries)
        return ["prepare", with_profile(place, dataset="recipe1m", source=str(folder))]

    return make


def broken_lmdb(place: Path) -> Arguments:
    (place / "lmdb").mkdir()
    (place / "lmdb" / "data.mdb").write_bytes(b"no database" * 1000)
    return ["prepare", with_profile(place, dataset="lsun", source=str(place / "lmdb"))]


# Configuration


def keys(**values) -> Callable[[Path], Arguments]:
    return lambda place: ["train", photos(place, **values)]


def profile_of(content: str | bytes, command: str = "train") -> Callable[[Path], Arguments]:
    def make(place: Path) -> Arguments:
        content_ = content if isinstance(content, bytes) else content.encode()
        (place / "mine.yaml").write_bytes(content_)
        return [command, place / "mine.yaml"]

    return make


def assigned(*assignments: str) -> Callable[[Path], Arguments]:
    return lambda place: ["train", "smoke", *(part for a in assignments for part in ("--set", a))]


# Run directories and what is prepared


def hurt(
    file: str, how: Callable[[Path], object], command: str = "inpaint"
) -> Callable[[Path], Arguments]:
    """A trained and evaluated run of which a file was hurt."""

    def make(place: Path) -> Arguments:
        (found,) = place.glob(file)
        how(found)
        if command == "inpaint":
            holed().save(place / "x.png")
            return ["inpaint", place / "run", place / "x.png", place / "out"]
        return [command, place / "tiny.yaml"]

    return make


def overwritten(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def edited(**changes) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def a_file(name: str) -> Callable[[Path], Arguments]:
    """A file where the folder data or results should be."""

    def make(place: Path) -> Arguments:
        if name == "data":
            shutil.rmtree(place / name)
        else:
            (place / name).rename(place / "elsewhere")
        (place / name).write_text("mine")
        return ["train", place / "tiny.yaml", "--set", "seed=5"]

    return make


# The command line


def asked(*arguments: str) -> Callable[[Path], Arguments]:
    """A command with HERE for the folder of the case, in which there is x.png, incomplete."""

    def make(place: Path) -> Arguments:
        holed().save(place / "x.png")
        (place / "empty").mkdir()
        (place / "used").mkdir()
        (place / "used" / "mine.txt").write_text("mine")
        return [argument.replace("HERE", str(place)) for argument in arguments]

    return make


RUN, SMOKE = "HERE/run", ["select", "smoke", "--run", "drop_pixel-both-seed0"]
MANIFEST, IMAGES = "data/folder-*/manifest.json", "data/folder-*/images.npy"
EVALUATION = "results/tiny/runs/small_patch-both-seed0/evaluation.json"
BOTH = "results/tiny/runs/small_patch-both-seed0"

CASES: dict[str, tuple[Callable[[Path], Arguments], int, list[str]]] = {
    **{f"photo: {n}": (bad_image("prepare", photos, file, content), 2, ["x", said]) for n, (file, content, said) in BAD_PHOTOS.items()},
    **{f"scene: {n}": (bad_image("describe", scenes, file, content), 2, ["x", said]) for n, (file, content, said) in BAD_SCENES.items()},
    **{f"inpaint: {n}": (bad_for_inpainting(n), 1, ["x", said]) for n, (_, _, said) in BAD_SCENES.items()},
    # masks
    "mask: of another size": (bad_mask(grey_png(0, (8, 8))), 2, ["x.mask.png", "8 x 8", "32 x 32"]),
    "mask: truncated": (bad_mask(PNG[:200]), 2, ["x.mask.png"]),
    "mask: text": (bad_mask(b"no mask"), 2, ["x.mask.png", "not an image"]),
    "mask: huge": (bad_mask(png_claiming(10**5, 10**5)), 2, ["x.mask.png", "max_pixels"]),
    "mask: all black": (bad_mask(grey_png(0)), 2, ["x.png", "nothing at all is observed"]),
    "mask: asked for and absent": (bad_mask(b"", {"missing": "mask"}), 2, ["x.mask.png is missing"]),
    "alpha: asked for and absent": (bad_mask(b"", {"missing": "alpha"}), 2, ["x.png", "no alpha"]),
    "masks: nothing missing anywhere": (only(opaque), 2, ["no pixel is missing", "missing_value"]),
    "masks: all equal": (only(lambda f, i: holed().save(f / f"{i}.png"), fit="resize"), 2, ["all masks are equal"]),
    # archives
    "zip: path out of it": (zipped({"../1.jpg": FACE}), 2, ["faces.zip", "'../1.jpg'", "refused"]),
    "zip: absolute path": (zipped({"/etc/1.jpg": FACE}), 2, ["faces.zip", "refused"]),
    "zip: drive letter": (zipped({"C:\\1.jpg": FACE}), 2, ["faces.zip", "refused"]),
    "zip: symbolic link": (zipped({"1.jpg": b"/etc/passwd"}, "1.jpg"), 2, ["'1.jpg'", "symbolic link"]),
    "zip: bomb": (zipped({"1.jpg": bytes(2**28)}), 2, ["1.jpg", "bytes"]),
    "zip: picture bomb": (zipped({"1.jpg": claiming(FACE, 60_000, 60_000)}), 2, ["1.jpg", "max_pixels"]),
    "zip: no picture": (zipped({"README": b""}), 2, ["no .jpg", "faces.zip"]),
    "zip: empty": (zipped({}), 2, ["no .jpg", "faces.zip"]),
    "zip: truncated": (cut_zip, 2, ["faces.zip", "not a zip"]),
    "zip: text": (text_as_zip, 2, ["faces.zip", "not a zip"]),
    "zip: no list of the partition": (no_partition, 2, ["list_eval_partition.txt", "download"]),
    "recipes: path out of them": (recipes('[{"id": "r", "images": [{"id": "../../../../etc"}]}]'), 2, ["layer2.json", "refused"]),
    "recipes: no list": (recipes('{"id": 1}'), 2, ["layer2.json", "not a list"]),
    "recipes: cut": (recipes('[{"id": "r", "ima'), 2, ["layer2.json", "download it again"]),
    "recipes: unknown recipe": (recipes('[{"id": "s", "images": []}]'), 2, ["layer2.json", "entry 0"]),
    "lmdb: none": (broken_lmdb, 2, ["lmdb", "not an LMDB"]),
    # configuration
    "key: unknown": (keys(nokey=1), 2, ["mine.yaml", "unknown key 'nokey'", "lambda_y"]),
    "key: number as text": (keys(steps="many"), 2, ["mine.yaml", "'steps'", "'many'"]),
    "key: text as number": (keys(method=3), 2, ["'method'", "'base'"]),
    "key: a list": (keys(steps=[1]), 2, ["'steps'"]),
    "key: a fraction of a step": (keys(steps=1.5), 2, ["'steps'", "1.5"]),
    "key: yes": (keys(batch_size=True), 2, ["'batch_size'"]),
    "key: below its range": (keys(steps=0), 2, ["'steps'", "greater than or equal to 1"]),
    "key: above its range": (keys(ema=1.0), 2, ["'ema'", "less than 1"]),
    "key: negative rate": (keys(lr_g=-1.0), 2, ["'lr_g'", "greater than 0"]),
    "key: infinite weight": (keys(lambda_y=float("inf")), 2, ["'lambda_y'", "finite"]),
    "key: weight that is no number": (keys(lambda_y=float("nan")), 2, ["'lambda_y'"]),
    "key: infinite share": (keys(test=float("inf")), 2, ["'test'", "finite"]),
    "key: negative seed of the split": (keys(split_seed=-1), 2, ["'split_seed'"]),
    "key: absurd number of threads": (keys(threads=10**9), 2, ["'threads'"]),
    "key: number as a key": (profile_of("1: 2"), 2, ["mine.yaml", "1"]),
    "key: empty list of widths": (keys(g_channels=[]), 2, ["g_channels"]),
    "key: widths of a text": (keys(g_channels=["a"]), 2, ["g_channels"]),
    "size: not of these networks": (keys(size=18), 2, ["size 18", "multiple of"]),
    "attention: on no map": (keys(attention=5), 2, ["attention 5", "choose"]),
    "dataset: unknown": (keys(dataset="nope"), 2, ["'nope'", "bluemarble"]),
    "corruption: unknown": (keys(corruption="blur"), 2, ["blur", "one_patch"]),
    "contradiction: misgan accumulates": (keys(method="misgan", accumulate=2), 2, ["accumulate to 1"]),
    "contradiction: mask_aware of one mask": (keys(method="mask_aware", discriminator_sees="own_mask"), 2, ["discriminator_sees"]),
    "contradiction: paired and masks": (keys(method="paired", discriminator_sees="own_mask"), 2, ["paired"]),
    "contradiction: paired without complete": (lambda p: ["train", scenes(p, method="paired")], 2, ["paired", "complete"]),
    "contradiction: incomplete with a law": (lambda p: ["train", scenes(p, corruption="one_patch")], 2, ["incomplete", "observed"]),
    "contradiction: complete but observed": (keys(corruption="observed"), 2, ["incomplete", "observed"]),
    "contradiction: two ways to be missing": (lambda p: ["train", scenes(p, missing="mask", missing_value=0)], 2, ["missing_value", "contradict"]),
    "contradiction: bands of a photograph": (keys(bands=5), 2, ["3 bands"]),
    "contradiction: official split of a folder": (keys(split="official"), 2, ["official", "celeba"]),
    "contradiction: regions of a folder": (keys(split="region"), 2, ["region", "bluemarble"]),
    "contradiction: splits leave nothing": (keys(test=3, validation=1), 2, ["none of 4 images for training"]),
    "profile: unknown": (lambda p: ["train", "nope"], 2, ["'nope'", "smoke"]),
    "profile: a folder": (lambda p: ["train", p], 2, ["no profile"]),
    "profile: not YAML": (profile_of("steps: ["), 2, ["mine.yaml", "not valid YAML"]),
    "profile: tabs": (profile_of("a:\n\t- b"), 2, ["mine.yaml", "not valid YAML"]),
    "profile: a list": (profile_of("- a"), 2, ["mine.yaml", "key: value"]),
    "profile: empty": (profile_of(""), 2, ["mine.yaml", "key: value"]),
    "profile: bytes": (profile_of(b"\xff\xfe\x00\x01\x02"), 2, ["mine.yaml"]),
    "profile: Latin-1": (profile_of("source: /home/andr\xe9".encode("latin-1")), 2, ["mine.yaml", "UTF-8"]),
    "profile: objects": (profile_of("steps: !!python/object/apply:os.system ['touch x']"), 2, ["mine.yaml", "not valid YAML"]),
    "profile: key twice": (profile_of("steps: 1\nsteps: 2"), 2, ["mine.yaml", "'steps'", "twice"]),
    "profile: deep nesting": (profile_of("[" * 5000), 2, ["mine.yaml"]),
    "profile: aliases of aliases": (profile_of("a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12))), 2, ["mine.yaml", "unknown key"]),
    "matrix: no list": (profile_of("matrix: {method: both}"), 2, ["'matrix'", "lists"]),
    "matrix: of a list": (profile_of("matrix: [both]"), 2, ["'matrix'"]),
    "matrix: empty list": (profile_of("matrix: {method: []}"), 2, ["'matrix'"]),
    "matrix: unknown key": (profile_of("matrix: {nokey: [1]}"), 2, ["unknown key 'nokey'"]),
    "matrix: run twice": (profile_of("matrix: {steps: [1, 2]}"), 2, ["two runs"]),
    "overrides: no mapping": (profile_of("overrides: [both]"), 2, ["'overrides'"]),
    "overrides: of nothing": (profile_of("overrides: {one_patch: {steps: 1}}"), 2, ["one_patch", "not in the matrix"]),
    "--set: no value": (assigned("steps"), 2, ["--set steps", "KEY=VALUE"]),
    "--set: no YAML": (assigned("steps=["), 2, ["--set steps=[", "YAML"]),
    "--set: unknown key": (assigned("nokey=1"), 2, ["unknown key 'nokey'"]),
    "--set: wrong value": (assigned("steps=1", "ema=2"), 2, ["'ema'", "less than 1"]),
    # run directories
    "run: not trained": (lambda p: ["evaluate", photos(p)], 2, ["not a run directory"]),
    "run: config cut": (hurt("run/config.json", overwritten(b'{"ste')), 2, ["config.json", "damaged"]),
    "run: config a list": (hurt("run/config.json", overwritten(b"[1]")), 2, ["config.json"]),
    "run: config of bytes": (hurt("run/config.json", overwritten(b"\xff\xfe")), 2, ["config.json", "damaged"]),
    "run: config gone": (hurt("run/config.json", Path.unlink), 2, ["config.json"]),
    "run: config of other networks": (hurt("run/config.json", edited(nz=3)), 2, ["record.json", "nz: 8, now 3"]),
    "run: unknown key": (hurt("run/config.json", edited(nokey=3)), 2, ["config.json", "unknown key 'nokey'"]),
    "run: record cut": (hurt("run/record.json", cut), 2, ["record.json", "damaged"]),
    "run: record a list": (hurt("run/record.json", overwritten(b"[]")), 2, ["record.json"]),
    "run: record edited": (hurt("run/record.json", edited(seconds=1)), 2, ["record.json", "altered"]),
    "run: weights gone": (hurt("run/generator.safetensors", Path.unlink), 2, ["not trained"]),
    "run: weights cut": (hurt("run/generator.safetensors", cut), 2, ["generator.safetensors"]),
    "run: a bit of the weights": (hurt("run/generator.safetensors", flipped), 2, ["generator.safetensors"]),
    "tables: evaluation cut": (hurt(EVALUATION, cut, "tables"), 2, ["evaluation.json", "altered"]),
    "tables: evaluation edited": (hurt(EVALUATION, edited(metrics={"mse": 0}), "tables"), 2, ["evaluation.json", "altered"]),
    "tables: a bit of the weights": (hurt(f"{BOTH}/generator.safetensors", flipped, "tables"), 2, ["generator.safetensors", "altered"]),
    "tables: record gone": (hurt(f"{BOTH}/record.json", Path.unlink, "tables"), 2, ["record.json", "missing"]),
    "train: config cut": (hurt(f"{BOTH}/config.json", cut, "train"), 2, ["config.json", "damaged"]),
    "train: config a list": (hurt(f"{BOTH}/config.json", overwritten(b"[1]"), "train"), 2, ["config.json"]),
    "train: another configuration": (hurt(f"{BOTH}/config.json", edited(lambda_y=3.5), "train"), 2, ["config.json", "lambda_y", "3.5"]),
    # prepared data
    "data: manifest cut": (hurt(MANIFEST, cut, "train"), 2, ["manifest.json", "damaged", "delete"]),
    "data: manifest a list": (hurt(MANIFEST, overwritten(b"[]"), "train"), 2, ["manifest.json", "damaged"]),
    "data: manifest of bytes": (hurt(MANIFEST, overwritten(b"\xff"), "train"), 2, ["manifest.json", "damaged"]),
    "data: images gone": (hurt(IMAGES, Path.unlink, "again"), 2, ["images.npy", "delete"]),
    "data: images cut": (hurt(IMAGES, cut, "again"), 2, ["images.npy", "delete"]),
    "data: numbers of masks gone": (hurt("data/folder-*/mask_ids.npy", Path.unlink, "again"), 2, ["mask_ids.npy", "delete"]),
    "data: folder is a file": (a_file("data"), 2, ["data", "another place"]),
    "results: folder is a file": (a_file("results"), 2, ["results", "another place"]),
    # the command line
    "inpaint: no such run": (asked("inpaint", "HERE/nope", "HERE/x.png", "HERE/out"), 2, ["nope"]),
    "inpaint: run is a file": (asked("inpaint", "HERE/x.png", "HERE/x.png", "HERE/out"), 2, ["x.png"]),
    "inpaint: no such input": (asked("inpaint", RUN, "HERE/nope.png", "HERE/out"), 2, ["nope.png", "does not exist"]),
    "inpaint: no image": (asked("inpaint", RUN, "HERE/empty", "HERE/out"), 2, ["empty", "no image"]),
    "inpaint: text": (asked("inpaint", RUN, "HERE/used/mine.txt", "HERE/out"), 1, ["mine.txt", "suffix"]),
    "inpaint: output a file": (asked("inpaint", RUN, "HERE/x.png", "HERE/tiny.yaml"), 2, ["tiny.yaml", "choose a folder"]),
    "inpaint: output below a file": (asked("inpaint", RUN, "HERE/x.png", "HERE/tiny.yaml/out"), 2, ["tiny.yaml"]),
    "inpaint: output in use": (asked("inpaint", RUN, "HERE/x.png", "HERE/used"), 2, ["used", "--overwrite"]),
    "inpaint: output in the input": (asked("inpaint", RUN, "HERE", "HERE/out"), 2, ["out lies in"]),
    "inpaint: no samples": (asked("inpaint", RUN, "HERE/x.png", "HERE/out", "--samples", "0"), 2, ["--samples"]),
    "inpaint: half a sample": (asked("inpaint", RUN, "HERE/x.png", "HERE/out", "--samples", "0.5"), 2, ["--samples", "0.5"]),
    "inpaint: range upside down": (asked("inpaint", RUN, "HERE/x.png", "HERE/out", "--range", "9", "1"), 2, ["--range"]),
    "inpaint: range of one number": (asked("inpaint", RUN, "HERE/x.png", "HERE/out", "--range", "9"), 2, ["--range"]),
    "inpaint: values out of range": (asked("inpaint", RUN, "HERE/x.png", "HERE/out", "--range", "0", "9"), 1, ["x.png", "outside 0 to 9"]),
    "inpaint: no pixels allowed": (asked("inpaint", RUN, "HERE/x.png", "HERE/out", "--max-pixels", "0"), 2, ["--max-pixels"]),
    "inpaint: unknown rule": (asked("inpaint", RUN, "HERE/x.png", "HERE/out", "--missing", "colour"), 2, ["--missing", "'colour'"]),
    "inpaint: rule and value": (asked("inpaint", RUN, "HERE/x.png", "HERE/out", "--missing", "alpha", "--missing-value", "0"), 2, ["contradict"]),
    "no command": (asked(), 2, ["command"]),
    "unknown command": (asked("fly"), 2, ["'fly'", "prepare"]),
    "unknown option": (asked("train", "smoke", "--fast"), 2, ["--fast"]),
    "no profile": (asked("train"), 2, ["profile"]),
    "train: unknown run": (asked("train", "smoke", "--run", "nope"), 2, ["'nope'", "drop_pixel-both-seed0"]),
    "evaluate: unknown run": (asked("evaluate", "smoke", "--run", "nope"), 2, ["'nope'"]),
    "references: unknown corruption": (asked("references", "smoke", "--corruption", "blur"), 2, ["'blur'", "small_patch"]),
    "select: no value": (asked(*SMOKE, "lambda_z"), 2, ["KEY=V1,V2"]),
    "select: unknown key": (asked(*SMOKE, "nokey=1"), 2, ["unknown key 'nokey'"]),
    "select: what runs are scored on": (asked(*SMOKE, "size=16,32"), 2, ["size cannot vary"]),
    "describe: complete images": (lambda p: ["describe", photos(p)], 2, ["complete images"]),
    "verify: nothing there": (asked("verify", "HERE/empty"), 2, ["empty", "no results"]),
    "verify: a file": (asked("verify", "HERE/x.png"), 2, ["x.png"]),
    "source: none": (lambda p: ["prepare", with_profile(p, dataset="folder")], 2, ["set source"]),
    "source: not there": (lambda p: ["prepare", with_profile(p, dataset="folder", source=str(p / "nope"))], 2, ["nope", "not a folder"]),
    "source: a file": (lambda p: ["prepare", with_profile(p, dataset="folder", source=str(p / "tiny.yaml"))], 2, ["tiny.yaml", "not a folder"]),
    "source: no image": (lambda p: ["prepare", with_profile(p, dataset="folder", source=str(p / "run"))], 2, ["no images", "run"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_config, prepared_once, tmp_path_factory) -> Path:
    """tiny.yaml, data/, results/ of its trained and evaluated run, and run/, the same. Not to be
    changed."""
    place = tmp_path_factory.mktemp("trained")
    config = changed(tiny_config, steps=1)
    shared = {k: v for k, v in config.model_dump().items() if v != getattr(RunConfig(), k)}
    (place / "tiny.yaml").write_text(yaml.safe_dump(shared))
    shutil.copytree(prepared_once, place / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "DATA", place / "data")
        (run,) = load_profile(str(place / "tiny.yaml"))
        folder = place / "results" / "tiny" / "runs" / run.name
        record = train(run, folder)
    about = {key: record[key] for key in ("config", "data_checksum")}
    rests_on = {"generator_checksum": record["generator_checksum"]}
    records.write_record(folder / "evaluation.json", about | {"rests_on": rests_on, "metrics": {}})
    shutil.copytree(folder, place / "run")
    return place


@pytest.fixture
def place(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it, and in it data/ and results/ of this test alone."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("PAPERLIB_PROGRESS", "none")
    return tmp_path


def tree(folder: Path) -> dict[str, str]:
    """Every file, link and folder, with a hash of what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def answer(arguments: Arguments, capsys) -> tuple[int, list[str]]:
    """The status of a command, and its lines on standard error."""
    capsys.readouterr()
    try:
        status = main(list(map(str, arguments)))
    except SystemExit as stop:  # argparse's
        status = stop.code
    return status, capsys.readouterr().err.splitlines()


MADE = ("data", "results")


def test_there_are_enough_cases():
    assert len(CASES) >= 150


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_named_in_one_line_and_leaves_no_trace(place, capsys, name):
    make, status, parts = CASES[name]
    arguments = make(place)
    if arguments[:1] == ["again"]:  # train another run on the data
        arguments = ["train", arguments[1], "--set", "seed=5"]
    before = tree(place)
    got, lines = answer(arguments, capsys)
    errors = [line for line in lines if "error: " in line]
    assert got == status and len(errors) == 1, lines
    assert all(part in errors[0] for part in parts), errors
    assert not any("Traceback" in line for line in lines) and len(errors[0]) < 2000
    after = tree(place)
    if arguments[:1] == ["train"]:  # it may have prepared its data, and begun its run
        after = {p: h for p, h in after.items() if p in before or p.split("/")[0] not in MADE}
    assert after == before


# What is odd and yet legal


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, exif=exif)


def palette_with_alpha() -> bytes:
    image = photo().quantize(16)
    return encoded(image, "PNG", transparency=0)


LEGAL = {
    "JPEG called .png": ("x.png", JPEG, photo()),
    "CMYK": ("x.jpg", encoded(photo().convert("CMYK")), photo()),
    "palette with alpha": ("x.png", palette_with_alpha(), photo().quantize(16).convert("RGB")),
    "grey with alpha": (
        "x.png",
        encoded(photo().convert("LA"), "PNG"),
        photo().convert("L").convert("RGB"),
    ),
    "turned by EXIF": ("x.jpg", turned(photo()), photo().rotate(-90, expand=True)),
    "animation, its first picture": ("x.webp", animation(), photo()),
}


@pytest.mark.parametrize("name", LEGAL)
def test_odd_photograph_is_read_properly(place, capsys, name):
    file, content, expected = LEGAL[name]
    profile = photos(place, split="file", size=32)
    (place / "images" / file).write_bytes(content)
    assert answer(["prepare", profile], capsys)[0] == 0
    data = load_prepared(load_profile(str(profile))[0].data)
    levels = data.images()[list(data.manifest["ids"]).index(file)].astype(float)
    fitted = ImageOps.fit(expected, (32, 32), Image.Resampling.BOX)
    assert np.abs(levels - np.asarray(fitted, float)).mean() < 6  # JPEG's loss


LEGAL_SCENES = {
    "palette with alpha": palette_with_alpha(),
    "16 bits with alpha, as TIFF": tiff(np.dstack([np.full((36, 40, 3), 999), 1 - np.eye(36, 40)]).astype(np.uint16), photometric="rgb", extrasamples="unassalpha"),
    "floats with NaN": npy(np.where(np.eye(36, 40)[..., None] > 0, np.nan, np.full(3, 0.5))),
    "complete": encoded(photo().convert("RGBA"), "PNG"),
}  # fmt: skip
SUFFIX = {b"\x89P": ".png", b"II": ".tif", b"\x93N": ".npy"}


@pytest.mark.parametrize("name", LEGAL_SCENES)
def test_odd_incomplete_image_is_read_properly(place, capsys, name):
    content = LEGAL_SCENES[name]
    profile = scenes(place)
    (place / "images" / f"x{SUFFIX[content[:2]]}").write_bytes(content)
    assert answer(["prepare", profile], capsys)[0] == 0
    data = load_prepared(load_profile(str(profile))[0].data)
    tiles = [row for row, i in enumerate(data.manifest["ids"]) if i.startswith("x.")]
    assert len(tiles) == 2 * 2  # of 40 x 36 pixels, of 16 a side
    assert data.masks()[tiles].all() == (name == "complete")


@pytest.mark.parametrize("fault", [TypeError, ValueError, KeyError, RuntimeError, OverflowError])
@pytest.mark.parametrize(
    "where, arguments",
    [
        ("paperlib.data.prepare", ["prepare", "smoke"]),
        ("paperlib.training.build_method", ["train", "HERE/tiny.yaml", "--set", "seed=5"]),
        ("paperlib.inpaint.fill_in", ["inpaint", "HERE/run", "HERE/x.png", "HERE/out"]),
        ("paperlib.tables.table1", ["tables", "HERE/tiny.yaml"]),
        ("paperlib.verify.data_faults", ["verify", "HERE/results"]),
    ],
)
def test_fault_of_ours_gives_its_traceback(place, monkeypatch, where, arguments, fault):
    def wrong(*_, **__):
        raise fault("a bug")

    monkeypatch.setattr(where, wrong)
    holed().save(place / "x.png")
    with pytest.raises(fault, match="a bug"):
        main([argument.replace("HERE", str(place)) for argument in arguments])
