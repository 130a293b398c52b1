"""By the fused vectors that the run could have: the fusion methods that it was not made with.

Such vectors are made while they are ranked, a block at a time, and none is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soloist.config import FusionConfig
from soloist.errors import FusionError
from soloist.fusion import Fitted, Fitting, FusionPlan, dense_weights, fuse, plan_fusion, sampled
from soloist.fusion_methods import FUSIONS
from soloist.retrieval.corpus import Corpus
from soloist.retrieval.cost import Cost, cost_of_fusion
from soloist.retrieval.exact import Block, WeightedQueries, search_all
from soloist.retrieval.rankers.ranker import Ranker, Weights
from soloist.retrieval.rankings import Rankings
from soloist.retrieval.run_record import RunRecord


@dataclass(frozen=True, slots=True)
class OtherFusion:
    """A fusion that the run could have."""

    plan: FusionPlan
    corpus: Corpus

    @property
    def name(self) -> str:
        """The method of the fusion."""
        return self.plan.method

    def cost(self) -> Cost:
        """What the fused vectors would cost."""
        return cost_of_fusion(self.corpus, self.plan)

    def rank(self, queries: Sequence[str], k: int) -> Rankings:
        """The nearest rows."""
        fitted = fit(self.corpus.whole, self.plan) if self.plan.needs_fit else None
        names = [f"the question {query[:40]!r}" for query in queries]
        fused = fuse(self.plan, self.corpus.queries.for_fusion(self.plan, queries), names, fitted)
        return search_all(WeightedQueries.of([fused]), lambda: self._blocks(fitted), k)

    def _blocks(self, fitted: Fitted | None) -> Iterator[Block]:
        ids = (id_ for _, id_ in self.corpus.ids())
        for block in self.corpus.blocks(self.plan.models):
            names = list(itertools.islice(ids, len(block[0])))
            yield (fuse(self.plan, block, names, fitted),)


def rankers(corpus: Corpus, weights: Weights | None = None) -> Iterator[Ranker]:
    """One for each fusion method, except for one that does what the run's own fusion does.

    Weights of words are no part of it: it fuses the dense members, and there is none where these all weigh 0.
    """
    own = corpus.record.fusion
    if weights and not any(weights.get(model, 0) for model in corpus.record.models):
        return
    for method in FUSIONS:
        plan = plan_of(corpus.record, method, weights)
        if own is None or _arithmetic(plan) != _arithmetic(own):
            yield OtherFusion(plan, corpus)


def plan_of(record: RunRecord, method: str, weights: Mapping[str, float] | None = None) -> FusionPlan:
    """The plan of a fusion with these weights; without weights it has those of the run, or else those of `embed`."""
    own = record.fusion
    if own is not None and not weights:
        chosen = dict(zip(own.models, own.weights, strict=True))
    else:
        chosen = dense_weights(weights or {}, record.kinds)
    plan = plan_fusion(FusionConfig(method=method, weights=chosen), record.members)
    assert plan is not None
    return plan


def _arithmetic(plan: FusionPlan) -> tuple[object, ...]:
    """What two plans that do the same have in common, whatever their notices."""
    return plan.method, plan.weights, plan.kept_dims, plan.dim


def fit(corpus: Corpus, plan: FusionPlan) -> Fitted:
    """The matrices of a fusion, fitted to a sample of all rows.

    Raises:
        FusionError: there are too few rows, or one of them is damaged.
    """
    fitting = Fitting(plan)
    for block in sampled(corpus.blocks(plan.models), corpus.rows):
        if not all(np.isfinite(part).all() for part in block):
            raise FusionError("a vector that it is fitted to has NaN or infinity: run soloist verify to see its file")
        fitting.see(block)
    return fitting.fitted()
