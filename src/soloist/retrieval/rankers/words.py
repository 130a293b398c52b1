"""By a member with an index: BM25 of words, or the dot product of sparse vectors (see `retrieval.posted_scores`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soloist.retrieval.corpus import Corpus
from soloist.retrieval.cost import Cost, cost_of_members
from soloist.retrieval.posted_scores import best_rows, summed
from soloist.retrieval.rankings import Rankings


@dataclass(frozen=True, slots=True)
class Words:
    """A lexical or a sparse member of the run, by whose name an evaluation calls it."""

    name: str
    corpus: Corpus

    def cost(self) -> Cost:
        """What the member's rows and their index cost."""
        return cost_of_members(self.corpus, [self.name])

    def rank(self, queries: Sequence[str], k: int) -> Rankings:
        """The best of the rows that share a word with the query, which may be fewer than `k`."""
        rows = self.corpus.rows
        found = [best_rows(summed(terms, rows), k) for terms in self.corpus.posted_terms(self.name, queries)]
        return Rankings(positions=[best for best, _ in found], scores=[scores for _, scores in found])
