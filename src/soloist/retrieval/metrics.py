"""How good rankings are, by ir-measures (trec_eval's figures), and how sure a difference is. Knows ids and grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soloist.errors import ConfigError

DEPTH = 100
MEASURES = ("nDCG@10", "R@100", "RR@10")
MAIN = "nDCG@10"
RESAMPLES = 10_000
_CONFIDENCE = 0.95

Grades = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """What each measure gives for each question, (questions,) each, in the order of the questions."""

    of_query: Mapping[str, NDArray[np.float64]]

    def mean(self, measure: str = MAIN) -> float:
        """Over all questions."""
        return float(self.of_query[measure].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A mean difference over the same questions, and the 95% interval of its bootstrap."""

    mean: float
    low: float
    high: float


def score(rankings: Sequence[Sequence[str]], queries: Sequence[str], judgements: Grades) -> Scores:
    """The measures of rankings of chunk ids, best first, one a question; a question may find nothing.

    Raises:
        ConfigError: ir-measures is not installed.
    """
    try:
        import ir_measures
    except ImportError as exc:
        raise ConfigError("an evaluation needs ir-measures: pip install 'soloist[eval]'") from exc
    # Numbers in the place of ids: trec_eval is C, in which an id ends at a NUL, and a lone surrogate is a segfault.
    names: dict[str, str] = {}
    # By rank: equal scores would be put into another order than the one that a search shows.
    runs = {
        str(number): {_name(names, chunk): float(len(ranking) - rank) for rank, chunk in enumerate(ranking)}
        for number, (_, ranking) in enumerate(zip(queries, rankings, strict=True))
    }
    measures = {str(measure): measure for measure in map(ir_measures.parse_measure, MEASURES)}
    found = {name: np.zeros(len(queries)) for name in MEASURES}
    wanted = {
        str(number): {_name(names, chunk): grade for chunk, grade in judgements[query].items()}
        for number, query in enumerate(queries)
    }
    for each in ir_measures.iter_calc(list(measures.values()), wanted, runs):
        found[str(each.measure)][int(each.query_id)] = each.value
    return Scores(of_query=found)


def _name(names: dict[str, str], chunk: str) -> str:
    return names.setdefault(chunk, str(len(names)))


def difference(one: NDArray[np.float64], other: NDArray[np.float64], *, seed: int = 0) -> Difference:
    """How much better `one` is than `other`: questions are drawn again and again, the same ones for both.

    Efron's percentile interval; `seed` makes it the same each time.
    """
    differences = one - other
    drawn = np.random.default_rng(seed).integers(0, len(differences), (RESAMPLES, len(differences)))
    means = differences[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return Difference(mean=float(differences.mean()), low=float(low), high=float(high))
