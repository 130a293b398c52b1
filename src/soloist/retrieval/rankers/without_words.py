"""By the run's members but its words, for an evaluation: what the words do in the ensemble is the difference.

Only where several members are left. One that is left, or the fused vectors, are a system of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

from soloist.fusion_methods import HYBRID
from soloist.retrieval.corpus import Corpus
from soloist.retrieval.rankers.hybrid import WeightedMembers
from soloist.retrieval.rankers.ranker import Ranker, Weights
from soloist.wording import listed


def rankers(corpus: Corpus, weights: Weights | None = None) -> Iterator[Ranker]:
    """One, if the hybrid ranking has words and at least two other terms."""
    plan, words = corpus.record.hybrid_plan(weights), corpus.record.words
    terms = plan.weights if plan is not None else {}
    rest = {name: weight for name, weight in terms.items() if name not in words}
    if len(terms) > len(rest) > 1:
        yield WeightedMembers(
            rest, corpus, name=f"{HYBRID} without {listed([name for name in terms if name not in rest])}"
        )
