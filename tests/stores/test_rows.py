"""Rows of files of vectors are read one by one, and are those that reading the whole file gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from soloist.digests import text_digest
from soloist.errors import OutputError
from soloist.stores.rows import RowReader, columns_of
from soloist.stores.tables import table_matrix, vector_table, write_vector_file


def table_of(rows: int, dim: int):
    """A table of rows that are all different, and its digests."""
    vectors = np.random.default_rng(rows).standard_normal((rows, dim), dtype=np.float32)
    digests = [text_digest(f"text {row}") for row in range(rows)]
    ids = [f"id {row}" for row in range(rows)]
    return vector_table("m", ids, vectors, digests, "f", counts_of(rows)), digests


def counts_of(rows: int) -> np.ndarray:
    """Counts of tokens that are all different."""
    return np.arange(2 * rows, dtype=np.int32).reshape(rows, 2)


def has_layout(path: Path) -> bool:
    with path.open("rb") as file:
        return columns_of(file) is not None


def require_rows(reader: RowReader, path: Path, table, digests) -> None:
    """Some rows, out of order and one of them twice, are those of the table."""
    rows = np.random.default_rng(1).permutation(len(digests))[:300]
    rows = np.append(rows, rows[:1]).astype(np.int64)
    found = reader.read(path, rows)
    assert np.array_equal(found.vectors, table_matrix(table)[rows])
    assert found.counts is not None and np.array_equal(found.counts, counts_of(len(digests))[rows])
    assert found.digests.tobytes() == b"".join(digests[row] for row in rows)


@pytest.mark.parametrize(("rows", "dim"), [(1, 1), (7, 384), (4096, 384), (40_000, 3), (300, 70_000)])
def test_files_are_written_so_that_rows_can_be_read_one_by_one(tmp_path, rows, dim):
    """A run whose texts were shuffled would read every file for every shard; or rows of another group be taken."""
    table, digests = table_of(rows, dim)
    write_vector_file(tmp_path / "a.parquet", table)
    assert has_layout(tmp_path / "a.parquet")
    require_rows(RowReader(), tmp_path / "a.parquet", table, digests)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none", "use_dictionary": False},  # several pages: what earlier versions wrote
        {"compression": "zstd", "data_page_size": 1 << 28, "use_dictionary": False},
        {"compression": "none", "data_page_size": 1 << 28},
        {
            "compression": "none",
            "data_page_size": 1 << 28,
            "use_dictionary": False,
            "use_byte_stream_split": ["vector.list.element"],
        },
        {"compression": "none", "data_page_size": 1 << 28, "use_dictionary": False, "data_page_version": "2.0"},
    ],
)
def test_files_of_any_other_layout_are_read_whole(tmp_path, options):
    """Bytes at the wrong place would be taken for vectors, and runs of earlier versions be of no use."""
    table, digests = table_of(4096, 100)
    pq.write_table(table, tmp_path / "a.parquet", **options)
    assert not has_layout(tmp_path / "a.parquet")
    require_rows(RowReader(), tmp_path / "a.parquet", table, digests)


@pytest.mark.parametrize("options", [None, {"compression": "zstd"}], ids=["one by one", "whole"])
def test_files_without_counts_have_none(tmp_path, options):
    """Files of earlier versions would be of no use, or all their texts have no tokens."""
    table = table_of(5, 4)[0].drop_columns(["tokens", "truncated_tokens"])
    if options is None:
        write_vector_file(tmp_path / "a.parquet", table)
    else:
        pq.write_table(table, tmp_path / "a.parquet", **options)
    found = RowReader().read(tmp_path / "a.parquet", np.array([3]))
    assert found.counts is None and np.array_equal(found.vectors, table_matrix(table)[[3]])


@pytest.mark.parametrize("column", ["vector", "text_digest", "tokens"])
@pytest.mark.parametrize("missing", [1, 9])
def test_a_file_with_rows_without_values_is_not_read_by_places(tmp_path, column, missing):
    """A page has no values for nulls: every row before them would be read from the place of another."""
    table, _ = table_of(600, 5)
    at = table.schema.get_field_index(column)
    values = table[column].to_pylist()
    values[200 : 200 + missing] = [None] * missing
    table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    try:
        write_vector_file(tmp_path / "a.parquet", table)
    except pa.ArrowNotImplementedError as exc:
        pytest.skip(f"this pyarrow cannot write such a file: {exc}")
    assert not has_layout(tmp_path / "a.parquet")
    if column == "tokens":
        assert RowReader().read(tmp_path / "a.parquet", np.array([0])).counts is None
        return
    with pytest.raises(OutputError, match=r"a\.parquet cannot be read"):
        RowReader().read(tmp_path / "a.parquet", np.array([0]))


def test_files_that_are_read_whole_are_kept_within_a_bound(tmp_path):
    """A file that was let go would be gone for good, or all files stay in memory."""
    made = {}
    for number in range(4):
        path = tmp_path / f"{number}.parquet"
        made[path] = table_of(2000 + number, 200)
        pq.write_table(made[path][0], path, compression="none", use_dictionary=False)
    reader = RowReader(kept_bytes=4_000_000)
    for path in [*made, *made]:
        require_rows(reader, path, *made[path])


@pytest.mark.parametrize("options", [None, {"compression": "zstd"}], ids=["one by one", "whole"])
def test_a_file_that_was_replaced_is_read_anew(tmp_path, options):
    """Places of the file before would be read in another file."""
    reader, path = RowReader(), tmp_path / "a.parquet"
    for rows in (900, 400):
        table, digests = table_of(rows, 33)
        if options is None:
            write_vector_file(path, table)
        else:
            pq.write_table(table, path, **options)
        require_rows(reader, path, table, digests)


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    """A row that is not there would be whatever lies in memory."""
    table, _ = table_of(5, 4)
    write_vector_file(tmp_path / "a.parquet", table)
    with pytest.raises(
        OutputError, match="cannot be read: it has 5 rows and no row 5: run the soloist embed command of this run again"
    ):
        RowReader().read(tmp_path / "a.parquet", np.array([0, 5]))
    write_vector_file(tmp_path / "b.parquet", table.drop_columns(["text_digest"]))
    with pytest.raises(OutputError, match="cannot be read: it does not say of which texts its rows are"):
        RowReader().read(tmp_path / "b.parquet", np.array([0]))
    with pytest.raises(OutputError, match="is missing"):
        RowReader().read(tmp_path / "c.parquet", np.array([0]))
