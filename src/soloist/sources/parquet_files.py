"""The rows of Parquet files as JSON-ready objects. Knows Arrow's types; not what a chunk is.

What JSON does not have is written so: timestamps, dates and times in ISO 8601 to the microsecond, those
with a time zone in UTC; durations as seconds; decimals and UUIDs as strings, so that no digit is lost;
bytes in base64; maps as objects, their keys as strings. NaN and infinity stay floats, as in JSON files.
"""

from __future__ import annotations

import base64
import datetime
import decimal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from soloist.sources.faults import BadItem, UnreadableFileError, foreign_text, names_text
from soloist.sources.nesting import TooDeepError, decode

METADATA_COLUMN = "metadata"
_BATCH_ROWS = 512
BATCH_BYTES = 32 << 20
# Far beyond any row that means something: a text may have 2,000,000 characters.
MAX_ROW_BYTES = 256_000_000
_ITEM_BYTES = 64  # an item of a list, as Python's object and its place in the list
_NUMBER_BYTES = 8
_DELTA_BYTES = 8 << 20
_ENTRY_BYTES = 4  # of a dictionary, its length
_PAGE_BYTES = 1 << 16  # headers and levels
_READ_BYTES = 1 << 20
# What a value that Arrow holds and Python cannot raises, e.g. the year 20000, text that is not UTF-8, or a map whose
# keys are lists.
_NO_PYTHON_VALUE = (ValueError, OverflowError, KeyError, TypeError)


def read_parquet(file: Path, text_field: str) -> Iterator[Any]:
    """Each row as a dict by column names; a `BadItem` for one with a value that Python cannot hold.

    A `metadata` column of strings that are JSON objects comes parsed.

    Raises:
        UnreadableFileError: the file is not Parquet, is damaged, has no text in the column `text_field`, or two columns
            of one name.
        OSError: the file cannot be opened or read.
    """
    n_rows = 0
    with file.open("rb") as raw:
        try:
            with _opened(raw) as parquet:
                metadata = parquet.metadata
                _require_text(parquet.schema_arrow, text_field)
                _require_distinct(parquet.schema_arrow)
            for batch in _batches(raw, metadata):
                for rows in _slices(_with_readable_types(batch)):
                    yield from map(_item, rows)
                    n_rows += len(rows)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as exc:
            raise UnreadableFileError(f"is not readable as Parquet from row {n_rows} on ({foreign_text(exc)})") from exc


