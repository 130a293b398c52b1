"""A sparse model ranks by the dot product of its weights, as SparseEncoder scores them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SparseEncoder
from support.collections import write_collection
from support.tiny_sparse import make_inference_free, make_splade

from soloist.config import RunConfig
from soloist.engine.run import run
from soloist.errors import ConfigError
from soloist.retrieval.opened import open_run

QUERY = "which device has memory for a lease?"


@pytest.fixture(scope="module", params=["splade", "inference-free", "cosine"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run by a sparse model and a small table of words, and the folder of the model."""
    root = tmp_path_factory.mktemp("sparse-search")
    make = make_inference_free if request.param == "inference-free" else make_splade
    model = make(root / "model", num_hidden_layers=1)
    if request.param == "cosine":
        settings = model / "config_sentence_transformers.json"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "similarity_fn_name": "cosine"}))
    write_collection(root / "chunks", "alpha", 30, longest=12, seed=3)
    run(
        RunConfig(
            chunks_root=root / "chunks", out=root / "run", models=(str(model), "bm25"), accelerator="cpu",
            dtype="float32", shard_chunks=16, lock_dir=root / "locks",
        )
    )  # fmt: skip
    return root, model


def test_a_sparse_member_ranks_as_sparse_encoder_scores(made: tuple[Path, Path]) -> None:
    """Catches a question without its own route, a score of words that the question does not have, and a model that is
    compared otherwise than its files say.
    """
    root, model = made
    reference = SparseEncoder(str(model), device="cpu")
    texts = [item["text"] for item in json.loads((root / "chunks" / "alpha" / "doc_chunks.json").read_text())]
    documents = reference.encode_document(texts, convert_to_sparse_tensor=False)
    question = reference.encode_query([QUERY], convert_to_sparse_tensor=False)
    scores = reference.similarity(documents.double(), question.double()).numpy()[:, 0]
    hits = open_run(root / "run").search(QUERY, 10, by="model", explain=True)
    order = [row for row in np.argsort(-scores, kind="stable")[:10] if scores[row] > 0]  # others are not hits
    assert order
    assert [hit.id for hit in hits] == [f"alpha-{row:04d}" for row in order]
    np.testing.assert_allclose([hit.score for hit in hits], scores[order], rtol=1e-4)
    reason = next(reason for reason in hits[0].reasons if reason.member == "model")
    assert sum(reason.words.values()) == pytest.approx(hits[0].score)
    assert reason.words.keys() <= reference.tokenizer.get_vocab().keys()
    (asked,) = open_run(root / "run").encode_sparse("model", [QUERY])
    wanted = question[0] / question[0].norm() if reference.similarity_fn_name == "cosine" else question[0]
    assert asked == pytest.approx({at: value for at, value in enumerate(wanted.tolist()) if value}, rel=1e-4)


def test_all_members_rank_together(made: tuple[Path, Path]) -> None:
    """Catches a run whose default ranking leaves out one of its members."""
    opened = open_run(made[0] / "run")
    assert opened.record.hybrid is not None and set(opened.record.hybrid.weights) == {"model", "bm25"}
    assert [hit.id for hit in opened.search(QUERY)] == [hit.id for hit in opened.search(QUERY, by="hybrid")]
    assert opened.search(QUERY, by="rrf")[0].collection == "alpha"
    with pytest.raises(ConfigError, match=r"model has sparse vectors and no dense vectors"):
        opened.encode("model", [QUERY])
