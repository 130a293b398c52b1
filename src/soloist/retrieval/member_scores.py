"""What each member of a run says of every row, for one question at a time, and the best rows by a weighted sum of it.

The scores of a member are standardised: their mean over all rows is taken away, and they are divided by their standard
deviation. A member that gives all rows the same score ranks nothing and has no part in the sum.

Dense scores are made in float32 in one pass over the vectors for as many questions as memory takes (`_PASS_BYTES`).
What could be among the best, given how far a float32 product can be off, is scored once more in float64, row by row. So
a ranking is that of the float64 scores, and equal rows are in their order. Each question has products of its own: they
are the same whatever is asked at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.arrays import Vectors
from soloist.retrieval.exact import Block, DamagedRowError
from soloist.retrieval.posted_scores import TermScores, summed

_PASS_BYTES = 128 << 20  # float32 scores that are held at once
_BLOCK_BYTES = 1 << 20  # of vectors that are multiplied at once, which a processor's cache holds
_PAIR_BYTES = 32 << 20  # float64 products that are held at once
_LONGEST = 1.5  # a cosine that no rounding makes of 1: the row was damaged
# Scores of dense members that differ by less are the same: a float32 cosine is off by about as much.
_FLAT = 1e-6
_ROUNDING = 1e-12  # of sums in float64, for each 1 of the largest

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MemberScores:
    """The scores of all rows by one member for one question.

    `quick` is (rows), at most `tolerance` from the exact scores, which `exact` gives of some rows in float64. `terms`
    are the words or dimensions that the scores are sums of; a dense member has none, and is not `posted`.
    """

    quick: NDArray[Any]
    tolerance: float
    exact: Callable[[Rows], NDArray[np.float64]]
    terms: Sequence[TermScores] = ()
    posted: bool = False

    @classmethod
    def of_terms(cls, terms: Sequence[TermScores], rows: int) -> MemberScores:
        """Sums of what terms add, which are exact."""
        scores = summed(terms, rows)
        return cls(quick=scores, tolerance=0.0, exact=lambda some: scores[some], terms=terms, posted=True)

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation over all rows; a deviation of 0 where all rows have the same score."""
        mean, deviation = float(self.quick.mean(dtype=np.float64)), float(self.quick.std(dtype=np.float64))
        # Exact scores may be small. But the mean of equal numbers is rounded: three times .1 deviate from theirs.
        is_flat = bool(self.quick.min() == self.quick.max()) if self.posted else deviation <= _FLAT
        return mean, 0.0 if is_flat else deviation

    def rank(self, row: int) -> int:
        """How many rows are before this one, and one more: higher scores, and equal ones of earlier rows."""
        score = self.exact(np.array([row]))[0]
        higher = int((self.quick > score + self.tolerance).sum())
        close = np.flatnonzero(np.abs(self.quick - score) <= self.tolerance)
        others = self.exact(close)
        return 1 + higher + int(((others > score) | ((others == score) & (close < row))).sum())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuestionScores:
    """The scores of one question by each of its members."""

    members: Mapping[str, MemberScores]

    def best(self, weightings: Sequence[Mapping[str, float]], k: int) -> list[tuple[Rows, NDArray[np.float64]]]:
        """For each weighting the `k` rows with the highest weighted sums of standardised scores, and these sums.

        Where no dense member has a weight, only rows that share a word or a dimension with the question are found.
        """
        moments = {name: member.moments() for name, member in self.members.items()}
        return [self._best(weights, moments, k) for weights in weightings]

    def _best(
        self, weights: Mapping[str, float], moments: Mapping[str, tuple[float, float]], k: int
    ) -> tuple[Rows, NDArray[np.float64]]:
        factors = {name: weight / moments[name][1] for name, weight in weights.items() if weight and moments[name][1]}
        rows = len(next(iter(self.members.values())).quick)
        quick = np.zeros(rows)
        for name, factor in factors.items():
            quick += factor * self.members[name].quick
        margin = 2 * sum(abs(factor) * self.members[name].tolerance for name, factor in factors.items())
        margin += _ROUNDING * (1 + float(np.abs(quick).max()))
        least = np.partition(quick, rows - k)[rows - k]
        likely = np.flatnonzero(quick >= least - margin)
        used = [self.members[name] for name, weight in weights.items() if weight]
        if all(member.posted for member in used):
            likely = likely[np.any([member.quick[likely] > 0 for member in used], axis=0)]
        scores = np.zeros(len(likely))
        for name, factor in factors.items():
            scores += factor * self.members[name].exact(likely)
        order = np.lexsort((likely, -scores))[:k]
        shift = sum(factor * moments[name][0] for name, factor in factors.items())
        return likely[order], scores[order] - shift


