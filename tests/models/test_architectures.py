"""Networks of many families: the vectors are those that sentence-transformers gives, padded and packed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from models.test_every_module import TEXTS, require_equal
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from support import tiny_models as tiny
from transformers import PreTrainedTokenizerFast

from soloist.encoding.encoder import Encoder
from soloist.encoding.forward import forward, unit_rows
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.types import Batch


def _words() -> PreTrainedTokenizerFast:
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return tiny._wrap(tiny._wordpiece(), **{f"{kind}_token": token for kind, token in names.items()})


def _pieces(**settings: Any) -> PreTrainedTokenizerFast:
    names = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    return tiny._wrap(tiny._unigram(), **{f"{kind}_token": token for kind, token in names.items()}, **settings)


def _bytes_left() -> PreTrainedTokenizerFast:
    return tiny._wrap(tiny._bpe(), padding_side="left", pad_token="<|endoftext|>", eos_token="<|endoftext|>")


def _bytes_right() -> PreTrainedTokenizerFast:
    return tiny._wrap(tiny._bpe(), padding_side="right", pad_token="<|endoftext|>", eos_token="<|endoftext|>")


ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = {**ENCODER, "num_key_value_heads": 2, "max_position_embeddings": 512}
SMALL_HEADS = {**DECODER, "head_dim": 8}
WINDOW = {**SMALL_HEADS, "sliding_window": 8, "query_pre_attn_scalar": 8}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
XLNET = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
MODERN = {
    **ENCODER,
    "max_position_embeddings": 512,
    "global_attn_every_n_layers": 2,
    "local_attention": 16,
    "cls_token_id": 0,
    "sep_token_id": 2,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4}
DISTIL = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}

# By the prefix of the classes: the tokenizer, the pooling, and sizes.
Row = tuple[str, Callable[[], PreTrainedTokenizerFast], str, dict[str, Any]]
ROWS: dict[str, Row] = {
    "ModernBert": ("Model", _pieces, "mean", MODERN),
    "DistilBert": ("Model", _words, "mean", DISTIL),
    "Albert": ("Model", _words, "cls", {**ENCODER, "embedding_size": 16}),
    "Electra": ("Model", _words, "mean", {**ENCODER, "embedding_size": 16}),
    "Roberta": ("Model", _pieces, "mean", {**ENCODER, "max_position_embeddings": 514}),
    "Deberta": ("Model", _words, "mean", ENCODER),
    "MPNet": ("Model", _pieces, "mean_sqrt_len_tokens", {**ENCODER, "max_position_embeddings": 514}),
    "XLNet": ("Model", lambda: _pieces(padding_side="left"), "mean", XLNET),
    "MT5": ("EncoderModel", _pieces, "mean", T5),
    "GPT2": ("Model", _bytes_right, "lasttoken", GPT2),
    "Llama": ("Model", _bytes_left, "lasttoken", DECODER),
    "Mistral": ("Model", _bytes_left, "mean", {**DECODER, "sliding_window": 8}),
    "Gemma": ("Model", _bytes_left, "mean", SMALL_HEADS),
    "Gemma2": ("Model", _bytes_left, "lasttoken", WINDOW),
    "Qwen3": ("Model", _bytes_left, "max", SMALL_HEADS),
    "Mamba": ("Model", _bytes_right, "mean", {"hidden_size": 32, "num_hidden_layers": 2}),
}
BOTH_WAYS: dict[str, Row] = {
    "Llama": ("Model", _bytes_left, "mean", {**DECODER, "is_causal": False}),
    "Qwen2": ("Model", _bytes_left, "mean", {**DECODER, "is_causal": False}),
    "Gemma3Text": ("Model", _bytes_right, "mean", {**WINDOW, "use_bidirectional_attention": True}),
}


def _make(folder: Path, prefix: str, row: Row) -> Path:
    suffix, tokenizer_of, pooling, sizes = row
    tokenizer = tokenizer_of()
    ids = {name: value for name, value in tiny._vocabulary(tokenizer).items() if value is not None}
    config_class = getattr(transformers, f"{prefix}Config")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = getattr(transformers, prefix + suffix)(config_class(**{"initializer_range": 0.3, **ids, **sizes}))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    first = Transformer(str(folder))
    parts = [first, Pooling(first.get_embedding_dimension(), pooling)]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder), create_model_card=False)
    return folder


@pytest.mark.parametrize("prefix", ROWS)
def test_a_family_of_networks(tmp_path: Path, prefix: str) -> None:
    """Catches a mask, a position or a side of padding that one family reads and others do not."""
    require_equal(_make(tmp_path / "model", prefix, ROWS[prefix]))


@pytest.mark.parametrize("prefix", BOTH_WAYS)
def test_a_decoder_that_looks_both_ways(tmp_path: Path, prefix: str) -> None:
    """Catches attention that is causal by its family, though the model's configuration says otherwise."""
    require_equal(_make(tmp_path / "model", prefix, BOTH_WAYS[prefix]))


def test_a_network_whose_vectors_depend_on_padding_says_so(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    """Catches vectors that follow from a text's neighbours, with no word about it: Funnel pools along its rows."""
    sizes = {"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "block_sizes": [1, 1]}
    folder = _make(tmp_path / "model", "Funnel", ("Model", _words, "mean", sizes))
    cosine = Encoder(stage(resolve(str(folder)), "float32")).padding_cosine
    assert cosine is not None
    assert cosine < 0.9999
    assert Encoder(stage(resolve(str(tiny_models["bert"])), "float32")).padding_cosine is None


def test_a_network_that_pads_rows_by_itself(tmp_path: Path) -> None:
    """Catches padding that counts as text: Longformer fills rows up to a multiple of its window, and masks that."""
    sizes = {**ENCODER, "max_position_embeddings": 514, "attention_window": 8}
    folder = _make(tmp_path / "model", "Longformer", ("Model", _pieces, "mean", sizes))
    expected = unit_rows(SentenceTransformer(str(folder), device="cpu").encode(TEXTS))[0]
    encoder = Encoder(stage(resolve(str(folder)), "float32"), packs=False)
    tokenized = encoder.tokenize(TEXTS)
    assert any(length % 8 for length in tokenized.lengths)
    for row, length in enumerate(tokenized.lengths):
        batch = Batch(rows=(row,), padded_length=int(length))
        found = forward(encoder.staged.module, encoder.collate(tokenized, batch), "cpu")
        np.testing.assert_allclose(unit_rows(found[:1])[0][0], expected[row], atol=1e-5)
