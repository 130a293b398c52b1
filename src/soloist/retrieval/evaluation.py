"""A run on judged questions: what each of its models and every fusion is worth, and whether the ensemble pays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from soloist.config import FusionConfig
from soloist.errors import ConfigError, InputError
from soloist.fusion import require_weights
from soloist.given import texts_given
from soloist.retrieval.judged import Judged
from soloist.retrieval.metrics import (
    MAIN,
    MEASURES,
    Difference,
    Scores,
    difference,
    require_measures,
    score,
)
from soloist.retrieval.opened import OpenedRun
from soloist.retrieval.own import Counted
from soloist.retrieval.systems import Asked, Kind, LeftOut, System, systems
from soloist.retrieval.tuning import Tuned, require_tunable, tune
from soloist.retrieval.verdict import Cost, Verdict, judge
from soloist.retrieval.words import by_words, require_words
from soloist.wording import count_text

_WORDS = "BM25"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """One system: the means of its measures, and its gain in nDCG@10 over the best single model, None for that one."""

    name: str
    kind: Kind
    measures: Mapping[str, float]
    gain: Difference | None
    cost: Cost | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All systems, the best single model's name, and the verdict on the run's own fusion or, where it has none, on the
    best of the others, which is then chosen by the questions that judge it. `left_out` are the fusions that this run
    cannot have, each with the reason.
    """

    questions: int
    chunks: int
    systems: tuple[Rated, ...]
    best_single: str
    verdict: Verdict | None
    left_out: tuple[LeftOut, ...]
    tuned: Tuned | None
    notices: tuple[str, ...]
    weak: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return asdict(self)


