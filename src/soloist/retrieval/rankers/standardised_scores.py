"""By standardised scores: each model's cosines as multiples of their own standard deviation, added up by weight.

What a model's mean takes away is the same for every row and ranks nothing. A model that gives all rows the same score
ranks nothing either, e.g. because they begin alike and it reads only the beginning: it has no part in the sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soloist.retrieval.corpus import Corpus
from soloist.retrieval.cost import Cost, cost_of_members
from soloist.retrieval.exact import WeightedQueries, moments
from soloist.retrieval.rankers.hybrid import WeightedMembers
from soloist.retrieval.rankers.ranker import Ranker, Weights
from soloist.retrieval.rankings import Rankings

# A float32 cosine is off by about this much: scores that differ by less are the same.
_FLAT = 1e-6


@dataclass(frozen=True, slots=True)
class StandardisedScores:
    """The models with a weight, each of which scores the rows by its own vectors."""

    weights: Mapping[str, float]
    corpus: Corpus
    name: str = "standardised"

    def cost(self) -> Cost:
        """What the vectors of the models cost."""
        return cost_of_members(self.corpus, list(self.weights))

    def rank(self, queries: Sequence[str], k: int) -> Rankings:
        """The rows with the largest sums."""
        vectors = [self.corpus.queries.by_model(model, queries) for model in self.weights]
        weighted = WeightedQueries.of(vectors, list(self.weights.values()))
        return Rankings.joined(self._rank(part, k) for part in weighted.batches(k))

    def _rank(self, queries: WeightedQueries, k: int) -> Rankings:
        models = list(self.weights)
        with self.corpus.damage_named(models):
            mean, deviation = moments(queries, self.corpus.blocks(models))
        weights = np.where(deviation > _FLAT, queries.weights / np.maximum(deviation, _FLAT), 0.0)
        best = self.corpus.nearest(models, WeightedQueries(vectors=queries.vectors, weights=weights), k)
        shifts = (mean * weights).sum(axis=1)
        return Rankings(
            positions=best.positions,
            scores=[scores - shift for scores, shift in zip(best.scores, shifts, strict=True)],
        )


def rankers(corpus: Corpus, weights: Weights | None = None) -> Iterator[Ranker]:
    """One, with these weights or those of the run. Where the run has words, they are members like the models."""
    settled = corpus.record.weights(weights)
    if corpus.record.posted:
        yield WeightedMembers(settled, corpus, name="standardised")
    else:
        yield StandardisedScores(settled, corpus)
