"""What a ranker is: queries in; positions and scores out. And the rankers of a corpus, by the rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Protocol

from soloist.retrieval.corpus import Corpus
from soloist.retrieval.cost import Cost
from soloist.retrieval.rankers import RANKERS, RankerRow
from soloist.retrieval.rankings import Rankings

Weights = Mapping[str, float]


class Ranker(Protocol):
    """One way to rank the rows of a corpus. A ranker is made at no cost: whatever takes time is done by `rank`.

    class LongestFirst:
        name = "longest"

        def __init__(self, corpus):
            self.corpus = corpus

        def cost(self):
            return None

        def rank(self, queries, k):
            lengths = np.array([len(chunk.text) for chunk in self.corpus.chunks()], np.float64)
            best = np.argsort(-lengths, kind="stable")[:k]
            return Rankings(positions=[best] * len(queries), scores=[lengths[best]] * len(queries))
    """

    @property
    def name(self) -> str:
        """What an evaluation calls it. A ranker that a search offers has the name of its row."""

    def cost(self) -> Cost | None:
        """What its vectors cost. None is for the kind `lexical` alone: a verdict compares the costs of all others."""

    def rank(self, queries: Sequence[str], k: int) -> Rankings:
        """The `k` best rows for each query, or fewer if it has nothing to say of the others.

        Raises:
            FusionError, EncodingError, InputError: this corpus, or a query, cannot be ranked this way.
            ConfigError: `k` is too large, or a model on this machine is not the one that made the run.
            OutputError: a file is missing or damaged.
        """


def rankers_of(row: RankerRow, corpus: Corpus, weights: Weights | None) -> Iterable[Ranker]:
    """The rankers that the module of a row makes for a corpus: one, or one for each model or fusion, or none.

    Raises:
        ConfigError: the weights are of other models, or are not weights; a library is not installed.
    """
    rankers: Callable[[Corpus, Weights | None], Iterable[Ranker]] = import_module(row.module).rankers
    return rankers(corpus, weights)


def evaluated_rankers(
    corpus: Corpus, weights: Weights | None = None, without: Collection[str] = ()
) -> list[tuple[RankerRow, Ranker]]:
    """All rankers that an evaluation of a corpus compares; `without` names the rows that it leaves out."""
    rows = [row for name, row in RANKERS.items() if name not in without]
    models, members = len(corpus.record.models), len(corpus.record.kinds)
    return [
        (row, ranker)
        for row in rows
        if models >= row.fewest_models and members >= row.fewest_members
        for ranker in rankers_of(row, corpus, weights)
    ]
