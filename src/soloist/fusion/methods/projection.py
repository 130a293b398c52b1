"""projection: the concatenation of the models' vectors, scaled as concat scales them, on its leading singular vectors.

They keep the dot products of the sample as well as any linear map to that many dims can (Eckart and Young). Nothing is
centred: documents and queries are compared by dot products, which taking away a mean would change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.errors import FusionError
from soloist.fusion.plan import FusionPlan, Member
from soloist.fusion.rule import Dims, FittedRule, Products
from soloist.wording import count_text


def _settle(dim: int | None, used: Sequence[Member]) -> Dims:
    """All components, projected to the dim asked for or the narrowest model's."""
    width = sum(member.dim for member in used)
    fused = min(member.dim for member in used) if dim is None else dim
    if fused > width:
        raise FusionError(
            f"dim is {fused} but the models have only {width} dims together: choose a dim of {width} or less, or leave "
            "dim out"
        )
    return Dims(kept=None, fused=fused)


def _require_rows(plan: FusionPlan, rows: int) -> None:
    if rows < plan.dim:
        raise FusionError(
            f"a projection to {plan.dim} dims cannot be fitted to {count_text(rows, 'chunk')}: choose a dim of {rows} "
            "or less, or choose concat"
        )


def _fit(plan: FusionPlan, products: Products) -> tuple[Vectors, ...]:
    weights = zip(plan.weights, plan.kept_dims, strict=True)
    shares = np.concatenate([np.full(kept, math.sqrt(weight)) for weight, kept in weights])
    _, axes = np.linalg.eigh(products * np.outer(shares, shares))
    leading = _with_signs(axes[:, ::-1][:, : plan.dim]) * shares[:, None]
    return tuple(leading[columns].astype(np.float32) for columns in plan.all_columns())


def _with_signs(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axes whose largest component is positive: a singular vector may come with either sign."""
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    return axes * np.where(largest < 0, -1.0, 1.0)


RULE = FittedRule(settle=_settle, fit=_fit, require_rows=_require_rows)
