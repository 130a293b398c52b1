"""Rows as Arrow tables: metadata as columns with types where all chunks agree on one, as the text of JSON where not.

A column of JSON holds a text in quotes, so that 1 and "1" stay two values; its type is another than that of plain text.
Beyond so many fields the rare ones have one column together, as an object of JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from soloist.arrays import Vectors
from soloist.errors import ExportError
from soloist.exports.members import Entries, RaggedMember
from soloist.exports.ragged_columns import FORMS, JoinedColumn, ListColumns, RaggedColumns
from soloist.exports.rows import Rows, Source
from soloist.jsontext import json_text
from soloist.models.catalogue import BUILT_IN
from soloist.stores.tables import table_matrix
from soloist.types import Chunk

_TYPES: Mapping[type, pa.DataType] = {
    bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(),
}  # fmt: skip
_JSON = pa.large_string()
_INT64 = 1 << 63
METADATA = "metadata_"
OTHERS = METADATA  # the column of fields that have none of their own: no field has one of this name, "" neither
_MOST_FIELDS = 256  # a column costs time and memory in each row and file, also where it is empty
VECTOR = "vector_"
_LONGEST_NAME = 60  # of a column: what PostgreSQL and others keep whole
_DIGEST_DIGITS = 8
_PLAIN = re.compile(r"[a-z0-9_]+")
_TAKEN = re.compile(r".*_[0-9a-f]{8}")  # the ending of a digest that we append
_UNSAFE = re.compile(r"[^a-z0-9_]")
_DASHES = str.maketrans("-_", "_-")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """The columns of an export: key, run, collection, id, text, those of the place that it was read from, those of the
    metadata by field, that of other fields where there are such, digest (a `Mark`), those of the vectors by name, and
    the two of each member with sparse vectors or words. `types` are of all fields, the most frequent first.
    """

    run: str
    schema: pa.Schema
    metadata: Mapping[str, str]
    vectors: Mapping[str, str]
    types: Mapping[str, pa.DataType]
    ragged: Mapping[str, RaggedColumns] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, source: Source, *, joined: bool = False) -> Columns:
        """The columns for a source; one pass over its chunks for the types of their metadata. Words are lists, or
        `joined` to one text.
        """
        types = _metadata_types(source)
        metadata = _own_columns(types, [])
        vectors = vector_columns(source.dims)
        ragged = {name: ragged_columns(name, member, joined) for name, member in source.ragged.items()}
        schema = pa.schema(
            [
                *((name, pa.string()) for name in ("key", "run", "collection", "id", "text", "source_file")),
                ("source_index", pa.int64()),
                *_metadata_fields(metadata, types, []),
                ("digest", pa.string()),
                *((vectors[name], pa.list_(pa.float32(), dim)) for name, dim in source.dims.items()),
                *itertools.chain.from_iterable(columns.fields() for columns in ragged.values()),
            ]
        )
        return cls(run=source.run, schema=schema, metadata=metadata, vectors=vectors, types=types, ragged=ragged)

    @property
    def names(self) -> dict[str, str]:
        """The columns of everything that a row has by name, as a report shows them."""
        return {**self.vectors, **{name: ", ".join(columns.names) for name, columns in self.ragged.items()}}

    @property
    def read_columns(self) -> list[str]:
        """The columns that `read` needs."""
        ragged = itertools.chain.from_iterable(columns.names for columns in self.ragged.values())
        return ["key", *self.vectors.values(), *ragged]

    def fitted(self, there: pa.Schema) -> Columns:
        """These columns, for a table that is there, some of whose rows stay as they are.

        Fields that have a column in it keep that, and others get none where it has that of the others: so each is
        where it is in those rows. Columns that are JSON in it stay so: JSON holds every value.
        """
        columns = self.keeping(there.names)
        metadata = _own_columns(self.types, there.names)
        own = [field for field in columns.schema if not field.name.startswith(METADATA)]
        fields = [*_metadata_fields(metadata, self.types, there.names), *own]
        as_json = {field.name for field in there if field.type == _JSON and field.name.startswith(METADATA)}
        fields = [field.with_type(_JSON) if field.name in as_json else field for field in fields]
        return dataclasses.replace(columns, schema=pa.schema(fields), metadata=metadata)

    def keeping(self, there: Container[str]) -> Columns:
        """These columns, with the vectors in those that a table has for them, as in `vector_columns`."""
        vectors = vector_columns(self.vectors, there)
        names = {self.vectors[name]: column for name, column in vectors.items()}
        schema = pa.schema([field.with_name(names.get(field.name, field.name)) for field in self.schema])
        return dataclasses.replace(self, schema=schema, vectors=vectors)

    def table(self, rows: Rows) -> pa.Table:
        """Some rows as a table of these columns."""
        values: dict[str, pa.Array] = {
            "key": pa.array(rows.keys, pa.string()),
            "run": pa.array([self.run] * len(rows), pa.string()),
            "collection": pa.array([rows.collection] * len(rows), pa.string()),
            "id": pa.array([chunk.id for chunk in rows.chunks], pa.string()),
            "text": pa.array([chunk.text for chunk in rows.chunks], pa.string()),
            "source_file": pa.array([chunk.source_file for chunk in rows.chunks], pa.string()),
            "source_index": pa.array([chunk.source_index for chunk in rows.chunks], pa.int64()),
            "digest": pa.array(map(str, rows.marks), pa.string()),
        }
        for field, column in self.metadata.items():
            kind = self.schema.field(column).type
            values[column] = _metadata_column(rows.chunks, field, kind)
        if OTHERS in self.schema.names:
            values[OTHERS] = _others_column(rows.chunks, self.metadata)
        for name, column in self.vectors.items():
            vectors = np.ascontiguousarray(rows.vectors[name], dtype=np.float32)
            values[column] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        for name, columns in self.ragged.items():
            values |= columns.arrays(rows.ragged[name])
        return pa.table([values[name] for name in self.schema.names], schema=self.schema)

    def read(self, table: pa.Table) -> dict[str, dict[str, Vectors | Entries]]:
        """The vectors of a table's rows that have them, by key and name; entries of sparse vectors and words."""
        found: dict[str, dict[str, Vectors | Entries]] = {key: {} for key in table["key"].to_pylist()}
        for name, column in self.vectors.items():
            there = table.filter(table[column].is_valid())
            matrix = table_matrix(there.select([column]).rename_columns(["vector"]))
            for key, vector in zip(there["key"].to_pylist(), matrix, strict=True):
                found[key][name] = vector
        for name, columns in self.ragged.items():
            for key, entries in columns.read(table).items():
                found[key][name] = entries
        return found


