"""The memory that rows of a Parquet file take: bounded by the file's metadata before rows are read, and computed from
their values after. A file of a kilobyte can hold a row of gigabytes. Knows Arrow's types, but not what a chunk is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from soloist.sources.faults import UnreadableFileError
from soloist.wording import count_text

BATCH_BYTES = 32 << 20
# Far beyond any row that makes sense: a text may have 2,000,000 characters.
MAX_ROW_BYTES = 256_000_000
_BATCH_ROWS = 512
# A row group larger than 8 batches is read 16 rows at a time: its values may get larger along the group, and nothing in
# the file tells.
_FEW_ROWS = 16
_MANY_BATCHES = 8
_VALUE_BYTES = 128  # a value as a Python object, and its references in a list or a dict and in a copy of that
_NUMBER_BYTES = 8
_DELTA_BYTES = 8 << 20
_ENTRY_BYTES = 4  # the length of an entry of a dictionary
_READ_BYTES = 1 << 20
_PAGE_BYTES = 1 << 16  # headers and levels

Sizes = NDArray[np.int64]


def open_parquet(
    raw: BinaryIO, metadata: pq.FileMetaData | None = None, dictionaries: Sequence[str] = ()
) -> pq.ParquetFile:
    """The file as Parquet, with some of its columns as dictionaries. Closing it leaves `raw` open.

    With dictionaries, columns have no extension types, because Arrow never reads such a column as a dictionary: JSON
    comes as texts, and UUIDs come as bytes.
    """
    raw.seek(0)
    return pq.ParquetFile(
        raw, metadata=metadata, read_dictionary=list(dictionaries), buffer_size=_READ_BYTES, pre_buffer=False,
        # For timestamps of older Spark and Hive. Without it Arrow silently reads years beyond 2262 as other years.
        coerce_int96_timestamp_unit="us", page_checksum_verification=True, arrow_extensions_enabled=not dictionaries,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSize:
    """The size of the values of one column in a row group. `largest_bytes` bounds a value where some bytes of the file
    can stand for many values, else it is 0. `total_bytes` is the size of all values before compression, as the file
    says.
    """

    path: str
    rows: int
    values: int
    is_repeated: bool
    total_bytes: int
    largest_bytes: int
    is_read_as_dictionary: bool

    @property
    def row_bytes(self) -> int:
        """An upper bound of the bytes that a row takes in memory."""
        values = -(-self.values // self.rows)
        largest = 0 if self.is_read_as_dictionary else self.largest_bytes
        return values * max(self.total_bytes // self.values, largest, _NUMBER_BYTES)


def batch_rows(group: Sequence[ColumnSize], batch_bytes: int = BATCH_BYTES) -> int:
    """The rows of a row group to read at a time: fewer where they could exceed `batch_bytes`."""
    is_large = sum(column.total_bytes for column in group) > _MANY_BATCHES * batch_bytes
    most = _FEW_ROWS if is_large else _BATCH_ROWS
    return max(1, min(most, batch_bytes // max(1, sum(column.row_bytes for column in group))))


def column_sizes(raw: BinaryIO, metadata: pq.FileMetaData, number: int) -> list[ColumnSize]:
    """The columns of a row group that has rows.

    Raises:
        UnreadableFileError: its rows have so many values that not even one row fits into memory.
    """
    group = metadata.row_group(number)
    columns = [(group.column(index), metadata.schema.column(index)) for index in range(group.num_columns)]
    sizes = [_column_size(raw, metadata, number, chunk, column) for chunk, column in columns]
    values = sum(column.values for column in sizes if column.is_repeated)
    if values * _VALUE_BYTES > group.num_rows * MAX_ROW_BYTES:
        raise UnreadableFileError(
            f"has rows that are too large: {values:,} values in {count_text(group.num_rows, 'row')}, and a row may "
            f"have at most {MAX_ROW_BYTES // _VALUE_BYTES:,}"
        )
    return sizes


def _column_size(
    raw: BinaryIO,
    metadata: pq.FileMetaData,
    number: int,
    chunk: pq.ColumnChunkMetaData,
    column: pq.ColumnSchema,
) -> ColumnSize:
    rows, values = metadata.row_group(number).num_rows, max(1, chunk.num_values)
    total, is_repeated = chunk.total_uncompressed_size, column.max_repetition_level > 0
    largest, reads_as_dictionary = 0, False
    if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY":
        largest = column.length
    elif "DELTA_BYTE_ARRAY" in chunk.encodings:  # a value may only repeat the one before it
        largest = min(total, _DELTA_BYTES)
    elif chunk.physical_type == "BYTE_ARRAY" and chunk.has_dictionary_page:
        largest = total
        if largest * min(values, _BATCH_ROWS * -(-values // rows)) > BATCH_BYTES:
            with open_parquet(raw, metadata, [chunk.path_in_schema]) as parquet:
                entries = _dictionary_lengths(parquet, number, chunk.path_in_schema)
            largest = max(entries, default=0) if entries is not None else total
            others = total if entries is None else total - sum(entries) - _ENTRY_BYTES * len(entries)
            # One row may have all values of the column, and is in memory before its size is known.
            reads_as_dictionary = (
                is_repeated
                and values * largest > MAX_ROW_BYTES
                and others <= values * _NUMBER_BYTES + _PAGE_BYTES
            )  # fmt: skip
    return ColumnSize(
        path=chunk.path_in_schema, rows=rows, values=values, is_repeated=is_repeated, total_bytes=total,
        largest_bytes=largest, is_read_as_dictionary=reads_as_dictionary,
    )  # fmt: skip


def _dictionary_lengths(parquet: pq.ParquetFile, number: int, path: str) -> Sizes | None:
    """The bytes of each entry of a column's dictionary page; None where the column is not read as a dictionary."""
    first = next(parquet.iter_batches(batch_size=1, row_groups=[number], columns=[path]), None)
    arrays: list[Any] = [] if first is None else list(first.columns)
    while arrays:
        array = arrays.pop()
        if isinstance(array, pa.ExtensionArray):
            arrays.append(array.storage)
        elif pa.types.is_dictionary(array.type):
            return _per_value(value_bytes(array.dictionary), len(array.dictionary))
        elif pa.types.is_struct(array.type):
            arrays += [array.field(index) for index in range(array.type.num_fields)]
        elif pa.types.is_map(array.type):
            arrays += [array.keys, array.items]
        elif hasattr(array, "values"):
            arrays.append(array.values)
    return None


