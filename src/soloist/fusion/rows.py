"""The arithmetic of rows that the fusion methods share. Pure: vectors in, vectors out.

A row's bits do not depend on where the row stands, so a query that is fused alone equals the same text as a document.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.errors import EncodingError
from soloist.fusion.plan import FusionPlan

Norms = NDArray[np.float64]  # (n, 1)

# Below this the sum of float32 unit vectors is rounding noise, and so would be its direction.
_SMALLEST_SUM = 1e-6


def row_scales(plan: FusionPlan, position: int, part: Vectors, share: float, ids: Sequence[str] | None) -> Vectors:
    """The factor of each row of a model's kept components, (n, 1): its share, over the row's norm where it was cut.

    Raises:
        EncodingError: the kept components of a row are all 0, or not finite.
    """
    if part.shape[1] == plan.member_dims[position]:
        return np.full((len(part), 1), share, np.float32)
    norms = _norms(part)
    where = f"the first {part.shape[1]} dims of {plan.models[position]}"
    _require_above(norms, 0.0, ids, f"is 0 or not finite in {where}: choose a larger dim")
    return (share / norms).astype(np.float32)


def normalised_sum(total: Vectors, ids: Sequence[str] | None) -> Vectors:
    """The sum of the models' vectors, normalised in place.

    Raises:
        EncodingError: the models cancel each other out in a row.
    """
    norms = _norms(total)
    _require_above(norms, _SMALLEST_SUM, ids, "has a mean of 0 because its models cancel each other out: choose concat")
    total /= norms.astype(np.float32)
    return total


def _norms(rows: Vectors) -> Norms:
    """The norms of the rows, from squares in float64: those of float32 can underflow.

    np.einsum would convert in blocks that cross rows, and an array in Fortran order would be summed in another order.
    """
    squares = np.square(rows, dtype=np.float64, order="C")
    norms: Norms = np.sqrt(squares.sum(axis=1, keepdims=True))
    return norms


def _require_above(norms: Norms, floor: float, ids: Sequence[str] | None, fault: str) -> None:
    good = (norms > floor) & np.isfinite(norms)
    if not good.all():
        row = int(np.argmin(good))
        name = f" ({ids[row]})" if ids is not None else ""
        raise EncodingError(f"row {row}{name} {fault}")
