"""A run on judged questions: what each of its models and every fusion is worth, and whether the ensemble pays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np

from soloist.config import FusionConfig
from soloist.errors import InputError
from soloist.fusion import require_weights
from soloist.retrieval.bm25 import bm25_rankings, require_bm25
from soloist.retrieval.identical_ids import HitFilter
from soloist.retrieval.metrics import (
    MAIN,
    MEASURES,
    Difference,
    Scores,
    difference,
    differences,
    require_measures,
    score,
)
from soloist.retrieval.opened import OpenedRun, QueryFusion
from soloist.retrieval.qrels import Qrels
from soloist.retrieval.systems import Asked, Kind, LeftOut, System, systems
from soloist.retrieval.tuning import Tuned, require_tunable, tune
from soloist.retrieval.verdict import Cost, Verdict, judge
from soloist.text_lists import list_of_texts
from soloist.wording import count_text

_WORDS = "BM25"


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemScore:
    """One system: the means of its measures, and its gain in nDCG@10 over the best single model, None for that one."""

    name: str
    kind: Kind
    measures: Mapping[str, float]
    gain: Difference | None
    cost: Cost | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All systems, the best single model's name, the verdict on the run's own fusion, None where it has none, and the
    one on the best ensemble that it could have, which may be its own; None where it has one model. `left_out` are the
    fusions that this run cannot have, each with the reason.
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

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return asdict(self)


def evaluate(
    run: OpenedRun,
    qrels: Qrels,
    *,
    collections: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
    bm25: bool = True,
    tuning: bool = False,
    keep_own: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Rank for every question by every system, and say what the rankings are worth.

    `weights` are for the fusions that the run does not have; `tuning` chooses some on a half of the questions;
    with `keep_own` a chunk that has a question's own id counts as its hit, see `own`; `progress` is called with what is
    being done. What cannot be honoured is found before any model is loaded.

    Raises:
        InputError: no chunk that is judged relevant is in the run, or one id is in several of the collections.
        ConfigError: a library is not installed; weights of other models; see also `OpenedRun.search` and `tune`.
        OutputError: a file is missing or damaged, or the run was changed meanwhile.
    """
    require_measures()
    if bm25:
        require_bm25()
    require_weights(FusionConfig(weights=weights or {}), run.models)
    collections = list_of_texts("collections", collections, "names")
    with run.unchanged("open and evaluate it again"):
        return _evaluated(run, qrels, collections, weights, bm25, tuning, keep_own, progress)


def _evaluated(
    run: OpenedRun,
    qrels: Qrels,
    collections: Sequence[str],
    weights: Mapping[str, float] | None,
    bm25: bool,
    tuning: bool,
    keep_own: bool,
    progress: Callable[[str], None],
) -> Evaluation:
    ids = _ids(run, collections)
    qrels, notices = _known(qrels, ids)
    if tuning:
        require_tunable(run, qrels)
    counted = HitFilter.of(qrels, ids, keep_own=keep_own)
    notices = (*notices, *_own_notices(run, qrels, counted, collections))
    asked = Asked(queries=list(qrels.queries.values()), depth=counted.depth, ids=ids, collections=collections)

    def begun(name: str) -> None:
        progress(f"ranking {count_text(len(ids), 'chunk')} for {count_text(len(asked.queries), 'question')} by {name}")

    tried: list[Iterable[System | LeftOut]] = [systems(run, asked, weights, begun)]
    if bm25:
        tried.append(_by_words(run, asked, begun))
    found, left_out = _scored(itertools.chain(*tried), counted, qrels)
    single = max((each for each in found if each.kind == "model"), key=lambda each: each.scores.mean())
    rated = tuple(_rated(each, single, asked.queries) for each in found)
    verdict, best_verdict = _verdicts(run, found, rated, single, asked.queries, weights, weak=qrels.weak)
    if tuning:
        progress("tuning the weights")
    return Evaluation(
        questions=len(asked.queries),
        chunks=len(ids),
        systems=rated,
        best_single=single.name,
        verdict=verdict,
        best_verdict=best_verdict,
        left_out=tuple(left_out),
        tuned=tune(run, qrels, counted, collections) if tuning else None,
        notices=(*qrels.notices, *notices, *run.notices, *_word_notices(rated, single.name, qrels.weak)),
        weak=qrels.weak,
    )


