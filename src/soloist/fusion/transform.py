"""The fusion itself. Pure: a plan and the models' vectors in, fused vectors out; documents and queries alike.

concat scales each model's unit vector by the square root of its weight and puts them side by side, so
that the dot product of two fused vectors is the weighted sum of the models' cosines. mean
adds the weighted unit vectors of one common dim, and normalises the sum. A vector that is cut is
normalised again before either. projection and aligned-mean add up a product of each model's vectors with a matrix of
its own (see `fitting`), and normalise the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from soloist.arrays import Vectors
from soloist.errors import EncodingError, FusionError
from soloist.fusion.fitting import Fitted
from soloist.fusion.plan import FusionPlan

Norms = np.ndarray[Any, np.dtype[np.float64]]

# Below this the sum of float32 unit vectors is rounding noise, and so would be its direction.
_SMALLEST_SUM = 1e-6


def fuse(
    plan: FusionPlan, vectors: Sequence[Vectors], ids: Sequence[str] | None = None, fitted: Fitted | None = None
) -> Vectors:
    """Fuse the models' vectors row by row.

    Args:
        plan: what `plan_fusion` gave.
        vectors: one (n, member dim) array of unit rows a model, in the order of `plan.models`.
        ids: the rows' names, for messages only.
        fitted: the matrices of a plan that `needs_fit`.

    Returns:
        (n, plan.dim) float32 unit rows, C-contiguous, in memory of their own.

    Raises:
        FusionError: arrays that do not fit the plan.
        EncodingError: a row whose kept components are all 0, or whose models cancel each other out in the mean.
    """
    rows = _require_fit(plan, vectors)
    fused = np.zeros((rows, plan.dim), np.float32)
    if plan.needs_fit:
        for matrix, part in zip(_matrices(plan, fitted), vectors, strict=True):
            if len(matrix):
                fused += part @ matrix
        return _normalised_sum(fused, ids)
    start = 0
    for position, kept_dim in enumerate(plan.kept_dims):
        if kept_dim == 0:
            continue
        part = vectors[position][:, :kept_dim]
        scale = _scale(plan, position, part, ids)
        if plan.method == "concat":
            np.multiply(part, scale, out=fused[:, start : start + kept_dim])
            start += kept_dim
        else:
            fused += part * scale
    return fused if plan.method == "concat" else _normalised_sum(fused, ids)


def _matrices(plan: FusionPlan, fitted: Fitted | None) -> Sequence[Vectors]:
    if fitted is None or [matrix.shape for matrix in fitted.matrices] != [(dim, plan.dim) for dim in plan.kept_dims]:
        raise FusionError(f"a {plan.method} needs the matrices that were fitted for it: fit it first")
    return fitted.matrices


def _scale(plan: FusionPlan, position: int, part: Vectors, ids: Sequence[str] | None) -> Vectors:
    """The factor of each row, (n, 1): the model's share, over the row's norm where the row was cut."""
    weight = plan.weights[position]
    share = math.sqrt(weight) if plan.method == "concat" else weight
    if part.shape[1] == plan.member_dims[position]:
        return np.full((len(part), 1), share, np.float32)
    norms = _norms(part)
    where = f"the first {part.shape[1]} dims of {plan.models[position]}"
    _require_above(norms, 0.0, ids, f"is 0 or not finite in {where}: choose a larger dim")
    return (share / norms).astype(np.float32)


def _normalised_sum(fused: Vectors, ids: Sequence[str] | None) -> Vectors:
    norms = _norms(fused)
    _require_above(norms, _SMALLEST_SUM, ids, "has a mean of 0, its models cancel each other out: choose concat")
    fused /= norms.astype(np.float32)
    return fused


def _norms(rows: Vectors) -> Norms:
    """The norms of the rows, (n, 1), from squares in float64: those of float32 can underflow.

    A row's norm has the same bits wherever the row stands. np.einsum would convert in blocks that cross
    rows, and an array in Fortran order would be summed in another order.
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


def _require_fit(plan: FusionPlan, vectors: Sequence[Vectors]) -> int:
    """The number of rows, the same in every array."""
    if len(vectors) != len(plan.models):
        raise FusionError(f"{len(vectors)} arrays of vectors for {len(plan.models)} models: give one a model")
    for model, dim, array in zip(plan.models, plan.member_dims, vectors, strict=True):
        if array.shape != (len(vectors[0]), dim):
            raise FusionError(
                f"the vectors of {model} have the shape {array.shape}, not {(len(vectors[0]), dim)}: "
                "give the vectors of the models that the plan was made for"
            )
    return len(vectors[0])
