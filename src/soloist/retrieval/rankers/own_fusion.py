"""By the run's own fused vectors: the cosine of each chunk with the query, which is fused as the chunks are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soloist.fusion import FusionPlan
from soloist.fusion_methods import FUSED
from soloist.retrieval.corpus import Corpus
from soloist.retrieval.cost import Cost, cost_of_fusion
from soloist.retrieval.exact import WeightedQueries
from soloist.retrieval.rankers.ranker import Ranker, Weights
from soloist.retrieval.rankings import Rankings


@dataclass(frozen=True, slots=True)
class OwnFusion:
    """The fused vectors that the run has."""

    plan: FusionPlan
    corpus: Corpus

    @property
    def name(self) -> str:
        """With the method of the fusion."""
        return f"{FUSED} ({self.plan.method})"

    def cost(self) -> Cost:
        """What the fused vectors cost."""
        return cost_of_fusion(self.corpus, self.plan)

    def rank(self, queries: Sequence[str], k: int) -> Rankings:
        """The nearest rows."""
        return self.corpus.nearest([FUSED], WeightedQueries.of([self.corpus.queries.fused(queries)]), k)


def rankers(corpus: Corpus, weights: Weights | None = None) -> Iterator[Ranker]:
    """One, if the run has fused vectors. Their weights are those of the run."""
    if corpus.record.fusion is not None:
        yield OwnFusion(corpus.record.fusion, corpus)
