"""What Python gives as chunks, as one item after the other: dicts, strings and `Chunk`s.

A form is known by its attributes, so that no library but pyarrow is imported: tables (pandas, polars, pyarrow, DuckDB,
`datasets`), documents of LangChain, documents and nodes of LlamaIndex. Knows nothing of collections.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from soloist.sources.arrow_rows import SameKeysError, items_of, json_ready, require_columns
from soloist.sources.faults import BadItem, UnreadableFileError
from soloist.sources.read_once import is_read_once
from soloist.sources.tables import require_distinct, with_parsed_metadata
from soloist.types import Chunk

_ROWS = 1_000  # rows that are converted at a time
_FORMS = "a soloist.Chunk, a string, a dict, or a document of LangChain or LlamaIndex"


class NotChunksError(Exception):
    """What was given has no chunks in it. The message is a sentence without its subject, which is what was given."""


def given_items(given: Any, text_field: str) -> Iterator[Any]:
    """Each item as a dict, as a `Chunk`, or as a `BadItem`. Only the rows that are converted at a time are in memory.

    Raises:
        NotChunksError: it is not an ordered iterable or a table that is known, or the table has no column of texts.
    """
    for is_form, rows in _TABLES:
        if is_form(given):
            return rows(given, text_field)
    _require_iterable(given)
    return (_item(item, text_field) for item in given)


def may_be_empty(given: Any) -> bool:
    """Whether no items of it mean that it has none: not where they may be gone, as those of a generator."""
    if is_read_once(given):
        return False
    try:
        return len(given) == 0
    except TypeError:  # it has no length
        return any(is_form(given) for is_form, _ in _TABLES)


def _require_iterable(given: Any) -> None:
    kind = type(given).__name__
    if isinstance(given, (str, bytes, Mapping)) or _is_document(given) or isinstance(given, Chunk):
        raise NotChunksError(f"is one {kind}: give a list of chunks")
    if isinstance(given, (set, frozenset)):
        raise NotChunksError(f"is a {kind}, which has no order: give a list of chunks")
    if hasattr(given, "columns"):  # iterating over it may give the names of its columns
        raise NotChunksError(
            f"is a table of the type {kind}, which soloist does not know: give a table of pandas, polars or pyarrow"
        )
    if not isinstance(given, Iterable):
        raise NotChunksError(f"is of the type {kind}: give a list of chunks, or a table")


def _item(item: Any, text_field: str) -> Any:
    if isinstance(item, pa.Scalar):  # of a column
        item = item.as_py()
    if isinstance(item, Chunk):
        return item
    if isinstance(item, str):
        return {text_field: str(item)}
    if isinstance(item, Mapping):
        return plain_item(item, text_field)
    if isinstance(getattr(item, "page_content", None), str):
        return _document(item.page_content, item, ("id",), text_field)
    if callable(getattr(item, "get_content", None)):
        return _document(item.get_content(), item, ("node_id", "id_", "doc_id"), text_field)
    return BadItem(fault=f"is not a chunk: it is of the type {type(item).__name__}, and soloist takes {_FORMS}")


def _is_document(given: Any) -> bool:
    return hasattr(given, "page_content") or callable(getattr(given, "get_content", None))


def _document(text: Any, item: Any, id_names: Iterable[str], text_field: str) -> Any:
    ids = (getattr(item, name, None) for name in id_names)
    id_ = next((found for found in ids if found is not None), None)
    fields = {text_field: text, "metadata": getattr(item, "metadata", None) or {}}
    return plain_item(fields if id_ is None else {"id": id_, **fields}, text_field)


def plain_item(item: Mapping[Any, Any], text_field: str) -> Any:
    """The item with values that JSON has; its text stays as it is. A `BadItem` if the item has other values.

    Times, decimals and bytes become text by the rules of tables (`arrow_rows`). So do paths and UUIDs.
    """
    rest = {name: value for name, value in item.items() if name != text_field}
    try:
        plain = json_ready(rest, other=_as_text)
    except _NoJsonError as exc:
        return BadItem(fault=f"cannot be stored: {exc}")
    except SameKeysError as exc:
        return BadItem(fault=f"cannot be stored: it has two keys that are both {exc} as text")
    except RecursionError:
        return BadItem(fault="cannot be stored: its metadata is nested too deeply")
    return {text_field: item[text_field], **plain} if text_field in item else plain


class _NoJsonError(Exception):
    """JSON has no value like this."""


def _as_text(value: Any) -> Any:
    """A value of a type that JSON does not have and that is not of time or number."""
    if isinstance(value, (uuid.UUID, PurePath)):
        return str(value)
    if isinstance(value, Mapping):
        return json_ready(dict(value), other=_as_text)
    if callable(getattr(value, "tolist", None)):  # an array
        return json_ready(value.tolist(), other=_as_text)
    raise _NoJsonError(f"it has a value of the type {type(value).__name__}, and JSON has no such value: leave it out")


def _is_pandas(given: Any) -> bool:
    return all(hasattr(given, name) for name in ("iloc", "columns", "to_dict"))


def _pandas_rows(given: Any, text_field: str) -> Iterator[Any]:
    """Rows of pandas. Arrow would give all rows the keys of every dict of a column. A named index is a column."""
    columns, levels = [*map(str, given.columns)], _named_levels(given)
    repeated = [level for level, name in enumerate(levels) if _is_column(given, level, name, columns)]
    others = [name for level, name in enumerate(levels) if level not in repeated]
    _require_columns([*columns, *others], text_field)
    for start in range(0, len(given), _ROWS):
        part = given.iloc[start : start + _ROWS]
        if levels:
            part = part.set_axis(columns, axis=1).rename_axis(index=levels)
            part = part.reset_index(level=repeated, drop=True) if repeated else part
            part = part.reset_index() if others else part
        for row in part.to_dict("records"):
            values = {str(name): None if _is_missing(value) else value for name, value in row.items()}
            item = plain_item(values, text_field)
            yield item if isinstance(item, BadItem) else with_parsed_metadata(item)


def _named_levels(given: Any) -> list[str]:
    """The names of the levels of an index, as `reset_index` has them; empty where none has a name."""
    names = given.index.names
    if all(name is None for name in names):
        return []
    return [f"level_{level}" if name is None else str(name) for level, name in enumerate(names)]


def _is_column(given: Any, level: int, name: str, columns: Sequence[str]) -> bool:
    """Whether a level of the index is also a column with the same values, as `set_index(name, drop=False)` makes it."""
    if columns.count(name) != 1:
        return False
    column = given.iloc[:, [columns.index(name)]].set_axis([name], axis=1)
    return bool(column.set_index(name).index.equals(given.index.get_level_values(level)))


def _is_missing(value: Any) -> bool:
    """Whether pandas has no value there: NaN, NaT or NA."""
    return type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)


def _require_columns(names: Sequence[str], text_field: str) -> None:
    try:
        require_distinct(names)
    except UnreadableFileError as exc:
        raise NotChunksError(f"{exc}: rename the others (a named index of pandas is a column too)") from exc
    if text_field not in names:
        shown = ", ".join(map(repr, names[:8])) or "none"
        raise NotChunksError(
            f"has no column {text_field!r}, and its columns are {shown}: give text_field the name of the column of "
            "texts"
        )


def _is_dataset(given: Any) -> bool:
    return callable(getattr(given, "with_format", None)) and callable(getattr(given, "iter", None))


def _dataset_rows(given: Any, text_field: str) -> Iterator[Any]:
    for table in given.with_format("arrow").iter(batch_size=_ROWS):
        yield from _arrow_rows(table, text_field)


def _is_arrow(given: Any) -> bool:
    """Whether it is a table. A single column has Arrow's method too, but is an iterable of texts."""
    is_table = hasattr(given, "__arrow_c_stream__") and hasattr(given, "columns")
    return is_table or isinstance(given, (pa.RecordBatch, pa.RecordBatchReader))


def _arrow_rows(given: Any, text_field: str) -> Iterator[Any]:
    batches = pa.Table.from_batches([given]) if isinstance(given, pa.RecordBatch) else given
    reader = batches if isinstance(batches, pa.RecordBatchReader) else pa.RecordBatchReader.from_stream(batches)
    _require_columns(reader.schema.names, text_field)
    try:
        require_columns(reader.schema, text_field)
    except UnreadableFileError as exc:
        raise NotChunksError(str(exc)) from exc
    for batch in reader:
        for start in range(0, batch.num_rows, _ROWS):
            yield from items_of(batch.slice(start, _ROWS), reader.schema)


_Rows = Callable[[Any, str], Iterator[Any]]
# How tables are recognized and read; the first rule that fits is taken. pandas and datasets have Arrow's method too.
_TABLES: tuple[tuple[Callable[[Any], bool], _Rows], ...] = (
    (_is_pandas, _pandas_rows),
    (_is_dataset, _dataset_rows),
    (_is_arrow, _arrow_rows),
)
