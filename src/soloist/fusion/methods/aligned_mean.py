"""aligned-mean: each further model's vectors rotated onto the first model's, then the weighted mean.

The matrix of a further model is orthogonal and brings its vectors as near to the first model's as a rotation can (the
orthogonal Procrustes problem, Schoenemann 1966), so the mean is one of like with like.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from soloist.arrays import Vectors
from soloist.errors import FusionError
from soloist.fusion.plan import FusionPlan, Member
from soloist.fusion.rule import Dims, FittedRule, Products


def _settle(dim: int | None, used: Sequence[Member]) -> Dims:
    """All components, rotated into the first model's space."""
    first = used[0]
    if dim is not None:
        raise FusionError(
            f"dim is {dim}, but an aligned mean has the {first.dim} dims of {first.name}: leave dim out, or choose "
            "projection"
        )
    return Dims(kept=None, fused=first.dim)


def _fit(plan: FusionPlan, products: Products) -> tuple[Vectors, ...]:
    first = next(columns for _, columns in plan.columns())
    matrices: list[Vectors] = []
    for columns, weight, kept in zip(plan.all_columns(), plan.weights, plan.kept_dims, strict=True):
        if columns == first or not kept:
            rotation = np.eye(kept, plan.dim)
        else:
            left, _, right = np.linalg.svd(products[columns, first], full_matrices=False)
            rotation = left @ right
        matrices.append((weight * rotation).astype(np.float32))
    return tuple(matrices)


RULE = FittedRule(settle=_settle, fit=_fit)
