"""What devices make of the rows of a shard: dense vectors in one array, or sparse rows without their zeros.

A device gives a number for each dimension either way. A sparse vector has one for each of some 30,000 or 250,000 words,
of which a few hundred are not zero. So batches of sparse vectors lose their zeros at once. Knows arrays, no devices.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.encoding.forward import unit_rows, unusable_rows
from soloist.errors import EncodingError
from soloist.models.loading import StagedModel
from soloist.ragged import RaggedRows

MemberRows = Vectors | RaggedRows
# For these numbers of all workers together: 8,795 tokens with 30,522 words, 1,073 with 250,002.
_HOST_BYTES = 1 << 31
# What a network of bge-m3's width holds of a token at its widest: 4,096 float32.
_TOKEN_BYTES = 16_384


class FoundRows(Protocol):
    """Takes the rows of a shard batch by batch. Several workers may put different rows at once."""

    def put(self, rows: Sequence[int], computed: Vectors) -> None:
        """Take (rows, dim) float32 as a device computed them."""

    def unusable(self) -> list[int]:
        """The rows that have NaN or infinity or, of dense vectors, only zeros."""

    def finished(self, recomputed_rows: Sequence[int], recomputed: Vectors | None, member: int = 0) -> MemberRows:
        """All rows of one member as a run keeps them; those that were computed once more, (rows, dim), in their places.

        `member` counts the members whose numbers a row has beside each other.
        """


class DenseRows:
    """Dense vectors, (rows, dim), which become unit vectors."""

    def __init__(self, rows: int, dim: int) -> None:
        self._vectors = np.zeros((rows, dim), dtype=np.float32)

    def put(self, rows: Sequence[int], computed: Vectors) -> None:
        """See `FoundRows`."""
        self._vectors[list(rows)] = computed

    def unusable(self) -> list[int]:
        """See `FoundRows`."""
        return unusable_rows(self._vectors)

    def finished(self, recomputed_rows: Sequence[int], recomputed: Vectors | None, member: int = 0) -> Vectors:
        """Vectors of length 1. This takes a while, but the devices need not wait for it."""
        vectors, _ = unit_rows(self._vectors)
        if recomputed is not None:
            vectors[list(recomputed_rows)] = unit_rows(recomputed)[0]
        return vectors


class SparseRows:
    """Sparse vectors, as the model gives them. A row without an entry is a text that has a weight for no word.

    `most` is how many words of a text keep their weight; None for all.
    """

    def __init__(self, rows: int, most: int | None, model: str) -> None:
        self._rows = rows
        self._parts: list[tuple[Sequence[int], RaggedRows]] = []
        self._bad: set[int] = set()
        self._most = most
        self._model = model

    def put(self, rows: Sequence[int], computed: Vectors) -> None:
        """See `FoundRows`.

        Raises:
            EncodingError: a weight is below zero.
        """
        self._bad.update(rows[bad] for bad in _not_finite(computed))
        self._parts.append((rows, sparse_rows(computed, self._most, self._model)))

    def unusable(self) -> list[int]:
        """See `FoundRows`."""
        return sorted(self._bad)

    def finished(self, recomputed_rows: Sequence[int], recomputed: Vectors | None, member: int = 0) -> RaggedRows:
        """The rows in their order."""
        if recomputed is not None:
            self.put(recomputed_rows, recomputed)
        places, taken = np.zeros(self._rows, np.int64), 1  # the first of all parts is a row without an entry
        for rows, part in self._parts:  # of a row that was computed twice the last counts
            places[list(rows)] = np.arange(taken, taken + len(part))
            taken += len(part)
        none = RaggedRows.empty(1, np.float32)
        return RaggedRows.joined([none, *(part for _, part in self._parts)]).take(places)


class ScoreRows:
    """Scores of pairs, (rows, 1). Who asked for them looks whether they are finite: no score is computed once more."""

    def __init__(self, rows: int) -> None:
        self._scores = np.zeros((rows, 1), dtype=np.float32)

    def put(self, rows: Sequence[int], computed: Vectors) -> None:
        """See `FoundRows`."""
        self._scores[list(rows)] = computed

    def unusable(self) -> list[int]:
        """See `FoundRows`."""
        return []

    def finished(self, recomputed_rows: Sequence[int], recomputed: Vectors | None, member: int = 0) -> Vectors:
        """The scores as the network gave them, (rows, 1)."""
        return self._scores


class RowsBeside:
    """The rows of members whose numbers stand beside each other. `widths` are theirs."""

    def __init__(self, members: Sequence[FoundRows], widths: Sequence[int]) -> None:
        self._members = members
        self._columns = columns_of(widths)

    def put(self, rows: Sequence[int], computed: Vectors) -> None:
        """See `FoundRows`."""
        for found, columns in zip(self._members, self._columns, strict=True):
            found.put(rows, computed[:, columns])

    def unusable(self) -> list[int]:
        """The rows that are unusable for at least one member."""
        return sorted({row for found in self._members for row in found.unusable()})

    def finished(self, recomputed_rows: Sequence[int], recomputed: Vectors | None, member: int = 0) -> MemberRows:
        """See `FoundRows`."""
        own = recomputed[:, self._columns[member]] if recomputed is not None else None
        return self._members[member].finished(recomputed_rows, own)


def columns_of(widths: Sequence[int]) -> list[slice]:
    """Where the numbers of each member are in a row that has them beside each other."""
    ends = list(itertools.accumulate(widths))
    return [slice(end - width, end) for width, end in zip(widths, ends, strict=True)]


def found_rows_of(staged: StagedModel, rows: int) -> FoundRows:
    """A place for so many rows by a model."""
    if staged.kind == "score":
        return ScoreRows(rows)
    if staged.members:
        widths = [member.dim for member in staged.members]
        return RowsBeside([found_rows_of(member, rows) for member in staged.members], widths)
    if staged.kind == "sparse":
        return SparseRows(rows, staged.most_active, staged.spec.name)
    return DenseRows(rows, staged.dim)


def bad_rows_of(staged: StagedModel, vectors: Vectors) -> list[int]:
    """The rows of (rows, dim) float32 that a model's devices should compute once more."""
    if staged.kind == "score":
        return []
    if staged.members:
        columns = columns_of([member.dim for member in staged.members])
        parts = zip(staged.members, columns, strict=True)
        return sorted({row for member, own in parts for row in bad_rows_of(member, vectors[:, own])})
    return _not_finite(vectors) if staged.kind == "sparse" else unusable_rows(vectors)


