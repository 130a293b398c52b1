"""Which ensembles of an evaluation get a verdict: the run's own fusion, and the best of all. Pure: scores in."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from soloist.fusion_methods import FUSIONS, HYBRID
from soloist.retrieval.cost import Cost
from soloist.retrieval.metrics import MAIN, Difference, Scores, difference, differences
from soloist.retrieval.rankers import Kind, searchable
from soloist.retrieval.run_record import RunRecord
from soloist.retrieval.verdict import Verdict, judge, words_said
from soloist.wording import listed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredSystem:
    """A system with its scores, and without its rankings, which need far more memory."""

    name: str
    kind: Kind
    cost: Cost | None
    scores: Scores


def verdicts(
    systems: Sequence[ScoredSystem],
    single: ScoredSystem,
    queries: Sequence[str],
    *,
    weak: bool,
    record: RunRecord,
    weights: Mapping[str, float] | None,
) -> tuple[Verdict | None, Verdict | None]:
    """On the run's own fusion, which was chosen before any of the questions, and on the best of all ensembles.

    The best ensemble has the highest mean of those that help, or of all if none helps. If that is not the run's own, it
    is judged by figures that allow for the choice.
    """
    ensembles = [system for system in systems if system.kind in ("run", "fusion")]
    if not ensembles:
        return None, None
    own = next((system for system in ensembles if system.kind == "run"), None)
    gains = _gains(ensembles, own, single, queries)
    helping = [system for system in ensembles if gains[system.name].is_shown and gains[system.name].mean > 0]
    best = max(helping or ensembles, key=lambda system: system.scores.mean())
    verdict = functools.partial(
        _verdict, single=single, gains=gains, questions=len(queries), weak=weak, has_words=bool(record.posted)
    )
    own_verdict = None
    if own is not None:
        is_given = bool(weights) and own.name == HYBRID  # the weights of fused vectors cannot be given any more
        own_verdict = verdict(own, is_given=is_given, instead=best.name if helping and best is not own else None)
        own_verdict = _with_words(own_verdict, own, systems, record, queries, weights)
        if best is own:
            return own_verdict, own_verdict
    best_verdict = verdict(best, among=len(ensembles))
    way = _way_to_have(best.name, with_weights=bool(weights))
    why = _why_not_judged(record) if own is None else ""
    return own_verdict, replace(best_verdict, text=" ".join(filter(None, (best_verdict.text, way, why))))


def _with_words(
    verdict: Verdict,
    own: ScoredSystem,
    systems: Sequence[ScoredSystem],
    record: RunRecord,
    queries: Sequence[str],
    weights: Mapping[str, float] | None,
) -> Verdict:
    """The verdict on all members of a run with words, and what the words do in it.

    The rest of the ensemble is ranked too: by the fused vectors, by the only model, or as an ensemble of its own.
    """
    plan = record.hybrid_plan(weights)
    terms = plan.weights if plan is not None and own.name == HYBRID else {}
    rest, words = [name for name in terms if name not in record.words], [name for name in terms if name in record.words]
    if not words:
        return verdict
    ranked = {system.name.split(" (")[0]: system for system in systems}
    without = ranked.get(f"{HYBRID} without {listed(words)}") or (ranked.get(rest[0]) if len(rest) == 1 else None)
    if without is None:
        return verdict
    gain = difference(own.scores.of_query[MAIN], without.scores.of_query[MAIN], queries)
    return replace(verdict, text=f"{verdict.text} {words_said(words, own.name, without.name, gain)}")


def _verdict(
    system: ScoredSystem,
    *,
    single: ScoredSystem,
    gains: Mapping[str, Difference],
    questions: int,
    weak: bool,
    has_words: bool,
    among: int = 0,
    instead: str | None = None,
    is_given: bool = False,
) -> Verdict:
    assert system.cost is not None and single.cost is not None  # both are of the run
    return judge(
        system.name, single.name, gains[system.name], questions, system.cost, single.cost,
        weak=weak, among=among, instead=instead, has_words=has_words, is_words=single.kind == "words",
        is_given=is_given,
    )  # fmt: skip


def _gains(
    ensembles: Sequence[ScoredSystem], own: ScoredSystem | None, single: ScoredSystem, queries: Sequence[str]
) -> dict[str, Difference]:
    """Over the best single model. The figures hold for whichever ensemble is picked; the run's own has its own."""
    scores = [system.scores.of_query[MAIN] for system in ensembles]
    alone = single.scores.of_query[MAIN]
    gains = dict(zip([system.name for system in ensembles], differences(scores, alone, queries), strict=True))
    if own is not None:
        gains[own.name] = difference(own.scores.of_query[MAIN], alone, queries)
    return gains


def _way_to_have(name: str, *, with_weights: bool) -> str:
    """How to search by an ensemble that is not the run's own."""
    same = " with the same --weights" if with_weights else ""
    if name in searchable():
        return f"soloist search --{name}{same} ranks by it."
    if name in FUSIONS:
        return f"soloist embed --fusion {name}{same} makes it, and embeds no text again."
    return ""


def _why_not_judged(record: RunRecord) -> str:
    why = "has no fused vectors" if record.fusion is None else "has fused vectors, but this evaluation leaves them out"
    return f"The run {why}."
