"""Which models are on the devices together, in which order, and how large their batches are. Pure.

Exclusive and standard mode differ here and nowhere else: in the passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soloist.types import Mode

# Padded tokens in a batch, where the user sets none. On two cores with AVX-512, MiniLM reached its rate at 1,000 to
# 4,000 tokens a batch; 16,384 is what text-embeddings-inference takes on a GPU. A static model only
# looks up and averages: what a batch costs there is the overhead of a call.
TOKEN_BUDGETS: Mapping[str, int] = {"cpu": 4_096, "cuda": 16_384, "simulated": 16_384}
STATIC_TOKEN_BUDGET = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Models that share one lease. For each shard, each of them encodes in turn."""

    models: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """Passes in their order, and each model's token budget, which no mode changes."""

    passes: tuple[Pass, ...]
    token_budgets: Mapping[str, int]


def plan_run(
    models: Sequence[str], static_models: Sequence[str], mode: Mode, kind: str, token_budget: int | None
) -> RunPlan:
    """The plan of a run on an accelerator of this kind.

    Exclusive: one pass for each model, alone. Standard: one pass with all models resident.
    """
    passes = tuple(Pass(models=(model,)) for model in models) if mode == "exclusive" else (Pass(models=tuple(models)),)
    budgets = {
        model: token_budget or (STATIC_TOKEN_BUDGET if model in static_models else TOKEN_BUDGETS[kind])
        for model in models
    }
    return RunPlan(passes=passes, token_budgets=budgets)
