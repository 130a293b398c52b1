"""The way of rows into a store that keeps them: what is there unchanged is passed over, what is gone is deleted.

Each batch is a change of its own, so an export that was broken off goes on where it was.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from soloist.errors import ExportError
from soloist.exports.report import ExportReport, compare
from soloist.exports.rows import Mark, Rows, Source, Vectors, key_of
from soloist.exports.target import Target

_DELETED_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row lies and whose it is, as the store has it: anything but a key, where no export wrote it."""

    key: str
    run: object
    collection: object
    id: object


class Store(Protocol):
    """A table of a store that is open, of rows with this key, mark and these vectors.

    Every method raises ExportError where the store fails.
    """

    target: str
    normalises: bool  # whether vectors come back divided by their norm

    def prepare(self) -> None:
        """Make it have room for the rows. Before, nothing of a table that is there is changed."""
        ...

    def marks(self, keys: Sequence[str]) -> Mapping[str, object]:
        """The marks of those of these keys that it has, as it has them."""
        ...

    def upsert(self, rows: Rows) -> None:
        """Write rows in the place of those with their keys, of which nothing stays."""
        ...

    def update(self, rows: Rows) -> None:
        """Write rows over those with their keys, of which vectors by other names stay."""
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


def fill(store: Store, source: Source, target: Target) -> ExportReport:
    """Make a store have the rows of a run, and no others of its collections.

    Raises:
        ExportError: it fails, or has rows of these collections that no export wrote, or that another run exported and
            that are not taken over; these are not touched.
    """
    gone = _gone(store, source, target.take_over)
    store.prepare()
    written = 0
    for rows in source.batches(target.batch_rows):
        written += _write(store, rows)
    for start in range(0, len(gone), _DELETED_AT_ONCE):
        store.delete(gone[start : start + _DELETED_AT_ONCE])
    notes = store.index(source.rows)
    compared = compare(
        source, store.target, store.count(source.collections), store.read, normalises=store.normalises
    )  # fmt: skip
    return ExportReport(
        target=store.target, rows=source.rows, written=written, unchanged=source.rows - written, deleted=len(gone),
        compared=compared, notes=tuple(notes),
    )  # fmt: skip


def _write(store: Store, rows: Rows) -> int:
    """Write what is not there as it should be; how many rows that are.

    Vectors that are not exported now stay where the text of their row has, and go with another text.
    """
    kept = {key: Mark.of(mark) for key, mark in store.marks(rows.keys).items()}
    new: list[int] = []
    known: list[int] = []
    marks: list[Mark] = []
    for at, (key, mark) in enumerate(zip(rows.keys, rows.marks, strict=True)):
        there = kept.get(key)
        if there is None or there.text != mark.text:
            new.append(at)
        elif not there.covers(mark):
            known.append(at)
            marks.append(dataclasses.replace(mark, vectors={**there.vectors, **mark.vectors}))
    if new:
        store.upsert(rows.take(new))
    if known:
        store.update(dataclasses.replace(rows.take(known), marks=marks))
    return len(new) + len(known)


def _gone(store: Store, source: Source, take_over: bool) -> list[str]:
    """The keys of rows whose chunks the run does not have, asked before anything is written."""
    keys = source.keys()
    gone: list[str] = []
    for page in store.places(source.collections):
        for place in page:
            _require_own(place, store, source.run, take_over)
            if keys.find(uuid.UUID(place.key).bytes) is None:
                gone.append(place.key)
    return gone


def _require_own(place: Place, store: Store, run: str, take_over: bool) -> None:
    key, of, named = place.key, place.collection, place.id
    if not (isinstance(of, str) and isinstance(named, str) and key == key_of(of, named)):
        raise ExportError(
            f"{store.target} has a row {key} in collection {of} that no export wrote: choose another --table"
        )
    if place.run != run and not take_over:
        raise ExportError(
            f"{store.target} has rows of collection {of} that another run exported: choose another --table, or give "
            "--take-over, which makes them this run's"
        )
