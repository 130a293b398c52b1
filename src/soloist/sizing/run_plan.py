"""Plans the passes of a run: which models share the devices, in which order, and how large their batches are.

Exclusive and standard mode differ here and nowhere else. Their passes differ. Their limits differ too, where a device
does not hold all models beside their largest batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from soloist.memory.cards import Card
from soloist.memory.planner import BatchLimits, MemoryBound, memory_limit
from soloist.memory.prediction import Predictor, Tracer
from soloist.sizing.budgets import Budget
from soloist.types import Mode

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlannedModel:
    """The facts about a model that the plan needs. Without a tracer, memory does not bound its batches.

    `weight_sizes` are the bytes of its tensors, which share the device with other models in standard mode. `growth` is
    the ratio of measured to predicted activations on this machine, 1 where none was measured.
    """

    name: str
    budget: Budget
    max_tokens: int | None
    weight_sizes: tuple[int, ...]
    tracer: Tracer | None = None
    growth: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Models that share one lease. They encode each shard in turn."""

    models: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunPlan:
    """Passes in their order, and each model's budget and batch limits.

    `predictors` predict the memory of a device in a pass, with all models of the pass on it.
    """

    passes: tuple[Pass, ...]
    budgets: Mapping[str, Budget]
    limits: Mapping[str, BatchLimits]
    predictors: Mapping[str, Predictor]

    def with_companions(self, companions: Mapping[str, str]) -> RunPlan:
        """The plan where each of these models is computed with another, in the same batches: {"a:sparse": "a"}."""
        beside = {first: name for name, first in companions.items()}
        passes = [
            Pass(models=tuple(n for model in p.models for n in (model, beside.get(model)) if n)) for p in self.passes
        ]

        def shared(of: Mapping[str, T]) -> dict[str, T]:
            return {**of, **{name: of[first] for name, first in companions.items() if first in of}}

        return RunPlan(
            passes=tuple(passes), budgets=shared(self.budgets), limits=shared(self.limits),
            predictors=shared(self.predictors),
        )  # fmt: skip

    def following(self, present: Pass) -> tuple[str, ...]:
        """The models that the pass after this one adds."""
        after = self.passes[self.passes.index(present) + 1 :]
        return tuple(model for model in after[0].models if model not in present.models) if after else ()


def plan_run(models: Sequence[PlannedModel], mode: Mode, card: Card) -> RunPlan:
    """The plan of a run on devices like this card.

    Exclusive mode has one pass for each model. Standard mode has one pass with all models resident.
    """
    names = tuple(model.name for model in models)
    passes = (
        tuple(Pass(models=(name,)) for name in names) if mode == "exclusive" else (Pass(models=names),) if names else ()
    )
    alone = {model.name: Predictor(model.tracer, card) for model in models if model.tracer is not None}
    together = alone if mode == "exclusive" else _together(models, card)
    limits: dict[str, BatchLimits] = {}
    for model in models:
        # The limit of the model alone comes first: standard mode can only make batches smaller.
        predictors = [by_model[model.name] for by_model in (alone, together) if model.name in by_model]
        bounds = tuple(_bound(model, predictor, card) for predictor in dict.fromkeys(predictors))
        limits[model.name] = BatchLimits(token_budget=model.budget.tokens, bounds=bounds)
    budgets = {model.name: model.budget for model in models}
    return RunPlan(passes=passes, budgets=budgets, limits=limits, predictors=together)


def _together(models: Sequence[PlannedModel], card: Card) -> dict[str, Predictor]:
    """Predictors with all other models' weights on the device."""
    return {
        model.name: Predictor(
            model.tracer,
            card,
            residents=[size for other in models if other is not model for size in other.weight_sizes],
        )
        for model in models
        if model.tracer is not None
    }


def _bound(model: PlannedModel, predictor: Predictor, card: Card) -> MemoryBound:
    return MemoryBound(
        predictor=predictor, limit_bytes=memory_limit(card), longest=model.max_tokens, growth=max(1.0, model.growth)
    )
