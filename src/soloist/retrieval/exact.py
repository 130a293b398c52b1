"""Exact search: unit query vectors and blocks of unit vectors in, the best rows out. Pure; knows numpy alone.

A score is a weighted sum of cosines, one of each model: of one model alone it is its cosine, and with the weights of a
concatenation it is that of the concatenated vectors. A block is scored in float32, and what could be among the best,
given how far a float32 dot product can be off, once more in float64, row by row. So the ranking is that of the float64
scores whatever the number of queries, the size of a block or the matrix library, and equal vectors are in their order.

Memory is bounded whatever the number of queries. As many go through one pass over the blocks as have scores, candidates
and scaled copies of 128 MiB together, e.g. 2,500 of 640 dims and 100 hits (51 kB a query). The others go through the
next passes. Only the queries' vectors and their hits grow with the number of queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.retrieval.rankings import Rankings

Block = Sequence[Vectors]  # the same rows by each model, (rows, dim of the model) each

BLOCK_ROWS = 4_096  # the most rows of a block

# A float32 dot product of unit vectors is off by at most dim * 2^-24 (Higham, Accuracy and Stability of Numerical
# Algorithms, section 3.1), and rows that we wrote are of norm 1 within 1e-4.
_UNIT_ROUNDOFF = 2.0**-24
_SLACK = 1.01
_PAIR_BYTES = 32 << 20  # float64 products that are held at once while candidates are scored
_PASS_BYTES = 128 << 20  # what one pass over the blocks may hold for its queries
_LONGEST = 1.5  # a norm that no rounding makes of 1: the row was damaged
_PRUNE_AT = 8  # times k: how many candidates a query may gather before the worse ones are dropped


class DamagedRowError(ArithmeticError):
    """A row that is not a unit vector: its position among all rows, and the position of its model."""

    def __init__(self, position: int, model: int) -> None:
        super().__init__(f"row {position} of model {model} is not a unit vector")
        self.position = position
        self.model = model


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightedQueries:
    """Queries as each model sees them, an array (queries, dim) of unit float32 a model, and the models' weights.

    The weights are (queries, models): each query may have its own.
    """

    vectors: Sequence[Vectors]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, vectors: Sequence[Vectors], weights: Sequence[float] = (1.0,)) -> WeightedQueries:
        """Queries that all have the same weights."""
        return cls(vectors=vectors, weights=np.tile(np.asarray(weights, np.float64), (len(vectors[0]), 1)))

    @property
    def tolerance(self) -> NDArray[np.float64]:
        """How far the float32 score of a row can be from its float64 score, for each query."""
        dims = np.array([part.shape[1] + 2 for part in self.vectors])
        tolerance: NDArray[np.float64] = np.abs(self.weights) @ dims * _UNIT_ROUNDOFF * _SLACK
        return tolerance

    def one_by_one(self) -> Iterator[WeightedQueries]:
        """Each query by itself."""
        for row in range(len(self.weights)):
            some = slice(row, row + 1)
            yield WeightedQueries(vectors=[vectors[some] for vectors in self.vectors], weights=self.weights[some])

    def batches(self, k: int) -> Iterator[WeightedQueries]:
        """The queries in parts, one for each pass, if `k` rows are looked for."""
        for part in passes(len(self.weights), sum(part.shape[1] for part in self.vectors), k):
            yield WeightedQueries(vectors=[vectors[part] for vectors in self.vectors], weights=self.weights[part])


def passes(queries: int, dims: int, k: int, *, weightings: int = 1) -> Iterator[slice]:
    """The queries of one pass after the other. `dims` are those of all models; each query has several weightings."""
    bytes_each = BLOCK_ROWS * 8 + _PRUNE_AT * k * 16 + dims * 8
    at_once = max(1, _PASS_BYTES // (bytes_each * weightings))
    for start in range(0, queries, at_once):
        yield slice(start, min(queries, start + at_once))


def search_all(queries: WeightedQueries, blocks: Callable[[], Iterable[Block]], k: int) -> Rankings:
    """As `search`, in as many passes over `blocks()` as the memory for the queries needs."""
    return Rankings.joined([search(part, blocks(), k) for part in queries.batches(k)])


def search(queries: WeightedQueries, blocks: Iterable[Block], k: int) -> Rankings:
    """The `k` best rows of all blocks for each query, or all rows if there are fewer.

    Blocks are read once, one after the other, for all queries together.

    Raises:
        DamagedRowError: a row has NaN or infinity, which would hide other rows, or is far too long for a unit vector.
    """
    gathering = Gathering(queries, k)
    first = 0
    for block in blocks:
        gathering.see(block, np.arange(first, first + len(block[0])))
        first += len(block[0])
    return gathering.best()


class Gathering:
    """What could be among the best of each query so far."""

    def __init__(self, queries: WeightedQueries, k: int) -> None:
        count = len(queries.weights)
        self._queries = queries
        self._k = k
        # The weights go into the queries: one product for each model and block.
        self._scaled = [
            (part * queries.weights[:, model, None]).astype(np.float32) for model, part in enumerate(queries.vectors)
        ]
        self._margin = 2 * queries.tolerance
        self._quick = np.full((count, k), -np.inf, np.float32)  # the best float32 scores so far, in no order
        self._positions: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * count
        self._scores: list[NDArray[np.float64]] = [np.empty(0, np.float64)] * count

    @property
    def bounds(self) -> NDArray[np.float64]:
        """For each query: a row with a lower score than this is not among its best."""
        bounds: NDArray[np.float64] = self._quick.min(axis=1) - self._margin
        return bounds

    def see(self, block: Block, positions: NDArray[np.int64]) -> None:
        """Take what could be among the best of a block, whose rows have these positions and were not seen before.

        Raises:
            DamagedRowError: see `search`.
        """
        if not len(positions):
            return
        with np.errstate(invalid="ignore", over="ignore"):
            quick = _products(self._scaled[0], block[0])
            for scaled, part in zip(self._scaled[1:], block[1:], strict=True):
                quick += _products(scaled, part)
        highest = quick.max(axis=1)
        _require_scores(quick, highest, np.abs(self._queries.weights).sum(axis=1), block, positions)
        for query in np.flatnonzero(highest >= self.bounds):
            self._take(int(query), quick[query], block, positions)

    def _take(self, query: int, quick: NDArray[np.float32], block: Block, positions: NDArray[np.int64]) -> None:
        kept = np.concatenate([self._quick[query], quick])
        self._quick[query] = np.partition(kept, -self._k)[-self._k :]
        rows = np.flatnonzero(quick >= self._quick[query].min() - self._margin[query])
        self._positions[query] = np.concatenate([self._positions[query], positions[rows]])
        self._scores[query] = np.concatenate([self._scores[query], self._exact(query, rows, block)])
        if len(self._positions[query]) > _PRUNE_AT * self._k:
            self._prune(query)

    def _exact(self, query: int, rows: NDArray[np.int64], block: Block) -> NDArray[np.float64]:
        scores = np.zeros(len(rows))
        for weight, vectors, part in zip(self._queries.weights[query], self._queries.vectors, block, strict=True):
            wide = vectors[query].astype(np.float64)
            for some in _pieces(rows, _PAIR_BYTES // (8 * len(wide))):
                # A sum over each row's own products: a matrix product would round by what else is in it.
                scores[some] += weight * (part[rows[some]] * wide).sum(axis=1)
        return scores

    def _prune(self, query: int) -> None:
        order = np.lexsort((self._positions[query], -self._scores[query]))[: self._k]
        self._positions[query] = self._positions[query][order]
        self._scores[query] = self._scores[query][order]

    def best(self) -> Rankings:
        """The best rows of all that were seen."""
        for query in range(len(self._positions)):
            self._prune(query)
        return Rankings(positions=self._positions, scores=self._scores)


def moments(queries: WeightedQueries, blocks: Iterable[Block]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each model's scores over all rows, without the weights: (queries, models)."""
    shape = queries.weights.shape
    count, total, squares = 0, np.zeros(shape), np.zeros(shape)
    for block in blocks:
        for model, (asked, part) in enumerate(zip(queries.vectors, block, strict=True)):
            if not len(part):
                continue
            with np.errstate(invalid="ignore", over="ignore"):
                quick = asked @ part.T
            farthest = np.maximum(quick.max(axis=1), -quick.min(axis=1))
            _require_scores(quick, farthest, np.ones(len(quick)), block, np.arange(count, count + len(part)))
            scores = quick.astype(np.float64)
            total[:, model] += scores.sum(axis=1)
            squares[:, model] += np.square(scores).sum(axis=1)
        count += len(block[0])
    mean = total / max(1, count)
    return mean, np.sqrt(np.maximum(0.0, squares / max(1, count) - np.square(mean)))


