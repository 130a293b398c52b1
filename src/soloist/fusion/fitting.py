"""The fit of a fusion that has matrices. Pure: a plan and samples of the models' vectors in, matrices out.

What is kept of a sample are sums of products in float64, so its size is not a matter of memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from soloist.arrays import Vectors
from soloist.fusion.plan import FusionPlan
from soloist.fusion.rule import FittedRule, rule_of

FIT_ROWS = 20_000  # rows of a run that a fit looks at


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A matrix for each model of a plan, (kept dim, fused dim) float32, its weight included."""

    matrices: tuple[Vectors, ...]


def require_rows(plan: FusionPlan, rows: int) -> None:
    """Refuse to fit a plan to fewer rows than its method needs.

    Raises:
        FusionError: there are fewer.
    """
    _rule(plan).require_rows(plan, rows)


def sampled(blocks: Iterable[Sequence[Vectors]], rows: int, most: int = FIT_ROWS) -> Iterator[Sequence[Vectors]]:
    """At most `most` of all rows, evenly spread: every n-th of blocks that have `rows` together."""
    step = max(1, -(-rows // most))
    first = 0
    for block in blocks:
        chosen = slice(-first % step, None, step)
        yield [part[chosen] for part in block]
        first += len(block[0])


class Fitting:
    """Takes samples of the vectors, and gives the matrices of a plan that `needs_fit`."""

    def __init__(self, plan: FusionPlan) -> None:
        self._plan = plan
        self._rows = 0
        width = sum(plan.kept_dims)
        self._products = np.zeros((width, width))

    def see(self, vectors: Sequence[Vectors]) -> None:
        """Add rows: one (n, member dim) array of unit rows for each model, in the order of the plan's models."""
        parts = [part for part, kept in zip(vectors, self._plan.kept_dims, strict=True) if kept]
        side_by_side = np.concatenate(parts, axis=1, dtype=np.float64)
        self._products += side_by_side.T @ side_by_side
        self._rows += len(side_by_side)

    def fitted(self) -> Fitted:
        """The matrices.

        Raises:
            FusionError: fewer rows were seen than the method needs.
        """
        require_rows(self._plan, self._rows)
        return Fitted(matrices=_rule(self._plan).fit(self._plan, self._products))


def _rule(plan: FusionPlan) -> FittedRule:
    rule = rule_of(plan.method)
    assert isinstance(rule, FittedRule), f"{plan.method} has no fit"
    return rule