def batch_rows(group: Sequence[ColumnSize], batch_bytes: int = BATCH_BYTES) -> int:
    """How many rows of a row group to read at a time: fewer where they are, or may be, so large that they would exceed
    `batch_bytes`.
    """
    row_bytes = sum(column.row_bytes for column in group)
    return max(1, min(_BATCH_ROWS, batch_bytes // max(1, row_bytes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSize:
    """How large the values of a column of a row group are: `largest_bytes` is a bound where some bytes of the file can
    stand for many values, and else 0; `mean_bytes` is what the file says of all of them, before compression.
    """

    path: str
    rows: int
    values: int
    mean_bytes: int
    largest_bytes: int
    is_read_as_dictionary: bool

    @property
    def row_bytes(self) -> int:
        """What a row takes in memory, or more."""
        values = -(-self.values // self.rows)
        largest = 0 if self.is_read_as_dictionary else self.largest_bytes
        return values * max(self.mean_bytes, largest, _NUMBER_BYTES)


def column_sizes(raw: BinaryIO, metadata: pq.FileMetaData, number: int) -> list[ColumnSize]:
    """The columns of a row group that has rows."""
    group = metadata.row_group(number)
    columns = [(group.column(index), metadata.schema.column(index)) for index in range(group.num_columns)]
    return [_column_size(raw, metadata, number, chunk, column) for chunk, column in columns]


def _column_size(
    raw: BinaryIO, metadata: pq.FileMetaData, number: int, chunk: pq.ColumnChunkMetaData, column: pq.ColumnSchema
) -> ColumnSize:
    rows, values = metadata.row_group(number).num_rows, max(1, chunk.num_values)
    total = chunk.total_uncompressed_size
    largest, reads_as_dictionary = 0, False
    if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY":
        largest = column.length
    elif "DELTA_BYTE_ARRAY" in chunk.encodings:  # a value may be the one before it and nothing more
        largest = min(total, _DELTA_BYTES)
    elif chunk.physical_type == "BYTE_ARRAY" and chunk.has_dictionary_page:
        largest = total
        if largest * min(values, _BATCH_ROWS * -(-values // rows)) > BATCH_BYTES:
            entries = _dictionary_lengths(raw, metadata, number, chunk.path_in_schema)
            largest = max(entries, default=0)
            others = total - sum(entries) - _ENTRY_BYTES * len(entries)
            # All of its values may be in one row, which is in memory before its size is known.
            reads_as_dictionary = (
                column.max_repetition_level > 0
                and values * largest > MAX_ROW_BYTES
                and others <= values * _NUMBER_BYTES + _PAGE_BYTES
            )
    return ColumnSize(
        path=chunk.path_in_schema, rows=rows, values=values, mean_bytes=total // values, largest_bytes=largest,
        is_read_as_dictionary=reads_as_dictionary,
    )  # fmt: skip


def _dictionary_lengths(raw: BinaryIO, metadata: pq.FileMetaData, number: int, path: str) -> NDArray[np.int64]:
    """The bytes of each entry of a column's dictionary page."""
    with _opened(raw, metadata, [path]) as parquet:
        first = next(parquet.iter_batches(batch_size=1, row_groups=[number], columns=[path]), None)
    arrays: list[Any] = [] if first is None else list(first.columns)
    while arrays:
        array = arrays.pop()
        if pa.types.is_dictionary(array.type):
            return _value_bytes(array.dictionary)
        if pa.types.is_struct(array.type):
            arrays += [array.field(index) for index in range(array.type.num_fields)]
        elif pa.types.is_map(array.type):
            arrays += [array.keys, array.items]
        elif hasattr(array, "values"):
            arrays.append(array.values)
    return np.zeros(0, np.int64)


def _batches(raw: BinaryIO, metadata: pq.FileMetaData) -> Iterator[pa.RecordBatch]:
    """The rows of a file, row group by row group: a dictionary is of one, and Arrow cannot join nested ones."""
    for number in range(metadata.num_row_groups):
        if not metadata.row_group(number).num_rows:
            continue
        _require_sound(raw, metadata, number)
        columns = column_sizes(raw, metadata, number)
        dictionaries = [column.path for column in columns if column.is_read_as_dictionary]
        with _opened(raw, metadata, dictionaries) as parquet:
            yield from parquet.iter_batches(batch_size=batch_rows(columns), row_groups=[number])


def _require_sound(raw: BinaryIO, metadata: pq.FileMetaData, number: int) -> None:
    """Read one row of a row group, which raises where what the file says of its columns is damaged.

    Asking for that itself ends the process (pyarrow 26: an exception of C++ that nobody catches). As dictionaries, so
    that the one row is small whatever is in it.
    """
    columns = (metadata.schema.column(index) for index in range(metadata.num_columns))
    paths = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    for dictionaries in (paths, []):
        try:
            with _opened(raw, metadata, dictionaries) as parquet:
                next(parquet.iter_batches(batch_size=1, row_groups=[number]), None)
            return
        except (OSError, pa.ArrowException):  # perhaps of an encoding that cannot be read as a dictionary
            if not dictionaries:
                raise


def _opened(raw: BinaryIO, metadata: pq.FileMetaData | None = None, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    raw.seek(0)
    return pq.ParquetFile(
        raw, metadata=metadata, read_dictionary=list(dictionaries), buffer_size=_READ_BYTES, pre_buffer=False
    )


def _with_readable_types(batch: pa.RecordBatch) -> pa.RecordBatch:
    schema = pa.schema([field.with_type(_readable(field.type)) for field in batch.schema])
    return batch if batch.schema.equals(schema) else batch.cast(schema, safe=False)


def _require_distinct(schema: pa.Schema) -> None:
    """Refuse a file of whose columns a row as a dict would lose one."""
    repeated = [name for name, columns in Counter(schema.names).items() if columns > 1]
    if repeated:
        raise UnreadableFileError(
            f"has several columns of one name ({names_text(repeated)}), of which all but one would be lost"
        )


def _require_text(schema: pa.Schema, text_field: str) -> None:
    n_found = schema.names.count(text_field)
    if n_found != 1:
        found = "no column" if not n_found else f"{n_found} columns"
        names = names_text(schema.names) or "none"
        raise UnreadableFileError(f"has {found} {text_field!r} (its columns are {names}: --text-field names another)")
    type_ = schema.field(text_field).type
    value_type = type_.value_type if pa.types.is_dictionary(type_) else type_
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(check(value_type) for check in is_text):
        raise UnreadableFileError(
            f"has no text but {value_type} in its column {text_field!r} (--text-field names another)"
        )


def _readable(type_: pa.DataType) -> pa.DataType:
    """The type with its times in the steps that Python has, and its time zones as UTC."""
    if pa.types.is_timestamp(type_) and (type_.unit == "ns" or type_.tz is not None):
        return pa.timestamp("us" if type_.unit == "ns" else type_.unit, type_.tz and "UTC")
    if pa.types.is_time64(type_):
        return pa.time64("us")
    if pa.types.is_duration(type_) and type_.unit == "ns":
        return pa.duration("us")
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_readable(field.type)) for field in type_.fields])
    if pa.types.is_map(type_):
        return pa.map_(_readable(type_.key_type), _readable(type_.item_type))
    for is_list, make in _LISTS:
        if is_list(type_):
            return make(type_.value_field.with_type(_readable(type_.value_type)))
    return type_


_LISTS = ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list))


def _slices(batch: pa.RecordBatch) -> Iterator[list[Any]]:
    """The rows of a batch as Python's, as many at a time as take `BATCH_BYTES`; a row that is far too large is none."""
    ends = np.cumsum(_value_bytes(batch.to_struct_array()))
    first = 0
    while first < batch.num_rows:
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + BATCH_BYTES, side="right")))
        if ends[first] - before > MAX_ROW_BYTES:
            size, limit = (f"{size / 1e6:,.0f} MB" for size in (int(ends[first]) - before, MAX_ROW_BYTES))
            yield [BadItem(fault=f"is too large: its values take {size}, and one row may take {limit}")]
            last = first + 1
        else:
            yield _rows(batch.slice(first, last - first))
        first = last