def _metadata_types(source: Source) -> dict[str, pa.DataType]:
    """The type of each field of the metadata over all rows, the most frequent first."""
    found: dict[str, pa.DataType | None] = {}
    counts: Counter[str] = Counter()
    for collection, index in source.shards:
        for chunk in source.folder.shards.read_chunks(collection, index):
            for name, value in chunk.metadata.items():
                if value is not None:
                    kind = _kind(value)
                    found[name] = kind if found.get(name, kind) == kind else None
                    counts[name] += 1
    ranked = sorted(found.items(), key=lambda item: (-counts[item[0]], item[0]))
    return {name: kind if kind is not None else _JSON for name, kind in ranked}


def _own_columns(types: Mapping[str, pa.DataType], there: Sequence[str]) -> dict[str, str]:
    """The fields that have a column of their own, beside the columns of a table that is there."""
    columns, names = {field: metadata_column(field) for field in types}, set(there)
    free = 0 if OTHERS in names else max(0, _MOST_FIELDS - sum(name.startswith(METADATA) for name in names))
    kept = {field for field, column in columns.items() if column in names}
    new = [field for field in columns if field not in kept][:free]
    return {field: columns[field] for field in sorted(kept.union(new))}


def _metadata_fields(
    metadata: Mapping[str, str], types: Mapping[str, pa.DataType], there: Sequence[str]
) -> list[pa.Field]:
    """Those columns, and that of other fields where there are such, or were."""
    fields = [pa.field(column, types[field]) for field, column in metadata.items()]
    has_others = len(metadata) < len(types) or OTHERS in there
    return [*fields, pa.field(OTHERS, _JSON)] if has_others else fields


def metadata_column(field: str) -> str:
    """The name of a field's column: its own where that is plain, else a readable form with a digest.

    Plain are small letters, digits and `_`. The name depends on the field alone, so that two fields never share a
    column, whatever else is exported and whatever the case of their letters, and needs no quotes in SQL.

        >>> metadata_column("page_no")
        'metadata_page_no'
        >>> metadata_column("page no")
        'metadata_page_no_b62b1584'
    """
    return _column(METADATA, field, field)


