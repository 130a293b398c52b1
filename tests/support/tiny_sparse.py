"""Complete folders of sparse encoders with small random weights, as sentence-transformers' SparseEncoder saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from support.tiny_models import make_xlm_roberta, tiny_wordpiece
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

# Below the logits of most words, so that a text has a weight for some words and not for half of them.
_BIAS = -4.0


def make_splade(
    folder: Path,
    *,
    pooling: Literal["max", "sum"] = "max",
    activation: Literal["relu", "log1p_relu"] = "relu",
    **size: Any,
) -> Path:
    """A BERT that predicts masked words, with SpladePooling. `size` overrides fields of `BertConfig`."""
    splade = SpladePooling(pooling, activation)
    encoder = SparseEncoder(modules=[_network(folder, **size), splade], device="cpu")
    encoder.save(str(folder), create_model_card=False)
    return folder


def make_inference_free(folder: Path, **size: Any) -> Path:
    """A SPLADE for documents, and for queries a table with one weight a token, like OpenSearch's."""
    network = _network(folder / "made", **size)
    words = torch.rand(len(network.tokenizer), generator=torch.Generator().manual_seed(20))
    table = SparseStaticEmbedding(network.tokenizer, words)
    router = Router.for_query_document([table], [network, SpladePooling("max", "log1p_relu")])
    SparseEncoder(modules=[router], device="cpu").save(str(folder), create_model_card=False)
    return folder


def _network(folder: Path, **size: Any) -> Transformer:
    tokenizer: PreTrainedTokenizerFast = tiny_wordpiece()
    defaults: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 512, "initializer_range": 0.3, "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        network = BertForMaskedLM(BertConfig(**{**defaults, **size}))
    with torch.no_grad():
        network.cls.predictions.bias.fill_(_BIAS)
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Transformer(str(folder), transformer_task="fill-mask")


def make_m3(folder: Path, *, seed: int = 26, **size: Any) -> Path:
    """A dense model like bge-m3, which has a layer for the weights of its tokens beside its network."""
    make_xlm_roberta(folder, **size)
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, width, generator=generator)
    torch.save({"weight": weight, "bias": torch.full((1,), 0.1)}, folder / "sparse_linear.pt")
    return folder