def _value_bytes(array: Any) -> NDArray[np.int64]:
    """What each value takes, by its texts, bytes and items of lists; those that a dictionary has count every time."""
    kind, rows = array.type, len(array)
    nothing = np.zeros(rows, np.int64)
    if pa.types.is_dictionary(kind):
        places = array.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        return _value_bytes(array.dictionary)[places] if len(array.dictionary) else nothing
    if pa.types.is_struct(kind):
        return sum((_value_bytes(array.field(index)) for index in range(kind.num_fields)), nothing)
    if pa.types.is_fixed_size_list(kind):
        items = _value_bytes(array.values) + _ITEM_BYTES
        sums: NDArray[np.int64] = items.reshape(-1, kind.list_size).sum(axis=1)[array.offset : array.offset + rows]
        return sums
    if any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_map)):
        inner = [array.keys, array.items] if pa.types.is_map(kind) else [array.values]
        items = sum((_value_bytes(each) for each in inner), np.full(len(inner[0]), _ITEM_BYTES, np.int64))
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(items)])
        offsets = array.offsets.to_numpy()
        found: NDArray[np.int64] = ends[offsets[1:]] - ends[offsets[:-1]]
        return found
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return _value_bytes(array.cast(pa.large_binary()))
    try:
        lengths: NDArray[np.int64] = pc.binary_length(array).fill_null(0).to_numpy().astype(np.int64)
        return lengths
    except pa.ArrowNotImplementedError:  # of a type that has no texts
        return nothing


def _rows(batch: pa.RecordBatch) -> list[Any]:
    try:
        rows: list[Any] = batch.to_pylist(maps_as_pydicts="strict")
    except _NO_PYTHON_VALUE:
        # One by one, so that only the rows at fault are lost.
        rows = [_row(batch.slice(index, 1)) for index in range(batch.num_rows)]
    return rows


def _row(batch: pa.RecordBatch) -> Any:
    try:
        return batch.to_pylist(maps_as_pydicts="strict")[0]
    except _NO_PYTHON_VALUE as exc:
        return BadItem(fault=f"has a value that Python cannot hold ({foreign_text(exc)})")


def _item(row: Any) -> Any:
    if isinstance(row, BadItem):
        return row
    item = _json_ready(row)
    if isinstance(item.get(METADATA_COLUMN), str):
        try:
            item[METADATA_COLUMN] = _parsed_object(item[METADATA_COLUMN])
        except TooDeepError:
            return BadItem(fault="cannot be kept: its metadata are nested too deeply")
    return item


def _parsed_object(text: str) -> Any:
    """The object that the text is in JSON; the text itself where it is none. One that nests too deeply is an error."""
    try:
        value = decode(text)
    except TooDeepError:
        if text.lstrip().startswith("{"):
            raise
        return text
    except ValueError:
        return text
    return value if isinstance(value, dict) else text


def _json_ready(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else str(_json_ready(key)): _json_ready(item) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    for types, convert in _CONVERSIONS:
        if isinstance(value, types):
            return convert(value)
    return str(value)


_CONVERSIONS: tuple[tuple[Any, Any], ...] = (
    ((datetime.date, datetime.time), lambda value: value.isoformat()),
    (datetime.timedelta, lambda value: value.total_seconds()),
    (decimal.Decimal, str),
    (bytes, lambda value: base64.b64encode(value).decode("ascii")),
    (np.generic, lambda value: value.item()),
)
