"""The rows of Parquet files, row group by row group. Knows Parquet, but not what a chunk is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from soloist.formats import PARQUET
from soloist.sources.arrow_rows import items_of, require_columns
from soloist.sources.faults import UnreadableFileError, foreign_text
from soloist.sources.opening import require_not_foreign
from soloist.sources.parquet_sizes import batch_rows, column_sizes, open_parquet


def read_parquet(file: Path, text_field: str) -> Iterator[Any]:
    """Each row as a dict by column names; a `BadItem` for a row with a value that Python cannot hold.

    Strings in a `metadata` column that are JSON objects are parsed.

    Raises:
        UnreadableFileError: the file is not Parquet, is damaged, has no text in the column `text_field`, or has two
            columns of one name.
        OSError: the file cannot be opened or read.
        MemoryError: its rows do not fit into memory.
    """
    n_rows = 0
    with file.open("rb") as raw:
        require_not_foreign(raw, PARQUET.name, b"PAR1")
        try:
            with open_parquet(raw) as parquet:
                metadata = parquet.metadata
                _require_whole(metadata)
                require_columns(parquet.schema_arrow, text_field)
                declared = parquet.schema_arrow
            for batch in _batches(raw, metadata):
                for item in items_of(batch, declared):
                    yield item
                    n_rows += 1
        except MemoryError:  # Arrow's too: not a fault of the file
            raise
        except (OSError, pa.ArrowException, UnicodeDecodeError) as exc:
            raise UnreadableFileError(f"cannot be read as Parquet from row {n_rows} on ({foreign_text(exc)})") from exc


def _batches(raw: BinaryIO, metadata: pq.FileMetaData) -> Iterator[pa.RecordBatch]:
    """The rows of a file, row group by row group: each has its own dictionary, and Arrow cannot join nested ones."""
    for number in range(metadata.num_row_groups):
        left = metadata.row_group(number).num_rows
        if not left:
            continue
        _require_sound(raw, metadata, number)
        columns = column_sizes(raw, metadata, number)
        dictionaries = [column.path for column in columns if column.is_read_as_dictionary]
        with open_parquet(raw, metadata, dictionaries) as parquet:
            for batch in parquet.iter_batches(batch_size=batch_rows(columns), row_groups=[number]):
                yield batch
                left -= batch.num_rows
        if left:
            raise UnreadableFileError(f"is damaged: {left} rows of its row group {number} are missing")


def _require_whole(metadata: pq.FileMetaData) -> None:
    """Refuse a file that contradicts itself about its rows or its columns.

    Reading a column that a row group has and the schema lacks ends the process (pyarrow 26).
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    rows = sum(group.num_rows for group in groups)
    if rows != metadata.num_rows or any(group.num_rows < 0 for group in groups):
        raise UnreadableFileError(
            f"is damaged: its footer says {metadata.num_rows} rows, but its row groups have {rows}"
        )
    if any(group.num_columns != metadata.num_columns for group in groups):
        raise UnreadableFileError("is damaged: its row groups have other columns than its schema")


def _require_sound(raw: BinaryIO, metadata: pq.FileMetaData, number: int) -> None:
    """Read one row of a row group, which raises where the columns' metadata is damaged.

    Reading that metadata directly would end the process (pyarrow 26: nobody catches an exception of C++). The columns
    are read as dictionaries, so that the row is small whatever it holds.
    """
    columns = (metadata.schema.column(index) for index in range(metadata.num_columns))
    paths = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    for dictionaries in (paths, []):
        try:
            with open_parquet(raw, metadata, dictionaries) as parquet:
                next(parquet.iter_batches(batch_size=1, row_groups=[number]), None)
            return
        except MemoryError:
            raise
        except (OSError, pa.ArrowException):  # perhaps the encoding cannot be read as a dictionary
            if not dictionaries:
                raise
