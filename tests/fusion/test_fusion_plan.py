"""The plan: weights and dims are settled or refused, and nothing of a request is changed quietly."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soloist.config import FusionConfig
from soloist.errors import FusionError
from soloist.fusion import FusionPlan, Member, plan_fusion, require_weights

A = Member(name="a", dim=384)
B = Member(name="b", dim=1024, matryoshka_dims=(1024, 512, 384, 256, 64))
C = Member(name="c", dim=1536, matryoshka_dims=(512, 256, 128))


def plan(
    *members: Member, method: str = "concat", dim: int | None = None, weights: dict[str, float] | None = None
) -> FusionPlan:
    """A plan for the members, with weights by name."""
    made = plan_fusion(FusionConfig(method=method, weights=weights or {}, dim=dim), members)
    assert made is not None
    return made


def test_none_makes_no_plan() -> None:
    """Fused vectors would be written that nobody asked for."""
    assert plan_fusion(FusionConfig(method="none"), [A, B]) is None


def test_concat_keeps_every_component() -> None:
    """The default would cut a model."""
    made = plan(A, B)
    assert (made.models, made.weights) == (("a", "b"), (0.5, 0.5))
    assert (made.member_dims, made.kept_dims, made.dim) == ((384, 1024), (384, 1024), 1408)
    assert made.notices == ()


def test_weights_go_with_their_models_and_sum_to_one() -> None:
    """The order of the mapping would decide instead of the names."""
    assert plan(A, B, weights={"b": 3, "a": 1}).weights == (0.25, 0.75)


@given(st.lists(st.floats(0, 1.7e308), min_size=1, max_size=5).filter(any))
def test_normalised_weights_sum_to_one(values: list[float]) -> None:
    """Huge weights would overflow to infinity, tiny ones would divide by zero."""
    members = [Member(name=str(i), dim=4) for i in range(len(values))]
    made = plan(*members, weights={str(i): value for i, value in enumerate(values)})
    assert abs(sum(made.weights) - 1) < 1e-12
    assert all(0 <= weight <= 1 for weight in made.weights)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"a": 1.0, "b": -0.5}, "the weight of b is -0.5: give 0 or more"),
        ({"a": float("nan"), "b": 1.0}, "the weight of a is nan: give a finite number of 0 or more"),
        ({"a": 1.0, "b": float("inf")}, "the weight of b is inf: give a finite number of 0 or more"),
        ({"a": 0.0, "b": 0.0}, "all weights are 0: give at least one model a weight above 0"),
        ({"a": 1.0, "b": 1.0, "x": 1.0}, "weights name x, which is not a model of this run: choose from a, b"),
        ({"a": 1.0}, "weights name a but not b: give b a weight too, 0 to leave it out"),
    ],
)
@pytest.mark.parametrize("method", ["concat", "mean"])
def test_weights_that_cannot_be_honoured(weights: dict[str, float], sentence: str, method: str) -> None:
    """A weight would be repaired or ignored quietly; or refused only once the models' dims are known."""
    with pytest.raises(FusionError) as caught:
        plan(A, B, method=method, weights=weights)
    assert str(caught.value) == sentence
    with pytest.raises(FusionError) as caught:
        require_weights(FusionConfig(method=method, weights=weights), ["a", "b"])
    assert str(caught.value) == sentence


def test_weights_that_can_be_honoured_pass_the_early_check() -> None:
    """The early check would refuse what the plan takes: no weights, a weight of 0, no fusion."""
    for config in (FusionConfig(), FusionConfig(weights={"b": 0, "a": 3}), FusionConfig(method="none")):
        require_weights(config, ["a", "b"])


@pytest.mark.parametrize("method", ["concat", "mean"])
def test_a_dim_wider_than_a_model_names_the_narrowest(method: str) -> None:
    """The remedy would lead to the next error, of a model that is narrower still."""
    with pytest.raises(FusionError) as caught:
        plan(B, A, method=method, dim=2000)
    assert str(caught.value) == "dim is 2000 but a has only 384 dims: choose a dim of 384 or less, or leave dim out"


@pytest.mark.parametrize("method", ["concat", "mean"])
def test_a_model_of_weight_zero_has_no_part(method: str) -> None:
    """A model that was left out would still add columns, narrow the others, or refuse their dim."""
    made = plan(A, B, method=method, dim=512, weights={"a": 0, "b": 2})
    assert (made.models, made.weights) == (("a", "b"), (0, 1))
    assert (made.kept_dims, made.dim) == ((0, 512), 512)
    assert made.notices == ()


def test_concat_cuts_every_model_to_dim() -> None:
    """`dim` would be taken for the fused vector's."""
    made = plan(B, C, dim=256)
    assert (made.kept_dims, made.dim, made.notices) == ((256, 256), 512, ())


def test_a_cut_that_a_model_was_not_trained_for_is_told() -> None:
    """The user would lose quality and not know why."""
    for method in ("concat", "mean"):
        made = plan(A, B, method=method, dim=256)
        assert made.notices[0] == "a was not trained to be cut from 384 to 256 dims: its cut vectors may rank worse"
        assert not any("b was not" in notice for notice in made.notices)
    assert plan(A, B, dim=384).notices == ()


def test_mean_takes_the_largest_dim_that_all_were_trained_for() -> None:
    """Models would be cut further than they need, or where they were not trained to be."""
    made = plan(B, C, method="mean")
    assert (made.kept_dims, made.dim) == ((512, 512), 512)
    assert plan(A, B, method="mean").dim == 384
    assert plan(C, C, method="mean").dim == 1536


def test_a_matryoshka_dim_wider_than_the_model_is_no_dim() -> None:
    """A wrong catalogue entry would make a plan that cuts to more components than there are."""
    wrong = Member(name="w", dim=100, matryoshka_dims=(512, 50))
    assert plan(wrong, C, method="mean").dim == 100


def test_mean_without_a_common_dim_takes_the_smallest_and_says_so() -> None:
    """The run would fail, or cut quietly."""
    made = plan(A, C, method="mean")
    assert (made.kept_dims, made.dim) == ((384, 384), 384)
    assert made.notices[:2] == (
        "the models have no trained dim in common: mean cuts all to the smallest, 384 dims",
        "c was not trained to be cut from 1536 to 384 dims: its cut vectors may rank worse",
    )


def test_mean_tells_what_was_measured() -> None:
    """The user would choose the method that loses and not know it."""
    assert "lost to the better single model" in plan(A, B, method="mean").notices[-1]
    assert plan(A, method="mean").notices == ()


@given(st.sampled_from(["concat", "mean"]), st.floats(0.1, 10), st.none() | st.integers(1, 384))
def test_a_plan_survives_json(method: str, weight: float, dim: int | None) -> None:
    """A search would use other weights than the run did."""
    made = plan(A, B, C, method=method, dim=dim, weights={"a": weight, "b": 1, "c": 0})
    assert FusionPlan.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize("change", [{"method": None}, {"extra": 1}])
def test_a_saved_plan_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    """A TypeError would reach the user."""
    saved = plan(A, B).to_dict() | change
    if change.get("method", 0) is None:
        del saved["method"]
    with pytest.raises(FusionError, match="the saved fusion plan does not fit"):
        FusionPlan.from_dict(saved)


def test_a_saved_plan_of_an_unknown_method_is_refused() -> None:
    """A run of another version would be searched with another fusion than its own, or end in a KeyError."""
    with pytest.raises(FusionError, match="the run was fused by sum, which this version of soloist does not have"):
        FusionPlan.from_dict(plan(A, B).to_dict() | {"method": "sum"})
