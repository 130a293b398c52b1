"""Which models can be encoded, where texts are cut, and tokenizers that models share."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from support.readings import peak_bytes
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as token_models

from soloist.config import RunConfig
from soloist.encoding.batching import within
from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward
from soloist.encoding.tokenizing import TextTokenizer
from soloist.engine import run
from soloist.errors import BadVectorError, ConfigError, ModelLoadError
from soloist.events import LeaseAcquired, ListSink, ModelStaged
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.models.spec import ModelSpec

WORDS = [f"word{index}" for index in range(100)]


def _edited(source: Path, target: Path, file: str, **settings: object) -> ModelSpec:
    """A copy of a model with other settings in one of its files; None takes one away."""
    path = Path(shutil.copytree(source, target)) / file
    content = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return resolve(str(target))


def test_a_model_that_needs_more_than_tokens_is_refused(tiny_models, tmp_path):
    """A feature that batches leave out would be missing in every forward pass, after the devices were taken."""
    # Of other content than the other bert: staged models of like content share one module.
    odd = _edited(tiny_models["bert"], tmp_path / "odd", "config_sentence_transformers.json", prompts={"odd": "odd: "})
    staged = stage(odd, "float32")
    staged.module[0].processing_kwargs = {"text": {"return_special_tokens_mask": True}}
    with pytest.raises(ModelLoadError, match=r"odd is not a plain text encoder \(it asks for .*special_tokens_mask\)"):
        Encoder(staged)


def test_a_tokenizer_without_a_pad_token_is_refused(tiny_models, tmp_path):
    """Padding with None ends in a TypeError about int() that names neither the model nor the remedy."""
    staged = stage(
        _edited(tiny_models["bert"], tmp_path / "padless", "tokenizer_config.json", pad_token=None), "float32"
    )
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
        (batch,) = encoder.plan(tokenized, within(1000))
        vectors = forward(staged.module, encoder.collate(tokenized, batch), "cpu")
        np.testing.assert_allclose(vectors, expected[list(batch.rows)], atol=1e-6)


def test_two_encoders_of_one_tokenizer_take_turns(tiny_models):
    """Truncation is a setting of the shared tokenizer: one encoder's would cut the other's rows, or go missing."""
    staged = stage(resolve(str(tiny_models["bert"])), "float32")
    texts = ["harbour " * 600, "grey water", "boats " * 700] * 4
    expected = Encoder(staged).tokenize(texts)
    found = []

    def tokenize_often() -> None:
        encoder = Encoder(staged)
        found.extend(encoder.tokenize(texts) for _ in range(5))

    threads = [threading.Thread(target=tokenize_often) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    assert all(one.dropped == expected.dropped and one.lengths == expected.lengths for one in found)


class _Forgetful:
    """A Rust tokenizer as in tokenizers 0.23.1 and 0.23.2: of what it cuts off it gives one token."""

    def __init__(self, real: Tokenizer) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def encode_batch_fast(self, texts: list[str], **settings: Any) -> list[Any]:
        def piece(row: Any) -> list[Any]:
            return [row.ids[:3]] if row.overflowing else []

        encoded = self._real.encode_batch_fast(texts, **settings)
        return [SimpleNamespace(ids=row.ids, overflowing=piece(row)) for row in encoded]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_tokenizer_that_forgets_what_it_cuts_is_found_out(tiny_models, monkeypatch, side):
    """Two releases of tokenizers counted two tokens cut off where there were thousands."""
    staged = replace(stage(resolve(str(tiny_models["bert"])), "float32"), max_tokens=32)
    tokenizer = staged.module.tokenizer
    monkeypatch.setattr(tokenizer, "truncation_side", side)
    texts = ["harbour " * words for words in (1, 25, 60, 400)]
    whole = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    kept = tokenizer(texts, truncation=True, max_length=32)["input_ids"]
    assert Encoder(staged).tokenize(texts).dropped == tuple(max(0, length - 32) for length in whole)
    monkeypatch.setattr(tokenizer, "_tokenizer", _Forgetful(tokenizer._tokenizer))
    tokenized = Encoder(staged).tokenize(texts)
    assert [ids.tolist() for ids in tokenized.ids] == kept
    assert tokenized.dropped == tuple(max(0, length - 32) for length in whole)


@pytest.fixture
def config(tmp_path) -> RunConfig:
    """A run over one collection of two chunks on a simulated device; its models are still to be given."""
    (tmp_path / "chunks" / "alpha").mkdir(parents=True)
    items = [{"id": f"alpha-{index}", "text": text} for index, text in enumerate(("grey water", "old boats"))]
    (tmp_path / "chunks" / "alpha" / "doc_chunks.json").write_text(json.dumps(items))
    return RunConfig(
        chunks_root=tmp_path / "chunks", out=tmp_path / "run", accelerator="simulated:1x1GB",
        lock_dir=tmp_path / "locks",
    )  # fmt: skip


def test_a_model_that_cannot_be_encoded_is_found_before_the_first_lease(config, tiny_models, tmp_path):
    """Found in its own pass, it costs the passes before it."""
    padless = _edited(tiny_models["bert"], tmp_path / "padless", "tokenizer_config.json", pad_token=None)
    sink = ListSink()
    with pytest.raises(ModelLoadError, match="padless has a tokenizer without a pad token"):
        run(replace(config, models=(str(tiny_models["qwen2"]), padless.source)), sink)
    assert not any(isinstance(event, LeaseAcquired) for event in sink.events)
    assert not config.out.exists()


def test_a_chunk_without_a_usable_vector_is_named(config, tiny_models, tmp_path):
    """NaN that is written down poisons every search, and a sentence without the chunk cannot be acted upon."""
    broken = SentenceTransformer(str(tiny_models["bert"]), device="cpu")
    table = broken[0].model.embeddings.word_embeddings.weight.data
    for word in ("grey", "old"):  # on which no model is tried when it is staged
        table[broken.tokenizer(word)["input_ids"][1]] = float("nan")
    broken.save(str(tmp_path / "nan"))
    with pytest.raises(BadVectorError, match="nan has no usable vector for chunk 'alpha-0' and 1 more of its shard "):
        run(replace(config, models=(str(tmp_path / "nan"),)))


def test_a_gemma_3_by_any_name_stays_out_of_float16(config, tiny_models, tmp_path):
    """A local copy without a catalogue entry would give NaN in every vector on a T4."""
    gemma = _edited(tiny_models["bert"], tmp_path / "gemma", "config.json", model_type="gemma3_text")
    sink = ListSink()
    with pytest.raises(ConfigError, match="gemma cannot run in float16"):
        run(replace(config, models=(gemma.source,), dtype="float16"), sink)
    assert not any(isinstance(event, ModelStaged) for event in sink.events)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux tells it")
def test_a_shard_of_long_texts_is_tokenized_in_bounded_memory(tiny_models):
    """4,096 texts of 50,000 characters would take 35 GB in one call of the tokenizer."""
    encoder = Encoder(replace(stage(resolve(str(tiny_models["bert"])), "float32"), max_tokens=64))
    texts = [f"{row} " + "some words of a long text. " * 1850 for row in range(240)]
    encoder.tokenize(texts[:1])
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak_bytes()
    tokenized = encoder.tokenize(texts)
    grown = peak_bytes() - before
    assert [len(row) for row in tokenized.ids] == [64] * 240
    for row in (0, 41, 239):
        alone = encoder.tokenize([texts[row]])
        assert tokenized.ids[row].tolist() == alone.ids[0].tolist() and tokenized.dropped[row] == alone.dropped[0]
    assert grown < 900_000_000, grown


@pytest.mark.parametrize("model", ["bert", "xlm-roberta", "qwen2"])
@pytest.mark.parametrize("prompt", ["", "passage: "])
@given(texts=st.lists(st.text(max_size=400), min_size=1, max_size=4), limit=st.integers(8, 40))
@settings(max_examples=25, deadline=None)
def test_one_pass_of_the_tokenizer_finds_what_two_find(tiny_models, model, prompt, texts, limit):
    """Pieces that are cut off overlap or have special tokens of their own: their number would be wrong."""
    staged = stage(resolve(str(tiny_models[model])), "float32")
    tokenizer = TextTokenizer(replace(staged, document_prompt=prompt, max_tokens=limit))
    one = tokenizer.in_one_pass([prompt + text for text in texts], limit)
    two = tokenizer.in_two_passes([prompt + text for text in texts], limit)
    assert one is not None
    assert [ids.tolist() for ids in one.ids] == [ids.tolist() for ids in two.ids]
    assert one.dropped == two.dropped
