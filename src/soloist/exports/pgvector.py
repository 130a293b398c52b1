"""A table of PostgreSQL with pgvector: metadata as jsonb, a vector column for each name of vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from soloist.errors import ConfigError, ExportError
from soloist.exports.columns import has_surrogate, surrogate_error, vector_column
from soloist.exports.extras import load
from soloist.exports.report import ExportReport
from soloist.exports.rows import Rows, Source, Vectors
from soloist.exports.stores import Place, fill
from soloist.exports.target import Target
from soloist.jsontext import json_text

# Up to here a scan is fast enough, and an HNSW index takes longer to build than it saves.
INDEXED_ROWS = 10_000
# What an HNSW index of pgvector takes, and one of halfvec, from 0.7 on: https://github.com/pgvector/pgvector#hnsw.
_MOST_INDEXED_DIMS = 2_000
_MOST_HALFVEC_DIMS = 4_000
_KEYS_AT_ONCE = 10_000
_COLUMNS = ("key", "run", "collection", "id", "text", "metadata", "digest")
_NAME_BYTES = 63  # of an identifier of PostgreSQL; longer ones it cuts without a word


def export(source: Source, target: Target) -> ExportReport:
    """Make the table have the rows of the run; a batch is a transaction."""
    psycopg = load("psycopg", "pgvector", "psycopg")
    if target.url is None or target.out is not None:
        raise ConfigError("the export to pgvector needs --url postgresql://user@host/database, and no --out: give it")
    shown = _shown(psycopg, target.url)
    try:
        with psycopg.connect(target.url, autocommit=True) as connection:
            return fill(
                _Table(psycopg, connection, source, target.table, f"{shown} ({target.table})"),
                source,
                target,
            )
    except psycopg.Error as exc:
        reason = " ".join(str(exc).split())[:300]
        raise ExportError(
            f"PostgreSQL at {shown} failed ({reason}): see that it is there and has pgvector, and export again"
        ) from exc


class _Table:
    """A table that is open, made where it is not there."""

    normalises = False

    def __init__(self, psycopg: Any, connection: Any, source: Source, name: str, target: str) -> None:
        self._sql = psycopg.sql
        self._connection = connection
        self._source = source
        self._plain_name = identifier(name)
        self._name = self._sql.Identifier(self._plain_name)
        self._columns = {name: vector_column(name) for name in source.dims}
        self.target = target
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        self._make()
        there = self._there()
        self._require_own(there)
        self._has_run = "run" in there
        self._others = [name for name in there if name.startswith("vector_") and name not in self._columns.values()]

    def prepare(self) -> None:
        if not self._has_run:
            self._run("ALTER TABLE {table} ADD COLUMN run text", [])

    def marks(self, keys: Sequence[str]) -> Mapping[str, object]:
        found = self._run("SELECT key::text, digest FROM {table} WHERE key = ANY(%s::uuid[])", [list(keys)])
        return dict(found.fetchall())

    def upsert(self, rows: Rows) -> None:
        # A row of another text, whose vectors of these are not exported now, must not keep those of the text before.
        self._write(rows, self._others)

    def update(self, rows: Rows) -> None:
        self._write(rows, [])

    def _write(self, rows: Rows, emptied: Sequence[str]) -> None:
        names = [*_COLUMNS, *self._columns.values()]
        columns = self._sql.SQL(", ").join(map(self._sql.Identifier, names))
        places = self._sql.SQL(", ").join(self._sql.Placeholder() for _ in names)
        updates = self._sql.SQL(", ").join(
            self._sql.SQL("{0} = EXCLUDED.{0}").format(self._sql.Identifier(name)) for name in [*names[1:], *emptied]
        )
        query = self._sql.SQL(
            "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT (key) DO UPDATE SET {}"
        ).format(self._name, columns, places, updates)  # fmt: skip
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(query, [self._values(rows, place) for place in range(len(rows))])

    def places(self, collections: Sequence[str]) -> Iterator[Sequence[Place]]:
        run = "run" if self._has_run else "NULL"
        query = "SELECT key::text, " + run + ", collection, id FROM {table} WHERE collection = ANY(%s)"
        found = self._run(query, [list(collections)])
        while page := found.fetchmany(_KEYS_AT_ONCE):
            yield [Place(*row) for row in page]

    def delete(self, keys: Sequence[str]) -> None:
        self._run("DELETE FROM {table} WHERE key = ANY(%s::uuid[])", [list(keys)])

    def count(self, collections: Sequence[str]) -> int:
        found = self._run("SELECT count(*) FROM {table} WHERE collection = ANY(%s)", [list(collections)])
        return int(found.fetchone()[0])

    def read(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Vectors]]:
        columns = self._sql.SQL(", ").join(
            self._sql.SQL("{}::text").format(self._sql.Identifier(column)) for column in self._columns.values()
        )
        query = self._sql.SQL("SELECT key::text, {} FROM {} WHERE key = ANY(%s::uuid[])").format(columns, self._name)
        found = self._connection.execute(query, [list(keys)]).fetchall()
        return {
            key: {
                name: np.array(text[1:-1].split(","), np.float32)
                for name, text in zip(self._columns, texts, strict=True)
            }
            for key, *texts in found
        }

    def index(self, rows: int) -> Sequence[str]:
        if rows < INDEXED_ROWS:
            return ("PostgreSQL scans all rows: so few need no index",)
        has_halfvec = self._run("SELECT to_regtype('halfvec') IS NOT NULL", []).fetchone()[0]
        notes: list[str] = []
        for name, column in self._columns.items():
            dim = self._source.dims[name]
            if dim <= _MOST_INDEXED_DIMS:
                self._index(column, self._sql.SQL("{} vector_cosine_ops").format(self._sql.Identifier(column)))
                notes.append(f"{name} has an HNSW index: its search is approximate")
            elif has_halfvec and dim <= _MOST_HALFVEC_DIMS:
                half = self._sql.SQL("({}::halfvec({})) halfvec_cosine_ops")
                self._index(column, half.format(self._sql.Identifier(column), self._sql.Literal(dim)))
                notes.append(
                    f"{name} has an HNSW index in half precision, for ORDER BY {column}::halfvec({dim}) <=> ...: its "
                    "search is approximate"
                )
            else:
                most = f"{_MOST_HALFVEC_DIMS:,}" if has_halfvec else f"{_MOST_INDEXED_DIMS:,}"
                notes.append(f"{name} has more than {most} dims, which this pgvector does not index: it is scanned")
        return tuple(notes)

    def _index(self, column: str, indexed: Any) -> None:
        name = self._sql.Identifier(identifier(f"{self._plain_name}_{column}_hnsw"))
        query = self._sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw ({})")
        self._connection.execute(query.format(name, self._name, indexed))

    def _make(self) -> None:
        vectors = [
            self._sql.SQL("{} vector({})").format(
                self._sql.Identifier(column), self._sql.Literal(self._source.dims[name])
            )
            for name, column in self._columns.items()
        ]
        self._connection.execute(
            self._sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (key uuid PRIMARY KEY, run text, collection text NOT NULL, "
                "id text NOT NULL, text text NOT NULL, metadata jsonb NOT NULL, digest text NOT NULL, {})"
            ).format(self._name, self._sql.SQL(", ").join(vectors))
        )

    def _there(self) -> dict[str, int]:
        """The columns of the table with the modifier of their type, which of a vector is its dim."""
        found = self._connection.execute(
            "SELECT attname, atttypmod FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [self._name.as_string()],
        )
        return dict(found.fetchall())

    def _require_own(self, there: Mapping[str, int]) -> None:
        if not {*_COLUMNS} - {"run"} <= there.keys():  # which tables of an earlier version do not have
            raise ExportError(f"{self.target} is a table that no export wrote: choose another --table")
        for name, column in self._columns.items():
            if there.get(column) != self._source.dims[name]:
                has = f"{there[column]} dims of {name}" if column in there else f"no column {column}"
                raise ExportError(
                    f"{self.target} has {has}, and the run has {self._source.dims[name]}: choose another --table, or "
                    "drop that one"
                )

    def _values(self, rows: Rows, place: int) -> list[Any]:
        chunk = rows.chunks[place]
        metadata = json_text(dict(chunk.metadata))
        if _has_nul([chunk.id, chunk.text, dict(chunk.metadata)]):
            raise ExportError(
                f"chunk {chunk.id!r} has a NUL character, which PostgreSQL cannot store: take it out of the chunk file "
                "and embed again, or choose another store"
            )
        if "\\ud" in metadata and has_surrogate(chunk.metadata):
            raise surrogate_error(chunk, "PostgreSQL")
        vectors = [str(vectors[place].tolist()) for vectors in rows.vectors.values()]
        return [
            rows.keys[place], self._source.run, rows.collection, chunk.id, chunk.text, metadata,
            str(rows.marks[place]), *vectors,
        ]  # fmt: skip

    def _run(self, query: str, values: Sequence[Any]) -> Any:
        return self._connection.execute(self._sql.SQL(query).format(table=self._name), values)


def _has_nul(value: Any) -> bool:
    """Whether any text in a value of JSON has a NUL."""
    if isinstance(value, Mapping):
        return _has_nul([*value.keys(), *value.values()])
    if isinstance(value, (list, tuple)):
        return any(map(_has_nul, value))
    return isinstance(value, str) and "\0" in value


def _shown(psycopg: Any, url: str) -> str:
    """Host, port and database of an address in any of libpq's forms: a password is nobody's business."""
    parts = _address(psycopg, url)
    port = f":{parts['port']}" if "port" in parts else ""
    return f"{parts.get('host', 'localhost')}{port}/{parts.get('dbname', '')}"


def _address(psycopg: Any, url: str) -> Mapping[str, str]:
    """What an address is made of. No error repeats it, nor libpq's own: a `/` or `@` in a password misleads both."""
    try:
        parts: dict[str, str] = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        parts = {"port": "unknown"}
    if "@" in parts.get("host", "") + parts.get("dbname", "") or not parts.get("port", "0").replace(",", "").isdigit():
        raise ConfigError(
            "the --url of pgvector is no address of a PostgreSQL: give postgresql://user@host:port/database, and the "
            "password in PGPASSWORD or with its special characters percent-encoded"
        ) from None
    return parts


def identifier(name: str) -> str:
    """A name that PostgreSQL keeps whole: a long one ends with a digest."""
    if len(name.encode()) <= _NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: _NAME_BYTES - 9].decode(errors='ignore')}_{digest}"