def dense_scores(
    vectors: Mapping[str, Vectors],
    rows: int,
    blocks: Callable[[], Iterable[Block]],
    rows_of: Callable[[str, Rows], Vectors],
) -> Iterator[dict[str, MemberScores]]:
    """The scores of each question by each dense member, in as many passes over `blocks()` as memory needs.

    `vectors` has the unit vectors of all questions by each member, (questions, dim) float32. A block has the same rows
    by each of these members; `rows_of` gives the vectors of some rows by one.

    Raises:
        DamagedRowError: a row has NaN or infinity, or is far too long for a unit vector.
    """
    questions = len(next(iter(vectors.values())))
    at_once = max(1, _PASS_BYTES // max(1, 4 * rows * len(vectors)))
    for start in range(0, questions, at_once):
        some = {name: part[start : start + at_once] for name, part in vectors.items()}
        quick = _products(list(some.values()), rows, blocks())
        for number in range(len(quick)):
            yield {
                name: _dense(asked[number], quick[number, member], name, rows_of)
                for member, (name, asked) in enumerate(some.items())
            }


def _dense(
    asked: NDArray[np.float32], quick: NDArray[np.float32], name: str, rows_of: Callable[[str, Rows], Vectors]
) -> MemberScores:
    def exact(rows: Rows) -> NDArray[np.float64]:
        scores = np.zeros(len(rows))
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            # A sum over each row's own products: a matrix product would round by what else is in it.
            scores[some] = (rows_of(name, rows[some]) * wide).sum(axis=1)
        return scores

    wide = asked.astype(np.float64)
    step = max(1, _PAIR_BYTES // wide.nbytes)
    # As `exact.WeightedQueries.tolerance` has it (Higham, section 3.1).
    return MemberScores(quick=quick, tolerance=(len(asked) + 2) * 2.0**-24 * 1.01, exact=exact)


def _products(vectors: Sequence[Vectors], rows: int, blocks: Iterable[Block]) -> NDArray[np.float32]:
    """The cosines of all rows, (questions, members, rows) float32."""
    quick = np.empty((len(vectors[0]), len(vectors), rows), np.float32)
    first = 0
    for block in blocks:
        for member, (asked, part) in enumerate(zip(vectors, block, strict=True)):
            step = max(1, _BLOCK_BYTES // (4 * part.shape[1]))
            for start in range(0, len(part), step):
                _multiply(asked, part[start : start + step], quick[:, member, first + start :], first + start, member)
        first += len(block[0])
    return quick


def _multiply(asked: Vectors, part: Vectors, into: NDArray[np.float32], first: int, member: int) -> None:
    """One product for each question: products of several together are rounded by how many they are."""
    for number, question in enumerate(asked):
        found = into[number, : len(part)]
        with np.errstate(invalid="ignore", over="ignore"):
            np.matmul(part, question, out=found)
        if not np.abs(found).max() <= _LONGEST:  # NaN is not either
            raise DamagedRowError(first + int((~(np.abs(found) <= _LONGEST)).argmax()), member)
