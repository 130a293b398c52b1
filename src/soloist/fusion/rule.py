"""What the module of a fusion method has to say: its `RULE`.

A `FixedRule` follows from the plan alone. A `FittedRule` has a matrix for each model, which is fitted to a sample of
the vectors. `soloist.fusion.plan` settles a plan by it, `fitting` and `transform` follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.fusion_methods import FUSIONS

if TYPE_CHECKING:
    from soloist.fusion.plan import FusionPlan, Member

Products = NDArray[np.float64]  # (width, width), the sums of products of all kept components


@dataclass(frozen=True, slots=True, kw_only=True)
class Dims:
    """The dims of a plan: `kept` components of each model's vector (None: all), `fused` of the fused vector.

    `notices` tell the user what that costs.
    """

    kept: int | None
    fused: int
    notices: tuple[str, ...] = ()


Settle = Callable[[int | None, "Sequence[Member]"], Dims]
"""Settles the dims, given the dim that was asked for (None: none) and the models with a weight above 0, in order.

Raises FusionError for a dim that the method cannot have.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedRule:
    """A method without a fit.

    `fuse` takes a plan, an array (n, member dim) of unit rows for each of its models, and the names of the rows, which
    are for messages only. It returns (n, plan.dim) float32 unit rows in memory of their own.
    """

    settle: Settle
    fuse: Callable[[FusionPlan, Sequence[Vectors], Sequence[str] | None], Vectors]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedRule:
    """A method with a matrix for each model: a fused vector is the normalised sum of the products.

    `fit` takes a plan and the products of a sample. It returns the matrices, (kept dim, plan.dim), weights included.
    `require_rows` refuses a sample of too few rows.
    """

    settle: Settle
    fit: Callable[[FusionPlan, Products], tuple[Vectors, ...]]
    require_rows: Callable[[FusionPlan, int], None] = lambda plan, rows: None


def rule_of(method: str) -> FixedRule | FittedRule:
    """The rule of a method in the table.

    It is imported when it is asked for: help reads the table alone, and a method's module needs the plan above it.
    """
    rule: FixedRule | FittedRule = import_module(FUSIONS[method].module).RULE
    return rule
