"""How often a word is in a text, as BM25 counts it: less with each time, and less in long texts. Pure arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

K1, B = 1.5, 0.75  # bm25s's own, and those of most comparisons


def length_parts(lengths: NDArray[Any], average: float) -> NDArray[np.float64]:
    """What the length of each text, in words, adds to the denominator; a text has `average` words on average."""
    return K1 * (1 - B + B * lengths.astype(np.float64) / (average or 1.0))


def saturated(counts: NDArray[Any], length_parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts of words, each with the part of its text's length: between 0 and 1."""
    wide = counts.astype(np.float64)
    found: NDArray[np.float64] = wide / (wide + length_parts)
    return found
