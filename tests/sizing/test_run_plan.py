"""Which models are on the devices together, and what that leaves for their batches."""

from __future__ import annotations

import pytest

from soloist.memory.cards import bare_card
from soloist.memory.prediction import blueprint_of, tracer_of
from soloist.models.catalogue import resolve
from soloist.sizing.budgets import Budget
from soloist.sizing.run_plan import PlannedModel, plan_run

MIB = 2**20
BUDGET = Budget(tokens=10**6, source="given", device="simulated bare simulated device")


@pytest.fixture
def qwen2(tiny_models) -> PlannedModel:
    """A small model whose network is known."""
    tracer = tracer_of(blueprint_of(resolve(str(tiny_models["qwen2"]))), "float32", bare_card(0))
    sizes = tracer.weights.sizes_bytes
    return PlannedModel(name="qwen2", budget=BUDGET, max_tokens=512, weight_sizes=sizes, tracer=tracer)


def rows(models: list[PlannedModel], mode: str) -> int:
    plan = plan_run(models, mode, bare_card(12 * MIB))
    return plan.limits["qwen2"].rows(64)


def test_a_model_that_cannot_be_predicted_takes_its_room_all_the_same(qwen2):
    """Its weights are on the device whether or not anyone can trace its network: batches beside it would not fit."""
    unknown = PlannedModel(name="unknown", budget=BUDGET, max_tokens=512, weight_sizes=(2 * MIB, 4 * MIB))
    alone, beside = rows([qwen2], "standard"), rows([qwen2, unknown], "standard")
    assert alone == rows([qwen2, unknown], "exclusive")
    assert 1 < beside < 0.6 * alone


def test_a_resident_that_fills_the_device_leaves_one_row(qwen2):
    """A limit of no rows would be a batch of none, and the run would never end."""
    full = PlannedModel(name="full", budget=BUDGET, max_tokens=512, weight_sizes=(12 * MIB,))
    assert rows([qwen2, full], "standard") == 1
