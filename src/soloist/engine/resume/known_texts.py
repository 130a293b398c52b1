"""Texts that have a row already, wherever the row is: the same for vectors and for rows of other kinds.

Knows digests and files by number; reads nothing.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from soloist.digests import DigestTable
from soloist.errors import OutputError

# One of the run's present files, one that was set aside when its chunks changed, or one of a run that --reuse names.
Origin = Literal["this run", "earlier", "other run"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """The rows of a shard: which to embed, and from where the others come.

    `file` is the shard's own number in `KnownTexts`. `copies` are (row, file, row of that file), files by their
    numbers there. `reused` of them come from an earlier state of the run or, `from_others`, from another run; the rest
    repeat a text of this one.
    """

    file: int
    fresh: tuple[int, ...]
    copies: NDArray[np.int64]
    reused: int
    from_others: int

    @property
    def repeated(self) -> int:
        """Copies of a text that the run has elsewhere."""
        return len(self.copies) - self.reused


class KnownTexts:
    """In which file and row the vector of a text lies, in some 30 to 50 bytes a text."""

    def __init__(self) -> None:
        self._texts = DigestTable()
        self._files: list[Path] = []
        self._origins: list[Origin] = []
        self._file_of = array("i")
        self._row_of = array("i")

    def file(self, number: int) -> Path:
        """The path of a file."""
        return self._files[number]

    def add(self, path: Path, digests: Sequence[bytes], origin: Origin) -> int:
        """Record the texts that a file has rows of, and give the file's number."""
        number = self._number(path, origin)
        self._add(digests, number)
        return number

    def place(self, path: Path, digests: Sequence[bytes]) -> Placement:
        """Look for the texts of a shard, and record the new ones as rows of the file that the shard will have."""
        number = self._number(path, "this run")
        entries = self._add(digests, number)
        rows = np.flatnonzero(entries >= 0)
        places = (np.frombuffer(numbers, dtype=np.int32)[entries[rows]] for numbers in (self._file_of, self._row_of))
        copies = np.stack([rows, *places], axis=1)
        origins: Counter[Origin] = Counter()
        for file, count in zip(*np.unique(copies[:, 1], return_counts=True), strict=True):
            origins[self._origins[file]] += int(count)
        return Placement(
            file=number,
            fresh=tuple(np.flatnonzero(entries < 0).tolist()),
            copies=copies,
            reused=origins["earlier"] + origins["other run"],
            from_others=origins["other run"],
        )

    def _number(self, path: Path, origin: Origin) -> int:
        self._files.append(path)
        self._origins.append(origin)
        return len(self._files) - 1

    def _add(self, digests: Sequence[bytes], number: int) -> NDArray[np.int64]:
        """Record the new texts of a file. Gives the entry of each known text, and -1 for a new one."""
        entries = self._texts.add_all(digests)
        new = np.flatnonzero(entries < 0).astype(np.int32)
        self._file_of.frombytes(np.full(len(new), number, dtype=np.int32).tobytes())
        self._row_of.frombytes(new.tobytes())
        return entries


def has_changed(path: Path) -> OutputError:
    """What is raised where a file of another run is not what it was when this run first read it."""
    return OutputError(
        f"{path} has changed since this run first read it: wait until no other run writes to it, then run the same "
        "command again"
    )
