"""Indexes of a table of PostgreSQL: HNSW of vectors, once the table has enough rows for them, and GIN of words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from soloist.errors import ExportError
from soloist.exports.pgvector.members import Column, Member
from soloist.exports.pgvector.queries import Queries

# Up to here a scan is fast enough, and an HNSW index takes longer to build than it saves.
INDEXED_ROWS = 10_000
# What an HNSW index of pgvector takes, and one of halfvec, from 0.7 on: https://github.com/pgvector/pgvector#hnsw.
MOST_INDEXED_DIMS = 2_000
_MOST_HALFVEC_DIMS = 4_000
MOST_INDEXED_WEIGHTS = 1_000  # of a sparse vector
_OWN = "soloist_hnsw_"  # what the names of our indexes of sparse vectors begin with: these are dropped again


def make_indexes(queries: Queries, members: Mapping[str, Member], indexed_rows: int) -> tuple[str, ...]:
    """Make the indexes that are worth it and not there yet; notes for the user."""
    made = _indexes(queries)
    columns = {name: member.columns for name, member in members.items()}
    for words in (column.name for each in columns.values() for column in each if column.kind == "tsvector"):
        _index(queries, "gin", words, "{column}", made)
    vectors = {name: first for name, (first, *_) in columns.items() if first.dim is not None}
    counts = _counts(queries, vectors)
    if max(counts.values(), default=indexed_rows) < indexed_rows:
        return ("PostgreSQL scans all rows, because so few rows need no index",)
    return tuple(
        _made(queries, name, column, made)
        if counts[name] >= indexed_rows
        else f"{name}: all rows are scanned, because so few rows need no index"
        for name, column in vectors.items()
    )


def drop_sparse_index(queries: Queries, column: str, target: str) -> None:
    """Drop the HNSW index that an export made of sparse vectors: a row with too many weights cannot be written beside
    it.

    Raises:
        ExportError: the column has such an index of somebody else's.
    """
    found = queries.run(
        "SELECT nspname, relname, pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE indrelid = to_regclass(%s)",
        [queries.quoted()],
    )
    for schema, name, definition in found.fetchall():
        if not re.search(rf" USING hnsw \({column} sparsevec_", definition):
            continue
        if not name.startswith(_OWN):
            raise ExportError(
                f"{target} has an HNSW index {name} of {column}, which no export made and which takes at most "
                f"{MOST_INDEXED_WEIGHTS:,} weights of a row, and a chunk has more: drop that index and export again, "
                "or choose another --table"
            )
        parts = (part.replace("%", "%%") for part in (schema, name))
        queries.run("DROP INDEX {index}", index=queries.part("{}.{}", *parts))


def _made(queries: Queries, name: str, column: Column, made: Sequence[str]) -> str:
    """Make the index of one column of vectors, if pgvector can; the note that says what its searches are."""
    return (_sparse if column.kind == "sparsevec" else _dense)(queries, name, column, made)


def _sparse(queries: Queries, name: str, column: Column, made: Sequence[str]) -> str:
    # A build would end with an error at the first long row, maybe after minutes. In binary a weight has 8 bytes.
    long = queries.run(
        f"SELECT EXISTS (SELECT 1 FROM {{table}} WHERE octet_length(sparsevec_send({{column}})) > "
        f"{12 + 8 * MOST_INDEXED_WEIGHTS})",
        column=queries.part("{}", column.name),
    )
    if long.fetchone()[0]:
        return (
            f"{name} has no index, because a row has over {MOST_INDEXED_WEIGHTS:,} weights, and an HNSW index takes "
            "fewer: all rows are scanned"
        )
    # No other table has this name, and no index of somebody else's.
    number = "SELECT attrelid::int8, attnum FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = %s"
    table, place = queries.run(number, [queries.quoted(), column.name]).fetchone()
    _index(queries, "hnsw", column.name, "{column} sparsevec_ip_ops", made, f"{_OWN}{table}_{place}")
    return f"{name} has an HNSW index: its search is approximate"


def _dense(queries: Queries, name: str, vectors: Column, made: Sequence[str]) -> str:
    column, dim = vectors.name, vectors.dim or 0
    has_halfvec: bool = queries.run("SELECT to_regtype('halfvec') IS NOT NULL").fetchone()[0]
    if dim <= MOST_INDEXED_DIMS:
        _index(queries, "hnsw", column, "{column} vector_cosine_ops", made)
        return f"{name} has an HNSW index: its search is approximate"
    if has_halfvec and dim <= _MOST_HALFVEC_DIMS:
        _index(queries, "hnsw", column, f"({{column}}::halfvec({dim})) halfvec_cosine_ops", made)
        return (
            f"{name} has an HNSW index in half precision: to use it, write ORDER BY {column}::halfvec({dim}) <=> ...; "
            "its search is approximate"
        )
    most = f"{_MOST_HALFVEC_DIMS:,}" if has_halfvec else f"{MOST_INDEXED_DIMS:,}"
    return f"{name} has more than {most} dims, too many for an index of this pgvector: all rows are scanned"


def _counts(queries: Queries, columns: Mapping[str, Column]) -> dict[str, int]:
    """How many vectors the table has, of this run or another, by name."""
    if not columns:
        return {}
    counted = queries.listed(queries.part("count({})", column.name) for column in columns.values())
    return dict(zip(columns, queries.run("SELECT {counted} FROM {table}", counted=counted).fetchone(), strict=True))


def _indexes(queries: Queries) -> list[str]:
    """The definitions of the indexes that the documented searches use."""
    found = queries.run(
        "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = to_regclass(%s)", [queries.quoted()]
    )
    used = ("_cosine_ops", "sparsevec_ip_ops", " gin ")
    return [definition for (definition,) in found.fetchall() if any(each in definition for each in used)]


def _index(queries: Queries, method: str, column: str, indexed: str, made: Sequence[str], name: str = "") -> None:
    """Make an index where the column has none, by a name, or under one that is still free."""
    if any(re.search(rf"\({column}[ )]", definition) for definition in made):
        return
    queries.run(f"CREATE INDEX {name} ON {{table}} USING {method} ({indexed})", column=queries.part("{}", column))
