"""The rows of a table of PostgreSQL: read, written, deleted and counted."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from soloist.arrays import Vectors
from soloist.errors import ExportError
from soloist.exports.asking import TITLE
from soloist.exports.columns import has_surrogate, surrogate_error
from soloist.exports.members import Entries
from soloist.exports.pgvector.asking import how_to_ask_table
from soloist.exports.pgvector.indexes import INDEXED_ROWS, MOST_INDEXED_WEIGHTS, drop_sparse_index, make_indexes
from soloist.exports.pgvector.members import SparseMember, is_own, written_columns
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
        columns, self._members = opened_columns(self._queries, source, target)
        self.vectors: Mapping[str, str] = {
            name: ", ".join(column.name for column in member.columns) for name, member in self._members.items()
        }
        self._written = [column.name for column in written_columns(self._members.values())]
        self._missing = [name for name in NEWER_COLUMNS if name not in columns]
        kinds = {name: there.kind for name, there in columns.items()}
        self._others = [name for name in kinds if name not in self._written and is_own(name, kinds)]

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
        self._write(rows, [] if keep else self._others)

    def _write(self, rows: Rows, emptied: Sequence[str]) -> None:
        """Write rows, and empty the columns `emptied` of those that are there."""
        names, queries = [*COLUMNS, *self._written], self._queries
        for member in self._members.values():
            if isinstance(member, SparseMember) and member.most_weights(rows) > MOST_INDEXED_WEIGHTS:
                drop_sparse_index(queries, member.column, self.target)
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
            cursor.executemany(query, [self._values(rows, row) for row in range(len(rows))])
            if cursor.rowcount != len(rows):
                raise ExportError(
                    f"another run has written rows of collection {rows.collection} to {self.target} in the meantime: "
                    "choose another --table, or export again with --take-over, which makes those rows this run's"
                )

    def _values(self, rows: Rows, row: int) -> list[Any]:
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
            rows.keys[row], self._source.run, rows.collection, chunk.id, chunk.text, chunk.source_file,
            chunk.source_index, metadata, str(rows.marks[row]),
            *itertools.chain.from_iterable(member.values(rows, row) for member in self._members.values()),
        ]  # fmt: skip

    def delete(self, keys: Sequence[str]) -> None:
        """Take rows away, in one statement."""
        self._queries.run("DELETE FROM {table} WHERE key = ANY(%s::uuid[])", [list(keys)])

    def count(self, scope: Scope) -> int:
        """How many rows of a scope there are."""
        condition, values = self._of(scope)
        return int(self._queries.run(f"SELECT count(*) FROM {{table}} WHERE {condition}", values).fetchone()[0])

    def read(self, keys: Sequence[str]) -> Found:
        """What rows have of each member, by key and name; of vectors as PostgreSQL spells them out."""
        columns = written_columns(self._members.values())
        selected = (self._queries.part("{}::text" if column.dim else "{}", column.name) for column in columns)
        query = "SELECT key::text, {columns} FROM {table} WHERE key = ANY(%s::uuid[])"
        found = self._queries.run(query, [list(keys)], columns=self._queries.listed(selected)).fetchall()
        return {key: self._read(dict(zip(self._written, values, strict=True))) for key, *values in found}

    def _read(self, values: Mapping[str, Any]) -> dict[str, Vectors | Entries]:
        """What a row has of each member, of the values by column."""
        read: dict[str, Vectors | Entries] = {}
        for name, member in self._members.items():
            found = [values[column.name] for column in written_columns([member])]
            there = member.read(found) if found[0] is not None else None
            if there is not None:
                read[name] = there
        return read

    kept = staticmethod(as_they_are)

    def index(self) -> Sequence[str]:
        """Make HNSW indexes of the columns with enough vectors; notes for the user."""
        return make_indexes(self._queries, self._members, self._indexed_rows)

    def describe(self) -> Sequence[str]:
        """Say in the table's comment how to ask it; notes for the user. A comment of somebody else's stays."""
        queries = self._queries
        there, *name = queries.run(
            "SELECT obj_description(pg_class.oid, 'pg_class'), nspname, relname FROM pg_class "
            "JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = to_regclass(%s)",
            [queries.quoted()],
        ).fetchone()
        # With the schema, no name in the queries can be taken for the table's.
        text = how_to_ask_table(self._source, queries.quoted_name(*name).replace("%", "%%"), self._members)
        if there is not None and not there.startswith(TITLE):
            return (
                "the table has a comment of yours, so the export did not write there how to query the table: "
                "remove the comment and export again to get that text",
            )
        if there != text:
            try:
                queries.run("COMMENT ON TABLE {table} IS {text}", text=queries.literal(text))
            except queries.errors.InsufficientPrivilege:
                return (
                    "only the owner of the table may write into its comment how to query the table: export once as the "
                    "owner to get that text",
                )
        return ()

    def _of(self, scope: Scope) -> tuple[str, list[Any]]:
        """A scope as a condition with its values."""
        if scope.run is None or "run" in self._missing:
            return "collection = ANY(%s)", [list(scope.collections)]
        return "(collection = ANY(%s) OR run = %s)", [list(scope.collections), scope.run]


def _has_nul(value: Any) -> bool:
    """Whether any text in a value of JSON has a NUL."""
    if isinstance(value, Mapping):
        return _has_nul([*value.keys(), *value.values()])
    if isinstance(value, (list, tuple)):
        return any(map(_has_nul, value))
    return isinstance(value, str) and "\0" in value