def evaluate(
    run: OpenedRun,
    judged: Judged,
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
        require_words()
    require_weights(FusionConfig(weights=weights or {}), run.models)
    collections = texts_given("collections", collections, "names")
    with run.unchanged("open and evaluate it again"):
        return _evaluated(run, judged, collections, weights, bm25, tuning, keep_own, progress)


def _evaluated(
    run: OpenedRun,
    judged: Judged,
    collections: Sequence[str],
    weights: Mapping[str, float] | None,
    bm25: bool,
    tuning: bool,
    keep_own: bool,
    progress: Callable[[str], None],
) -> Evaluation:
    ids = _ids(run, collections)
    judged, notices = _known(judged, ids)
    if tuning:
        require_tunable(run, judged)
    counted = Counted.of(judged, ids, keep_own=keep_own)
    notices = (*notices, *_own_notices(run, judged, counted, collections))
    asked = Asked(queries=list(judged.queries.values()), depth=counted.depth, ids=ids, collections=collections)

    def begun(name: str) -> None:
        progress(f"ranking {count_text(len(ids), 'chunk')} for {count_text(len(asked.queries), 'question')} by {name}")

    tried: list[Iterable[System | LeftOut]] = [systems(run, asked, weights, begun)]
    if bm25:
        tried.append(_by_words(run, asked, begun))
    found, left_out = _scored(itertools.chain(*tried), counted, judged)
    single = max((each for each in found if each.kind == "model"), key=lambda each: each.scores.mean())
    rated = tuple(_rated(each, single, asked.queries) for each in found)
    if tuning:
        progress("tuning the weights")
    return Evaluation(
        questions=len(asked.queries),
        chunks=len(ids),
        systems=rated,
        best_single=single.name,
        verdict=_verdict(run, rated, single.name, len(asked.queries), judged.weak),
        left_out=tuple(left_out),
        tuned=tune(run, judged, counted, collections) if tuning else None,
        notices=(*judged.notices, *notices, *run.notices, *_word_notices(rated, single.name, judged.weak)),
        weak=judged.weak,
    )


def _ids(run: OpenedRun, collections: Sequence[str]) -> list[str]:
    owner: dict[str, str] = {}
    for collection, id_ in run.places(collections).ids():
        if id_ in owner:
            raise InputError(
                f"the id {id_!r} is in the collections {owner[id_]} and {collection}, so a judgement cannot tell them "
                "apart: choose one of them with --collections"
            )
        owner[id_] = collection
    return list(owner)


def _known(judged: Judged, ids: Sequence[str]) -> tuple[Judged, tuple[str, ...]]:
    """The questions with a relevant chunk in the run, whose other judgements stay: what is not there is not found."""
    there = set(ids)
    answerable = {
        query: grades
        for query, grades in judged.judgements.items()
        if any(grade > 0 and chunk in there for chunk, grade in grades.items())
    }
    if not answerable:
        relevant = (chunk for grades in judged.judgements.values() for chunk, grade in grades.items() if grade > 0)
        example = next((f", e.g. {chunk!r} is not" for chunk in relevant), "")
        raise InputError(
            f"no chunk that is judged relevant is in the run{example}: give judgements by the ids of its chunks, such "
            f"as {ids[0]!r}"
        )
    absent = len({chunk for grades in judged.judgements.values() for chunk in grades} - there)
    notices = [f"not in the run, so never found: {count_text(absent, 'judged chunk')}"] if absent else []
    if len(answerable) < len(judged.judgements):
        left_out = len(judged.judgements) - len(answerable)
        notices.append(f"without a relevant chunk in the run, so left out: {count_text(left_out, 'question')}")
    queries = {query: text for query, text in judged.queries.items() if query in answerable}
    return Judged(queries=queries, judgements=answerable, notices=judged.notices, weak=judged.weak), tuple(notices)


def _own_notices(run: OpenedRun, judged: Judged, counted: Counted, collections: Sequence[str]) -> tuple[str, ...]:
    rows = np.array(sorted(counted.own.values()), np.int64)
    texts = {row: chunk.text for row, (_, chunk) in run.chunks_at(rows, collections).items()}
    return counted.notices(judged, texts)


def _word_notices(rated: Sequence[Rated], single: str, weak: bool) -> list[str]:
    """That words alone do better than all vectors, which no comparison of models tells."""
    words = next((each for each in rated if each.kind == "words"), None)
    if words is None or words.gain is None or not words.gain.is_shown or words.gain.mean < 0:
        return []
    why = ", as words do where the question is a heading that stands in its chunk" if weak else ""
    return [f"{words.name}, which needs no model, is {words.gain.mean:+.4f} {MAIN} from {single}{why}"]


def _by_words(run: OpenedRun, asked: Asked, begun: Callable[[str], None]) -> Iterator[System | LeftOut]:
    begun(_WORDS)
    texts = [chunk.text for place in run.places(asked.collections).shards for chunk in run.chunks(*place)]
    try:
        positions = by_words(texts, asked.queries, asked.depth)
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


def _scored(tried: Iterable[System | LeftOut], counted: Counted, judged: Judged) -> tuple[list[_Scored], list[LeftOut]]:
    """The scores of each system as soon as it has ranked, so that one system's rankings are in memory at a time."""
    found: list[_Scored] = []
    left_out: list[LeftOut] = []
    for each in tried:
        if isinstance(each, LeftOut):
            left_out.append(each)
            continue
        queries = list(judged.queries)
        scores = score(counted.rankings(each.positions, queries), queries, judged.judgements)
        found.append(_Scored(name=each.name, kind=each.kind, cost=each.cost, scores=scores))
    return found, left_out


def _rated(each: _Scored, single: _Scored, questions: Sequence[str]) -> Rated:
    gain = difference(each.scores.of_query[MAIN], single.scores.of_query[MAIN], questions)
    return Rated(
        name=each.name,
        kind=each.kind,
        measures={measure: each.scores.mean(measure) for measure in MEASURES},
        gain=None if each is single else gain,
        cost=each.cost,
    )


def _verdict(run: OpenedRun, rated: Sequence[Rated], single: str, questions: int, weak: bool) -> Verdict | None:
    """None where the run has one model, and so no ensemble."""
    own = [each for each in rated if each.kind == "run"]
    made = [each for each in rated if each.kind == "fusion"]
    if not own and not made:
        return None
    fused = own[0] if own else max(made, key=lambda each: each.measures[MAIN])
    alone = next(each for each in rated if each.name == single)
    if fused.gain is None or fused.cost is None or alone.cost is None:
        raise ConfigError(f"{fused.name} has no figures: evaluate again")
    found = judge(fused.name, single, fused.gain, questions, fused.cost, alone.cost, weak=weak)
    if own:
        return found
    why = "has no fused vectors" if run.record.fusion is None else "has fused vectors that are left out here"
    flattered = f"{fused.name} is the best of {count_text(len(made), 'fusion')} by these very questions"
    return replace(found, text=f"{found.text} The run {why}: {flattered}, which flatters it.")
