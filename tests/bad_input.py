"""Cases of bad input for ``test_bad_input``: how each is made, and what its error must say.

A case is made in a folder of its own, the current one. There are ``run``, a trained run; ``tiny.yaml``
with its ``data`` and ``results``; ``x.png``, which is incomplete; ``used`` and ``used/mine.txt``.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from image_files import claiming, encoded, holed, npy, photo, tiff
from PIL import Image

Make = Callable[[], str]  # makes the bad input; gives the command that meets it


def with_profile(**keys) -> str:
    """mine.yaml: the smallest run, with other keys."""
    smallest = {"size": 16, "attention": 0, "steps": 1, "batch_size": 2, "threads": 1}
    nets = {f"{net}_channels": [8, 8] for net in "gde"}
    Path("mine.yaml").write_text(yaml.safe_dump(smallest | nets | keys))
    return "train mine.yaml"


def photos(make: Callable[[int], Image.Image] = photo, **keys) -> str:
    """The same on four photographs in images/."""
    Path("images").mkdir()
    for i in range(4):
        make(i).save(f"images/{i}.png")
    return with_profile(**{"dataset": "folder", "source": str(Path("images").resolve())} | keys)


def scenes(make: Callable[[int], Image.Image] = holed, **keys) -> str:
    """And on four incomplete images."""
    return photos(make, **{"dataset": "incomplete", "corruption": "observed", "test": 0} | keys)


# Files: name, content, what is said


def huge_npy() -> bytes:
    """A header that promises 10^12 numbers."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + bytes(64)


JPEG, PNG = encoded(photo()), encoded(photo(), "PNG")
HUGE = claiming(JPEG, 30_000, 30_000)
PAGES = tiff(np.ones((3, 32, 32), np.uint8), photometric="minisblack", metadata=None)
MOVING = encoded(photo(), "WEBP", save_all=True, append_images=[photo(1), photo(2)])
SMALL = encoded(Image.new("L", (8, 8)), "PNG")

AMONG_PHOTOS = {
    "truncated": ("x.jpg", JPEG[:-200], "truncated"),
    "a page of HTML": ("x.jpg", b"<html>404 Not Found</html>", "x.jpg: cannot identify image"),
    "16 bits grey": ("x.tif", tiff(np.ones((40, 40), np.uint16)), "x.tif: more than 8 bits"),
    "huge": ("x.jpg", HUGE, "more than max_pixels"),
    "a line": ("x.png", encoded(photo(0, (400, 2)), "PNG"), "smaller than the 16 px"),
}
AMONG_SCENES = {
    "mask of another size": ("0.mask.png", SMALL, "0.mask.png"),
    "huge mask": ("0.mask.png", HUGE, "more than max_pixels"),
}
INCOMPLETE = {  # among scenes, and to be filled in
    "no sign of what is missing": ("x.png", PNG, "nothing says what is missing"),
    "truncated": ("x.png", encoded(holed(), "PNG")[:-900], "truncated"),
    "animation": ("x.webp", MOVING, "an animation"),
    "huge": ("x.npy", huge_npy(), "x.npy"),
    "objects": ("x.npy", npy(np.array([{}], dtype=object)), "x.npy"),
    "palette": ("x.png", encoded(photo().convert("P"), "PNG"), "expected grey or RGB"),
    "CMYK": ("x.jpg", encoded(photo().convert("CMYK")), "CMYK"),
    "infinite": ("x.npy", npy(np.array([[[np.inf] * 3, [np.nan] * 3]])), "NaN or infinite"),
    "complex numbers": ("x.npy", npy(np.ones((32, 32), complex)), "of complex128"),
    "another number of bands": ("x.npy", npy(np.full((32, 32, 5), np.nan)), "x.npy"),
    "all missing": ("x.npy", npy(np.full((32, 32, 3), np.nan)), "nothing at all is observed"),
    "several pages": ("x.tif", PAGES, "expected one page"),
}
ARCHIVES = {
    "celeba": ("faces.zip", b"<html>", "not a zip"),
    "lsun": ("lmdb/data.mdb", b"no database" * 1000, "not an LMDB"),
}


