"""By the run's members of all kinds: the weighted sum of their standardised scores (see `retrieval.member_scores`).

The fused vectors are one term of it where the run has them, and else each dense member is one. A row without any word
of a question has the lexical score 0, which counts in mean and deviation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from soloist.fusion_methods import FUSED, HYBRID
from soloist.retrieval.corpus import Corpus
from soloist.retrieval.cost import Cost, cost_of_fusion, cost_of_members, joined_costs
from soloist.retrieval.rankers.ranker import Ranker, Weights
from soloist.retrieval.rankings import Rankings


@dataclass(frozen=True, slots=True)
class WeightedMembers:
    """The terms with their weights: members of the run, or `fused` for its fused vectors."""

    weights: Mapping[str, float]
    corpus: Corpus
    name: str = HYBRID

    def cost(self) -> Cost:
        """What the rows of all terms cost."""
        members = [name for name in self.weights if name != FUSED]
        costs = [cost_of_members(self.corpus, members)] if members else []
        if FUSED in self.weights:
            costs.append(cost_of_fusion(self.corpus, self.corpus.record.fusion_plan))
        return joined_costs(costs)

    def rank(self, queries: Sequence[str], k: int) -> Rankings:
        """The rows with the largest sums; equal sums are in the order of their rows."""
        found = [
            scores.best([self.weights], k)[0] for scores in self.corpus.question_scores(list(self.weights), queries)
        ]
        return Rankings(positions=[rows for rows, _ in found], scores=[sums for _, sums in found])


def rankers(corpus: Corpus, weights: Weights | None = None) -> Iterator[Ranker]:
    """One, if the run has members of several kinds: with its own weights, or with these."""
    plan = corpus.record.hybrid_plan(weights)
    if plan is not None:
        yield WeightedMembers(plan.weights, corpus)
