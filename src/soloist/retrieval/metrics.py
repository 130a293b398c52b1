"""How good rankings are, by ir-measures (trec_eval's figures), and how sure a difference is. Knows ids and grades."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.broken_imports import load_optional

DEPTH = 100
MEASURES = ("nDCG@10", "R@100", "RR@10")
MAIN = "nDCG@10"
RESAMPLES = 10_000
FEWEST = 20  # different questions: of two or three, a resample is often one of them drawn again and again
_SCORED_AT_ONCE = 1_000  # questions: trec_eval's view of each takes about 13 kB
_RESAMPLED_BYTES = 32 << 20  # of the questions that are drawn, whatever their number
_CONFIDENCE = 0.95
_SAME = 1e-9  # sums that differ by less, in proportion, are of the same numbers in another order

Grades = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """The value of each measure for each question: an array (questions,) by the name of the measure."""

    of_query: Mapping[str, NDArray[np.float64]]

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """Those of some questions, then those of others."""
        return cls(of_query={name: np.concatenate([part.of_query[name] for part in parts]) for name in MEASURES})

    def mean(self, measure: str = MAIN) -> float:
        """Over all questions."""
        return float(self.of_query[measure].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A mean difference over the same questions, the 95% interval of its bootstrap, and how often chance makes as much
    of it; None of fewer than `FEWEST` questions.
    """

    mean: float
    low: float | None
    high: float | None
    p_value: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval, or None without one."""
        return (self.low, self.high) if self.low is not None and self.high is not None else None

    @property
    def is_shown(self) -> bool:
        """Whether the difference is more than chance makes: the interval says so, and the test.

        Where few questions differ, nearly every resample has one of them, and the interval alone is too sure.
        """
        if self.interval is None or self.p_value is None:
            return False
        return (self.interval[0] > 0 or self.interval[1] < 0) and self.p_value < 1 - _CONFIDENCE


def require_measures() -> Any:
    """The library that computes the measures.

    Raises:
        ConfigError: ir-measures is not installed, or cannot be loaded.
    """
    return load_optional("ir_measures", what="an evaluation", package="ir-measures", extra="eval")


def score(rankings: Sequence[Sequence[str]], queries: Sequence[str], judgements: Grades) -> Scores:
    """The measures of rankings of chunk ids, best first, one a question; a question may find nothing."""
    ir_measures = require_measures()
    measures = [ir_measures.parse_measure(measure) for measure in MEASURES]
    values = {name: np.zeros(len(queries)) for name in MEASURES}
    for start in range(0, len(queries), _SCORED_AT_ONCE):
        some = slice(start, start + _SCORED_AT_ONCE)
        wanted, runs = _numbered(rankings[some], queries[some], judgements)
        for metric in ir_measures.iter_calc(measures, wanted, runs):
            values[str(metric.measure)][start + int(metric.query_id)] = metric.value
    return Scores(of_query=values)


def _numbered(
    rankings: Sequence[Sequence[str]], queries: Sequence[str], judgements: Grades
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Judgements and rankings with numbers instead of ids.

    trec_eval is C, in which an id ends at a NUL, and a lone surrogate is a segfault.
    """
    names: dict[str, str] = {}
    # By rank: equal scores would be put into another order than the one that a search shows.
    runs = {
        str(number): {_name(names, chunk): float(len(ranking) - rank) for rank, chunk in enumerate(ranking)}
        for number, (_, ranking) in enumerate(zip(queries, rankings, strict=True))
    }
    wanted = {
        str(number): {_name(names, chunk): grade for chunk, grade in judgements[query].items()}
        for number, query in enumerate(queries)
    }
    return wanted, runs


def _name(names: dict[str, str], chunk: str) -> str:
    return names.setdefault(chunk, str(len(names)))


def difference(
    one: NDArray[np.float64], other: NDArray[np.float64], questions: Sequence[str], *, seed: int = 0
) -> Difference:
    """How much better `one` is than `other` on these questions, which are drawn again and again, the same for both.

    Efron's percentile interval, and Fisher's randomisation test: how often signs that chance gives to the differences
    make a mean as far from 0. A question that is asked several times is drawn as one, with all its answers. There is
    neither for fewer than `FEWEST` different questions. `seed` makes both the same each time. Draws are made a part at
    a time, from one stream: memory is 32 MiB whatever the number of questions (one draw of 2 million takes that).
    """
    return differences([one], other, questions, seed=seed)[0]


