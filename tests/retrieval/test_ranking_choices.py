"""What ranks, and where: choices that contradict each other, collections named twice, a model that tells nothing."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from support.collections import WORDS, write_collection

from soloist.config import FusionConfig, RunConfig
from soloist.engine import run
from soloist.errors import ConfigError, FusionError
from soloist.retrieval import By, open_run
from soloist.retrieval.rankers.reciprocal_ranks import RRF_DEPTH

QUESTION = "which shard holds the lease of a device"


def ids_of(hits):
    return [(hit.collection, hit.id) for hit in hits]


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"ranker": "RRF"}, "there is no ranker RRF: choose one of hybrid, fused, rrf, standardised"),
        ({"model": "bert", "ranker": "rrf"}, "bert and rrf are two ways to rank: give one of them"),
        (
            {"ranker": "fused", "weights": {"bert": 1}},
            "only hybrid, rrf and standardised take weights",
        ),
        (
            {"model": "bert", "weights": {"bert": 1}},
            "only hybrid, rrf and standardised take weights",
        ),
        ({"weights": {"bert": 1}}, "only hybrid, rrf and standardised take weights"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(choices, sentence):
    """Fused vectors would rank in silence, whatever was asked for."""
    with pytest.raises(ConfigError) as caught:
        By(**choices)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("fusion", ["rrf", "standardised"])
@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"bert": -1.0, "qwen2": 1.0, "wordllama": 1.0}, "the weight of bert is -1.0: give 0 or more"),
        ({"bert": float("nan"), "qwen2": 1.0, "wordllama": 1.0}, "the weight of bert is nan"),
        ({"bert": 0.0, "qwen2": 0.0, "wordllama": 0.0}, "all weights are 0"),
        ({"bert": 1.0}, "weights name bert but not qwen2: give qwen2 a weight too, 0 to leave it out"),
    ],
)
def test_weights_that_are_none(searched, fusion, weights, sentence):
    """A ranking by NaN is one by chance, and a model that was forgotten would count as 0 or 1."""
    with pytest.raises(FusionError) as caught:
        open_run(searched).search(QUESTION, 3, by=By(ranker=fusion, weights=weights))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("by", [By(ranker="fused"), By(model="bert"), By(ranker="rrf"), By(ranker="standardised")])
def test_a_collection_named_twice_is_searched_once(searched, by):
    """Every hit would be there twice, and half of the others be missing."""
    opened = open_run(searched)
    hits = opened.search(QUESTION, 10, by=by, collections=["beta", "beta"])
    assert ids_of(hits) == ids_of(opened.search(QUESTION, 10, by=by, collections=["beta"]))
    with pytest.raises(ConfigError, match="25 chunks can be found"):
        opened.search(QUESTION, 26, by=by, collections=["beta", "beta"])


@pytest.mark.parametrize("by", [By(ranker="fused"), By(model="wordllama"), By(ranker="standardised")])
def test_every_chunk_is_found_once_whatever_the_order_of_the_collections(searched, by):
    """Positions of one order of shards would be looked up in another."""
    opened = open_run(searched)
    one = opened.search(QUESTION, 95, by=by, collections=["alpha", "beta"])
    other = opened.search(QUESTION, 95, by=by, collections=["beta", "alpha"])
    assert len(set(ids_of(one))) == 95
    assert {(hit.collection, hit.id): hit.score for hit in one} == pytest.approx(
        {(hit.collection, hit.id): hit.score for hit in other}, abs=1e-9
    )
    assert all(a.score >= b.score for a, b in itertools.pairwise(other))


def test_fewer_hits_are_the_beginning_of_more(searched):
    """A chunk would be found among the best 3 and not among the best 30."""
    opened = open_run(searched)
    for by in (By(ranker="fused"), By(model="qwen2"), By(ranker="rrf"), By(ranker="standardised")):
        most = opened.search(QUESTION, 95, by=by)
        for k in (1, 3, 30):
            assert opened.search(QUESTION, k, by=by) == most[:k]


@pytest.fixture(scope="module")
def many(make, base):
    """More chunks than reciprocal ranks count."""
    write_collection(base / "many", "many", RRF_DEPTH + 200, longest=12, seed=5)
    models = {"models": ("qwen2", "wordllama"), "fusion": FusionConfig(method="none")}
    return open_run(make("many-run", chunks_root=base / "many", **models))


def test_reciprocal_ranks_do_not_depend_on_how_many_hits_are_asked_for(many):
    """Beyond 1,000 hits each ranking counted deeper, so that the first ten were others."""
    most = many.search(QUESTION, RRF_DEPTH, by=By(ranker="rrf"))
    assert len(set(ids_of(most))) == RRF_DEPTH
    for k in (1, 10, 100):
        assert many.search(QUESTION, k, by=By(ranker="rrf")) == most[:k]
    with pytest.raises(ConfigError) as caught:
        many.search(QUESTION, RRF_DEPTH + 1, by=By(ranker="rrf"))
    assert str(caught.value) == (
        "k is 1,001, but reciprocal ranks count only the best 1,000 rows of each model: give a k of 1,000 or less, or "
        "rank another way"
    )
    assert len(many.search(QUESTION, RRF_DEPTH + 1, by=By(ranker="standardised"))) == RRF_DEPTH + 1


def test_a_model_that_gives_every_chunk_the_same_score_ranks_nothing(tmp_path, tiny_models):
    """Its scores over a deviation of 0 were 1e30, beside which those of the other model vanished."""
    drawn = np.random.default_rng(0)
    opening = "the same licence at the head of every file " * 100  # more than bert reads
    folder = tmp_path / "chunks" / "alpha"
    folder.mkdir(parents=True)
    chunks = [
        {"text": opening + " ".join(drawn.choice(WORDS, size=30)), "metadata": {"chunk_id": f"c{number}"}}
        for number in range(30)
    ]
    (folder / "doc_chunks.json").write_text(json.dumps(chunks))
    (tmp_path / "models.toml").write_text(f'[models."bert"]\nsource = "{tiny_models["bert"]}"\n')
    run(
        RunConfig(
            chunks_root=tmp_path / "chunks", out=tmp_path / "run", models=("bert", "wordllama"), accelerator="cpu",
            catalogue=tmp_path / "models.toml", lock_dir=tmp_path / "locks", cache_dir=tmp_path / "cache",
            fusion=FusionConfig(),
        )
    )  # fmt: skip
    opened = open_run(tmp_path / "run")
    alone = opened.search(QUESTION, 30, by=By(model="wordllama"))
    assert len({hit.score for hit in opened.search(QUESTION, 30, by=By(model="bert"))}) == 1
    hits = opened.search(QUESTION, 30, by=By(ranker="standardised"))
    assert ids_of(hits) == ids_of(alone)
    assert max(abs(hit.score) for hit in hits) < 10
