"""How rows get into a store: unchanged rows are left alone, and rows of chunks that are gone are deleted.

All rows of the run in the store are looked at once, before anything is written. Then each batch is a change of its own,
so an export that was broken off goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Container, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from soloist.digests import DigestTable
from soloist.errors import ExportError
from soloist.exports.members import Entries
from soloist.exports.report import ExportReport, Found, compare
from soloist.exports.rows import VECTOR_DIGEST_BYTES, Mark, Rows, Source, key_of
from soloist.exports.target import Target
from soloist.stores.tables import PLACE_COLUMNS

_DELETED_AT_ONCE = 1_000
_DIGEST_BYTES = 16  # of a text and of metadata, as a mark has them
_ABSENT, _MARKED, _UNMARKED, _TWICE = range(4)


@dataclass(frozen=True, slots=True)
class Scope:
    """The rows of a store that an export answers for: those of some collections and, by its id, those of the run in
    any collection, where all of the run is exported.
    """

    collections: tuple[str, ...]
    run: str | None

    @classmethod
    def of(cls, source: Source) -> Scope:
        """That of an export of this."""
        return cls(source.collections, source.run if source.whole else None)


@dataclass(frozen=True, slots=True)
class StoreRow:
    """A row of a store: its key, and whose it is and its mark as the store has them, which is anything where no export
    wrote the row.
    """

    key: str
    run: object
    collection: object
    id: object
    mark: object


class Store(Protocol):
    """A table of a store that is open, of rows with this key, mark and these vectors.

    Every method raises ExportError where the store fails.
    """

    target: str
    normalises: bool  # whether vectors come back divided by their norm
    vectors: Mapping[str, str]  # the columns, or what a store has for them, of vectors, sparse vectors and words

    def scan(self, scope: Scope) -> Generator[Sequence[StoreRow], None, None]:
        """All rows of a scope, some at a time."""
        ...

    def prepare(self, twice: Sequence[str]) -> None:
        """Make it have room for the rows, and one row alone for keys of which it has more.

        Before, nothing of a table that is there is changed.
        """
        ...

    def add(self, rows: Rows) -> None:
        """Write rows whose keys it does not have."""
        ...

    def update(self, rows: Rows, *, keep: bool) -> None:
        """Write rows over those with their keys, and keep their vectors by other names if `keep` says so."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Take rows away."""
        ...

    def count(self, scope: Scope) -> int:
        """How many rows of a scope it has."""
        ...

    def read(self, keys: Sequence[str]) -> Found:
        """The vectors of rows, by key and name; of sparse vectors and words the entries that it keeps."""
        ...

    def kept(self, name: str, rows: Rows) -> Sequence[Entries] | None:
        """What `read` should give of the sparse vectors or words of rows; None where it keeps none of its own."""
        ...

    def index(self) -> Sequence[str]:
        """Make the indexes that are worth it for so many rows; notes for the user."""
        ...


def fill(store: Store, source: Source, target: Target) -> ExportReport:
    """Make a store have the rows of a run, and no others of its collections; where all of the run is exported, none of
    the run's in other collections either.

    Raises:
        ExportError: it fails, or has rows of these collections that no export wrote, or that another run exported and
            that are not taken over; these are not touched.
    """
    scope = Scope.of(source)
    there = _survey(store, source, scope, target.take_over)
    store.prepare(there.twice)
    written = 0
    for rows in source.batches(target.batch_rows):
        written += _write(store, rows, there)
    for start in range(0, len(there.gone), _DELETED_AT_ONCE):
        store.delete(there.gone[start : start + _DELETED_AT_ONCE])
    notes = store.index()
    compared = compare(
        source, store.target, store.count(scope), store.read, normalises=store.normalises, kept=store.kept
    )
    return ExportReport(
        target=store.target, rows=source.rows, written=written, unchanged=source.rows - written,
        deleted=len(there.gone), compared=compared, vectors=store.vectors, notes=tuple(notes),
    )  # fmt: skip


def require_own_places(target: str, there: Container[str]) -> None:
    """Refuse a table with one column of places: exports make both at once, so somebody else's would be written over.

    Raises:
        ExportError: it has one without the other.
    """
    mine = [name for name in PLACE_COLUMNS if name in there]
    if len(mine) == 1:
        raise ExportError(
            f"{target} has a column {mine[0]} that no export wrote, and an export needs a column of this name: rename "
            "yours, or choose another --table"
        )


