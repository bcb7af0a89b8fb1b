"""Long JSON lists, one object at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paperlib.image_source import DataError

PIECE = 1 << 20  # characters read at once
LONGEST = 1 << 24  # characters of an object: what does not end by then is no object


def read_objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file "[{...}, {...}, ...]", in order; a piece of it at a time is held.

    Raises:
        DataError: the file is something else, or ends too soon.
    """
    decoder = json.JSONDecoder()
    before = 0  # characters before ``text``
    with path.open(encoding="utf-8") as file:
        try:
            text = file.read(PIECE)
            opening = re.match(r"\s*\[", text)
            at = opening.end() if opening else 0
            while opening:
                if between := re.compile(r"[\s,]*").match(text, at):
                    at = between.end()
                if text.startswith("]", at):
                    return
                try:
                    value, at = decoder.raw_decode(text, at)
                except json.JSONDecodeError:  # most likely it goes on in the next piece
                    more = file.read(PIECE)
                    if not more or len(text) - at > LONGEST:
                        break
                    text, before, at = text[at:] + more, before + at, 0
                    continue
                if not isinstance(value, dict):
                    break
                yield value
        except UnicodeDecodeError:
            raise DataError(f"{path} is not UTF-8 text: download it again") from None
    raise DataError(
        f"{path} is not a list of JSON objects from character {before + at} on: download it again"
    )
