"""What an export did, and the check at its end. Values, and one comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from soloist.arrays import Vectors
from soloist.errors import ExportError
from soloist.exports.members import Entries, entries_of
from soloist.exports.rows import Rows, Source

# Vectors come back as the float32 that they were; where a store normalises, both sides are held as it has them.
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """Of the run's rows, how many were written and how many were there unchanged; rows of chunks that are gone, which
    were deleted; and of how many rows the vectors were read back and compared. `vectors` says where those of each name
    are: in which column, file, or value of a row. `files` has the bytes of each file of an export without rows.
    """

    target: str
    rows: int
    written: int
    unchanged: int
    deleted: int
    compared: int
    vectors: Mapping[str, str]
    notes: tuple[str, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)


Found = Mapping[str, Mapping[str, Vectors | Entries]]  # by key and name
Reader = Callable[[Sequence[str]], Found]
Keeper = Callable[[str, Rows], Sequence[Entries] | None]


def as_they_are(name: str, rows: Rows) -> Sequence[Entries] | None:
    """The entries of a member's rows, for a target that keeps them as the run has them."""
    return entries_of(rows.ragged[name])


def compare(
    source: Source,
    target: str,
    count: int,
    read: Reader,
    *,
    normalises: bool = False,
    kept: Keeper = as_they_are,
) -> int:
    """Hold what a target has against the run: the number of rows, and the vectors of a sample; how many those were.

    `read` gives the vectors by key and name, divided by their norms where the target `normalises`: those of a float16
    run are of norm 1 to some 4 digits. Of sparse vectors and words it gives entries, and `kept` says what these should
    be; None where the target keeps none of its own, such as an index over its texts.

    Raises:
        ExportError: it differs.
    """
    if count != source.rows:
        raise ExportError(
            f"{target} has {count} rows of these collections, and the run has {source.rows}: export again; if this "
            "happens again, empty the target first"
        )
    sample = list(source.sample())
    found = read([key for rows in sample for key in rows.keys])
    for rows in sample:
        entries = {name: wanted for name in rows.ragged if (wanted := kept(name, rows)) is not None}
        for row, key in enumerate(rows.keys):
            there = found.get(key, {})
            wrong = [name for name, every in rows.vectors.items() if not _is(there.get(name), every[row], normalises)]
            wrong += [name for name, every in entries.items() if not _has(there.get(name), every[row])]
            if wrong:
                raise ExportError(
                    f"{target} has another {wrong[0]} vector of chunk {rows.chunks[row].id!r} than was written: "
                    "export again; if this happens again, empty the target first"
                )
    return sum(map(len, sample))


def _has(there: Vectors | Entries | None, written: Entries) -> bool:
    """Whether the entries are the same, each to float32."""
    if not isinstance(there, Mapping) or there.keys() != written.keys():
        return False
    return all(abs(there[key] - value) <= _TOLERANCE * max(1.0, abs(value)) for key, value in written.items())


def _is(there: Vectors | Entries | None, written: Vectors, normalises: bool) -> bool:
    if not isinstance(there, np.ndarray) or there.shape != written.shape:
        return False
    one, other = there.astype(np.float64), written.astype(np.float64)
    if normalises:
        one, other = _normalised(one), _normalised(other)
    return bool(np.abs(one - other).max() <= _TOLERANCE)


def _normalised(vector: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return vector / (np.linalg.norm(vector) or 1.0)