def tokens_of_words(words: int) -> int:
    """The tokens that a host computes together by a sparse model with so many words, at least one.

    SpladePooling holds two numbers for each token and each word: the network's and its own.
    """
    return max(1, _HOST_BYTES // (2 * words * np.dtype(np.float32).itemsize))


def tokens_of_a_row(staged: StagedModel) -> int:
    """How many tokens of a network take the memory of a row's numbers, where there is one for each word; else 0.

    A row has them twice on a host: as a device computes them, and as they are looked through.
    """
    if staged.spec.head == "dense":
        return 0
    return 2 * staged.dim * np.dtype(np.float32).itemsize // _TOKEN_BYTES


def sparse_rows(vectors: Vectors, most: int | None, model: str) -> RaggedRows:
    """The numbers of (rows, dim) float32 that are above zero. Rows with NaN or infinity are left empty.

    Of equal weights the words that come first stay, where not all do.

    Raises:
        EncodingError: a weight is below zero: no index of words can have it.
    """
    finite = vectors if np.isfinite(vectors.sum(dtype=np.float64)) else _without(vectors, _not_finite(vectors))
    rows, keys = np.nonzero(finite)
    values = finite[rows, keys]
    if values.size and values.min() < 0:
        raise EncodingError(f"{model} gives a word a weight below zero, which no index of words has: leave it out")
    lengths = np.bincount(rows, minlength=len(vectors))
    if most is not None and lengths.max(initial=0) > most:
        kept = _largest(rows, keys, values, most)
        rows, keys, values = rows[kept], keys[kept], values[kept]
        lengths = np.minimum(lengths, most)
    return RaggedRows.of(lengths, keys.astype(np.uint32), values)


def _largest(
    rows: NDArray[np.int64], keys: NDArray[np.int64], values: NDArray[np.float32], most: int
) -> NDArray[np.int64]:
    """The entries that are among the largest of their row, in their order."""
    order = np.lexsort((keys, -values, rows))
    firsts = np.searchsorted(rows, rows)  # the rows are ascending, and so the order keeps them together
    ranks = np.arange(len(rows)) - firsts
    return np.sort(order[ranks < most])


def _not_finite(vectors: Vectors) -> list[int]:
    return np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()


def _without(vectors: Vectors, rows: Sequence[int]) -> Vectors:
    cleared = vectors.copy()
    cleared[list(rows)] = 0
    return cleared
