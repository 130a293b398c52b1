"""Which models can be encoded, where texts are cut, and tokenizers that models share."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as token_models

from soloist.encoding.encoder import Encoder, forward
from soloist.errors import ModelLoadError
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.models.spec import ModelSpec

WORDS = [f"word{index}" for index in range(100)]


def _edited(source: Path, target: Path, **settings: object) -> ModelSpec:
    """A copy of a model whose tokenizer_config.json has other settings; None takes one away."""
    path = Path(shutil.copytree(source, target)) / "tokenizer_config.json"
    content = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return resolve(str(target))


def test_a_model_that_needs_more_than_tokens_is_refused(tiny_models, tmp_path):
    """A feature that batches leave out would be missing in every forward pass, after the devices were taken."""
    names = ["input_ids", "attention_mask", "special_tokens_mask"]
    staged = stage(_edited(tiny_models["bert"], tmp_path / "odd", model_input_names=names), "float32")
    with pytest.raises(ModelLoadError, match=r"odd is no plain text encoder \(it asks for .*special_tokens_mask\)"):
        Encoder(staged)


def test_a_tokenizer_without_a_pad_token_is_refused(tiny_models, tmp_path):
    """Padding with None ends in a TypeError about int() that names neither the model nor the remedy."""
    staged = stage(_edited(tiny_models["qwen2"], tmp_path / "padless", pad_token=None), "float32")
    with pytest.raises(ModelLoadError, match=r"padless has a tokenizer without a pad token: set pad_token in its"):
        Encoder(staged)


@pytest.fixture
def cutting(tmp_path) -> Path:
    """A static model whose tokenizer cuts after 8 tokens."""
    tokenizer = Tokenizer(token_models.WordLevel({word: index for index, word in enumerate(["?", *WORDS])}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(8)
    weights = np.random.default_rng(0).normal(size=(101, 16)).astype(np.float32)
    module = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")
    module.save(str(tmp_path / "cutting"))
    return tmp_path / "cutting"


def test_what_a_static_model_s_tokenizer_cuts_is_counted(cutting):
    """A report of no truncated chunks over a model that reads eight words of each."""
    texts = [" ".join(WORDS), "word1 word2"]
    expected = SentenceTransformer(str(cutting), device="cpu").encode(texts)
    for _ in range(2):  # the second time the shared module's tokenizer cuts no more
        staged = stage(resolve(str(cutting)), "float32")
        encoder = Encoder(staged)
        tokenized = encoder.tokenize(texts)
        assert (staged.max_tokens, tokenized.lengths, tokenized.dropped) == (8, [8, 2], (92, 0))
        (batch,) = encoder.plan(tokenized, 1000)
        vectors = forward(staged.module, encoder.collate(tokenized, batch), "cpu")
        np.testing.assert_allclose(vectors, expected[list(batch.rows)], atol=1e-6)


def test_two_encoders_of_one_tokenizer_take_turns(tiny_models):
    """Truncation is a setting of the shared tokenizer: one encoder's would cut the other's rows, or go missing."""
    staged = stage(resolve(str(tiny_models["bert"])), "float32")
    texts = ["harbour " * 600, "grey water", "boats " * 700] * 4
    expected = Encoder(staged).tokenize(texts)
    found = []
    threads = [
        threading.Thread(target=lambda encoder=Encoder(staged): found.extend(encoder.tokenize(texts) for _ in range(5)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    assert all(one.dropped == expected.dropped and one.lengths == expected.lengths for one in found)
