"""A run on judged questions: what each of its models and every fusion is worth, and whether the ensemble pays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from soloist.config import FusionConfig
from soloist.errors import EncodingError, FusionError, InputError
from soloist.fusion import require_weights
from soloist.retrieval.corpus import Corpus
from soloist.retrieval.cost import Cost
from soloist.retrieval.ensembles import ScoredSystem, verdicts
from soloist.retrieval.identical_ids import HitFilter
from soloist.retrieval.metrics import MAIN, MEASURES, Difference, difference, require_measures, score
from soloist.retrieval.opened import OpenedRun
from soloist.retrieval.qrels import Qrels
from soloist.retrieval.rankers import Kind, RankerRow
from soloist.retrieval.rankers.ranker import Ranker, evaluated_rankers
from soloist.retrieval.reranking import Reranking, first_stage, rerank_scored
from soloist.retrieval.second_stage import SecondStage
from soloist.retrieval.second_stages import depth_of
from soloist.retrieval.tuning import Tuned, require_tunable, tune
from soloist.retrieval.verdict import Verdict
from soloist.shown import ShownAsTable
from soloist.wording import count_text


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemScore:
    """One system: the means of its measures, and its gain in nDCG@10 over the best single member, None for that one.

    `seconds_a_question` is what a second stage takes beside that; None without one.
    """

    name: str
    kind: Kind
    measures: Mapping[str, float]
    gain: Difference | None
    cost: Cost | None
    seconds_a_question: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A system that cannot rank this run, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(ShownAsTable):
    """All systems, the name of the best single model or other member, and what the ensembles are worth.

    `verdict` is on the run's own fusion, or on all members of a run with words; None without an ensemble.
    `best_verdict` is on the best ensemble that the run could have, which may be its own; None where the run has one
    member. `left_out` are the systems that cannot rank this run. `reranking` is on a second stage, if there is one.
    """

    questions: int
    chunks: int
    systems: tuple[SystemScore, ...]
    best_single: str
    verdict: Verdict | None
    best_verdict: Verdict | None
    left_out: tuple[LeftOut, ...]
    tuned: Tuned | None
    notices: tuple[str, ...]
    weak: bool
    reranking: Reranking | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return asdict(self)

    def table_rows(self) -> list[dict[str, Any]]:
        """A row for each system: its measures, its gain over the best single model with the interval, its cost."""
        return [_table_row(system) for system in self.systems]


def _table_row(system: SystemScore) -> dict[str, Any]:
    gain, cost = system.gain, system.cost
    return {
        "name": system.name,
        "kind": system.kind,
        **system.measures,
        "gain": gain.mean if gain is not None else None,
        "gain_low": gain.low if gain is not None else None,
        "gain_high": gain.high if gain is not None else None,
        "seconds": cost.seconds if cost is not None else None,
        "bytes_per_chunk": cost.bytes_per_chunk if cost is not None else None,
        **({"seconds_a_question": system.seconds_a_question} if system.seconds_a_question is not None else {}),
    }


def evaluate(
    run: OpenedRun,
    qrels: Qrels,
    *,
    collections: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
    bm25: bool = True,
    tuning: bool = False,
    keep_own: bool = False,
    rerank: str | Path | None = None,
    rerank_depth: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Rank for every question by every ranker of the table, and say what the rankings are worth.

    `weights` are those of the members, for `hybrid` and for the fusions that the run does not have. `tuning` chooses
    weights on a half of the questions. With `keep_own`, a chunk with a question's own id counts as its hit, see
    `identical_ids`. `rerank` and `rerank_depth` are as for a search: the cross-encoder reranks what a search of the run
    ranks by. `progress` is told what is being done. What cannot be honoured is found before any model of the run is
    loaded.

    Raises:
        InputError: no chunk that is judged relevant is in the run, or one id is in several of the collections.
        ConfigError: a library is not installed; weights of other models; see also `OpenedRun.search_all` and `tune`.
        OutputError: a file is missing or damaged, or the run was changed meanwhile.
    """
    require_measures()
    require_weights(FusionConfig(weights=weights or {}), tuple(run.record.kinds))
    with run.unchanged("open and evaluate it again"):
        corpus = run.corpus(collections)
        rankers = evaluated_rankers(corpus, weights, without=() if bm25 else ("bm25",))
        task = _Task.of(corpus, qrels, keep_own=keep_own)
        if tuning:
            require_tunable(list(corpus.record.kinds), task.qrels)
        stage = run.second_stages.asked(rerank, rerank_depth)
        depth = depth_of(rerank_depth, 1, corpus.rows) if stage is not None else 0
        systems, left_out = _all_scored(rankers, task, progress)
        reranking = None
        if stage is not None:
            reranked, reranking = _reranked(stage, depth, [ranker for _, ranker in rankers], systems, task, progress)
            systems.append(reranked)
        if tuning:
            progress("tuning the weights")
        tuned = tune(corpus, task.qrels, task.hits) if tuning else None
        found = _evaluation(task, systems, left_out, tuned, reranking, weights=weights)
        return replace(found, notices=(*found.notices, *(stage.notices if stage is not None else ())))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Task:
    """What every system is asked: the questions that this corpus can answer, and which rows count as hits."""

    corpus: Corpus
    qrels: Qrels
    hits: HitFilter
    notices: tuple[str, ...]

    @classmethod
    def of(cls, corpus: Corpus, qrels: Qrels, *, keep_own: bool) -> _Task:
        ids = _unique_ids(corpus)
        answerable, notices = _answerable(qrels, ids)
        hits = HitFilter.of(answerable, ids, keep_own=keep_own)
        chunks = corpus.chunks_at([np.array(sorted(hits.own_rows.values()), np.int64)])
        texts = {row: chunk.text for row, (_, chunk) in chunks.items()}
        return cls(
            corpus=corpus, qrels=answerable, hits=hits, notices=(*notices, *hits.notices(answerable, texts))
        )  # fmt: skip

    @property
    def queries(self) -> list[str]:
        """The texts of the questions."""
        return list(self.qrels.queries.values())


