"""By reciprocal rank fusion: a row's score is the sum of weight / (60 + rank) over the models' rankings that have it.

Cormack, Clarke and Buettcher (2009).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soloist.errors import ConfigError
from soloist.retrieval.corpus import Corpus
from soloist.retrieval.cost import Cost, cost_of_members
from soloist.retrieval.exact import WeightedQueries, passes
from soloist.retrieval.rankers.ranker import Ranker, Weights
from soloist.retrieval.rankers.words import Words
from soloist.retrieval.rankings import Rankings

# The constant of Cormack, Clarke and Buettcher (2009), with whom the method begins.
RRF_CONSTANT = 60
# How far down each model's ranking counts, whatever the number of hits, of which there can be no more: below it a row
# adds less than a seventeenth of what the first rank does.
RRF_DEPTH = 1_000


@dataclass(frozen=True, slots=True)
class ReciprocalRanks:
    """The members with a weight, each of which ranks the rows by its own vectors or words."""

    weights: Mapping[str, float]
    corpus: Corpus
    name: str = "rrf"

    def cost(self) -> Cost:
        """What the vectors and words of the members cost."""
        return cost_of_members(self.corpus, list(self.weights))

    def rank(self, queries: Sequence[str], k: int) -> Rankings:
        """The rows with the largest sums; equal sums are in the order of their rows."""
        if k > RRF_DEPTH:
            raise ConfigError(
                f"k is {k:,}, but reciprocal ranks count only the best {RRF_DEPTH:,} rows of each model: give a k of "
                f"{RRF_DEPTH:,} or less, or rank another way"
            )
        depth = min(self.corpus.rows, RRF_DEPTH)
        dense = [name for name in self.weights if self.corpus.record.is_dense(name)]
        vectors = {model: self.corpus.queries.by_model(model, queries) for model in dense}
        widest = max((part.shape[1] for part in vectors.values()), default=0)
        fused: list[Rankings] = []
        for some in passes(len(queries), widest, depth):
            rankings = [
                self.corpus.nearest([name], WeightedQueries.of([vectors[name][some]]), depth)
                if name in vectors
                else Words(name, self.corpus).rank(queries[some], depth)
                for name in self.weights
            ]
            fused.append(reciprocal_ranks(rankings, list(self.weights.values()), k))
        return Rankings.joined(fused)


def rankers(corpus: Corpus, weights: Weights | None = None) -> Iterator[Ranker]:
    """One, with these weights or those of the run."""
    yield ReciprocalRanks(corpus.record.weights(weights), corpus)


def reciprocal_ranks(rankings: Sequence[Rankings], weights: Sequence[float], k: int) -> Rankings:
    """The `k` best rows of each query, or all rows that any of the rankings has."""
    fused = [
        _fused([ranking.positions[query] for ranking in rankings], weights, k)
        for query in range(len(rankings[0].positions))
    ]
    return Rankings(
        positions=[positions for positions, _ in fused],
        scores=[scores for _, scores in fused],
    )


def _fused(
    rankings: Sequence[NDArray[np.int64]], weights: Sequence[float], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    positions, rows = np.unique(np.concatenate(rankings), return_inverse=True)
    shares = [
        weight / (RRF_CONSTANT + np.arange(1, len(ranking) + 1))
        for ranking, weight in zip(rankings, weights, strict=True)
    ]
    scores = np.bincount(rows, weights=np.concatenate(shares), minlength=len(positions))
    order = np.lexsort((positions, -scores))[:k]
    return positions[order], scores[order].astype(np.float64)