def _products(queries: Vectors, rows: Vectors) -> Vectors:
    """The dot products (queries, rows). For one query, OpenBLAS takes twice as long for the first form."""
    return queries @ rows.T if len(queries) > 1 else (rows @ queries[0])[None]


def _pieces(rows: NDArray[np.int64], size: int) -> Iterator[slice]:
    for start in range(0, len(rows), max(1, size)):
        yield slice(start, start + max(1, size))


def _require_scores(
    quick: Vectors, extremes: Vectors, weights: NDArray[np.float64], block: Block, positions: NDArray[np.int64]
) -> None:
    """Refuse scores (queries, rows) that no unit rows have, given an extreme of each query's and its weights' sum.

    NaN and infinity show in every product, and so in those of the first query. A row that is too long may be at right
    angles to it, and shows where another query would find it.
    """
    good = (np.abs(quick[:1]) <= _LONGEST * weights[:1, None]).all(axis=0)
    beyond = np.flatnonzero(~(extremes <= _LONGEST * weights))
    if good.all() and not len(beyond):
        return
    row = int(np.abs(quick[beyond[0]]).argmax()) if good.all() else int(good.argmin())
    with np.errstate(over="ignore"):
        norms = [float(np.linalg.norm(part[row])) for part in block]
    model = next((place for place, norm in enumerate(norms) if not norm <= _LONGEST), 0)
    raise DamagedRowError(int(positions[row]), model)
