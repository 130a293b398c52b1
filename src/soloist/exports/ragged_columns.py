"""Sparse vectors and words as Arrow columns: two lists a row, of what the entries are of and of how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from soloist.exports.members import LongRows, RaggedMember
from soloist.ragged import RaggedRows, TermRows
from soloist.types import MemberKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ListColumns:
    """The two columns of a member."""

    keys: str
    values: str

    def __str__(self) -> str:
        return f"{self.keys}, {self.values}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """What the names of the two columns of a kind begin with, and what is in their lists."""

    keys: str
    values: str
    of_keys: pa.DataType
    of_values: pa.DataType


FORMS: Mapping[MemberKind, _Form] = {
    "sparse": _Form(keys="indices_", values="values_", of_keys=pa.uint32(), of_values=pa.float32()),
    "lexical": _Form(keys="terms_", values="counts_", of_keys=pa.string(), of_values=pa.uint32()),
}


def list_fields(columns: ListColumns, member: RaggedMember) -> list[pa.Field]:
    """The two columns with their types."""
    form = FORMS[member.kind]
    return [pa.field(columns.keys, pa.list_(form.of_keys)), pa.field(columns.values, pa.list_(form.of_values))]


def list_arrays(columns: ListColumns, rows: LongRows) -> dict[str, pa.Array]:
    """Rows as the values of the two columns, in the order of the entries."""
    numbers = rows.rows if isinstance(rows, TermRows) else rows
    keys = pa.array(numbers.keys)
    if isinstance(rows, TermRows):
        keys = pa.array(rows.vocabulary, pa.string()).take(keys)
    starts = pa.array(numbers.starts, pa.int32())
    return {
        columns.keys: pa.ListArray.from_arrays(starts, keys),
        columns.values: pa.ListArray.from_arrays(starts, _values(rows, numbers)),
    }


def read_lists(table: pa.Table, columns: ListColumns) -> dict[str, dict[Any, float]]:
    """The entries of a table's rows that have them, by the rows' keys."""
    lists = (table[name].to_pylist() for name in ("key", columns.keys, columns.values))
    return {
        key: dict(zip(keys, values, strict=False))
        for key, keys, values in zip(*lists, strict=True)
        if keys is not None and values is not None and len(keys) == len(values)
    }


def _values(rows: LongRows, numbers: RaggedRows) -> pa.Array:
    return pa.array(numbers.values, pa.uint32() if isinstance(rows, TermRows) else pa.float32())