def vector_column(name: str) -> str:
    """The name of a column of vectors, likewise; of models it is `-` that is plain, which becomes `_`.

    Models that soloist knows by name need no digest: another name that would be theirs has one instead.

    >>> vector_column("bge-m3")
    'vector_bge_m3'
    >>> vector_column("bge_m3")
    'vector_bge_m3_f47e8ecc'
    >>> vector_column("all-MiniLM-L6-v2")
    'vector_all_minilm_l6_v2'
    """
    column = _readable(VECTOR, name)
    known = _KNOWN.get(column)
    if known is not None:
        return column if known == name else _with_digest(VECTOR, name)
    return _column(VECTOR, name, name.translate(_DASHES))


def member_column(prefix: str, name: str) -> str:
    """The name of a column of a member with sparse vectors or words, as those of vectors are named.

    >>> member_column("words_", "bm25")
    'words_bm25'
    """
    return _column(prefix, name, name.translate(_DASHES))


def ragged_columns(name: str, member: RaggedMember, joined: bool = False) -> RaggedColumns:
    """The columns of a member with sparse vectors or words, named as those of vectors are.

    >>> ragged_columns("bm25", RaggedMember(kind="lexical")).names
    ('terms_bm25', 'counts_bm25')
    """
    if joined and member.kind == "lexical":
        return JoinedColumn(words=member_column("words_", name))
    form = FORMS[member.kind]
    return ListColumns(keys=member_column(form.keys, name), values=member_column(form.values, name), kind=member.kind)


def vector_columns(names: Iterable[str], there: Container[str] = ()) -> dict[str, str]:
    """The columns of vectors by name, beside the columns of a table that is there: one that earlier versions named with
    a digest stays.
    """
    before = {name: _with_digest(VECTOR, name) for name in names}
    return {name: column if column in there else vector_column(name) for name, column in before.items()}


def _readable(prefix: str, name: str) -> str:
    """The name with `_` for all but small letters and digits: several names may have the same."""
    return prefix + _UNSAFE.sub("_", name.lower())


_KNOWN = {_readable(VECTOR, name): name for name in BUILT_IN.names()}  # whose columns are theirs alone


def _column(prefix: str, name: str, spelled: str) -> str:
    """`spelled` is the name with `_` where a plain one has its sign."""
    whole = prefix + spelled
    if len(whole) <= _LONGEST_NAME and _PLAIN.fullmatch(spelled) and not _TAKEN.fullmatch(spelled):
        return whole
    return _with_digest(prefix, name)


def _with_digest(prefix: str, name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_DIGITS]
    return f"{_readable(prefix, name)[: _LONGEST_NAME - _DIGEST_DIGITS - 1]}_{digest}"


def _kind(value: Any) -> pa.DataType | None:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return pa.list_(pa.string())
    if type(value) is int and not -_INT64 <= value < _INT64:
        return None
    return _TYPES.get(type(value))


def _metadata_column(chunks: Sequence[Chunk], field: str, kind: pa.DataType) -> pa.Array:
    try:
        return pa.array([_fitting(chunk.metadata.get(field), kind) for chunk in chunks], kind)
    except UnicodeEncodeError as exc:
        chunk = next(chunk for chunk in chunks if has_surrogate(chunk.metadata.get(field)))
        raise surrogate_error(chunk, "a column of text") from exc


def _others_column(chunks: Sequence[Chunk], metadata: Mapping[str, str]) -> pa.Array:
    """An object of the fields that have no column; null where there are no such fields."""
    others = [
        {field: value for field, value in chunk.metadata.items() if value is not None and field not in metadata}
        for chunk in chunks
    ]
    return pa.array([json_text(fields) if fields else None for fields in others], _JSON)


def has_surrogate(value: Any) -> bool:
    """Whether any text in a value of JSON has a lone surrogate, which is not valid Unicode."""
    if isinstance(value, Mapping):
        return has_surrogate([*value.keys(), *value.values()])
    if isinstance(value, (list, tuple)):
        return any(map(has_surrogate, value))
    return isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)


def surrogate_error(chunk: Chunk, store: str) -> ExportError:
    """What is said of a chunk whose metadata a store cannot keep."""
    return ExportError(
        f"the metadata of chunk {chunk.id!a} have a lone surrogate, which {store} cannot store: take it out of the "
        "chunk file and embed again, or export to jsonl"
    )


def _fitting(value: Any, kind: pa.DataType) -> Any:
    return value if value is None or kind != _JSON else json_text(value)
