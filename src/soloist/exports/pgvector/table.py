"""The rows of a table of PostgreSQL: read, written, deleted and counted."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from soloist.errors import ExportError
from soloist.exports.columns import VECTOR, has_surrogate, surrogate_error, vector_columns
from soloist.exports.pgvector.indexes import INDEXED_ROWS, make_indexes
from soloist.exports.pgvector.queries import Queries
from soloist.exports.pgvector.setup import COLUMNS, NEWER_COLUMNS, opened_columns
from soloist.exports.report import Found, as_they_are
from soloist.exports.rows import Rows, Source
from soloist.exports.stores import Scope, StoreRow
from soloist.jsontext import json_text

_KEYS_AT_ONCE = 10_000
_CURSOR = "soloist_scan"


class PostgresTable:
    """A table that is open and locked, made where it is not there; a `Store`."""

    normalises = False

    def __init__(
        self,
        psycopg: Any,
        connection: Any,
        source: Source,
        name: tuple[str, ...],
        target: str,
        *,
        take_over: bool = False,
        indexed_rows: int = INDEXED_ROWS,
    ) -> None:
        self.target = target
        self._queries = Queries(psycopg, connection, name)
        self._source = source
        self._take_over = take_over
        self._indexed_rows = indexed_rows
        columns = opened_columns(self._queries, source.dims, target)
        self.vectors: Mapping[str, str] = vector_columns(source.dims, columns)
        self._missing = [name for name in NEWER_COLUMNS if name not in columns]
        self._other_vectors = [
            name
            for name, (kind, _) in columns.items()
            if name.startswith(VECTOR) and kind == "vector" and name not in self.vectors.values()
        ]

    def scan(self, scope: Scope) -> Generator[Sequence[StoreRow], None, None]:
        """All rows of a scope, a page of the server's cursor at a time."""
        run = "NULL" if "run" in self._missing else "run"
        condition, values = self._of(scope)
        query = f"SELECT key::text, {run}, collection, id, digest FROM {{table}} WHERE {condition}"
        connection = self._queries.connection
        # A cursor of the server's, which lives in a transaction: the client's own would have all rows in memory.
        with connection.transaction(), connection.cursor(name=_CURSOR) as cursor:
            cursor.execute(self._queries.composed(query), values)
            while page := cursor.fetchmany(_KEYS_AT_ONCE):
                yield [StoreRow(*row) for row in page]

    def prepare(self, twice: Sequence[str]) -> None:
        """Add the columns that a table of an earlier version lacks. No key is there twice: the keys are unique."""
        if self._missing:
            added = (f"ADD COLUMN {name} {COLUMNS[name]}" for name in self._missing)
            self._queries.run(f"ALTER TABLE {{table}} {', '.join(added)}")
            self._missing = []

    def add(self, rows: Rows) -> None:
        """Write rows whose keys are not there, in one transaction."""
        self._write(rows, [])

    def update(self, rows: Rows, *, keep: bool) -> None:
        """Write rows over those with their keys, in one transaction."""
        self._write(rows, [] if keep else self._other_vectors)

    def _write(self, rows: Rows, emptied: Sequence[str]) -> None:
        """Write rows, and empty the columns `emptied` of those that are there."""
        names, queries = [*COLUMNS, *self.vectors.values()], self._queries
        query = "INSERT INTO {table} AS there ({names}) VALUES ({values}) ON CONFLICT (key) DO UPDATE SET {updates}"
        if not self._take_over:
            query += " WHERE there.run = EXCLUDED.run"
        query = queries.composed(
            query,
            names=queries.listed(queries.part("{}", name) for name in names),
            values=queries.placeholders(len(names)),
            updates=queries.listed(queries.part("{0} = EXCLUDED.{0}", name) for name in [*names[1:], *emptied]),
        )
        with queries.connection.transaction(), queries.connection.cursor() as cursor:
            cursor.executemany(query, [_values(self._source.run, rows, row) for row in range(len(rows))])
            if cursor.rowcount != len(rows):
                raise ExportError(
                    f"another run has written rows of collection {rows.collection} to {self.target} in the meantime: "
                    "choose another --table, or export again with --take-over, which makes those rows this run's"
                )

    def delete(self, keys: Sequence[str]) -> None:
        """Take rows away, in one statement."""
        self._queries.run("DELETE FROM {table} WHERE key = ANY(%s::uuid[])", [list(keys)])

    def count(self, scope: Scope) -> int:
        """How many rows of a scope there are."""
        condition, values = self._of(scope)
        return int(self._queries.run(f"SELECT count(*) FROM {{table}} WHERE {condition}", values).fetchone()[0])

    def read(self, keys: Sequence[str]) -> Found:
        """The vectors of rows, by key and name, as PostgreSQL spells them out."""
        columns = self._queries.listed(self._queries.part("{}::text", column) for column in self.vectors.values())
        query = "SELECT key::text, {columns} FROM {table} WHERE key = ANY(%s::uuid[])"
        found = self._queries.run(query, [list(keys)], columns=columns).fetchall()
        return {
            key: {
                name: np.array(text[1:-1].split(","), np.float32)
                for name, text in zip(self.vectors, texts, strict=True)
                if text is not None
            }
            for key, *texts in found
        }

    kept = staticmethod(as_they_are)

    def index(self) -> Sequence[str]:
        """Make HNSW indexes of the columns with enough vectors; notes for the user."""
        return make_indexes(self._queries, self.vectors, self._source.dims, self._indexed_rows)

    def _of(self, scope: Scope) -> tuple[str, list[Any]]:
        """A scope as a condition with its values."""
        if scope.run is None or "run" in self._missing:
            return "collection = ANY(%s)", [list(scope.collections)]
        return "(collection = ANY(%s) OR run = %s)", [list(scope.collections), scope.run]


def _values(run: str, rows: Rows, row: int) -> list[Any]:
    """The values of one row, in the order of the columns."""
    chunk = rows.chunks[row]
    metadata = json_text(dict(chunk.metadata))
    if _has_nul([chunk.id, chunk.text, dict(chunk.metadata)]):
        raise ExportError(
            f"chunk {chunk.id!r} has a NUL character, which PostgreSQL cannot store: take it out of the chunk file "
            "and embed again, or choose another store"
        )
    if "\\ud" in metadata and has_surrogate(chunk.metadata):
        raise surrogate_error(chunk, "PostgreSQL")
    return [
        rows.keys[row], run, rows.collection, chunk.id, chunk.text, chunk.source_file, chunk.source_index, metadata,
        str(rows.marks[row]), *(str(vectors[row].tolist()) for vectors in rows.vectors.values()),
    ]  # fmt: skip


def _has_nul(value: Any) -> bool:
    """Whether any text in a value of JSON has a NUL."""
    if isinstance(value, Mapping):
        return _has_nul([*value.keys(), *value.values()])
    if isinstance(value, (list, tuple)):
        return any(map(_has_nul, value))
    return isinstance(value, str) and "\0" in value