def _unique_ids(corpus: Corpus) -> list[str]:
    """The ids of the rows, each of which is in one collection only."""
    owners: dict[str, str] = {}
    for collection, id_ in corpus.ids():
        if id_ in owners:
            raise InputError(
                f"the id {id_!r} is in the collections {owners[id_]} and {collection}, so a judgement of it is "
                "ambiguous: choose one of them with --collections"
            )
        owners[id_] = collection
    return list(owners)


def _answerable(qrels: Qrels, ids: Sequence[str]) -> tuple[Qrels, list[str]]:
    """The questions with a relevant chunk in the run, and what is said of the others. All their judgements stay."""
    known = set(ids)
    judgements = {
        query: grades
        for query, grades in qrels.judgements.items()
        if any(grade > 0 and chunk in known for chunk, grade in grades.items())
    }
    if not judgements:
        raise InputError(_none_answerable(qrels, ids[0]))
    queries = {query: text for query, text in qrels.queries.items() if query in judgements}
    answerable = Qrels(queries=queries, judgements=judgements, notices=qrels.notices, weak=qrels.weak)
    return answerable, list(_answerable_notices(qrels, answerable, known))


def _none_answerable(qrels: Qrels, known_id: str) -> str:
    relevant = (chunk for grades in qrels.judgements.values() for chunk, grade in grades.items() if grade > 0)
    example = next((f" (such as {chunk!r})" for chunk in relevant), "")
    return (
        f"the run has none of the chunks that are judged relevant{example}: use the ids of its chunks in the "
        f"judgements, such as {known_id!r}"
    )


def _answerable_notices(qrels: Qrels, answerable: Qrels, known: set[str]) -> Iterator[str]:
    absent = len({chunk for grades in qrels.judgements.values() for chunk in grades} - known)
    if absent:
        yield f"not in the run, so no system can find it: {count_text(absent, 'judged chunk')}"
    left_out = len(qrels.judgements) - len(answerable.judgements)
    if left_out:
        yield f"left out, because the run has no relevant chunk for it: {count_text(left_out, 'question')}"


