"""Indexes of a LanceDB table: IVF_PQ of vectors, once the table has enough rows for them, and of words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Up to here a scan of all rows is a matter of milliseconds, and an index only loses recall.
INDEXED_ROWS = 100_000
_OUTGROWN = 4  # times the rows that an index was built for: it has half the parts that it should


def make_indexes(table: Any, columns: Mapping[str, str], dims: Mapping[str, int], indexed_rows: int) -> tuple[str, ...]:
    """Build the indexes that are worth it, of columns by name of vectors; notes for the user."""
    table.optimize()  # which takes new rows into the indexes that are there
    few = ("LanceDB scans all rows, because so few rows need no index",)
    if table.count_rows() < indexed_rows:
        return few
    counts = {name: table.count_rows(f"{column} IS NOT NULL") for name, column in columns.items()}
    for name, rows in counts.items():
        if rows >= indexed_rows:
            _index(table, columns[name], dims[name], rows)
    if max(counts.values(), default=0) < indexed_rows:
        return few
    return ("LanceDB's search is approximate: IVF_PQ indexes",)


def make_word_index(table: Any, column: str) -> None:
    """Build the index of a column of words where it has none. LanceDB cuts the words at spaces, and does nothing else
    to them: they are the terms of the run.
    """
    from lancedb.index import FTS

    if not table.count_rows() or any(list(index.columns) == [column] for index in table.list_indices()):
        return
    as_they_are = FTS(
        base_tokenizer="whitespace", max_token_length=None, lower_case=False, stem=False, remove_stop_words=False,
        ascii_folding=False,
    )  # fmt: skip
    table.create_index(column, config=as_they_are, name=f"{column}_index")


def _index(table: Any, column: str, dim: int, rows: int) -> None:
    """Build the index of a column where it has none, or has outgrown it; one that somebody else made stays."""
    prefix = f"{column}_of_"
    there = [index.name for index in table.list_indices() if list(index.columns) == [column]]
    built_for = [name.removeprefix(prefix) for name in there if name.startswith(prefix)]
    if len(built_for) < len(there) or any(rows < _OUTGROWN * int(number) for number in built_for):
        return
    table.create_index(
        metric="cosine", vector_column_name=column, num_partitions=int(rows**0.5),
        num_sub_vectors=_sub_vectors(dim), name=f"{prefix}{rows}",
    )  # fmt: skip
    for name in there:
        table.drop_index(name)


def _sub_vectors(dim: int) -> int:
    """Into how many parts a product quantiser cuts a vector: LanceDB wants a divisor, and some 16 numbers in each."""
    return next(parts for parts in range(max(1, dim // 16), 0, -1) if dim % parts == 0)
