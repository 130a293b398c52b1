"""The plan of a hybrid ranking: terms and weights of members of different kinds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soloist.config import FusionConfig
from soloist.errors import FusionError
from soloist.fusion import HybridPlan, dense_fusion, plan_hybrid

KINDS = {"a": "dense", "b": "dense", "s": "sparse", "bm25": "lexical"}
WORDS = {"a": "dense", "bm25": "lexical"}


@pytest.mark.parametrize("kinds", [{"a": "dense", "b": "dense"}, {"bm25": "lexical"}, {"s": "sparse"}])
def test_one_space_needs_no_hybrid(kinds):
    """A run of today would get another default ranking, or one member would be standardised for nothing."""
    assert plan_hybrid({}, kinds, has_fused=True) is None


def test_without_weights_words_have_their_default_share():
    """Words would weigh as much as all vectors, or as one of them."""
    assert plan_hybrid({}, WORDS, has_fused=False).weights == pytest.approx({"a": 0.7, "bm25": 0.3})


def test_the_first_of_several_models_has_most_of_their_weight():
    """Equal parts were measured to be worse; or the fused vectors would have other weights than the plan says."""
    kinds = {"a": "dense", "b": "dense", "bm25": "lexical"}
    alone = plan_hybrid({}, kinds, has_fused=False).weights
    assert alone == pytest.approx({"a": 0.49, "b": 0.21, "bm25": 0.3})
    assert plan_hybrid({}, kinds, has_fused=True).weights == pytest.approx({"fused": 0.7, "bm25": 0.3})
    assert dense_fusion(FusionConfig(), kinds).weights == {"a": 0.7, "b": 0.3}


def test_fused_vectors_stand_in_for_the_dense_members():
    """A dense member would count twice, or the weights of the members would not be those of the terms."""
    weights = {"a": 0.5, "b": 0.1, "s": 0.1, "bm25": 0.3}
    assert plan_hybrid(weights, KINDS, has_fused=True).weights == pytest.approx({"fused": 0.6, "s": 0.1, "bm25": 0.3})
    assert plan_hybrid(weights, KINDS, has_fused=False).weights == pytest.approx(weights)


def test_a_member_of_weight_0_is_no_term():
    """It would be scored for every question, and its model loaded, for nothing."""
    plan = plan_hybrid({"a": 1, "bm25": 0}, WORDS, has_fused=False)
    assert plan.weights == {"a": 1.0}


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"a": 0.7}, "weights name a but not bm25: give bm25 a weight too, 0 to leave it out"),
        ({"a": 0.7, "bm25": 0.2, "c": 0.1}, "weights name c, which is not a model of this run: choose from a, bm25"),
        ({"a": 0, "bm25": 0}, "all weights are 0: give at least one model a weight above 0"),
    ],
)
def test_weights_that_do_not_fit(weights, sentence):
    """A member would be left out in silence."""
    with pytest.raises(FusionError) as caught:
        plan_hybrid(weights, WORDS, has_fused=False)
    assert str(caught.value) == sentence


@given(st.dictionaries(st.sampled_from(list(KINDS)), st.floats(0, 1e300), min_size=4), st.booleans())
def test_the_weights_of_the_terms_add_up_to_1_and_are_kept(weights, has_fused):
    """Scores of two runs could not be compared; or run.json would lose a digit, and a search rank otherwise."""
    if any(weights.values()):
        plan = plan_hybrid(weights, KINDS, has_fused=has_fused)
        assert sum(plan.weights.values()) == pytest.approx(1)
        assert HybridPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_saved_plan_that_does_not_fit_is_a_sentence():
    """A damaged run.json would end in a traceback."""
    with pytest.raises(FusionError, match="the saved hybrid plan does not fit"):
        HybridPlan.from_dict({"terms": [{"name": "a"}]})


def test_dense_members_are_fused_by_their_own_weights():
    """Fused vectors would be refused for a weight of words, or weigh all models alike."""
    config = FusionConfig(weights={"a": 0.5, "b": 0.2, "s": 0.1, "bm25": 0.2})
    assert dense_fusion(config, KINDS).weights == pytest.approx({"a": 5 / 7, "b": 2 / 7})


@given(st.floats(0.001, 0.999))
def test_another_share_of_words_leaves_the_fused_vectors_as_they_are(words):
    """.07 and .03 differ from .7 and .3 in the last bit, so all fused vectors were made and exported again."""
    kinds = {"a": "dense", "b": "dense", "bm25": "lexical"}
    weights = {"a": 0.7 * (1 - words), "b": 0.3 * (1 - words), "bm25": words}
    assert dense_fusion(FusionConfig(weights=weights), kinds).weights == {"a": 0.7, "b": 0.3}


def test_weights_need_no_fused_vectors_beside_words():
    """--fusion none would refuse weights, though a search weighs the members by them."""
    config = FusionConfig(method="none", weights={"a": 0.5, "b": 0.1, "s": 0.1, "bm25": 0.3})
    assert dense_fusion(config, KINDS).method == "none"
    with pytest.raises(FusionError, match="fusion is none, so no vectors are fused: leave out weights"):
        dense_fusion(FusionConfig(method="none", weights={"a": 1, "b": 2}), {"a": "dense", "b": "dense"})


def test_one_dense_member_beside_words_is_fused_only_if_it_was_named():
    """Its fused vectors would repeat its own."""
    assert dense_fusion(FusionConfig(weights={"a": 0.7, "bm25": 0.3}), WORDS).method == "none"
    assert dense_fusion(FusionConfig(dim=64), WORDS) == FusionConfig(dim=64)
    assert dense_fusion(FusionConfig(), {"bm25": "lexical"}).method == "none"


def test_a_run_of_dense_members_keeps_its_settings():
    """Every run of today would have another fingerprint."""
    config = FusionConfig(weights={"a": 1, "b": 2})
    assert dense_fusion(config, {"a": "dense", "b": "dense"}) is config


@pytest.mark.parametrize(
    ("config", "kinds", "sentence"),
    [
        (FusionConfig(weights={"a": 0, "bm25": 1}, dim=8), WORDS, "the weights of a are all 0"),
        (FusionConfig(dim=8), {"bm25": "lexical"}, "dim is 8, but no member has dense vectors"),
    ],
)
def test_what_cannot_be_fused_is_a_sentence(config, kinds, sentence):
    """numpy would fail on vectors without a component."""
    with pytest.raises(FusionError, match=sentence):
        dense_fusion(config, kinds)
