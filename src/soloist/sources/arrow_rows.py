"""The rows of Arrow's batches as JSON-ready objects. Knows Arrow's types, but not what a chunk is.

Types that JSON lacks are converted:

- timestamps, dates and times: ISO 8601 to the microsecond, in UTC if they have a time zone
- durations: seconds
- decimals and UUIDs: strings, so that no digit is lost
- bytes: base64
- maps: objects, with their keys as strings

NaN and infinity stay floats, as in JSON files.
"""

from __future__ import annotations

import base64
import datetime
import decimal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from soloist.sources.faults import BadItem, UnreadableFileError, foreign_text, shortened
from soloist.sources.ids import BytesText, DecimalText, MomentText
from soloist.sources.parquet_sizes import BATCH_BYTES, MAX_ROW_BYTES, row_ends
from soloist.sources.tables import require_distinct, require_text_column, with_parsed_metadata

# Errors for a value that Arrow can hold and Python cannot, e.g. the year 20000, text that is not UTF-8, or a map whose
# keys are lists.
_NO_PYTHON_VALUE = (ValueError, OverflowError, KeyError, TypeError)


def require_columns(schema: pa.Schema, text_field: str) -> None:
    """Refuse a table that has no text column, or two columns of one name.

    Raises:
        UnreadableFileError: it is such a table.
    """
    require_text_column(schema.names, text_field)
    type_ = schema.field(text_field).type
    value_type = type_.value_type if pa.types.is_dictionary(type_) else type_
    value_type = getattr(value_type, "storage_type", value_type)  # of an extension, such as DuckDB's JSON
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(check(value_type) for check in is_text):
        raise UnreadableFileError(
            f"has {value_type} instead of text in its column {text_field!r} (give --text-field to name another column)"
        )
    require_distinct(schema.names)


def items_of(batch: pa.RecordBatch, declared: pa.Schema) -> Iterator[Any]:
    """Each row as a dict by column names; a `BadItem` for a row that is too large or that Python cannot hold.

    `declared` is the schema of the file. It has the extension types that a batch read as dictionaries lacks.
    """
    for rows in _slices(_with_readable_types(batch, declared)):
        yield from map(_item, rows)


def _with_readable_types(batch: pa.RecordBatch, declared: pa.Schema) -> pa.RecordBatch:
    types = map(_readable, batch.schema.types, declared.types)
    schema = pa.schema([field.with_type(type_) for field, type_ in zip(batch.schema, types, strict=True)])
    return batch if batch.schema.equals(schema) else batch.cast(schema, safe=False)


def _readable(type_: pa.DataType, declared: pa.DataType) -> pa.DataType:
    """The type with times in units that Python has, time zones as UTC, and UUIDs as UUIDs."""
    if isinstance(declared, pa.UuidType):
        return declared
    if pa.types.is_timestamp(type_) and (type_.unit == "ns" or type_.tz is not None):
        return pa.timestamp("us" if type_.unit == "ns" else type_.unit, type_.tz and "UTC")
    if pa.types.is_time64(type_):
        return pa.time64("us")
    if pa.types.is_duration(type_) and type_.unit == "ns":
        return pa.duration("us")
    if pa.types.is_struct(type_):
        return pa.struct(list(map(_readable_field, type_.fields, declared.fields)))
    if pa.types.is_map(type_):
        return pa.map_(_readable(type_.key_type, declared.key_type), _readable(type_.item_type, declared.item_type))
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(_readable_field(type_.value_field, declared.value_field), type_.list_size)
    for is_list, make in _LISTS:
        if is_list(type_):
            return make(_readable_field(type_.value_field, declared.value_field))
    return type_


def _readable_field(field: pa.Field, declared: pa.Field) -> pa.Field:
    return field.with_type(_readable(field.type, declared.type))


_LISTS = ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list))


def _slices(batch: pa.RecordBatch) -> Iterator[list[Any]]:
    """The rows of a batch as Python values, at most `BATCH_BYTES` at a time. A row that is too large is a `BadItem`."""
    ends = row_ends(batch)
    first = 0
    while first < batch.num_rows:
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + BATCH_BYTES, side="right")))
        if ends[first] - before > MAX_ROW_BYTES:
            size, limit = (f"{size / 1e6:,.0f} MB" for size in (int(ends[first]) - before, MAX_ROW_BYTES))
            yield [BadItem(fault=f"is too large: its values take {size}, and a row may take at most {limit}")]
            last = first + 1
        else:
            yield _rows(batch.slice(first, last - first))
        first = last


def _rows(batch: pa.RecordBatch) -> list[Any]:
    try:
        rows: list[Any] = batch.to_pylist(maps_as_pydicts="strict")
    except _NO_PYTHON_VALUE:
        # One by one, so that only the rows with the fault are lost.
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
    try:
        item = json_ready(row)
    except SameKeysError as exc:
        return BadItem(fault=f"has a map with two keys that are both {exc} as text")
    return with_parsed_metadata(item)


def json_ready(value: Any, other: Callable[[Any], Any] = str) -> Any:
    """A value of Python as one that JSON has; `other` converts what has no rule here.

    Raises:
        SameKeysError: a dict has two keys that are the same as text.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, dict):
        return _object(value, other)
    if isinstance(value, (list, tuple)):
        return [json_ready(item, other) for item in value]
    for types, convert in _CONVERSIONS:
        if isinstance(value, types):
            return convert(value)
    return other(value)


def _object(value: dict[Any, Any], other: Callable[[Any], Any]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, item in value.items():
        name = key if isinstance(key, str) else str(json_ready(key, other))
        if name in members:
            raise SameKeysError(ascii(shortened(name)))
        members[name] = json_ready(item, other)
    return members


class SameKeysError(Exception):
    """A map has two keys that are the same as text. The message is that text."""


_CONVERSIONS: tuple[tuple[Any, Any], ...] = (
    ((datetime.date, datetime.time), lambda value: MomentText(value.isoformat())),
    (datetime.timedelta, lambda value: value.total_seconds()),
    (decimal.Decimal, lambda value: DecimalText(value)),
    (bytes, lambda value: BytesText(base64.b64encode(value).decode("ascii"))),
    (np.generic, lambda value: value.item()),
)
