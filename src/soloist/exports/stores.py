"""The way of rows into a store that keeps them: what is there unchanged is passed over, what is gone is deleted.

Each batch is a change of its own, so an export that was broken off goes on where it was.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from soloist.digests import DigestTable
from soloist.errors import ExportError
from soloist.exports.report import ExportReport, compare
from soloist.exports.rows import Rows, Source, Vectors, key_of

_DELETED_AT_ONCE = 1_000

Place = tuple[str, object, object]  # key, collection and id, as the store has them


class Store(Protocol):
    """A table of a store that is open, of rows with this key, digest and these vectors.

    Every method raises ExportError where the store fails.
    """

    target: str

    def digests(self, keys: Sequence[str]) -> Mapping[str, str]:
        """The digests of those of these keys that it has."""
        ...

    def upsert(self, rows: Rows) -> None:
        """Write rows in the place of those with their keys."""
        ...

    def places(self, collections: Sequence[str]) -> Iterator[Sequence[Place]]:
        """Where all rows of these collections lie, some at a time."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Take rows away."""
        ...

    def count(self, collections: Sequence[str]) -> int:
        """How many rows of these collections it has."""
        ...

    def read(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Vectors]]:
        """The vectors of rows, by key and name."""
        ...

    def index(self, rows: int) -> Sequence[str]:
        """Make the indexes that so many rows are worth; what is to be said of it."""
        ...


def fill(store: Store, source: Source, batch_rows: int) -> ExportReport:
    """Make a store have the rows of a run, and no others of its collections.

    Raises:
        ExportError: it fails, or has rows of these collections that no export wrote; these are not touched.
    """
    gone = _gone(store, source)
    written = unchanged = 0
    for rows in source.batches(batch_rows):
        there = store.digests(rows.keys)
        changed = [at for at, key in enumerate(rows.keys) if there.get(key) != rows.digests[at]]
        if changed:
            store.upsert(rows.take(changed))
        written += len(changed)
        unchanged += len(rows) - len(changed)
    for start in range(0, len(gone), _DELETED_AT_ONCE):
        store.delete(gone[start : start + _DELETED_AT_ONCE])
    notes = store.index(source.rows)
    compared = compare(source, store.target, store.count(source.collections), store.read)
    return ExportReport(
        target=store.target, rows=source.rows, written=written, unchanged=unchanged, deleted=len(gone),
        compared=compared, notes=tuple(notes),
    )  # fmt: skip


def _gone(store: Store, source: Source) -> list[str]:
    """The keys of rows whose chunks the run does not have, asked before anything is written."""
    keys = DigestTable()
    for collection, index in source.shards:
        for id_ in source.ids(collection, index):
            keys.add(uuid.UUID(key_of(collection, id_)).bytes)
    gone: list[str] = []
    for page in store.places(source.collections):
        for key, of, named in page:
            if not (isinstance(of, str) and isinstance(named, str) and key == key_of(of, named)):
                raise ExportError(
                    f"{store.target} has a row {key} in collection {of} that no export wrote: choose another --table"
                )
            if keys.find(uuid.UUID(key).bytes) is None:
                gone.append(key)
    return gone