def among(good_ones: Callable[[], str], file: str, content: bytes) -> str:
    train = good_ones()
    Path("images", file).write_bytes(content)
    return train.replace("train", "prepare")


def alone(file: str, content: bytes) -> str:
    Path(file).write_bytes(content)
    return f"inpaint run {file} out"


def archive(dataset: str, file: str, content: bytes) -> str:
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_bytes(content)
    return with_profile(dataset=dataset, source=str(Path(Path(file).parts[0]).resolve()))


# Configurations

KEYS = {
    "unknown key 'nokey'": {"nokey": 1},
    "key 'discriminator_sees': removed in": {"discriminator_sees": "own_mask"},
    "mine.yaml: key 'steps'": {"steps": "many"},
    "got 1.5": {"steps": 1.5},
    "at least 1 item": {"g_channels": []},
    "greater than or equal to 1": {"steps": 0},
    "finite": {"lambda_y": float("inf")},
    "mask_aware": {"method": "gan"},
    "one_patch": {"corruption": "blur"},
    "bluemarble": {"dataset": "nope"},
    "size 18": {"size": 18},
    "attention 5": {"attention": 5},
    "accumulate to 1": {"method": "misgan", "accumulate": 2},
    "set source": {"source": None},
    "/nope": {"source": "/nope"},
    "bands": {"bands": 5},
    "none of 4 images for training": {"test": 3, "validation": 1},
    "incomplete": {"corruption": "observed"},
}
KEYS_OF_SCENES = {
    "complete images": {"method": "paired"},
    "observed": {"corruption": "one_patch"},
    "missing_value": {"missing": "mask", "missing_value": 0},
    "give 0.mask.png": {"missing": "mask"},
    "at least two must differ": {"make": lambda i: photo(i).convert("RGBA")},
    "all masks are equal": {"make": lambda i: holed(size=16)},
}
PROFILES = {
    "steps: [": "not valid YAML",
    "- a": "key: value",
    "source: /home/andr\xe9": "UTF-8",
    "matrix: {method: both}": "'matrix' must map",
    "matrix: {seed: []}": "'matrix' must map",
    "matrix: {method: [both, nope]}": "key 'method': unknown",
    "matrix: {steps: [1, 2]}": "two runs",
    "overrides: [both]": "'overrides' must map",
    "{overrides: {both: {nokey: 1}}, matrix: {method: [both]}}": "unknown key 'nokey'",
    "overrides: {one_patch: {nz: 1}}": "one_patch, which is not in the matrix",
}


def written(content: str) -> str:
    Path("mine.yaml").write_bytes(content.encode("latin-1"))
    return "train mine.yaml"


# What lies on disk: file, what happens to it, the command, what is said


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edited(**changes) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def a_file(path: Path) -> None:
    """Where a folder should be."""
    shutil.rmtree(path)
    path.write_text("mine")


RUN, FILL = "results/tiny/runs/small_patch-both-seed0", "inpaint run x.png out"
AGAIN = "train tiny.yaml --set seed=5"
ON_DISK = {
    "config cut": ("run/config.json", cut, FILL, "config.json is damaged"),
    "config gone": ("run/config.json", Path.unlink, FILL, "config.json is missing"),
    "config of another run": ("run/config.json", edited(nz=3), FILL, "nz: 8, now 3"),
    "record cut": ("run/record.json", cut, FILL, "record.json is damaged"),
    "record edited": ("run/record.json", edited(seconds=1), FILL, "record.json was altered"),
    "weights gone": ("run/generator.safetensors", Path.unlink, FILL, "run/generator"),
    "a bit of the weights": ("run/generator.safetensors", flipped, FILL, "run/generator"),
    "evaluation edited": (f"{RUN}/evaluation.json", edited(seed=1), "tables tiny.yaml", "altered"),
    "another configuration": (f"{RUN}/config.json", edited(nz=3), "train tiny.yaml", "nz: 3"),
    "manifest cut": ("data/folder-*/manifest.json", cut, "evaluate tiny.yaml", "manifest.json is"),
    "images gone": ("data/folder-*/images.npy", Path.unlink, AGAIN, "images.npy"),
    "images cut": ("data/folder-*/images.npy", cut, AGAIN, "images.npy"),
    "data is a file": ("data", a_file, AGAIN, "data'"),
    "results is a file": ("results", a_file, AGAIN, "Not a directory: "),
}