def differences(
    ones: Sequence[NDArray[np.float64]], other: NDArray[np.float64], questions: Sequence[str], *, seed: int = 0
) -> list[Difference]:
    """The same for each of `ones`, in figures that hold for whichever is picked after all have been seen.

    Chance favours the best of several. So the intervals are wide enough that all of them together hold in 95% of the
    resamples (Beran 1988), and the test is how often chance makes as much of the best of them (Westfall and Young
    1993). Rankings that are much alike widen an interval little, and one alone has the interval of `difference`.
    """
    apart = np.stack(ones) - other  # (ones, questions)
    numbers: dict[str, int] = {}
    asked = np.array([numbers.setdefault(question, len(numbers)) for question in questions])
    means = apart.mean(axis=1).tolist()
    if len(numbers) < FEWEST:
        return [Difference(mean=mean, low=None, high=None, p_value=None) for mean in means]
    sums = np.stack([_sums(one, asked) for one in apart])
    drawn = np.concatenate(list(_resampled(sums, np.bincount(asked).astype(np.float64), seed)), axis=1)
    beyond = _beyond(drawn)
    low, high = np.quantile(drawn, [beyond, 1 - beyond], axis=1).tolist()
    figures = zip(means, low, high, _p_values(sums, seed), strict=True)
    return [Difference(mean=mean, low=low, high=high, p_value=p_value) for mean, low, high, p_value in figures]


def _sums(differences: NDArray[np.float64], asked: NDArray[np.int64]) -> NDArray[np.float64]:
    """The differences of each different question, added up. If they cancel, the rest of rounding is made 0."""
    sums = np.bincount(asked, differences).astype(np.float64)
    sums[np.abs(sums) <= _SAME * np.bincount(asked, np.abs(differences))] = 0.0
    return sums


def _resampled(sums: NDArray[np.float64], counts: NDArray[np.float64], seed: int) -> Iterator[NDArray[np.float64]]:
    """The means of all resamples, (ones, resamples), a part of them at a time."""
    drawing = np.random.default_rng(seed)
    for rows in _parts(sums.shape[1]):
        drawn = drawing.integers(0, sums.shape[1], (rows, sums.shape[1]))
        yield np.stack([one[drawn].sum(axis=1) for one in sums]) / counts[drawn].sum(axis=1)


def _beyond(drawn: NDArray[np.float64]) -> float:
    """The share of resamples to leave out at both ends of each interval, so that so many are inside all of them."""
    alone = (1 - _CONFIDENCE) / 2
    total = drawn.shape[1]
    nearest = np.ones(total)  # of each resample, how much of any one's lies beyond it, at the nearer end
    for means in drawn:
        ordered = np.sort(means)
        below, above = np.searchsorted(ordered, means, "right"), total - np.searchsorted(ordered, means, "left")
        nearest = np.minimum(nearest, np.minimum(below, above) / total)
    together = float(np.quantile(nearest, 1 - _CONFIDENCE, method="lower"))
    return together if together < alone - 0.5 / total else alone  # shares of resamples are whole numbers of them


def _p_values(sums: NDArray[np.float64], seed: int) -> list[float]:
    """Two-sided, and never 0: what was seen counts among the draws."""
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    scaled = sums / np.where(lengths > 0, lengths, 1.0)  # so that each one's chance of being far is the same
    seen = np.abs(scaled.sum(axis=1)) * (1 - _SAME)
    scaled = scaled[:, (scaled != 0).any(axis=0)]
    drawing = np.random.default_rng(seed)
    as_far = np.zeros(len(sums))
    for rows in _parts(scaled.shape[1]):
        signs = 2.0 * drawing.integers(0, 2, (rows, scaled.shape[1])) - 1.0
        farthest = np.abs(signs @ scaled.T).max(axis=1)
        as_far += (farthest[:, None] >= seen).sum(axis=0)
    return ((1 + as_far) / (1 + RESAMPLES)).tolist()  # type: ignore[no-any-return]


def _parts(width: int) -> Iterator[int]:
    """The resamples in parts of some memory: an index and a value of 8 bytes for each question."""
    at_once = max(1, _RESAMPLED_BYTES // (24 * max(1, width)))
    for start in range(0, RESAMPLES, at_once):
        yield min(at_once, RESAMPLES - start)
