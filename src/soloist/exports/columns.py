"""Rows as Arrow tables: metadata as columns with types where all chunks agree on one, as the text of JSON where not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from soloist.exports.rows import Rows, Source
from soloist.jsontext import json_text

PREFIX = "metadata."
_TYPES: Mapping[type, pa.DataType] = {
    bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(),
}  # fmt: skip
_INT64 = 1 << 63


def metadata_types(source: Source) -> dict[str, pa.DataType]:
    """The type of each field of the metadata over all rows; one pass over the chunks."""
    found: dict[str, pa.DataType | None] = {}
    for collection, index in source.shards:
        for chunk in source.folder.read_chunks(collection, index):
            for name, value in chunk.metadata.items():
                if value is not None:
                    kind = _kind(value)
                    found[name] = kind if found.get(name, kind) == kind else None
    return {name: kind if kind is not None else pa.string() for name, kind in sorted(found.items())}


def schema_of(source: Source, types: Mapping[str, pa.DataType]) -> pa.Schema:
    """The columns of an export: key, collection, id, text, the metadata's, digest, and a vector for each name."""
    return pa.schema(
        [
            *((name, pa.string()) for name in ("key", "collection", "id", "text")),
            *((PREFIX + name, kind) for name, kind in types.items()),
            ("digest", pa.string()),
            *((column_of(name), pa.list_(pa.float32(), dim)) for name, dim in source.dims.items()),
        ]
    )


def column_of(name: str) -> str:
    """The column of vectors: no metadata has its name."""
    return f"vector.{name}"


def table_of(rows: Rows, schema: pa.Schema) -> pa.Table:
    """Rows as a table of a schema that `schema_of` made."""
    columns: list[pa.Array] = []
    for field in schema:
        columns.append(_column(rows, field))
    return pa.table(columns, schema=schema)


def _column(rows: Rows, field: pa.Field) -> pa.Array:
    name: str = field.name
    if name.startswith(PREFIX):
        values = [chunk.metadata.get(name.removeprefix(PREFIX)) for chunk in rows.chunks]
        return pa.array([_fitting(value, field.type) for value in values], field.type)
    if name.startswith("vector."):
        vectors = np.ascontiguousarray(rows.vectors[name.removeprefix("vector.")], dtype=np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    plain: dict[str, list[str]] = {
        "key": list(rows.keys),
        "collection": [rows.collection] * len(rows),
        "id": [chunk.id for chunk in rows.chunks],
        "text": [chunk.text for chunk in rows.chunks],
        "digest": list(rows.digests),
    }
    return pa.array(plain[name], field.type)


def _kind(value: Any) -> pa.DataType | None:
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return pa.list_(pa.string())
    if type(value) is int and not -_INT64 <= value < _INT64:
        return None
    return _TYPES.get(type(value))


def _fitting(value: Any, kind: pa.DataType) -> Any:
    """A value of the metadata for a column: text as it is, anything else in a text column as JSON."""
    if value is None or kind != pa.string() or isinstance(value, str):
        return value
    return json_text(value)