def _ids(run: OpenedRun, collections: Sequence[str]) -> list[str]:
    owner: dict[str, str] = {}
    for collection, id_ in run.row_index(collections).ids():
        if id_ in owner:
            raise InputError(
                f"the id {id_!r} is in the collections {owner[id_]} and {collection}, so a judgement cannot tell them "
                "apart: choose one of them with --collections"
            )
        owner[id_] = collection
    return list(owner)


def _known(qrels: Qrels, ids: Sequence[str]) -> tuple[Qrels, tuple[str, ...]]:
    """The questions with a relevant chunk in the run, whose other judgements stay: what is not there is not found."""
    there = set(ids)
    answerable = {
        query: grades
        for query, grades in qrels.judgements.items()
        if any(grade > 0 and chunk in there for chunk, grade in grades.items())
    }
    if not answerable:
        relevant = (chunk for grades in qrels.judgements.values() for chunk, grade in grades.items() if grade > 0)
        example = next((f", e.g. {chunk!r} is not" for chunk in relevant), "")
        raise InputError(
            f"no chunk that is judged relevant is in the run{example}: give judgements by the ids of its chunks, such "
            f"as {ids[0]!r}"
        )
    absent = len({chunk for grades in qrels.judgements.values() for chunk in grades} - there)
    notices = [f"not in the run, so never found: {count_text(absent, 'judged chunk')}"] if absent else []
    if len(answerable) < len(qrels.judgements):
        left_out = len(qrels.judgements) - len(answerable)
        notices.append(f"without a relevant chunk in the run, so left out: {count_text(left_out, 'question')}")
    queries = {query: text for query, text in qrels.queries.items() if query in answerable}
    return Qrels(queries=queries, judgements=answerable, notices=qrels.notices, weak=qrels.weak), tuple(notices)


def _own_notices(run: OpenedRun, qrels: Qrels, counted: HitFilter, collections: Sequence[str]) -> tuple[str, ...]:
    rows = np.array(sorted(counted.own.values()), np.int64)
    texts = {row: chunk.text for row, (_, chunk) in run.chunks_at(rows, collections).items()}
    return counted.notices(qrels, texts)


def _word_notices(rated: Sequence[SystemScore], single: str, weak: bool) -> list[str]:
    """That words alone do better than all vectors, which no comparison of models tells."""
    words = next((each for each in rated if each.kind == "words"), None)
    if words is None or words.gain is None or not words.gain.is_shown or words.gain.mean < 0:
        return []
    why = ", as words do where the question is a heading that stands in its chunk" if weak else ""
    return [f"{words.name}, which needs no model, is {words.gain.mean:+.4f} {MAIN} from {single}{why}"]


