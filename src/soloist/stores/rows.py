"""Single rows of files of vectors, read without the rows around them.

Texts that were shuffled among the files of a run come from everywhere: reading whole files for them would take a time
that grows with the square of the run. The values of a column that is not compressed lie in its file as they do in
memory, at the end of their one page, so where a row lies follows from its number. A file with more pages (earlier
versions wrote them) is read whole, and kept for a while.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.digests import DIGEST_BYTES
from soloist.stores.tables import (
    COUNT_COLUMNS,
    read_errors,
    read_table,
    stored_dtype,
    table_counts,
    table_digests,
    table_matrix,
)

KEPT_BYTES = 256 << 20
_COLUMNS = ("text_digest", "vector")
# The beginning of the header of a data page: its kind, two sizes, and the number of its values, in Thrift's compact
# protocol (https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift, PageHeader).
_NUMBER = rb"([\x80-\xff]*[\x00-\x7f])"
_PAGE_HEADER = re.compile(rb"\x15\x00\x15" + _NUMBER + rb"\x15" + _NUMBER + rb"\x2c\x15" + _NUMBER)
_HEADER_BYTES = 64
_IF_MISSING = "the file was there when this command began, so run the same command again"
_LEVELS_SIZE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredRows:
    """Rows of a file: digests of texts (n, 16) uint8, vectors (n, dim) float32, and counts of tokens (n, 2) int32,
    which files of earlier versions do not have.
    """

    digests: NDArray[np.uint8]
    vectors: Vectors
    counts: NDArray[np.int32] | None

    def take(self, numbers: NDArray[np.int64]) -> StoredRows:
        """Those with these numbers."""
        counts = self.counts[numbers] if self.counts is not None else None
        return StoredRows(digests=self.digests[numbers], vectors=self.vectors[numbers], counts=counts)

    @property
    def size_bytes(self) -> int:
        """What they take in memory."""
        return self.digests.nbytes + self.vectors.nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """The values of a column in one row group: rows `first` to `first + rows`, from byte `offset` of the file on."""

    first: int
    rows: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """Where a column lies: `width` values of `dtype` a row."""

    dtype: np.dtype[Any]
    width: int
    groups: tuple[_Values, ...]

    def views(self, file: BinaryIO) -> list[tuple[int, NDArray[Any]]]:
        """The values as they lie in the file: for each row group its first row and a read-only (rows, width) array."""
        return [
            (group.first, np.memmap(file, self.dtype, "r", group.offset, (group.rows, self.width)))
            for group in self.groups
        ]

    def read(self, file: BinaryIO, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """The values of the rows with these numbers, (rows, width), in their order."""
        found = np.empty((len(numbers), self.width), self.dtype)
        for group in self.groups:
            here = (numbers >= group.first) & (numbers < group.first + group.rows)
            if here.any():
                values = np.memmap(file, self.dtype, "r", group.offset, (group.rows, self.width))
                found[here] = values[numbers[here] - group.first]
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FileColumns:
    """Where the columns of a file lie, as long as it is this version of it."""

    rows: int
    columns: dict[str, Column]


Version = tuple[int, int, int]


class RowReader:
    """Reads rows of files. Keeps a few numbers a file, and of those that it has to read whole the last `kept_bytes`."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._files: dict[Path, tuple[Version, FileColumns | None]] = {}
        self._whole: dict[Path, tuple[Version, StoredRows]] = {}

    def read(self, path: Path, numbers: NDArray[np.int64]) -> StoredRows:
        """The rows with these numbers, in this order.

        Raises:
            OutputError: the file is missing or damaged, has fewer rows, or does not say of which texts they are.
        """
        with read_errors(path, if_missing=_IF_MISSING), path.open("rb") as file:
            known = self._columns(path, file)
            if known is None:
                return self._read_whole(path, version_of(file)).take(numbers)
            if len(numbers) and numbers.max() >= known.rows:
                raise ValueError(f"it has {known.rows} rows and no row {numbers.max()}")
            found = {name: column.read(file, numbers) for name, column in known.columns.items()}
            counts = [found[name] for name in COUNT_COLUMNS if name in found]
            return StoredRows(
                digests=found["text_digest"],
                vectors=found["vector"].astype(np.float32, copy=False),
                counts=np.hstack(counts) if counts else None,
            )

    def _columns(self, path: Path, file: BinaryIO) -> FileColumns | None:
        known = self._files.get(path)
        if known is None or known[0] != version_of(file):
            known = version_of(file), columns_of(file)
            self._files[path] = known
        return known[1]

    def _read_whole(self, path: Path, version: Version) -> StoredRows:
        kept = self._whole.pop(path, None)
        if kept is None or kept[0] != version:
            kept = version, _whole(path)
        self._whole[path] = kept  # as the last one
        while len(self._whole) > 1 and sum(rows.size_bytes for _, rows in self._whole.values()) > self._kept_bytes:
            del self._whole[next(iter(self._whole))]
        return kept[1]


