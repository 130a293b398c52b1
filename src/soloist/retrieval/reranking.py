"""A second stage in an evaluation: what a cross-encoder makes of the ranking that a search would have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from soloist.errors import ConfigError
from soloist.retrieval.corpus import Corpus
from soloist.retrieval.ensembles import ScoredSystem
from soloist.retrieval.identical_ids import HitFilter
from soloist.retrieval.metrics import MAIN, Difference, difference, score
from soloist.retrieval.qrels import Qrels
from soloist.retrieval.rankers.choice import chosen_ranker, default_choice
from soloist.retrieval.rankers.ranker import Ranker
from soloist.retrieval.rankings import Rankings
from soloist.retrieval.run_record import RunRecord
from soloist.retrieval.second_stage import SecondStage


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranking:
    """What a second stage is worth: `name` is its system, `first` the system whose `depth` best chunks it scored.

    `gain` is over that first stage. `seconds_a_question` is what the scores of a question took on `device`.
    """

    name: str
    model: str
    first: str
    depth: int
    gain: Difference
    seconds_a_question: float
    device: str


def first_stage(record: RunRecord, corpus: Corpus, rankers: Sequence[Ranker], scored: Sequence[ScoredSystem]) -> Ranker:
    """What a search of the run ranks by; for a run of several models that are not fused, the best of all systems."""
    try:
        name = chosen_ranker(default_choice(record), corpus).name
    except ConfigError:
        name = ""
    known = {system.name: system.scores.mean() for system in scored if system.kind != "lexical"}
    chosen = name if name in known else max(known, key=lambda system: known[system])
    return next(ranker for ranker in rankers if ranker.name == chosen)


def rerank_scored(
    stage: SecondStage,
    depth: int,
    first: Ranker,
    before: ScoredSystem,
    corpus: Corpus,
    qrels: Qrels,
    hits: HitFilter,
    progress: Callable[[str], None],
) -> tuple[ScoredSystem, Reranking]:
    """The scores of a second stage, and its gain over the first, which has the scores `before`.

    Behind the chunks that the second stage scores come the others as the first stage has them.
    """
    ids, queries = list(qrels.queries), list(qrels.queries.values())
    ranked = first.rank(queries, max(depth, hits.depth))
    head = Rankings(
        positions=[rows[:depth] for rows in ranked.positions], scores=[scores[:depth] for scores in ranked.scores]
    )
    found = stage.rerank(queries, head, corpus.chunks_at, progress)
    positions = [
        np.concatenate([best, rows[depth:]])
        for best, rows in zip(found.rankings.positions, ranked.positions, strict=True)
    ]
    system = ScoredSystem(
        name=f"{first.name} reranked by {stage.name}",
        kind="reranked",
        cost=before.cost,
        scores=score(hits.rankings(positions, ids), ids, qrels.judgements),
    )
    return system, Reranking(
        name=system.name,
        model=stage.name,
        first=first.name,
        depth=depth,
        gain=difference(system.scores.of_query[MAIN], before.scores.of_query[MAIN], queries),
        seconds_a_question=found.seconds / len(queries),
        device=found.device,
    )
