"""Ragged rows that exist already: words of the same text, or its sparse vector, wherever they are.

As `vector_reuse`, for rows of different lengths. Their files are read whole, because no row of them can be found by its
number alone. Knows run folders; computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from soloist.engine.resume.known_texts import KnownTexts, Origin, Placement, has_changed
from soloist.engine.resume.vector_reuse import set_aside
from soloist.stores.manifest import FileRecord
from soloist.stores.run_folder import RunFolder
from soloist.stores.tables import VectorFile, table_digests, whole_table

KEPT_BYTES = 256 << 20


class Rows(Protocol):
    """What is copied: rows that can be taken by their numbers."""

    @property
    def nbytes(self) -> int:
        """What they take in memory."""

    def __len__(self) -> int:
        """How many there are."""

    def take(self, numbers: NDArray[np.int64], /) -> Any:
        """The rows with these numbers, in this order."""


RowsT = TypeVar("RowsT", bound=Rows)


class KnownRows(Generic[RowsT]):
    """Where one member's row of a text lies.

    `read` makes rows of the table of a file, and `join` puts rows behind each other. A file is read again when a row is
    copied from it, and must have the same bytes as when its texts were recorded. The last files stay in memory, up to
    `kept_bytes`.
    """

    def __init__(
        self, read: Callable[[pa.Table], RowsT], join: Callable[[Sequence[RowsT]], RowsT], kept_bytes: int = KEPT_BYTES
    ) -> None:
        self._texts = KnownTexts()
        self._read = read
        self._join = join
        self._kept_bytes = kept_bytes
        self._sha256: dict[int, str] = {}
        self._kept: dict[int, tuple[NDArray[np.void], RowsT]] = {}

    def add_file(self, path: Path, sha256: str, origin: Origin) -> None:
        """Record the texts that a file has rows of, if it still has these bytes."""
        table = whole_table(path, sha256)
        digests = table_digests(table) if table is not None else None
        if digests is not None:
            self._sha256[self._texts.add(path, digests, origin)] = sha256

    def place(self, path: Path, digests: Sequence[bytes]) -> Placement:
        """Look for the texts of a shard, and record the new ones as rows of the file that the shard will have."""
        return self._texts.place(path, digests)

    def whole(self, placement: Placement, digests: Sequence[bytes], fresh: RowsT) -> RowsT:
        """All rows of a shard, from its fresh ones and copies of known ones.

        Raises:
            OutputError: a file that has some of them cannot be read, or has changed.
        """
        if not len(placement.copies):
            return fresh
        parts, taken = [fresh], len(fresh)
        where = np.empty(len(digests), np.int64)  # of each row, in the parts behind each other
        where[list(placement.fresh)] = np.arange(len(fresh))
        for number in np.unique(placement.copies[:, 1]).tolist():
            rows, _, sources = placement.copies[placement.copies[:, 1] == number].T
            if number == placement.file:
                where[rows] = where[sources]  # its own rows are the first ones of their texts, so they are fresh
                continue
            stored_digests, stored = self._file(number)
            if stored_digests[sources].tobytes() != b"".join(digests[row] for row in rows):
                raise has_changed(self._texts.file(number))
            parts.append(stored.take(sources))
            where[rows] = taken + np.arange(len(rows))
            taken += len(rows)
        whole: RowsT = self._join(parts).take(where)
        return whole

    def written(self, placement: Placement, sha256: str) -> None:
        """Record the checksum of the file that a shard has now."""
        self._sha256[placement.file] = sha256

    def _file(self, number: int) -> tuple[NDArray[np.void], RowsT]:
        """The digests and the rows of a file, of the bytes that it had."""
        kept = self._kept.pop(number, None)
        if kept is None:
            table = whole_table(self._texts.file(number), self._sha256[number])
            digests = table_digests(table) if table is not None else None
            if table is None or digests is None:
                raise has_changed(self._texts.file(number))
            kept = np.array(digests, dtype=f"V{len(digests[0])}"), self._read(table)
        self._kept[number] = kept  # as the last one
        while len(self._kept) > 1 and sum(rows.nbytes for _, rows in self._kept.values()) > self._kept_bytes:
            del self._kept[next(iter(self._kept))]
        return kept


def add_known(
    known: KnownRows[Any],
    folder: RunFolder,
    others: Iterable[RunFolder],
    member: str,
    is_of_it: Callable[[FileRecord | VectorFile], bool],
    check: Callable[[], object] = lambda: None,
) -> None:
    """Add the files with a member's rows: finished ones of the run, those set aside, and those of other runs.

    `is_of_it` says whether a file's rows are what the member would make now. `check` is called before each file, and
    may raise.
    """
    for record in folder.manifest.read().values():
        if record.kind == "vectors" and record.model == member and is_of_it(record):
            check()
            known.add_file(folder.path / record.file, record.sha256, "this run")
    for path, stored in set_aside(folder):
        if is_of_it(stored):
            check()
            known.add_file(path, path.stem, "earlier")
    for other in others:
        for record in other.manifest.read().values():
            if record.kind == "vectors" and is_of_it(record):
                check()
                known.add_file(other.path / record.file, record.sha256, "other run")
