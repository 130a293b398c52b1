"""Sparse vectors and words as Arrow columns.

- `ListColumns`: two lists a row, of what the entries are of and of how much.
- `JoinedColumn`: words as one text a row, for stores that index texts.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from soloist.exports.members import LongRows
from soloist.ragged import TermRows
from soloist.types import MemberKind


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """What the names of the two columns of a kind begin with, and what is in their lists."""

    keys: str
    values: str
    of_keys: pa.DataType
    of_values: pa.DataType


JOINED = pa.large_string()
FORMS: Mapping[MemberKind, _Form] = {
    "sparse": _Form(keys="indices_", values="values_", of_keys=pa.uint32(), of_values=pa.float32()),
    "lexical": _Form(keys="terms_", values="counts_", of_keys=pa.string(), of_values=pa.uint32()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListColumns:
    """The two columns of a member."""

    keys: str
    values: str
    kind: MemberKind

    @property
    def names(self) -> tuple[str, ...]:
        """Both."""
        return (self.keys, self.values)

    def fields(self) -> list[pa.Field]:
        """The columns with their types."""
        form = FORMS[self.kind]
        return [pa.field(self.keys, pa.list_(form.of_keys)), pa.field(self.values, pa.list_(form.of_values))]

    def arrays(self, rows: LongRows) -> dict[str, pa.Array]:
        """Rows as the values of the columns, in the order of the entries."""
        form, numbers = FORMS[self.kind], rows.rows if isinstance(rows, TermRows) else rows
        keys = pa.array(numbers.keys)
        if isinstance(rows, TermRows):
            keys = pa.array(rows.vocabulary, pa.string()).take(keys)
        starts = pa.array(numbers.starts, pa.int32())
        values = pa.array(numbers.values, form.of_values)
        return {
            self.keys: pa.ListArray.from_arrays(starts, keys),
            self.values: pa.ListArray.from_arrays(starts, values),
        }

    def read(self, table: pa.Table) -> dict[str, dict[Any, float]]:
        """The entries of a table's rows that have them, by the rows' keys."""
        lists = (table[name].to_pylist() for name in ("key", *self.names))
        return {
            key: dict(zip(keys, values, strict=False))
            for key, keys, values in zip(*lists, strict=True)
            if keys is not None and values is not None and len(keys) == len(values)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedColumn:
    """The column of a member with words: its terms with a space between two, each as often as the text has it.

    Terms have no spaces. So an index that cuts texts at spaces has these terms, and their counts.
    """

    words: str

    @property
    def names(self) -> tuple[str, ...]:
        """One."""
        return (self.words,)

    def fields(self) -> list[pa.Field]:
        """The column with its type, by which it is told from texts of somebody else's."""
        return [pa.field(self.words, JOINED)]

    def arrays(self, rows: LongRows) -> dict[str, pa.Array]:
        """Rows as the values of the column, terms in their order."""
        if not isinstance(rows, TermRows):
            raise TypeError(f"{self.words} is a column of words")
        texts = (
            " ".join(itertools.chain.from_iterable(itertools.repeat(*pair) for pair in rows.terms(row)))
            for row in range(len(rows))
        )
        return {self.words: pa.array(texts, JOINED)}

    def read(self, table: pa.Table) -> dict[str, dict[Any, float]]:
        """The counts by term of a table's rows that have words, by the rows' keys."""
        texts = zip(table["key"].to_pylist(), table[self.words].to_pylist(), strict=True)
        return {key: dict(Counter(text.split(" ") if text else ())) for key, text in texts if text is not None}


RaggedColumns = ListColumns | JoinedColumn
