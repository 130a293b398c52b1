"""A first look at the codes of all rows, and the vectors of those alone that can be among the best.

An opened run makes the codes while it answers: from its second question on, those of some more rows at each. So a
single question costs what it did, and every later one less. Rows without codes are scored by their vectors. They are
so for good once the codes take `CODES_BYTES`, or a quarter of the memory that is free. Without numkong none has codes.

The answer is that of `exact.search`. Say that the bounds of k rows are all above B. Then a row whose codes say that its
score is below B is not among the k best. All others are scored by their vectors, as `exact` scores them.
Knows the files of vectors through `RunVectors`, and torch for the number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from soloist.retrieval.codes import BYTES_BESIDE, CodedQuery, Codes, can_be_scored
from soloist.retrieval.exact import BLOCK_ROWS, Gathering, WeightedQueries
from soloist.retrieval.rankings import Rankings
from soloist.retrieval.run_vectors import RunVectors

Result = TypeVar("Result")

CODES_BYTES = 1 << 30  # the most that the codes of an opened run take
FEW = 4  # more questions at once are faster in one pass over the vectors, as a product of matrices
_SHARE_OF_FREE = 4
STRETCH_ROWS = 32_768  # of 640 dims: 21 MB of codes, and 15 microseconds of Python for 2 milliseconds of work
_CODED_AT_ONCE = 8  # stretches for which a question makes codes
_MANY = 16  # a stretch has too many candidates if every sixteenth row is one: then it is read in one piece
_FIRST = 2  # times k: the rows that are scored first, for a better bound


class Room:
    """The memory that the codes of an opened run may take."""

    def __init__(self, limit_bytes: int = CODES_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self.used_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Whether there is room for so much more, which is taken then."""
        with self._lock:
            free = psutil.virtual_memory().available + self.used_bytes
            if self.used_bytes + size_bytes > min(self._limit_bytes, free // _SHARE_OF_FREE):
                return False
            self.used_bytes += size_bytes
            return True

    def give_back(self, size_bytes: int) -> None:
        """So much less is taken."""
        with self._lock:
            self.used_bytes -= size_bytes


class CodedVectors:
    """The vectors of a model, or the fused ones, with codes of those stretches of files that have them by now."""

    def __init__(self, vectors: RunVectors, room: Room, *, stretch_rows: int = STRETCH_ROWS) -> None:
        self.vectors = vectors
        self.codes: dict[int, Codes] = {}
        self.stretches = _stretches(vectors.starts, stretch_rows)
        self._room = room
        self._questions = 0
        self._tried = 0  # stretches, in their order
        self._taken_bytes = 0
        self._growing = threading.Lock()

    def prepare(self) -> None:
        """Make codes of some more stretches, if this is not the first question and codes can be scored.

        Raises:
            OutputError: a file is missing or has changed.
        """
        if not can_be_scored() or not self._growing.acquire(blocking=False):  # or another question does
            return
        try:
            self._questions += 1
            if self._questions > 1:
                self._grow()
        finally:
            self._growing.release()

    def _grow(self) -> None:
        chosen: list[int] = []
        for number in range(self._tried, min(len(self.stretches), self._tried + _CODED_AT_ONCE)):
            size_bytes = self.rows(number) * (self.vectors.dim + BYTES_BESIDE)
            if not self._room.take(size_bytes):
                break
            self._taken_bytes += size_bytes
            chosen.append(number)
        made = zip(chosen, _in_threads(self._coded, chosen), strict=True)
        # Another dict: a question in another thread may be at work with the one of before.
        self.codes = self.codes | {number: codes for number, codes in made if codes is not None}
        self._tried += len(chosen)

    def let_go(self) -> None:
        """Give the room back, and make no codes any more."""
        with self._growing:
            self._tried, self.codes = len(self.stretches), {}
            self._room.give_back(self._taken_bytes)
            self._taken_bytes = 0

    def _coded(self, number: int) -> Codes | None:
        return Codes.of(self.vectors.blocks(self.stretches[number]), self.rows(number), self.vectors.dim)

    def first(self, number: int) -> int:
        """The position of the first row of a stretch."""
        return int(self.vectors.starts[self.stretches[number].start])

    def rows(self, number: int) -> int:
        """How many rows a stretch has."""
        return int(self.vectors.starts[self.stretches[number].stop]) - self.first(number)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Candidates:
    """Rows of a stretch that can be among the best, with their scores by codes, and the highest that these can be."""

    stretch: int
    positions: NDArray[np.int64]
    scores: NDArray[np.float64]
    highest: NDArray[np.float64]

    def above(self, bound: float) -> _Candidates:
        """Those whose score can be as high as this."""
        kept = self.highest >= bound
        return _Candidates(
            stretch=self.stretch, positions=self.positions[kept], scores=self.scores[kept], highest=self.highest[kept]
        )


class _Bound:
    """A score that at least `k` rows reach, from the lowest scores that rows can have. Threads share it."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._lowest = np.full(k, -np.inf)
        self._lock = threading.Lock()
        self.value = -np.inf

    def rise(self, lowest: NDArray[np.float64]) -> None:
        """Take the lowest possible scores of rows that were not seen before."""
        better = lowest[lowest > self.value]
        if not len(better):
            return
        with self._lock:
            self._lowest = np.partition(np.concatenate([self._lowest, better]), -self._k)[-self._k :]
            self.value = float(self._lowest.min())


def search(parts: Sequence[CodedVectors], queries: WeightedQueries, k: int) -> Rankings:
    """What `exact.search_all` finds, for a few queries and the vectors of several names.

    Raises:
        DamagedRowError: see `exact.search`.
        OutputError: a file is missing or has changed.
    """
    for part in parts:
        part.prepare()
    return Rankings.joined(_Search(parts, query, k).best() for query in queries.one_by_one())


class _Search:
    """The search for the best rows of one query."""

    def __init__(self, parts: Sequence[CodedVectors], query: WeightedQueries, k: int) -> None:
        self._parts = parts
        self._k = k
        self._gathering = Gathering(query, k)
        scaled = [
            weight * part[0].astype(np.float64) for weight, part in zip(query.weights[0], query.vectors, strict=True)
        ]
        self._codes = [part.codes for part in parts]
        self._coded = [number for number in self._codes[0] if all(number in codes for codes in self._codes)]
        if k * _MANY > parts[0].vectors.starts[-1] or not all(np.isfinite(each).all() for each in scaled):
            self._coded = []
        else:
            self._queries = [CodedQuery.of(each) for each in scaled]

    def best(self) -> Rankings:
        """The `k` best rows."""
        candidates = self._candidates()
        self._see_candidates(candidates)
        looked_at = {each.stretch for each in candidates}
        for number in range(len(self._parts[0].stretches)):
            if number not in looked_at:
                self._see_stretch(number)
        return self._gathering.best()

    def _candidates(self) -> list[_Candidates]:
        """Those of each stretch that has codes, and few candidates."""
        for number in self._coded:
            for part in self._parts:
                part.vectors.require_unchanged(part.stretches[number])
        bound = _Bound(self._k)
        found = _in_threads(lambda number: self._look_at(number, bound), self._coded)
        kept = [candidates.above(bound.value) for candidates in found]
        return [each for each in kept if len(each.positions) * _MANY <= self._parts[0].rows(each.stretch)]

    def _look_at(self, number: int, bound: _Bound) -> _Candidates:
        scores, reach = self._queries[0].scores(self._codes[0][number])
        for query, codes in zip(self._queries[1:], self._codes[1:], strict=True):
            more = query.scores(codes[number])
            scores, reach = scores + more[0], reach + more[1]
        bound.rise(scores - reach)
        first = self._parts[0].first(number)
        every = _Candidates(
            stretch=number, positions=np.arange(first, first + len(scores)), scores=scores, highest=scores + reach
        )
        return every.above(bound.value)

    def _see_candidates(self, candidates: Sequence[_Candidates]) -> None:
        """Score the most promising first: by what they reach, most of the others drop out."""
        if not candidates:
            return
        positions = np.concatenate([each.positions for each in candidates])
        order = np.argsort(-np.concatenate([each.scores for each in candidates]), kind="stable")
        highest = np.concatenate([each.highest for each in candidates])
        first, others = order[: _FIRST * self._k], order[_FIRST * self._k :]
        self._see(positions[first])
        self._see(positions[others[highest[others] >= self._gathering.bounds[0]]])

    def _see(self, positions: NDArray[np.int64]) -> None:
        positions = np.sort(positions)
        for start in range(0, len(positions), BLOCK_ROWS):
            some = positions[start : start + BLOCK_ROWS]
            self._gathering.see([part.vectors.at(some) for part in self._parts], some)

    def _see_stretch(self, number: int) -> None:
        position = self._parts[0].first(number)
        for block in zip(*(part.vectors.blocks(part.stretches[number]) for part in self._parts), strict=True):
            self._gathering.see(block, np.arange(position, position + len(block[0])))
            position += len(block[0])


def _stretches(starts: NDArray[np.int64], rows: int) -> list[slice]:
    """Neighbouring files, as few as have so many rows."""
    stretches: list[slice] = []
    begin = 0
    for end in range(1, len(starts)):
        if starts[end] - starts[begin] >= rows or end == len(starts) - 1:
            stretches.append(slice(begin, end))
            begin = end
    return stretches


def _in_threads(call: Callable[[int], Result], numbers: Sequence[int]) -> list[Result]:
    """What a call gives for each number. numpy and numkong let other threads work meanwhile."""
    if not numbers:
        return []
    import torch  # which has computed the questions' vectors; words are searched without it

    threads = min(len(numbers), torch.get_num_threads())
    if threads < 2:
        return [call(number) for number in numbers]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, numbers))
