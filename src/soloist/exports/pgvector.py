"""A table of PostgreSQL with pgvector: metadata as jsonb, a vector column for each name of vectors."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from soloist.arrays import Vectors
from soloist.errors import ConfigError, ExportError
from soloist.exports.client_library import load
from soloist.exports.columns import VECTOR, has_surrogate, surrogate_error, vector_columns
from soloist.exports.report import ExportReport
from soloist.exports.rows import Rows, Source
from soloist.exports.stores import Place, Scope, fill, require_own_places
from soloist.exports.target import Target
from soloist.jsontext import json_text
from soloist.stores.tables import SOURCE_COLUMNS

# Up to here a scan is fast enough, and an HNSW index takes longer to build than it saves.
INDEXED_ROWS = 10_000
# What an HNSW index of pgvector takes, and one of halfvec, from 0.7 on: https://github.com/pgvector/pgvector#hnsw.
_MOST_INDEXED_DIMS = 2_000
_MOST_HALFVEC_DIMS = 4_000
_KEYS_AT_ONCE = 10_000
_LOCK_TIMEOUT = "3s"  # a server takes a moment to see that a client was killed
_COLUMNS = {
    "key": "uuid", "run": "text", "collection": "text", "id": "text", "text": "text", "source_file": "text",
    "source_index": "int8", "metadata": "jsonb", "digest": "text",
}  # fmt: skip
_NEWER = ("run", *SOURCE_COLUMNS)  # which tables of earlier versions do not have
_NAME_BYTES = 63  # of an identifier of PostgreSQL; longer ones it cuts without a word


def export(source: Source, target: Target) -> ExportReport:
    """Make the table have the rows of the run, as the only export that writes to it; a batch is a transaction.

    A table is `name`, found or made as the search path has it, or `schema.name`.
    """
    psycopg = load("psycopg", "pgvector", "psycopg")
    if target.url is None or target.out is not None:
        raise ConfigError("the export to pgvector needs --url postgresql://user@host/database, and no --out: give it")
    shown, name = _shown(psycopg, target.url), _name_parts(target.table)
    try:
        with psycopg.connect(target.url, autocommit=True) as connection:
            store = _Table(psycopg, connection, source, name, f"{shown} ({target.table})", target.take_over)
            return fill(store, source, target)
    except psycopg.Error as exc:
        is_there = not isinstance(exc, (psycopg.OperationalError, psycopg.NotSupportedError))
        remedy = "correct that" if is_there else "see that it is there and has pgvector"
        reason = " ".join((exc.diag.message_primary or str(exc)).split())[:300]  # without the row that it is of
        raise ExportError(f"PostgreSQL at {shown} failed ({reason}): {remedy}, and export again") from exc
    except UnicodeEncodeError as exc:
        raise ExportError(
            f"PostgreSQL at {shown} stores only valid Unicode, and the name of a collection is not: rename that "
            "collection, or choose others with --collections"
        ) from exc


class _Table:
    """A table that is open and locked, made where it is not there."""

    normalises = False

    def __init__(
        self,
        psycopg: Any,
        connection: Any,
        source: Source,
        name: tuple[str, ...],
        target: str,
        take_over: bool = False,
        indexed_rows: int = INDEXED_ROWS,
    ) -> None:
        self._psycopg = psycopg
        self._sql = psycopg.sql
        self._connection = connection
        self._source = source
        self._parts = name
        self._name = self._sql.Identifier(*(part.replace("%", "%%") for part in name))  # beside placeholders
        self.vectors: Mapping[str, str] = vector_columns(source.dims)
        self._take_over = take_over
        self._indexed_rows = indexed_rows
        self.target = target
        self._require_extension()
        self._require_schema()
        self._lock()
        if not self._there():  # which may be all that this user is allowed
            self._make()
        there = self._there()
        self.vectors = vector_columns(source.dims, there)
        self._require_own(there)
        self._has_run = "run" in there
        self._missing = [name for name in _NEWER if name not in there]
        self._others = [
            name
            for name, (kind, _) in there.items()
            if name.startswith(VECTOR) and kind == "vector" and name not in self.vectors.values()
        ]

    def places(self, scope: Scope) -> Generator[Sequence[Place], None, None]:
        run = "run" if self._has_run else "NULL"
        condition, values = self._of(scope)
        query = f"SELECT key::text, {run}, collection, id, digest FROM {{table}} WHERE {condition}"
        # A cursor of the server's, which lives in a transaction: the client's own would have all rows in memory.
        with self._connection.transaction(), self._connection.cursor(name="soloist_places") as cursor:
            cursor.execute(self._query(query), values)
            while page := cursor.fetchmany(_KEYS_AT_ONCE):
                yield [Place(*row) for row in page]

    def prepare(self, twice: Sequence[str]) -> None:  # its keys are unique
        if self._missing:
            added = (f"ADD COLUMN {name} {_COLUMNS[name]}" for name in self._missing)
            self._run(f"ALTER TABLE {{table}} {', '.join(added)}")
            self._has_run, self._missing = True, []

    def add(self, rows: Rows) -> None:
        self._write(rows, [])

    def update(self, rows: Rows, *, keep: bool) -> None:
        self._write(rows, [] if keep else self._others)

    def _write(self, rows: Rows, emptied: Sequence[str]) -> None:
        """Write rows, of which some may be there, and empty these columns of those."""
        names = [*_COLUMNS, *self.vectors.values()]
        query = "INSERT INTO {table} AS there ({names}) VALUES ({values}) ON CONFLICT (key) DO UPDATE SET {updates}"
        if not self._take_over:
            query += " WHERE there.run = EXCLUDED.run"
        updates = [
            self._sql.SQL("{0} = EXCLUDED.{0}").format(self._sql.Identifier(name)) for name in [*names[1:], *emptied]
        ]
        query = self._query(
            query,
            names=self._joined(map(self._sql.Identifier, names)),
            values=self._joined(self._sql.Placeholder() for _ in names),
            updates=self._joined(updates),
        )
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(query, [self._values(rows, place) for place in range(len(rows))])
            if cursor.rowcount != len(rows):
                raise ExportError(
                    f"{self.target} has got rows of collection {rows.collection} from another run in the meantime: "
                    "choose another --table, or export again with --take-over, which makes them this run's"
                )

    def delete(self, keys: Sequence[str]) -> None:
        self._run("DELETE FROM {table} WHERE key = ANY(%s::uuid[])", [list(keys)])

    def count(self, scope: Scope) -> int:
        condition, values = self._of(scope)
        return int(self._run(f"SELECT count(*) FROM {{table}} WHERE {condition}", values).fetchone()[0])

    def read(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Vectors]]:
        columns = self._joined(
            self._sql.SQL("{}::text").format(self._sql.Identifier(column)) for column in self.vectors.values()
        )
        query = "SELECT key::text, {columns} FROM {table} WHERE key = ANY(%s::uuid[])"
        found = self._run(query, [list(keys)], columns=columns).fetchall()
        return {
            key: {
                name: np.array(text[1:-1].split(","), np.float32)
                for name, text in zip(self.vectors, texts, strict=True)
                if text is not None
            }
            for key, *texts in found
        }

    def index(self) -> Sequence[str]:
        counts = self._counts()
        if max(counts.values()) < self._indexed_rows:
            return ("PostgreSQL scans all rows: so few need no index",)
        has_halfvec = self._run("SELECT to_regtype('halfvec') IS NOT NULL").fetchone()[0]
        there = self._indexes()
        notes: list[str] = []
        for name, column in self.vectors.items():
            dim = self._source.dims[name]
            if counts[name] < self._indexed_rows:
                notes.append(f"{name} is scanned: so few rows need no index")
            elif dim <= _MOST_INDEXED_DIMS:
                self._index(column, "{column} vector_cosine_ops", there)
                notes.append(f"{name} has an HNSW index: its search is approximate")
            elif has_halfvec and dim <= _MOST_HALFVEC_DIMS:
                self._index(column, f"({{column}}::halfvec({dim})) halfvec_cosine_ops", there)
                notes.append(
                    f"{name} has an HNSW index in half precision, for ORDER BY {column}::halfvec({dim}) <=> ...: its "
                    "search is approximate"
                )
            else:
                most = f"{_MOST_HALFVEC_DIMS:,}" if has_halfvec else f"{_MOST_INDEXED_DIMS:,}"
                notes.append(f"{name} has more than {most} dims, which this pgvector does not index: it is scanned")
        return tuple(notes)

    def _counts(self) -> dict[str, int]:
        """How many vectors the table has, of this run or another, by name."""
        columns = self._joined(
            self._sql.SQL("count({})").format(self._sql.Identifier(column)) for column in self.vectors.values()
        )
        return dict(
            zip(self.vectors, self._run("SELECT {columns} FROM {table}", columns=columns).fetchone(), strict=True)
        )

    def _indexes(self) -> list[str]:
        """The definitions of the indexes that searches by cosine use."""
        found = self._run(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = to_regclass(%s)", [self._quoted()]
        )
        return [made for (made,) in found.fetchall() if "_cosine_ops" in made]

    def _index(self, column: str, indexed: str, there: Sequence[str]) -> None:
        """Make an index where the column has none, under a name that is nobody's yet."""
        if any(re.search(rf"\({column}[ )]", made) for made in there):
            return
        self._run(f"CREATE INDEX ON {{table}} USING hnsw ({indexed})", column=self._sql.Identifier(column))

    def _require_extension(self) -> None:
        """Make the extension where it is not there, which another export may be about to do."""
        if self._run("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
            return
        make = "CREATE EXTENSION IF NOT EXISTS vector"
        try:
            self._run(make)
        except self._psycopg.errors.UniqueViolation:  # which comes when the other has made it
            self._run(make)

    def _require_schema(self) -> None:
        if len(self._parts) > 1 and self._run("SELECT to_regnamespace(%s)", [self._quoted(1)]).fetchone() == (None,):
            raise ExportError(
                f"{self.target} is of a schema {self._parts[0]} that is not there: make it with CREATE SCHEMA, or give "
                "--table a name without a dot"
            )

    def _lock(self) -> None:
        """Hold the table for this export, as long as the connection lasts."""
        schema = self._run(
            "SELECT coalesce((SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
            "WHERE pg_class.oid = to_regclass(%s)), %s, current_schema())",
            [self._quoted(), self._parts[0] if len(self._parts) > 1 else None],
        ).fetchone()[0]
        name = f"soloist {self._sql.Identifier(str(schema), self._parts[-1]).as_string()}"
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        self._run("SELECT set_config('lock_timeout', %s, false)", [_LOCK_TIMEOUT])
        try:
            self._run("SELECT pg_advisory_lock(%s::bigint)", [number])
        except self._psycopg.errors.LockNotAvailable as exc:
            raise ExportError(
                f"another export is writing to {self.target}: wait until it has ended, and export again"
            ) from exc
        self._run("RESET lock_timeout")

    def _make(self) -> None:
        vectors = self._joined(
            self._sql.SQL("{} vector({})").format(
                self._sql.Identifier(column), self._sql.Literal(self._source.dims[name])
            )
            for name, column in self.vectors.items()
        )
        self._run(
            "CREATE TABLE {table} (key uuid PRIMARY KEY, run text, collection text NOT NULL, "
            "id text NOT NULL, text text NOT NULL, source_file text, source_index int8, metadata jsonb NOT NULL, "
            "digest text NOT NULL, {vectors})",
            vectors=vectors,
        )

    def _there(self) -> dict[str, tuple[str, int]]:
        """The columns of the table with their type and its modifier, which of a vector is its dim."""
        found = self._run(
            "SELECT attname, typname, atttypmod FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [self._quoted()],
        )
        return {name: (kind, modifier) for name, kind, modifier in found.fetchall()}

    def _require_own(self, there: Mapping[str, tuple[str, int]]) -> None:
        """Refuse a table that no export wrote, or that has no room for the vectors."""
        is_alike = all(
            there[name][0] == kind if name in there else name in _NEWER for name, kind in _COLUMNS.items()
        )  # fmt: skip
        if not (is_alike and self._has_unique_key()):
            raise ExportError(f"{self.target} is a table that no export wrote: choose another --table")
        require_own_places(self.target, there)
        for name, column in self.vectors.items():
            dim = self._source.dims[name]
            kind, there_dim = there.get(column, ("", 0))
            if kind != "vector":
                raise ExportError(
                    f"{self.target} has no column {column} for vectors of {name}: give --vectors of those that it has, "
                    "choose another --table, or drop that one"
                )
            if there_dim != dim:
                raise ExportError(
                    f"{self.target} has {there_dim} dims of {name}, and the run has {dim}: choose another --table, or "
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
            rows.keys[place], self._source.run, rows.collection, chunk.id, chunk.text, chunk.source_file,
            chunk.source_index, metadata, str(rows.marks[place]), *vectors,
        ]  # fmt: skip

    def _run(self, query: str, values: Sequence[Any] = (), **parts: Any) -> Any:
        return self._connection.execute(self._query(query, **parts), list(values))

    def _query(self, query: str, **parts: Any) -> Any:
        return self._sql.SQL(query).format(table=self._name, **parts)

    def _joined(self, parts: Iterable[Any]) -> Any:
        return self._sql.SQL(", ").join(parts)

    def _quoted(self, parts: int | None = None) -> str:
        """The name, or its first parts, as a text that PostgreSQL reads as a name."""
        quoted: str = self._sql.Identifier(*self._parts[:parts]).as_string()
        return quoted

    def _has_unique_key(self) -> bool:
        """Whether no two rows can have one key, which an upsert needs."""
        found = self._run(
            "SELECT 1 FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] "
            "WHERE indrelid = to_regclass(%s) AND attname = 'key' AND indisunique AND indnkeyatts = 1 "
            "AND indpred IS NULL",
            [self._quoted()],
        )
        return found.fetchone() is not None

    def _of(self, scope: Scope) -> tuple[str, list[Any]]:
        """A scope as a condition with its values."""
        if scope.run is None or not self._has_run:
            return "collection = ANY(%s)", [list(scope.collections)]
        return "(collection = ANY(%s) OR run = %s)", [list(scope.collections), scope.run]


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
            "the --url of pgvector is not the address of a PostgreSQL server: give "
            "postgresql://user@host:port/database; give the password in PGPASSWORD, or in the URL with its special "
            "characters percent-encoded"
        ) from None
    return parts


def _name_parts(table: str) -> tuple[str, ...]:
    """The parts of a table's name: a dot is between the schema and the name in it."""
    parts = table.split(".")
    if len(parts) > 2 or not all(parts) or any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in table):
        raise ConfigError(
            f"--table {table!r} is not the name of a PostgreSQL table: give it as name, or as schema.name"
        )
    return tuple(map(identifier, parts))


def identifier(name: str) -> str:
    """A name that PostgreSQL keeps whole: a long one ends with a digest."""
    if len(name.encode()) <= _NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: _NAME_BYTES - 9].decode(errors='ignore')}_{digest}"