class _There:
    """What a store has of a run's rows: the mark of each, in 33 bytes and 8 for each name of vectors, and the keys of
    those that the run lacks.
    """

    def __init__(self, keys: DigestTable) -> None:
        self._keys = keys
        self._states = bytearray(len(keys))
        self._texts = _Digests(len(keys), _DIGEST_BYTES)
        self._metadata = _Digests(len(keys), _DIGEST_BYTES)
        self._vectors: dict[str, _Digests] = {}
        self.gone: list[str] = []
        self.twice: list[str] = []

    def add(self, row: StoreRow) -> None:
        """Take in a row."""
        at = self._keys.find(_key_bytes(row.key))
        if at is None:
            self.gone.append(row.key)
        elif self._states[at] == _ABSENT:
            self._states[at] = _MARKED if self._keep(at, Mark.of(row.mark)) else _UNMARKED
        elif self._states[at] != _TWICE:
            self._states[at] = _TWICE
            self.twice.append(row.key)

    def find(self, key: str) -> Mark | None:
        """The mark of a row; one of nothing where it has none that can be believed, None where it is not there."""
        at = self._keys.find(_key_bytes(key))
        if at is None or self._states[at] == _ABSENT:
            return None
        if self._states[at] != _MARKED:
            return Mark(text="", metadata="", vectors={})
        vectors = {name: digest for name, digests in self._vectors.items() if (digest := digests.read(at)) is not None}
        return Mark(text=self._texts.read(at) or "", metadata=self._metadata.read(at) or "", vectors=vectors)

    def _keep(self, at: int, mark: Mark | None) -> bool:
        """Put a mark away, if it is one that an export of this version wrote."""
        if mark is None or not (self._texts.write(at, mark.text) and self._metadata.write(at, mark.metadata)):
            return False
        for name, digest in mark.vectors.items():
            digests = self._vectors.setdefault(name, _Digests(len(self._keys), VECTOR_DIGEST_BYTES))
            digests.write(at, digest)  # what is not a digest is left out: the vector counts as missing
        return True


class _Digests:
    """A digest for each row, or none."""

    def __init__(self, rows: int, size: int) -> None:
        self._bytes = bytearray(rows * size)
        self._size = size

    def write(self, at: int, digest: object) -> bool:
        """Keep a digest in hex digits; False where it is not a digest of this size."""
        try:
            found = bytes.fromhex(digest) if isinstance(digest, str) else b""
        except ValueError:  # somebody has changed it
            return False
        if len(found) != self._size:
            return False
        self._bytes[at * self._size : (at + 1) * self._size] = found
        return True

    def read(self, at: int) -> str | None:
        """The digest of a row in hex digits; None where it has none."""
        found = self._bytes[at * self._size : (at + 1) * self._size]
        return found.hex() if any(found) else None


def _key_bytes(key: str) -> bytes:
    """What a UUID's own class gives, in a quarter of the time."""
    return bytes.fromhex(key.replace("-", ""))


def _survey(store: Store, source: Source, scope: Scope, take_over: bool) -> _There:
    """What is there, with all of it required to be this run's."""
    there = _There(source.keys())
    with contextlib.closing(store.scan(scope)) as pages:
        for page in pages:
            for row in page:
                _require_own(row, store, source.run, take_over)
                there.add(row)
    return there


def _write(store: Store, rows: Rows, there: _There) -> int:
    """Write what is not there as it should be; how many rows that are.

    Vectors that are not exported now stay where the text of their row has, and go with another text.
    """
    new: list[int] = []
    changed: list[int] = []
    known: list[int] = []
    marks: list[Mark] = []
    for at, (key, mark) in enumerate(zip(rows.keys, rows.marks, strict=True)):
        kept = there.find(key)
        if kept is None:
            new.append(at)
        elif kept.text != mark.text:
            changed.append(at)
        elif not kept.covers(mark):
            known.append(at)
            marks.append(dataclasses.replace(mark, vectors={**kept.vectors, **mark.vectors}))
    if new:
        store.add(rows.take(new))
    if changed:
        store.update(rows.take(changed), keep=False)
    if known:
        store.update(dataclasses.replace(rows.take(known), marks=marks), keep=True)
    return len(new) + len(changed) + len(known)


def _require_own(row: StoreRow, store: Store, run: str, take_over: bool) -> None:
    key, of, named = row.key, row.collection, row.id
    if not (isinstance(of, str) and isinstance(named, str) and key == key_of(of, named)):
        raise ExportError(
            f"{store.target} has a row {key} in collection {of} that no export wrote: choose another --table"
        )
    if row.run != run and not take_over:
        raise ExportError(
            f"{store.target} has rows of collection {of} that another run exported: choose another --table, or give "
            "--take-over, which makes them this run's"
        )
