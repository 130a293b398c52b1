"""Everything that can rank a run's chunks: its models, its fused vectors, and every fusion that could be made of them.

A fusion that the run does not have is made on the way, a block of vectors at a time, and nothing of it is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from soloist.config import FusionConfig
from soloist.fusion import Fitted, Fitting, FusionPlan, fuse, plan_fusion, sampled
from soloist.retrieval.exact import Best, Question, search
from soloist.retrieval.opened import FUSED, By, OpenedRun
from soloist.retrieval.verdict import Cost
from soloist.types import FusionMethod

Vectors = np.ndarray[Any, np.dtype[np.float32]]
Kind = Literal["model", "run", "fusion", "words"]
_MADE: tuple[FusionMethod, ...] = ("concat", "mean", "projection", "aligned-mean")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class System:
    """One way to rank: `kind` is a model of the run, its own fused vectors, a fusion that it could have, or words."""

    name: str
    kind: Kind
    best: Best
    cost: Cost | None


def systems(
    run: OpenedRun,
    queries: Sequence[str],
    depth: int,
    collections: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
) -> Iterator[System]:
    """The rankings of each system in turn, `depth` deep. `weights` are for the fusions; the run's own by default."""
    for model in run.models:
        best = run.rank(queries, depth, by=By(model=model), collections=collections)
        yield System(name=model, kind="model", best=best, cost=cost_of(run, [model]))
    own = run.record.fusion
    if own is not None and len(run.models) > 1:
        best = run.rank(queries, depth, by=By(fusion="fused"), collections=collections)
        yield System(name=f"{FUSED} ({own.method})", kind="run", best=best, cost=_fused_cost(run, own))
    if len(run.models) < 2:
        return
    for method in _MADE:
        plan = made_plan(run, method, weights)
        if own is None or (plan.method, plan.weights, plan.kept_dims, plan.dim) != (
            own.method,
            own.weights,
            own.kept_dims,
            own.dim,
        ):
            yield System(
                name=method,
                kind="fusion",
                best=_ranked(run, plan, queries, depth, collections),
                cost=_fused_cost(run, plan),
            )
    for fusion in ("rrf", "standardised"):
        by = By(fusion=fusion, weights=weights)
        best = run.rank(queries, depth, by=by, collections=collections)
        yield System(name=fusion, kind="fusion", best=best, cost=cost_of(run, run.models))


def made_plan(run: OpenedRun, method: FusionMethod, weights: Mapping[str, float] | None = None) -> FusionPlan:
    """The plan of a fusion that the run need not have, with its weights or, where it has none, all alike."""
    own = run.record.fusion
    chosen = weights or (dict(zip(own.models, own.weights, strict=True)) if own is not None else {})
    plan = plan_fusion(FusionConfig(method=method, weights=chosen), run.members)
    assert plan is not None
    return plan


def cost_of(run: OpenedRun, models: Sequence[str], bytes_per_chunk: int | None = None) -> Cost:
    """What some models' encoding took, at the rate of the session that embedded, and what their vectors take."""
    rows = run.places().rows
    records = [run.record.models[model] for model in models]
    known = [record.seconds / record.embedded * rows for record in records if record.embedded]
    stored = sum(run.vectors(model).stored_bytes for model in models)
    return Cost(
        seconds=sum(known) if len(known) == len(records) else None,
        bytes_per_chunk=stored if bytes_per_chunk is None else bytes_per_chunk,
    )


def _fused_cost(run: OpenedRun, plan: FusionPlan) -> Cost:
    used = [model for model, kept in zip(plan.models, plan.kept_dims, strict=True) if kept]
    number_bytes = run.vectors(used[0]).stored_bytes // run.record.models[used[0]].dim
    return cost_of(run, used, plan.dim * number_bytes)


def _ranked(run: OpenedRun, plan: FusionPlan, queries: Sequence[str], depth: int, collections: Sequence[str]) -> Best:
    fitted = fit(run, plan) if plan.needs_fit else None
    asked = fuse(plan, [run.encode(model, queries) for model in plan.models], fitted=fitted)
    blocks = ((fuse(plan, block, fitted=fitted),) for block in run.blocks(plan.models, collections))
    return search(Question.of([asked]), blocks, depth)


def fit(run: OpenedRun, plan: FusionPlan) -> Fitted:
    """The matrices of a fusion, fitted to a sample of all rows of the run."""
    fitting = Fitting(plan)
    for block in sampled(run.blocks(plan.models), run.places().rows):
        fitting.see(block)
    return fitting.fitted()
