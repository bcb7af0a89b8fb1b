"""Names by the million, on disk: one a line."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import overload


class Names(Sequence[str]):
    """The lines of a UTF-8 file as a sequence: the text stays on disk, 8 bytes a line in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _starts(self) -> array[int]:
        """Where each line starts in the file, and where the last one ends."""
        starts = array("q", [0])
        with self.path.open("rb") as lines:
            for line in lines:
                starts.append(starts[-1] + len(line))
        return starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[str]:
        with self.path.open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                yield line.removesuffix("\n")

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(len(self))[row]]
        row = range(len(self))[row]  # from the end if negative; IndexError beyond it
        with self.path.open("rb") as lines:
            lines.seek(self._starts[row])
            return lines.readline().decode().removesuffix("\n")
