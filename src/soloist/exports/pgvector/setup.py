"""A table of PostgreSQL before its first row is written: the extension, the lock, and the columns that rows need."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from soloist.errors import ExportError
from soloist.exports.columns import vector_columns
from soloist.exports.pgvector.queries import Queries
from soloist.exports.stores import require_own_places
from soloist.stores.tables import PLACE_COLUMNS

COLUMNS = {
    "key": "uuid", "run": "text", "collection": "text", "id": "text", "text": "text", "source_file": "text",
    "source_index": "int8", "metadata": "jsonb", "digest": "text",
}  # fmt: skip
NEWER_COLUMNS = ("run", *PLACE_COLUMNS)  # which tables of earlier versions do not have
_LOCK_TIMEOUT = "3s"  # a server takes a moment to see that a client was killed
ColumnTypes = Mapping[str, tuple[str, int]]  # type and its modifier, which of a vector is its dim, by column


def opened_columns(queries: Queries, dims: Mapping[str, int], target: str) -> ColumnTypes:
    """Lock the table for this export, make it where it is not there, and give its columns.

    Raises:
        ExportError: its schema is not there, another export is writing to it, no export wrote it, or it has no room
            for vectors of these dims.
    """
    _require_extension(queries)
    _require_schema(queries, target)
    _lock(queries, target)
    if not _columns(queries):  # which may be all that this user is allowed
        _make(queries, dims)
    columns = _columns(queries)
    _require_own(queries, dims, target, columns)
    return columns


def _require_extension(queries: Queries) -> None:
    """Make the extension where it is not there, which another export may be about to do."""
    if queries.run("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
        return
    make = "CREATE EXTENSION IF NOT EXISTS vector"
    try:
        queries.run(make)
    except queries.errors.UniqueViolation:  # which comes when the other has made it
        queries.run(make)


def _require_schema(queries: Queries, target: str) -> None:
    has_schema = len(queries.name) > 1
    if has_schema and queries.run("SELECT to_regnamespace(%s)", [queries.quoted(1)]).fetchone() == (None,):
        raise ExportError(
            f"{target} is in a schema {queries.name[0]}, which does not exist: make the schema with CREATE SCHEMA, or "
            "give --table a name without a dot"
        )


def _lock(queries: Queries, target: str) -> None:
    """Hold the table for this export, as long as the connection lasts."""
    schema = queries.run(
        "SELECT coalesce((SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
        "WHERE pg_class.oid = to_regclass(%s)), %s, current_schema())",
        [queries.quoted(), queries.name[0] if len(queries.name) > 1 else None],
    ).fetchone()[0]
    name = f"soloist {queries.quoted_name(str(schema), queries.name[-1])}"
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    queries.run("SELECT set_config('lock_timeout', %s, false)", [_LOCK_TIMEOUT])
    try:
        queries.run("SELECT pg_advisory_lock(%s::bigint)", [number])
    except queries.errors.LockNotAvailable as exc:
        raise ExportError(f"another export is writing to {target}: wait until it has ended, and export again") from exc
    queries.run("RESET lock_timeout")


def _make(queries: Queries, dims: Mapping[str, int]) -> None:
    vectors = vector_columns(dims)
    queries.run(
        "CREATE TABLE {table} (key uuid PRIMARY KEY, run text, collection text NOT NULL, "
        "id text NOT NULL, text text NOT NULL, source_file text, source_index int8, metadata jsonb NOT NULL, "
        "digest text NOT NULL, {vectors})",
        vectors=queries.listed(queries.part(f"{{}} vector({dim})", vectors[name]) for name, dim in dims.items()),
    )


def _columns(queries: Queries) -> ColumnTypes:
    found = queries.run(
        "SELECT attname, typname, atttypmod FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [queries.quoted()],
    )
    return {name: (kind, modifier) for name, kind, modifier in found.fetchall()}


def _require_own(queries: Queries, dims: Mapping[str, int], target: str, columns: ColumnTypes) -> None:
    """Refuse a table that no export wrote, or that has no room for the vectors."""
    is_alike = all(
        columns[name][0] == kind if name in columns else name in NEWER_COLUMNS for name, kind in COLUMNS.items()
    )
    if not (is_alike and _has_unique_key(queries)):
        raise ExportError(f"{target} is a table that no export wrote: choose another --table")
    require_own_places(target, columns)
    for name, column in vector_columns(dims, columns).items():
        kind, dim = columns.get(column, ("", 0))
        if kind != "vector":
            raise ExportError(
                f"{target} has no column {column} for vectors of {name}: give --vectors that the table has a column "
                "for, choose another --table, or drop the table"
            )
        if dim != dims[name]:
            raise ExportError(
                f"{target} has {dim} dims of {name}, and the run has {dims[name]}: choose another --table, or drop the "
                "table"
            )


def _has_unique_key(queries: Queries) -> bool:
    """Whether no two rows can have one key, which an upsert needs."""
    found = queries.run(
        "SELECT 1 FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] "
        "WHERE indrelid = to_regclass(%s) AND attname = 'key' AND indisunique AND indnkeyatts = 1 "
        "AND indpred IS NULL",
        [queries.quoted()],
    )
    return found.fetchone() is not None
