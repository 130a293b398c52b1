"""Rows of different lengths: sparse vectors, and the words of texts with their counts. Values: numpy and nothing else.

A row of a sparse vector has the dimensions that are not zero. A row of words has the distinct terms of one text. Both
are keys in ascending order with a value each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RaggedRows:
    """Rows of keys and values, one after the other in memory.

    - `starts` is int64, (rows + 1): row i has the entries from `starts[i]` to `starts[i + 1]`.
    - `keys` is uint32, (entries): ascending inside a row, and no key is twice in a row.
    - `values` is float or unsigned, (entries): every value is above 0.

    `require_sound` checks what the shapes alone do not tell.

    Raises:
        ValueError: the shapes or dtypes are others.
    """

    starts: NDArray[np.int64]
    keys: Keys
    values: NDArray[Any]

    def __post_init__(self) -> None:
        if self.starts.ndim != 1 or self.starts.dtype != np.int64 or not len(self.starts):
            raise ValueError(f"starts are {self.starts.dtype} {self.starts.shape}: give int64, one more than rows")
        if self.keys.ndim != 1 or self.keys.dtype != np.uint32:
            raise ValueError(f"keys are {self.keys.dtype} {self.keys.shape}: give uint32, one an entry")
        if self.values.shape != self.keys.shape:
            raise ValueError(f"{len(self.values)} values for {len(self.keys)} keys: give one value a key")
        if self.starts[0] != 0 or self.starts[-1] != len(self.keys):
            raise ValueError(f"starts run from {self.starts[0]} to {self.starts[-1]}: give 0 to {len(self.keys)}")

    @classmethod
    def of(cls, lengths: Sequence[int] | NDArray[np.int64], keys: Keys, values: NDArray[Any]) -> RaggedRows:
        """The rows that have these numbers of entries."""
        starts = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        return cls(starts=starts, keys=keys, values=values)

    @classmethod
    def empty(cls, rows: int, dtype: Any) -> RaggedRows:
        """So many rows without an entry, whose values would be of this dtype."""
        return cls(starts=np.zeros(rows + 1, np.int64), keys=np.zeros(0, np.uint32), values=np.zeros(0, dtype))

    @classmethod
    def joined(cls, parts: Iterable[RaggedRows]) -> RaggedRows:
        """The rows of all parts, of which there is one or more, in order."""
        given = list(parts)
        return cls.of(
            np.concatenate([part.lengths for part in given]),
            np.concatenate([part.keys for part in given]),
            np.concatenate([part.values for part in given]),
        )

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[tuple[Keys, NDArray[Any]]]:
        """Keys and values of every row, in order."""
        return (self.row(number) for number in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many entries each row has, (rows)."""
        return np.diff(self.starts)

    @property
    def nbytes(self) -> int:
        """What they take in memory."""
        return self.starts.nbytes + self.keys.nbytes + self.values.nbytes

    def row(self, number: int) -> tuple[Keys, NDArray[Any]]:
        """Keys and values of one row, as views."""
        entries = slice(int(self.starts[number]), int(self.starts[number + 1]))
        return self.keys[entries], self.values[entries]

    def take(self, numbers: Sequence[int] | NDArray[np.int64]) -> RaggedRows:
        """The rows with these numbers, in this order."""
        wanted = np.asarray(numbers, np.int64)
        lengths = self.lengths[wanted]
        entries = _ranges(self.starts[:-1][wanted], lengths)
        return RaggedRows.of(lengths, self.keys[entries], self.values[entries])

    def of_length_one(self) -> RaggedRows:
        """The rows scaled to length 1, as float32. A row without an entry, or whose values are all 0, stays so."""
        rows = np.repeat(np.arange(len(self)), self.lengths)
        lengths = np.sqrt(np.bincount(rows, np.square(self.values, dtype=np.float64), minlength=len(self)))
        lengths[lengths == 0] = 1
        scaled = self.values / lengths[rows]
        return RaggedRows(starts=self.starts, keys=self.keys, values=scaled.astype(np.float32))

    def require_sound(self) -> None:
        """Look at every entry.

        Raises:
            ValueError: a row has negative length, keys out of order or twice, or a value that is not above 0 or not
                finite.
        """
        if (self.lengths < 0).any():
            raise ValueError("a row ends before it begins")
        inside = np.ones(len(self.keys), bool)
        inside[self.starts[:-1][self.lengths > 0]] = False  # the first entry of a row has none before it in its row
        if (inside[1:] & (self.keys[1:] <= self.keys[:-1])).any():
            raise ValueError("the keys of a row are not in ascending order, each once")
        if not (self.values > 0).all() or not np.isfinite(self.values).all():  # NaN is not above 0 either
            raise ValueError("a value is not above 0, or is not finite")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TermRows:
    """The words of texts: `rows` has one row a text, whose keys are positions in `vocabulary` and whose values are
    uint32 counts. `vocabulary` has every term once, in the order of their UTF-8 bytes. A text without words has an
    empty row.

    Two texts have the same terms and counts if `terms` says so; the keys of another `TermRows` may differ.

    Raises:
        ValueError: the counts are of another dtype, or a key is outside the vocabulary.
    """

    vocabulary: tuple[str, ...]
    rows: RaggedRows

    def __post_init__(self) -> None:
        if self.rows.values.dtype != np.uint32:
            raise ValueError(f"counts are {self.rows.values.dtype}: give uint32")
        if len(self.rows.keys) and int(self.rows.keys.max()) >= len(self.vocabulary):
            raise ValueError(f"a key is {self.rows.keys.max()} for {len(self.vocabulary)} terms")

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """What they take in memory, more or less: a term of the vocabulary has some 60 bytes."""
        return self.rows.nbytes + 60 * len(self.vocabulary)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many words each text has, repeats counted, (rows)."""
        sums = np.zeros(len(self.rows.keys) + 1, np.int64)
        np.cumsum(self.rows.values, out=sums[1:])
        return np.diff(sums[self.rows.starts])

    def terms(self, number: int) -> list[tuple[str, int]]:
        """The terms of one text, in the order of the vocabulary, and how often each is there."""
        keys, counts = self.rows.row(number)
        return [(self.vocabulary[key], count) for key, count in zip(keys.tolist(), counts.tolist(), strict=True)]

    def take(self, numbers: Sequence[int] | NDArray[np.int64]) -> TermRows:
        """The texts with these numbers, in this order. The vocabulary stays whole."""
        return TermRows(vocabulary=self.vocabulary, rows=self.rows.take(numbers))


def _ranges(firsts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of all entries of some ranges, one range after the other."""
    ends = np.cumsum(lengths)
    inside = np.arange(int(ends[-1]) if len(ends) else 0, dtype=np.int64)
    inside += np.repeat(firsts - (ends - lengths), lengths)
    return inside
