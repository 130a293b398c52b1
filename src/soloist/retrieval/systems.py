"""Everything that can rank a run's chunks: its models, its fused vectors, and every fusion that could be made of them.

A fusion that the run does not have is made on the way, a block of vectors at a time, and nothing of it is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from soloist.config import FusionConfig
from soloist.errors import EncodingError, FusionError
from soloist.fusion import Fitted, Fitting, FusionPlan, fuse, plan_fusion, sampled
from soloist.fusion_methods import FUSIONS
from soloist.retrieval.exact import Best, Block, Question, search_all
from soloist.retrieval.opened import FUSED, By, OpenedRun, QueryFusion
from soloist.retrieval.verdict import Cost

Kind = Literal["model", "run", "fusion", "words"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class System:
    """One way to rank: `kind` is a model of the run, its own fused vectors, a fusion that it could have, or words.

    `positions` are the rows that it finds for each query, best first.
    """

    name: str
    kind: Kind
    positions: Sequence[NDArray[np.int64]]
    cost: Cost | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A way to rank that cannot be had of this run, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What every system is asked: queries, how many chunks to find for each, and where; `ids` are of all rows there."""

    queries: Sequence[str]
    depth: int
    ids: Sequence[str]
    collections: Sequence[str] = ()


def systems(
    run: OpenedRun, asked: Asked, weights: Mapping[str, float] | None, begun: Callable[[str], None]
) -> Iterator[System | LeftOut]:
    """The rankings of each system in turn. `weights` are for the fusions, by default the run's own; `begun` is called
    with the name of each system before it ranks.

    A fusion that cannot be made, e.g. since it is fitted to more chunks than there are, is left out: nobody asked for
    it by name. A model that cannot rank is an error.
    """
    for model in run.models:
        begun(model)
        best = _ranked(run, asked, By(model=model))
        yield System(name=model, kind="model", positions=list(best.positions), cost=cost_of(run, asked, [model]))
    if len(run.models) < 2:
        return
    own = run.record.fusion
    if own is not None:
        name, stored = f"{FUSED} ({own.method})", functools.partial(_ranked, run, asked, By(fusion="fused"))
        begun(name)
        yield _tried(name, "run", stored, _fused_cost(run, asked, own))
    for method in FUSIONS:
        plan = made_plan(run, method, weights)
        if own is None or _arithmetic(plan) != _arithmetic(own):
            begun(method)
            yield _tried(method, "fusion", functools.partial(_made, run, asked, plan), _fused_cost(run, asked, plan))
    for fusion in get_args(QueryFusion):
        by = By(fusion=fusion, weights=weights)
        used, _ = run.weighted(by)
        begun(fusion)
        yield _tried(fusion, "fusion", functools.partial(_ranked, run, asked, by), cost_of(run, asked, used))


def _tried(name: str, kind: Kind, rank: Callable[[], Best], cost: Cost) -> System | LeftOut:
    try:
        return System(name=name, kind=kind, positions=list(rank().positions), cost=cost)
    except (FusionError, EncodingError) as exc:
        return LeftOut(name=name, reason=str(exc))


def _arithmetic(plan: FusionPlan) -> tuple[object, ...]:
    """What two plans that do the same have in common, whatever their notices."""
    return plan.method, plan.weights, plan.kept_dims, plan.dim


def _ranked(run: OpenedRun, asked: Asked, by: By) -> Best:
    return run.rank(asked.queries, asked.depth, by=by, collections=asked.collections)


def made_plan(run: OpenedRun, method: str, weights: Mapping[str, float] | None = None) -> FusionPlan:
    """The plan of a fusion that the run need not have, with its weights or, where it has none, all alike."""
    own = run.record.fusion
    chosen = weights or (dict(zip(own.models, own.weights, strict=True)) if own is not None else {})
    plan = plan_fusion(FusionConfig(method=method, weights=chosen), run.members)
    assert plan is not None
    return plan


def cost_of(run: OpenedRun, asked: Asked, models: Sequence[str], bytes_per_chunk: int | None = None) -> Cost:
    """What encoding the chunks that are ranked took of some models, at the rate of the session that embedded, and what
    their vectors take.
    """
    rows = run.row_index(asked.collections).rows
    records = [run.record.models[model] for model in models]
    known = [record.seconds / record.embedded * rows for record in records if record.embedded]
    stored = sum(run.vectors(model, asked.collections).stored_bytes for model in models)
    return Cost(
        seconds=sum(known) if len(known) == len(records) else None,
        bytes_per_chunk=stored if bytes_per_chunk is None else bytes_per_chunk,
    )


def _fused_cost(run: OpenedRun, asked: Asked, plan: FusionPlan) -> Cost:
    used = [model for model, kept in zip(plan.models, plan.kept_dims, strict=True) if kept]
    number_bytes = run.vectors(used[0], asked.collections).stored_bytes // run.record.models[used[0]].dim
    return cost_of(run, asked, used, plan.dim * number_bytes)


def _made(run: OpenedRun, asked: Asked, plan: FusionPlan) -> Best:
    fitted = fit(run, plan) if plan.needs_fit else None
    names = [f"the question {query[:40]!r}" for query in asked.queries]
    queries = fuse(plan, run.encode_for(plan, asked.queries), names, fitted)

    def blocks() -> Iterator[Block]:
        return _fused_blocks(plan, run.blocks(plan.models, asked.collections), asked.ids, fitted)

    return search_all(Question.of([queries]), blocks, asked.depth)


def _fused_blocks(
    plan: FusionPlan, blocks: Iterable[Block], ids: Sequence[str], fitted: Fitted | None
) -> Iterator[Block]:
    first = 0
    for block in blocks:
        end = first + len(block[0])
        yield (fuse(plan, block, ids[first:end], fitted),)
        first = end


def fit(run: OpenedRun, plan: FusionPlan) -> Fitted:
    """The matrices of a fusion, fitted to a sample of all rows of the run.

    Raises:
        FusionError: there are too few rows, or one is damaged: also one in a collection that nothing else looks at.
    """
    fitting = Fitting(plan)
    for block in sampled(run.blocks(plan.models), run.row_index().rows):
        if not all(np.isfinite(part).all() for part in block):
            raise FusionError(
                "a vector that it would be fitted to has NaN or infinity: soloist verify says in which file"
            )
        fitting.see(block)
    return fitting.fitted()
