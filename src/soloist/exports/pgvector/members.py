"""What a table of PostgreSQL has for each member of a run: its columns, and what goes into them. Sends no query.

- Dense vectors are a `vector`, sparse ones a `sparsevec`, whose dimensions PostgreSQL counts from 1.
- Words are their terms, their counts and how many they are together. PostgreSQL makes a `tsvector` of the terms, for an
  index: the server's own dictionaries change nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from soloist.arrays import Vectors
from soloist.errors import ExportError
from soloist.exports.columns import member_column, vector_column, vector_columns
from soloist.exports.members import Entries
from soloist.exports.rows import Rows, Source
from soloist.ragged import RaggedRows, TermRows

_WORDS = ("terms_", "counts_", "length_", "words_")  # what the names of the columns of words begin with
# https://github.com/pgvector/pgvector#sparsevec-type
MOST_WEIGHTS = 16_000
# A lexeme begins at a byte below this one. Beyond it array_to_tsvector of PostgreSQL 18 loses words without an error.
MOST_WORD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: its type as `pg_type` calls it, and as CREATE TABLE declares it.

    `dim` is that of vectors. `made_of` is the column that PostgreSQL makes it of, where no export writes it.
    """

    name: str
    kind: str
    declared: str
    dim: int | None = None
    made_of: str | None = None


class Member(Protocol):
    """A member in a table. `columns` are its columns, first those that an export writes, in the order of `values`."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Its columns."""
        ...

    def values(self, rows: Rows, row: int) -> list[Any]:
        """What is written of a row.

        Raises:
            ExportError: PostgreSQL has no room for it.
        """
        ...

    def read(self, found: Sequence[Any]) -> Vectors | Entries | None:
        """The vector or the entries in what was written; None where that is damaged. Vectors come as texts."""
        ...


@dataclass(frozen=True, slots=True)
class DenseMember:
    """A model's vectors, or the fused ones."""

    name: str
    column: str
    dim: int

    @property
    def columns(self) -> tuple[Column, ...]:
        """One."""
        return (Column(name=self.column, kind="vector", declared=f"vector({self.dim})", dim=self.dim),)

    def values(self, rows: Rows, row: int) -> list[Any]:
        """A vector as pgvector spells it."""
        return [str(rows.vectors[self.name][row].tolist())]

    def read(self, found: Sequence[Any]) -> Vectors:
        """The vector, float32."""
        return np.array(found[0][1:-1].split(","), np.float32)


@dataclass(frozen=True, slots=True)
class SparseMember:
    """A sparse model's weights."""

    name: str
    column: str
    dim: int

    @property
    def columns(self) -> tuple[Column, ...]:
        """One."""
        return (Column(name=self.column, kind="sparsevec", declared=f"sparsevec({self.dim})", dim=self.dim),)

    def most_weights(self, rows: Rows) -> int:
        """How many weights the longest of some rows has."""
        return int(self._entries(rows).lengths.max(initial=0))

    def values(self, rows: Rows, row: int) -> list[Any]:
        """Weights as pgvector spells them."""
        keys, weights = self._entries(rows).row(row)
        if len(keys) > MOST_WEIGHTS:
            raise ExportError(
                f"chunk {rows.chunks[row].id!r} has {len(keys):,} weights of {self.name}, and a sparsevec of pgvector "
                f"has room for {MOST_WEIGHTS:,}: leave {self.name} out by exporting others with --vectors, or choose "
                "another store"
            )
        return [spelled_weights(dict(zip(keys.tolist(), weights.tolist(), strict=True)), self.dim)]

    def read(self, found: Sequence[Any]) -> Entries:
        """The weights by dimension, counted from 0."""
        entries = found[0].partition("}")[0][1:].split(",")
        pairs = (entry.split(":") for entry in entries if entry)
        return {int(key) - 1: float(weight) for key, weight in pairs}

    def _entries(self, rows: Rows) -> RaggedRows:
        entries = rows.ragged[self.name]
        if isinstance(entries, TermRows):
            raise TypeError(f"{self.name} has words, and no sparse vectors")
        return entries


@dataclass(frozen=True, slots=True)
class WordsMember:
    """The words of a lexical member."""

    name: str
    terms: str
    counts: str
    length: str
    words: str

    @property
    def columns(self) -> tuple[Column, ...]:
        """Three, and one that PostgreSQL makes of the terms."""
        made = f"tsvector GENERATED ALWAYS AS (array_to_tsvector({self.terms})) STORED"
        return (
            Column(name=self.terms, kind="_text", declared="text[]"),
            Column(name=self.counts, kind="_int4", declared="int4[]"),
            Column(name=self.length, kind="int4", declared="int4"),
            Column(name=self.words, kind="tsvector", declared=made, made_of=self.terms),
        )

    def values(self, rows: Rows, row: int) -> list[Any]:
        """Terms, their counts, and the sum of these."""
        entries = rows.ragged[self.name]
        if not isinstance(entries, TermRows):
            raise TypeError(f"{self.name} has sparse vectors, and no words")
        found = entries.terms(row)
        terms, counts = [term for term, _ in found], [count for _, count in found]
        if sum(len(term.encode()) for term in terms) >= MOST_WORD_BYTES:
            raise ExportError(
                f"chunk {rows.chunks[row].id!r} has over 1 MiB of different words, and a tsvector of PostgreSQL has no "
                "room for them: cut the chunk into smaller ones and embed again, or choose another store"
            )
        return [terms, counts, sum(counts)]

    def read(self, found: Sequence[Any]) -> Entries | None:
        """The counts by term."""
        terms, counts, length = found
        is_whole = counts is not None and len(terms) == len(counts) and sum(counts) == length
        return dict(zip(terms, counts, strict=True)) if is_whole else None


def members_of(source: Source, there: Container[str] = ()) -> dict[str, Member]:
    """What is exported of a run, by name, in the columns that a table which is `there` has for dense vectors."""
    dense = vector_columns(source.dims, there)
    members: dict[str, Member] = {name: DenseMember(name, dense[name], dim) for name, dim in source.dims.items()}
    for name, member in source.ragged.items():
        if member.dim is None:
            columns = (member_column(prefix, name) for prefix in _WORDS)
            members[name] = WordsMember(name, *columns)
        else:
            members[name] = SparseMember(name, vector_column(name), member.dim)
    return members


def is_own(column: str, kinds: Mapping[str, str]) -> bool:
    """Whether a column of a table is one as exports write them, by the types of all of its columns."""
    if column.startswith("vector_"):
        return kinds[column] in ("vector", "sparsevec")
    beginning = next((each for each in _WORDS[:3] if column.startswith(each)), None)
    if beginning is None:
        return False
    found = [kinds.get(prefix + column.removeprefix(beginning)) for prefix in _WORDS]
    return found == ["_text", "_int4", "int4", "tsvector"]


def written_columns(members: Iterable[Member]) -> list[Column]:
    """The columns that an export writes."""
    return [column for member in members for column in member.columns if column.made_of is None]


def spelled_weights(weights: Mapping[int, float], dim: int) -> str:
    """Weights by dimension, counted from 0, as pgvector spells them.

    >>> spelled_weights({0: 0.5, 7: 2.0}, 9)
    '{1:0.5,8:2.0}/9'
    """
    return "{" + ",".join(f"{key + 1}:{weight}" for key, weight in weights.items()) + f"}}/{dim}"
