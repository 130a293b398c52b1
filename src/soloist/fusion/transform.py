"""The fusion itself. Pure: a plan and the models' vectors in, fused vectors out; documents and queries alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from soloist.arrays import Vectors
from soloist.errors import FusionError
from soloist.fusion.fitting import Fitted
from soloist.fusion.plan import FusionPlan
from soloist.fusion.rows import normalised_sum
from soloist.fusion.rule import FixedRule, rule_of
from soloist.wording import count_text


def fuse(
    plan: FusionPlan, vectors: Sequence[Vectors], ids: Sequence[str] | None = None, fitted: Fitted | None = None
) -> Vectors:
    """Fuse the models' vectors row by row.

    Args:
        plan: what `plan_fusion` gave.
        vectors: one (n, member dim) array of unit rows for each model, in the order of `plan.models`.
        ids: the rows' names, for messages only.
        fitted: the matrices of a plan that `needs_fit`.

    Returns:
        (n, plan.dim) float32 unit rows, C-contiguous, in memory of their own.

    Raises:
        FusionError: arrays that do not fit the plan.
        EncodingError: a row whose kept components are all 0, or whose models cancel each other out in the mean.
    """
    _require_arrays(plan, vectors)
    rule = rule_of(plan.method)
    if isinstance(rule, FixedRule):
        return rule.fuse(plan, vectors, ids)
    total = np.zeros((len(vectors[0]), plan.dim), np.float32)
    for matrix, part in zip(_matrices(plan, fitted), vectors, strict=True):
        if len(matrix):
            total += part @ matrix
    return normalised_sum(total, ids)


def _matrices(plan: FusionPlan, fitted: Fitted | None) -> Sequence[Vectors]:
    if fitted is None or [matrix.shape for matrix in fitted.matrices] != [(dim, plan.dim) for dim in plan.kept_dims]:
        raise FusionError(f"a {plan.method} needs the matrices that were fitted for it: fit the plan first")
    return fitted.matrices


def _require_arrays(plan: FusionPlan, vectors: Sequence[Vectors]) -> None:
    """Refuse arrays that are not one for each model, of its dim, all with the same number of rows."""
    if len(vectors) != len(plan.models):
        raise FusionError(
            f"there are vectors of {count_text(len(vectors), 'model')}, and the plan is for {len(plan.models)}: give "
            "an array for each model of the plan"
        )
    for model, dim, array in zip(plan.models, plan.member_dims, vectors, strict=True):
        if array.shape != (len(vectors[0]), dim):
            raise FusionError(
                f"the vectors of {model} have the shape {array.shape}, not {(len(vectors[0]), dim)}: "
                "give the vectors of the models that the plan was made for"
            )
