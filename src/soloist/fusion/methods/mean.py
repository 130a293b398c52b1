"""mean: the weighted mean of the models' unit vectors, cut to one length before and normalised afterwards.

The models' spaces have nothing in common, so a mean mixes what a concatenation keeps apart. A plan says so in a notice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from soloist.arrays import Vectors
from soloist.fusion.cuts import require_cut, untrained_cuts
from soloist.fusion.plan import FusionPlan, Member
from soloist.fusion.rows import normalised_sum, row_scales
from soloist.fusion.rule import Dims, FixedRule

_MEASURED = (
    "mean at 256 dims lost to the better single model on all seven retrieval sets measured with MiniLM and WordLlama; "
    "concat beat it on six at weights .7/.3 and on seven at .85/.15"
)


def _settle(dim: int | None, used: Sequence[Member]) -> Dims:
    """One number of components: the dim asked for, or the largest that all models were trained for.

    Where there is none, it is the smallest model's.
    """
    cut = _common_dim(used) if dim is None else dim
    require_cut(cut, used)
    notices = list(untrained_cuts(cut, used))
    if dim is None and notices:
        notices.insert(0, f"the models have no trained dim in common: mean cuts all to the smallest, {cut} dims")
    if len(used) > 1:
        notices.append(_MEASURED)
    return Dims(kept=cut, fused=cut, notices=tuple(notices))


def _common_dim(used: Sequence[Member]) -> int:
    common = frozenset.intersection(*(member.trained_dims for member in used))
    return max(common, default=min(member.dim for member in used))


def _mean(plan: FusionPlan, vectors: Sequence[Vectors], ids: Sequence[str] | None) -> Vectors:
    total = np.zeros((len(vectors[0]), plan.dim), np.float32)
    for position, _ in plan.columns():
        part = vectors[position][:, : plan.kept_dims[position]]
        total += part * row_scales(plan, position, part, plan.weights[position], ids)
    return normalised_sum(total, ids)


RULE = FixedRule(settle=_settle, fuse=_mean)
