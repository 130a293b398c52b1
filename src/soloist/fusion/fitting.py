"""The matrices of a fusion that is fitted to vectors. Pure: a plan and samples of the models' vectors in, matrices out.

projection: the concatenation of the models' vectors, scaled as concat scales them, onto its leading right singular
vectors. They keep the dot products of the sample as well as any linear map to that many dims (Eckart and Young).
Nothing is centred: documents and queries are compared by dot products, which a mean that is taken away would change.

aligned-mean: an orthogonal matrix for each further model that brings its vectors as near to the first model's as a
rotation can (the orthogonal Procrustes problem, Schoenemann 1966), so that their mean is one of like with like.

What is kept of a sample are sums of products in float64, so that its size is no matter of memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.errors import FusionError
from soloist.fusion.plan import FusionPlan
from soloist.wording import count_text

FIT_ROWS = 20_000  # rows of a run that a fit looks at


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A matrix for each model of a plan, (kept dim, fused dim) float32, its weight included."""

    matrices: tuple[Vectors, ...]


def require_rows(plan: FusionPlan, rows: int) -> None:
    """Refuse a projection to more dims than there are rows to fit it to.

    Raises:
        FusionError: there are fewer.
    """
    if plan.method == "projection" and rows < plan.dim:
        raise FusionError(
            f"a projection to {plan.dim} dims cannot be fitted to {count_text(rows, 'chunk')}: choose a dim of {rows} "
            "or less, or concat"
        )


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
        """Add rows: one (n, member dim) array of unit rows a model, in the order of the plan's models."""
        parts = [part for part, kept in zip(vectors, self._plan.kept_dims, strict=True) if kept]
        side_by_side = np.concatenate(parts, axis=1, dtype=np.float64)
        self._products += side_by_side.T @ side_by_side
        self._rows += len(side_by_side)

    def fitted(self) -> Fitted:
        """The matrices.

        Raises:
            FusionError: fewer rows were seen than a projection has dims.
        """
        require_rows(self._plan, self._rows)
        return Fitted(matrices=self._projected() if self._plan.method == "projection" else self._aligned())

    def _projected(self) -> tuple[Vectors, ...]:
        weights = zip(self._plan.weights, self._plan.kept_dims, strict=True)
        shares = np.concatenate([np.full(kept, math.sqrt(weight)) for weight, kept in weights])
        _, axes = np.linalg.eigh(self._products * np.outer(shares, shares))
        leading = _with_signs(axes[:, ::-1][:, : self._plan.dim]) * shares[:, None]
        return tuple(leading[part].astype(np.float32) for part in self._parts())

    def _aligned(self) -> tuple[Vectors, ...]:
        parts = self._parts()
        first = next(part for part, kept in zip(parts, self._plan.kept_dims, strict=True) if kept)
        found: list[Vectors] = []
        for part, weight, kept in zip(parts, self._plan.weights, self._plan.kept_dims, strict=True):
            if part == first or not kept:
                turned = np.eye(kept, self._plan.dim)
            else:
                left, _, right = np.linalg.svd(self._products[part, first], full_matrices=False)
                turned = left @ right
            found.append((weight * turned).astype(np.float32))
        return tuple(found)

    def _parts(self) -> list[slice]:
        """Where each model's components lie in the concatenation."""
        ends = np.cumsum(self._plan.kept_dims).tolist()
        return [slice(end - kept, end) for end, kept in zip(ends, self._plan.kept_dims, strict=True)]


def _with_signs(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axes whose largest component is positive: a singular vector may come with either sign."""
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    return axes * np.where(largest < 0, -1.0, 1.0)
