"""What an export did, and the check at its end. Values, and one comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from soloist.arrays import Vectors
from soloist.errors import ExportError
from soloist.exports.rows import Source

# Vectors come back as the float32 that they were; where a store normalises, both sides are held as it has them.
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """Of the run's rows, how many were written and how many were there unchanged; rows of chunks that are gone, which
    were deleted; and of how many rows the vectors were read back and compared. `vectors` says where those of each name
    are: in which column, file, or value of a row.
    """

    target: str
    rows: int
    written: int
    unchanged: int
    deleted: int
    compared: int
    vectors: Mapping[str, str]
    notes: tuple[str, ...] = ()


Reader = Callable[[Sequence[str]], Mapping[str, Mapping[str, Vectors]]]


def compare(source: Source, target: str, count: int, read: Reader, *, normalises: bool = False) -> int:
    """Hold what a target has against the run: the number of rows, and the vectors of a sample; how many those were.

    `read` gives the vectors by key and name, divided by their norms where the target `normalises`: those of a float16
    run are of norm 1 to some 4 digits.

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
        for row, key in enumerate(rows.keys):
            for name, vectors in rows.vectors.items():
                there = found.get(key, {}).get(name)
                if there is None or not _are_near(there, vectors[row], normalises):
                    raise ExportError(
                        f"{target} has another {name} vector of chunk {rows.chunks[row].id!r} than was written: "
                        "export again; if this happens again, empty the target first"
                    )
    return sum(map(len, sample))


def _are_near(there: Vectors, written: Vectors, normalises: bool) -> bool:
    if there.shape != written.shape:
        return False
    one, other = there.astype(np.float64), written.astype(np.float64)
    if normalises:
        one, other = _normalised(one), _normalised(other)
    return bool(np.abs(one - other).max() <= _TOLERANCE)


def _normalised(vector: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return vector / (np.linalg.norm(vector) or 1.0)