def _by_words(run: OpenedRun, asked: Asked, begun: Callable[[str], None]) -> Iterator[System | LeftOut]:
    begun(_WORDS)
    texts = [chunk.text for place in run.row_index(asked.collections).shards for chunk in run.chunks(*place)]
    try:
        positions = bm25_rankings(texts, asked.queries, asked.depth)
    except InputError as exc:
        yield LeftOut(name=_WORDS, reason=str(exc))
    else:
        yield System(name=_WORDS, kind="words", positions=positions, cost=None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scored:
    """A system without its rankings, which need far more memory."""

    name: str
    kind: Kind
    cost: Cost | None
    scores: Scores


def _scored(tried: Iterable[System | LeftOut], counted: HitFilter, qrels: Qrels) -> tuple[list[_Scored], list[LeftOut]]:
    """The scores of each system as soon as it has ranked, so that one system's rankings are in memory at a time."""
    found: list[_Scored] = []
    left_out: list[LeftOut] = []
    for each in tried:
        if isinstance(each, LeftOut):
            left_out.append(each)
            continue
        queries = list(qrels.queries)
        scores = score(counted.rankings(each.positions, queries), queries, qrels.judgements)
        found.append(_Scored(name=each.name, kind=each.kind, cost=each.cost, scores=scores))
    return found, left_out


def _rated(each: _Scored, single: _Scored, questions: Sequence[str]) -> SystemScore:
    gain = difference(each.scores.of_query[MAIN], single.scores.of_query[MAIN], questions)
    return SystemScore(
        name=each.name,
        kind=each.kind,
        measures={measure: each.scores.mean(measure) for measure in MEASURES},
        gain=None if each is single else gain,
        cost=each.cost,
    )


def _verdicts(
    run: OpenedRun,
    found: Sequence[_Scored],
    rated: Sequence[SystemScore],
    single: _Scored,
    questions: Sequence[str],
    weights: Mapping[str, float] | None,
    *,
    weak: bool,
) -> tuple[Verdict | None, Verdict | None]:
    """On the run's own fusion, which was chosen before any of the questions, and on the best of all ensembles.

    The best is the one with the highest mean, among those that help if any do. An ensemble that is not the run's own is
    judged by figures that allow for the choice.
    """
    ensembles = [each for each in found if each.kind in ("run", "fusion")]
    if not ensembles:
        return None, None
    gains = _gains_together(ensembles, single, questions)
    own = next((each for each in rated if each.kind == "run"), None)
    if own is not None and own.gain is not None:
        gains[own.name] = own.gain
    helping = [each for each in ensembles if gains[each.name].is_shown and gains[each.name].mean > 0]
    best = max(helping or ensembles, key=lambda each: each.scores.mean())
    asked = len(questions)
    verdict = None
    if own is not None:
        instead = best.name if helping and best.name != own.name else None
        verdict = _judged(own.name, own.cost, single, gains[own.name], asked, weak=weak, instead=instead)
        if best.name == own.name:
            return verdict, verdict
    best_verdict = _judged(best.name, best.cost, single, gains[best.name], asked, weak=weak, among=len(ensembles))
    return verdict, replace(
        best_verdict, text=f"{best_verdict.text} {_how_to_have(run, best.name, own is not None, weights)}"
    )


def _gains_together(ensembles: Sequence[_Scored], single: _Scored, questions: Sequence[str]) -> dict[str, Difference]:
    scores = [each.scores.of_query[MAIN] for each in ensembles]
    gains = differences(scores, single.scores.of_query[MAIN], questions)
    return {each.name: gain for each, gain in zip(ensembles, gains, strict=True)}


def _judged(
    name: str, cost: Cost | None, single: _Scored, gain: Difference, questions: int, *, weak: bool, among: int = 0,
    instead: str | None = None,
) -> Verdict:  # fmt: skip
    assert cost is not None and single.cost is not None  # only words cost nothing
    return judge(
        name, single.name, gain, questions, cost, single.cost, weak=weak, among=among, instead=instead
    )  # fmt: skip


def _how_to_have(run: OpenedRun, name: str, own: bool, weights: Mapping[str, float] | None) -> str:
    """How to search by an ensemble that is not the run's own, and why the run's own is not judged."""
    same = " with the same --weights" if weights else ""
    if name in get_args(QueryFusion):
        way = f"soloist search --{name}{same} ranks by it."
    else:
        way = f"soloist embed --fusion {name}{same} makes it, and embeds no text again."
    if own:
        return way
    why = "has no fused vectors" if run.record.fusion is None else "has fused vectors that are left out here"
    return f"{way} The run {why}."
