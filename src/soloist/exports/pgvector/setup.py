"""A table of PostgreSQL before its first row is written: the extension, the lock, and the columns that rows need."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from soloist.errors import ExportError
from soloist.exports.pgvector.members import Member, members_of
from soloist.exports.pgvector.queries import Queries
from soloist.exports.rows import Source
from soloist.exports.stores import require_own_places
from soloist.stores.tables import PLACE_COLUMNS

COLUMNS = {
    "key": "uuid", "run": "text", "collection": "text", "id": "text", "text": "text", "source_file": "text",
    "source_index": "int8", "metadata": "jsonb", "digest": "text",
}  # fmt: skip
NEWER_COLUMNS = ("run", *PLACE_COLUMNS)  # which tables of earlier versions do not have
_WHAT = {"vector": "vectors", "sparsevec": "sparse vectors"}
_LOCK_TIMEOUT = "3s"  # a server takes a moment to see that a client was killed


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A column's type, the type's modifier, which of a vector is its dim, and whether PostgreSQL makes its values."""

    kind: str
    modifier: int
    is_made: bool


ColumnTypes = Mapping[str, ColumnType]


def opened_columns(queries: Queries, source: Source, target: str) -> tuple[ColumnTypes, dict[str, Member]]:
    """Lock the table for this export, make it where it is not there, and give its columns, and the members in them.

    Raises:
        ExportError: its schema is not there, another export is writing to it, no export wrote it, it has no room for
            what is exported, or this pgvector has no sparse vectors.
    """
    _require_extension(queries)
    _require_sparse(queries, source, target)
    _require_schema(queries, target)
    _lock(queries, target)
    if not _columns(queries):  # which may be all that this user is allowed
        _make(queries, members_of(source).values())
    columns = _columns(queries)
    members = members_of(source, columns)
    _require_own(queries, target, columns)
    for name, member in members.items():
        _require_room(name, member, target, columns)
    return columns, members


def _require_extension(queries: Queries) -> None:
    """Make the extension where it is not there, which another export may be about to do."""
    if queries.run("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
        return
    make = "CREATE EXTENSION IF NOT EXISTS vector"
    try:
        queries.run(make)
    except queries.errors.UniqueViolation:  # which comes when the other has made it
        queries.run(make)


def _require_sparse(queries: Queries, source: Source, target: str) -> None:
    """Refuse sparse vectors where the extension is too old to have them."""
    sparse = [name for name, member in source.ragged.items() if member.kind == "sparse"]
    if not sparse or queries.run("SELECT to_regtype('sparsevec') IS NOT NULL").fetchone() == (True,):
        return
    version = queries.run("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()[0]
    raise ExportError(
        f"{target} has pgvector {version}, and the sparse vectors of {sparse[0]} need pgvector 0.7 or newer: update it "
        "(ALTER EXTENSION vector UPDATE), or give --vectors the name of another member"
    )


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


def _make(queries: Queries, members: Iterable[Member]) -> None:
    columns = [column for member in members for column in member.columns]
    queries.run(
        "CREATE TABLE {table} (key uuid PRIMARY KEY, run text, collection text NOT NULL, "
        "id text NOT NULL, text text NOT NULL, source_file text, source_index int8, metadata jsonb NOT NULL, "
        "digest text NOT NULL, {members})",
        members=queries.listed(queries.part(f"{{}} {column.declared}", column.name) for column in columns),
    )


def _columns(queries: Queries) -> ColumnTypes:
    found = queries.run(
        "SELECT attname, typname, atttypmod, attgenerated <> '' FROM pg_attribute "
        "JOIN pg_type ON pg_type.oid = atttypid WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [queries.quoted()],
    )
    return {name: ColumnType(*of) for name, *of in found.fetchall()}


def _require_own(queries: Queries, target: str, columns: ColumnTypes) -> None:
    """Refuse a table that no export wrote."""
    is_alike = all(
        columns[name].kind == kind if name in columns else name in NEWER_COLUMNS for name, kind in COLUMNS.items()
    )
    if not (is_alike and _has_unique_key(queries)):
        raise ExportError(f"{target} is a table that no export wrote: choose another --table")
    require_own_places(target, columns)


def _require_room(name: str, member: Member, target: str, columns: ColumnTypes) -> None:
    """Refuse a table without the columns of a member."""
    for column in member.columns:
        there = columns.get(column.name)
        if there is None or there.kind != column.kind or there.is_made != (column.made_of is not None):
            raise ExportError(
                f"{target} has no column {column.name} for {_WHAT.get(column.kind, 'words')} of {name}: give --vectors "
                "that the table has a column for, choose another --table, or drop the table"
            )
        if column.dim is not None and there.modifier != column.dim:
            raise ExportError(
                f"{target} has {there.modifier} dims of {name}, and the run has {column.dim}: choose another --table, "
                "or drop the table"
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
