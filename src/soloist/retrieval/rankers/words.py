"""By the words of a lexical member: BM25 of each chunk with the question (see `retrieval.posted_scores`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soloist.retrieval.corpus import Corpus
from soloist.retrieval.cost import Cost, cost_of_members
from soloist.retrieval.rankings import Rankings


@dataclass(frozen=True, slots=True)
class Words:
    """A lexical member of the run, by whose name an evaluation calls it."""

    name: str
    corpus: Corpus

    def cost(self) -> Cost:
        """What the member's words and their index cost."""
        return cost_of_members(self.corpus, [self.name])

    def rank(self, queries: Sequence[str], k: int) -> Rankings:
        """The best of the rows that share a word with the query, which may be fewer than `k`."""
        cut = self.corpus.queries.words
        return self.corpus.words(self.name).rankings((cut(self.name, query) for query in queries), k)