def columns_of(file: BinaryIO) -> FileColumns | None:
    """Where the columns of an open Parquet file lie; None where its rows cannot be read one by one."""
    with pq.ParquetFile(file) as parquet:
        metadata, schema = parquet.metadata, parquet.schema_arrow
        columns: dict[str, Column] = {}
        counted = {*COUNT_COLUMNS} <= {*schema.names}
        for name in (*_COLUMNS, *(COUNT_COLUMNS if counted else ())):
            column = _column(file, metadata, schema, name)
            if column is None:
                return None
            columns[name] = column
        return FileColumns(rows=metadata.num_rows, columns=columns)


def vector_column(file: BinaryIO, metadata: pq.FileMetaData, schema: pa.Schema) -> Column | None:
    """Where the vectors of an open Parquet file lie; None where they cannot be read row by row."""
    return _column(file, metadata, schema, "vector")


def _column(file: BinaryIO, metadata: pq.FileMetaData, schema: pa.Schema, name: str) -> Column | None:
    shape = _shape(schema.field(name).type) if name in schema.names else None
    if shape is None:
        return None
    dtype, width, values_per_row = shape
    groups: list[_Values] = []
    first = 0
    for number in range(metadata.num_row_groups):
        rows, chunk = metadata.row_group(number).num_rows, _chunk(metadata.row_group(number), name)
        values_bytes = rows * width * dtype.itemsize
        level_kinds = _level_kinds(metadata, name)
        if chunk.num_values != rows * values_per_row or not _is_full_page(file, chunk, values_bytes, level_kinds):
            return None
        end = chunk.data_page_offset + chunk.total_compressed_size
        groups.append(_Values(first=first, rows=rows, offset=end - values_bytes))
        first += rows
    return Column(dtype=dtype, width=width, groups=tuple(groups))


def _shape(kind: pa.DataType) -> tuple[np.dtype[Any], int, int] | None:
    """How a row of a column lies in memory: its dtype, how many of it, and what Parquet takes for how many values."""
    if kind == pa.binary(DIGEST_BYTES):
        return np.dtype(np.uint8), DIGEST_BYTES, 1
    if kind == pa.int32():
        return np.dtype("<i4"), 1, 1
    if pa.types.is_fixed_size_list(kind) and kind.list_size:
        return np.dtype(stored_dtype(kind)).newbyteorder("<"), kind.list_size, kind.list_size
    return None


def _chunk(group: pq.RowGroupMetaData, name: str) -> pq.ColumnChunkMetaData:
    chunks = (group.column(index) for index in range(group.num_columns))
    return next(chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == name)


def _level_kinds(metadata: pq.FileMetaData, name: str) -> int:
    """How many kinds of levels each page of a column begins with: those of repetition, those of definition."""
    columns = (metadata.schema.column(index) for index in range(metadata.num_columns))
    column = next(column for column in columns if column.path.split(".")[0] == name)
    return int(column.max_repetition_level > 0) + int(column.max_definition_level > 0)


def _is_full_page(file: BinaryIO, chunk: pq.ColumnChunkMetaData, values_bytes: int, level_kinds: int) -> bool:
    """Whether a column of a row group is one plain page that has every value.

    A page has no values for nulls. So it is full where its values are what is left of it after its levels, each kind of
    which says how many bytes it takes.
    """
    if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page or not {*chunk.encodings} <= {"PLAIN", "RLE"}:
        return False
    file.seek(chunk.data_page_offset)
    header = _PAGE_HEADER.match(file.read(_HEADER_BYTES))
    if header is None or _number(header[3]) != chunk.num_values:
        return False
    begin = chunk.data_page_offset + chunk.total_compressed_size - _number(header[1])
    offset = begin
    for _ in range(level_kinds):
        file.seek(offset)
        offset += _LEVELS_SIZE_BYTES + int.from_bytes(file.read(_LEVELS_SIZE_BYTES), "little")
    return bool(offset - begin + values_bytes == _number(header[1]))


def _number(varint: bytes) -> int:
    """A number that is not negative, as Thrift's compact protocol writes it: seven bits a byte, twice its value."""
    return sum((byte & 0x7F) << 7 * digit for digit, byte in enumerate(varint)) >> 1


def _whole(path: Path) -> StoredRows:
    table = read_table(path, columns=(*_COLUMNS, *COUNT_COLUMNS))  # of these, those that there are
    digests = table_digests(table)
    if digests is None:
        raise ValueError("it does not say of which texts its rows are")
    return StoredRows(
        digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES),
        vectors=table_matrix(table),
        counts=table_counts(table),
    )


def version_of(file: BinaryIO) -> Version:
    """What tells an open file from one that has taken its place: size, time of change, inode."""
    return version_in(os.fstat(file.fileno()))


def version_in(status: os.stat_result) -> Version:
    """The version of a file, by its status."""
    return status.st_size, status.st_mtime_ns, status.st_ino