def _all_scored(
    rankers: Iterable[tuple[RankerRow, Ranker]], task: _Task, progress: Callable[[str], None]
) -> tuple[list[ScoredSystem], list[LeftOut]]:
    """The scores of each system as soon as it has ranked, so that one system's rankings are in memory at a time.

    A system that cannot rank this corpus, such as a fusion that is fitted to more chunks than there are, is left out:
    nobody chose it by name. A model that cannot rank is an error.
    """
    systems: list[ScoredSystem] = []
    left_out: list[LeftOut] = []
    work = f"ranking {count_text(task.corpus.rows, 'chunk')} for {count_text(len(task.queries), 'question')}"
    for row, ranker in rankers:
        progress(f"{work} by {ranker.name}")
        try:
            is_words = row.kind == "model" and ranker.name in task.corpus.record.words
            systems.append(_scored("words" if is_words else row.kind, ranker, task))
        except (FusionError, EncodingError, InputError) as exc:
            if row.kind == "model":
                raise
            left_out.append(LeftOut(name=ranker.name, reason=str(exc)))
    return systems, left_out


def _scored(kind: Kind, ranker: Ranker, task: _Task) -> ScoredSystem:
    cost = ranker.cost()
    rankings = ranker.rank(task.queries, task.hits.depth)
    ids = list(task.qrels.queries)
    scores = score(task.hits.rankings(rankings.positions, ids), ids, task.qrels.judgements)
    return ScoredSystem(name=ranker.name, kind=kind, cost=cost, scores=scores)


def _reranked(
    stage: SecondStage,
    depth: int,
    rankers: Sequence[Ranker],
    systems: Sequence[ScoredSystem],
    task: _Task,
    progress: Callable[[str], None],
) -> tuple[ScoredSystem, Reranking]:
    first = first_stage(task.corpus.record, task.corpus, rankers, systems)
    before = next(system for system in systems if system.name == first.name)
    return rerank_scored(stage, depth, first, before, task.corpus, task.qrels, task.hits, progress)


def _evaluation(
    task: _Task,
    systems: Sequence[ScoredSystem],
    left_out: Sequence[LeftOut],
    tuned: Tuned | None,
    reranking: Reranking | None,
    *,
    weights: Mapping[str, float] | None,
) -> Evaluation:
    single = max(
        (system for system in systems if system.kind in ("model", "words")), key=lambda system: system.scores.mean()
    )
    scores = tuple(_system_score(system, single, task.queries, reranking) for system in systems)
    verdict, best_verdict = verdicts(
        systems, single, task.queries,
        weak=task.qrels.weak, record=task.corpus.record, weights=weights,
    )  # fmt: skip
    lexical = _lexical_notices(scores, single.name, weak=task.qrels.weak)
    return Evaluation(
        questions=len(task.queries),
        chunks=task.corpus.rows,
        systems=scores,
        best_single=single.name,
        verdict=verdict,
        best_verdict=best_verdict,
        left_out=tuple(left_out),
        tuned=tuned,
        notices=(*task.qrels.notices, *task.notices, *task.corpus.queries.notices, *lexical),
        weak=task.qrels.weak,
        reranking=reranking,
    )


def _system_score(
    system: ScoredSystem, single: ScoredSystem, queries: Sequence[str], reranking: Reranking | None
) -> SystemScore:
    gain = None
    if system is not single:
        gain = difference(system.scores.of_query[MAIN], single.scores.of_query[MAIN], queries)
    return SystemScore(
        name=system.name,
        kind=system.kind,
        measures={measure: system.scores.mean(measure) for measure in MEASURES},
        gain=gain,
        cost=system.cost,
        seconds_a_question=reranking.seconds_a_question if reranking and system.kind == "reranked" else None,
    )


def _lexical_notices(systems: Sequence[SystemScore], single: str, *, weak: bool) -> list[str]:
    """That words alone do better than all vectors, which no comparison of models tells."""
    why = ", because a heading's words are in its own chunk" if weak else ""
    return [
        f"{system.name}, which needs no model, has {system.gain.mean:+.4f} {MAIN} against {single}{why}"
        for system in systems
        if system.kind == "lexical" and system.gain is not None and system.gain.is_shown and system.gain.mean >= 0
    ]
