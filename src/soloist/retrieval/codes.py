"""8-bit codes of unit vectors, and how far a score by codes can be off. Pure; knows numpy, and numkong where it is.

A row x is kept as s*c: whole numbers c from -127 to 127, and a scale s. A query v is t*d in the same way. Then

    v.x = t*s*(d.c) + (t*d).(x - s*c) + (v - t*d).x

The first term is the score by codes. The others are at most |t*d| * |x - s*c| and |v - t*d| * |x|, by the inequality of
Cauchy and Schwarz. These lengths are measured, so the bound holds whatever the codes are. d.c is a whole number, and
exact.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.arrays import Vectors

BYTES_BESIDE = 8  # of a row: its scale and its error
_HIGHEST = 127
_PIECE_ROWS = 256  # of 640 dims: 0.7 MB of float32, which stays in a core's cache
_LONGEST = 1.01  # a longer row was damaged: whoever reads the vectors themselves says so
_LONGEST_BOUND = 1.02  # what such a length can be, of which float32 has a sum of squares
_TINY = 1e-30  # a scale below this has no float32 inverse that is of use
# The errors are computed in float32. Each component is off by 2^-23 of it at most, and a sum by 2^-24 for each term.
_ROUNDING = 1e-6
_SUM_ROUNDING = 2.0**-23


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Codes:
    """Codes (rows, dim) int8 of rows, the scale of each row, and the most that a row can be away from its codes."""

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    errors: NDArray[np.float32]

    @classmethod
    def of(cls, blocks: Iterable[Vectors], rows: int, dim: int) -> Codes | None:
        """The codes of all rows of the blocks; None where a row has NaN or is longer than a unit vector, or where a
        product of two rows could be beyond 32 bits.
        """
        if dim * _HIGHEST**2 >= 2**31:
            return None
        codes = cls(
            values=np.empty((rows, dim), np.int8), scales=np.empty(rows, np.float32), errors=np.empty(rows, np.float32)
        )
        first = 0
        for block in blocks:
            for start in range(0, len(block), _PIECE_ROWS):
                part = block[start : start + _PIECE_ROWS]
                if not codes._fill(first, part):
                    return None
                first += len(part)
        return codes

    def _fill(self, first: int, part: Vectors) -> bool:
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.sqrt(np.einsum("ij,ij->i", part, part))
        if not (lengths <= _LONGEST).all():
            return False
        here = slice(first, first + len(part))
        scales = np.maximum(part.max(axis=1), -part.min(axis=1)) / np.float32(_HIGHEST)
        scales[scales < _TINY] = 0
        inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
        rest = np.rint(part * inverse[:, None])
        self.values[here] = rest
        rest *= scales[:, None]
        rest -= part
        errors = np.sqrt(np.einsum("ij,ij->i", rest, rest))
        self.scales[here] = scales
        self.errors[here] = errors * np.float32(1 + part.shape[1] * _SUM_ROUNDING) + np.float32(_ROUNDING)
        return True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CodedQuery:
    """A query as codes (1, dim) int8: with their scale, the length of what they stand for, and how far that is off."""

    values: NDArray[np.int8]
    scale: float
    length: float
    error: float

    @classmethod
    def of(cls, query: NDArray[np.float64]) -> CodedQuery:
        """The codes of a query (dim,), which may have any length."""
        scale = float(np.abs(query).max()) / _HIGHEST
        rounded = np.rint(query / scale) if scale > _TINY else np.zeros_like(query)
        return cls(
            values=rounded.astype(np.int8)[None],
            scale=scale,
            length=scale * float(np.linalg.norm(rounded)),
            error=float(np.linalg.norm(query - scale * rounded)),
        )

    def scores(self, codes: Codes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The scores of rows by their codes, and how far each can be from that of the vectors: (rows,) each.

        They hold for scores in float64 too, whose rounding is far below that of float32, which the errors allow for.
        """
        dots = np.empty((1, len(codes.scales)))
        _numkong().cdist(self.values, codes.values, "dot", out=dots)
        scores: NDArray[np.float64] = dots[0]
        scores *= codes.scales
        scores *= self.scale
        reach: NDArray[np.float64] = codes.errors.astype(np.float64)
        reach *= self.length
        reach += self.error * _LONGEST_BOUND
        return scores, reach


@functools.cache
def can_be_scored() -> bool:
    """Whether numkong is here, which multiplies the codes. It is in an extra: it takes 44 MB."""
    try:
        _numkong()
    except ImportError:
        return False
    return True


def _numkong() -> Any:
    return importlib.import_module("numkong")
