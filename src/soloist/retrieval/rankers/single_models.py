"""By the vectors of one model: the cosine of each chunk with the query. By words, if that is what the member has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soloist.retrieval.corpus import Corpus
from soloist.retrieval.cost import Cost, cost_of_members
from soloist.retrieval.exact import WeightedQueries
from soloist.retrieval.rankers.ranker import Ranker, Weights
from soloist.retrieval.rankers.words import Words
from soloist.retrieval.rankings import Rankings


@dataclass(frozen=True, slots=True)
class SingleModel:
    """One model of the run, by whose name an evaluation calls it."""

    name: str
    corpus: Corpus

    def cost(self) -> Cost:
        """What the model's own vectors cost."""
        return cost_of_members(self.corpus, [self.name])

    def rank(self, queries: Sequence[str], k: int) -> Rankings:
        """The nearest rows."""
        vectors = self.corpus.queries.by_model(self.name, queries)
        return self.corpus.nearest([self.name], WeightedQueries.of([vectors]), k)


def rankers(corpus: Corpus, weights: Weights | None = None) -> Iterator[Ranker]:
    """One for each member of the run."""
    yield from (SingleModel(model, corpus) for model in corpus.record.models)
    yield from (Words(member, corpus) for member in corpus.record.posted)