def hurt(file: str, how: Callable[[Path], object], command: str) -> str:
    how(next(Path().glob(file)))
    return command


# The command line

SELECT = "select smoke --run drop_pixel-both-seed0"
COMMANDS = {
    "": "Missing command",
    "trian smoke": "'trian'",
    "train": "'profile'",
    "train smoke --fast": "--fast",
    "train nope": "no profile 'nope'",
    "train used": "no profile 'used'",
    "evaluate smoke --run nope": "drop_pixel-both-seed0",
    "evaluate smoke --run drop_pixel-both-seed0": "drop_pixel-both-seed0",
    "references smoke --corruption blur": "no 'blur'",
    "train smoke --set steps": "expected KEY=VALUE",
    "train smoke --set steps=[": "not valid YAML",
    "train smoke --set nokey=1": "unknown key 'nokey'",
    f"{SELECT} lambda_z": "expected KEY=V1,V2,...",
    f"{SELECT} lambda_z=": "expected KEY=V1,V2,...",
    f"{SELECT} nz=1 nz=2": "each key once",
    f"{SELECT} nokey=1": "unknown key 'nokey'",
    f"{SELECT} size=16,32": "size cannot vary",
    "verify used": "no results",
    "inpaint used x.png out": "used/config.json is missing",
    "inpaint run nope out": "nope does not exist",
    "inpaint run used out": "no image",
    "inpaint run used/mine.txt out": "suffix",
    "inpaint run x.png tiny.yaml": "tiny.yaml",
    "inpaint run x.png used": "--overwrite",
    "inpaint run . out": "out lies in",
    f"{FILL} --samples 0": "--samples",
    f"{FILL} --range 9 1": "--range",
    f"{FILL} --missing colour": "'colour'",
    f"{FILL} --missing nan --missing-value 0": "contradict",
}


def cases() -> dict[str, tuple[Make, str]]:
    """Name -> (how it is made, what its error must say)."""
    among_scenes = AMONG_SCENES | INCOMPLETE
    found: dict[str, tuple[Make, str]] = {}
    for name, (*file, said) in AMONG_PHOTOS.items():
        found[f"photo: {name}"] = partial(among, photos, *file), said
    for name, (*file, said) in among_scenes.items():
        found[f"scene: {name}"] = partial(among, scenes, *file), said
    for name, (*file, said) in INCOMPLETE.items():
        found[f"inpaint: {name}"] = partial(alone, *file), said
    for name, (*file, said) in ARCHIVES.items():
        found[name] = partial(archive, name, *file), said
    for said, keys in KEYS.items():
        found[f"photos: {keys}"] = partial(photos, **keys), said
    for said, keys in KEYS_OF_SCENES.items():
        found[f"scenes: {said}"] = partial(scenes, **keys), said
    for content, said in PROFILES.items():
        found[f"profile: {content}"] = partial(written, content), said
    for name, (*what, said) in ON_DISK.items():
        found[name] = partial(hurt, *what), said
    for command, said in COMMANDS.items():
        found[command] = partial(str, command), said
    return found


FAILS_ON_AN_IMAGE = ("inpaint: ", "inpaint run used/mine.txt")
