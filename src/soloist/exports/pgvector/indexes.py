"""HNSW indexes of the vector columns of a table of PostgreSQL, once the table has enough rows for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from soloist.exports.pgvector.queries import Queries

# Up to here a scan is fast enough, and an HNSW index takes longer to build than it saves.
INDEXED_ROWS = 10_000
# What an HNSW index of pgvector takes, and one of halfvec, from 0.7 on: https://github.com/pgvector/pgvector#hnsw.
_MOST_INDEXED_DIMS = 2_000
_MOST_HALFVEC_DIMS = 4_000


def make_indexes(
    queries: Queries, columns: Mapping[str, str], dims: Mapping[str, int], indexed_rows: int
) -> tuple[str, ...]:
    """Make the indexes that are worth it and not there yet, of columns by name of vectors; notes for the user."""
    counts = _counts(queries, columns)
    if max(counts.values()) < indexed_rows:
        return ("PostgreSQL scans all rows, because so few rows need no index",)
    has_halfvec: bool = queries.run("SELECT to_regtype('halfvec') IS NOT NULL").fetchone()[0]
    made = _indexes(queries)
    return tuple(
        _made(queries, name, column, dims[name], made, has_halfvec)
        if counts[name] >= indexed_rows
        else f"{name}: all rows are scanned, because so few rows need no index"
        for name, column in columns.items()
    )


def _made(queries: Queries, name: str, column: str, dim: int, made: Sequence[str], has_halfvec: bool) -> str:
    """Make the index of one column, if pgvector can; the note that says what its searches are."""
    if dim <= _MOST_INDEXED_DIMS:
        _index(queries, column, "{column} vector_cosine_ops", made)
        return f"{name} has an HNSW index: its search is approximate"
    if has_halfvec and dim <= _MOST_HALFVEC_DIMS:
        _index(queries, column, f"({{column}}::halfvec({dim})) halfvec_cosine_ops", made)
        return (
            f"{name} has an HNSW index in half precision: to use it, write ORDER BY {column}::halfvec({dim}) <=> ...; "
            "its search is approximate"
        )
    most = f"{_MOST_HALFVEC_DIMS:,}" if has_halfvec else f"{_MOST_INDEXED_DIMS:,}"
    return f"{name} has more than {most} dims, too many for an index of this pgvector: all rows are scanned"


def _counts(queries: Queries, columns: Mapping[str, str]) -> dict[str, int]:
    """How many vectors the table has, of this run or another, by name."""
    counted = queries.listed(queries.part("count({})", column) for column in columns.values())
    return dict(zip(columns, queries.run("SELECT {counted} FROM {table}", counted=counted).fetchone(), strict=True))


def _indexes(queries: Queries) -> list[str]:
    """The definitions of the indexes that searches by cosine use."""
    found = queries.run(
        "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = to_regclass(%s)", [queries.quoted()]
    )
    return [definition for (definition,) in found.fetchall() if "_cosine_ops" in definition]


def _index(queries: Queries, column: str, indexed: str, made: Sequence[str]) -> None:
    """Make an index where the column has none, under a name that is still free."""
    if any(re.search(rf"\({column}[ )]", definition) for definition in made):
        return
    queries.run(f"CREATE INDEX ON {{table}} USING hnsw ({indexed})", column=queries.part("{}", column))