def value_bytes(array: Any) -> Sizes | int:
    """The bytes that each value takes in Python with all that it contains, or one number where all take the same. A
    value of a dictionary counts each time it is used.
    """
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return value_bytes(array.storage)
    if pa.types.is_dictionary(kind):
        return _of_dictionary(array)
    if pa.types.is_struct(kind):
        return _sum(_VALUE_BYTES, *(value_bytes(array.field(index)) for index in range(kind.num_fields)))
    if pa.types.is_fixed_size_list(kind):
        return _of_fixed_lists(array)
    if any(is_kind(kind) for is_kind in _LISTS):
        return _of_lists(array)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return _of_views(array)
    try:
        lengths: Sizes = pc.binary_length(array).fill_null(0).to_numpy().astype(np.int64)
        return lengths + _VALUE_BYTES
    except pa.ArrowNotImplementedError:  # a type without texts
        return _VALUE_BYTES


_LISTS = (
    pa.types.is_list, pa.types.is_large_list, pa.types.is_map, pa.types.is_list_view, pa.types.is_large_list_view,
)  # fmt: skip


def _of_views(array: Any) -> Sizes:
    """The sizes without reading the values: all views may point to the same bytes."""
    views = np.frombuffer(array.buffers()[1], dtype="<i4", count=4 * (array.offset + len(array))).reshape(-1, 4)
    lengths: Sizes = np.where(array.is_valid(), views[array.offset :, 0], 0).astype(np.int64)
    return lengths + _VALUE_BYTES


def _of_dictionary(array: Any) -> Sizes | int:
    entries = value_bytes(array.dictionary)
    if isinstance(entries, int):
        return entries
    if not len(entries):
        return _VALUE_BYTES
    indices = array.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    sizes: Sizes = entries[indices]
    return sizes


def _of_fixed_lists(array: Any) -> Sizes | int:
    size = int(array.type.list_size)
    items = value_bytes(array.values)
    if isinstance(items, int) or not size:
        return _VALUE_BYTES + size * int(np.max(items, initial=0))
    sums: Sizes = items.reshape(-1, size).sum(axis=1) + _VALUE_BYTES
    return sums[array.offset : array.offset + len(array)]


def _of_lists(array: Any) -> Sizes:
    kind = array.type
    is_view = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    offsets = array.offsets.to_numpy().astype(np.int64)
    starts, ends = (offsets, offsets + array.sizes.to_numpy()) if is_view else (offsets[:-1], offsets[1:])
    inner = [array.keys, array.items] if pa.types.is_map(kind) else [array.values]
    items = _sum(*map(value_bytes, inner))
    if isinstance(items, int):
        sizes: Sizes = (ends - starts) * items + _VALUE_BYTES
    else:
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(items)])
        sizes = before[ends] - before[starts] + _VALUE_BYTES
    return sizes


def _sum(*sizes: Sizes | int) -> Sizes | int:
    total = sizes[0]
    for more in sizes[1:]:
        total = total + more
    return total


def _per_value(sizes: Sizes | int, count: int) -> Sizes:
    return np.full(count, sizes, np.int64) if isinstance(sizes, int) else sizes


def row_ends(batch: pa.RecordBatch) -> Sizes:
    """The bytes that the rows of a batch take, summed up to the end of each row."""
    return np.cumsum(_per_value(value_bytes(batch.to_struct_array()), batch.num_rows))
