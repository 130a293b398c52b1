"""What every ranker gives: for each query its best rows and their scores. Values; knows nothing of vectors or texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rankings:
    """The best rows of each query, best first: their positions among all rows, and their scores, an array a query.

    A query may have fewer rows than were asked for, or none.
    """

    positions: Sequence[NDArray[np.int64]]
    scores: Sequence[NDArray[np.float64]]

    @classmethod
    def joined(cls, parts: Iterable[Rankings]) -> Rankings:
        """Those of some queries, then those of others."""
        parts = list(parts)
        return cls(
            positions=[positions for part in parts for positions in part.positions],
            scores=[scores for part in parts for scores in part.scores],
        )
