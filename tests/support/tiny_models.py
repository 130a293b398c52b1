"""Complete sentence-transformers folders with small random weights, made without a network.

Seeded, so that the same call writes the same vectors. The architectures, pooling and padding sides are those of the
models that soloist is used with; the weights mean nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as token_models
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    GPT2Config,
    GPT2Model,
    MPNetConfig,
    MPNetModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLNetConfig,
    XLNetModel,
)

SENTENCES = (
    "The quick brown fox jumps over the lazy dog while the cat watches from the window.",
    "A lease gives one model every accelerator of the machine for a whole pass over the data.",
    "Chunks of documents are tokenized, packed into batches, and encoded into vectors.",
    "def encode(texts: list[str]) -> np.ndarray: return model(tokenizer(texts))",
    "Rain fell on the harbour all night, and in the morning the boats lay low in grey water.",
    "SELECT name, weight FROM models WHERE licence = 'apache-2.0' ORDER BY weight DESC;",
    "How do I parse a table in a scanned document without losing the order of its rows?",
    "Every bridge in the old town was built twice: once of wood, and after the fire of stone.",
    "Memory that is given back can be measured; memory that is forgotten can only be guessed.",
    "for (int i = 0; i < n; ++i) { total += values[i] * weights[i]; }",
    "The committee will meet on Thursday to discuss the budget for next year's festival.",
    "Vectors of equal texts are equal, whatever batch or device they went through.",
)
_INIT_STD = 0.3


def make_qwen2(folder: Path, **size: Any) -> Path:
    """A causal decoder with last-token pooling and left padding, like the code and Qwen3 embedding models.

    `size` overrides fields of `Qwen2Config`, e.g. `hidden_size=128`.
    """
    tokenizer = _wrap(_bpe(), padding_side="left", pad_token="<|endoftext|>", eos_token="<|endoftext|>")
    defaults: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 1024,
    }  # fmt: skip
    config = Qwen2Config(**_vocabulary(tokenizer), initializer_range=_INIT_STD, **{**defaults, **size})
    return _save(folder, Qwen2Model, config, tokenizer, pooling="lasttoken")


def make_xlm_roberta(folder: Path, **size: Any) -> Path:
    """An encoder with CLS pooling whose positions start at 2, like bge-m3: 514 positions, 512 usable."""
    tokenizer = _wrap(
        _unigram(), pad_token="<pad>", bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip
    defaults: dict[str, Any] = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 514, "type_vocab_size": 1,
    }  # fmt: skip
    config = XLMRobertaConfig(**_vocabulary(tokenizer), initializer_range=_INIT_STD, **{**defaults, **size})
    return _save(folder, XLMRobertaModel, config, tokenizer, pooling="cls")


def make_bert(folder: Path, **size: Any) -> Path:
    """An encoder with mean pooling and right padding, like all-MiniLM-L6-v2."""
    tokenizer = tiny_wordpiece()
    defaults: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }  # fmt: skip
    config = BertConfig(**_vocabulary(tokenizer), initializer_range=_INIT_STD, **{**defaults, **size})
    return _save(folder, BertModel, config, tokenizer, pooling="mean")


def make_mpnet(folder: Path, **size: Any) -> Path:
    """An encoder with relative positions and mean pooling, like all-mpnet-base-v2."""
    tokenizer = _wrap(
        _unigram(), pad_token="<pad>", bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip
    defaults: dict[str, Any] = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 514,
    }  # fmt: skip
    config = MPNetConfig(**_vocabulary(tokenizer), initializer_range=_INIT_STD, **{**defaults, **size})
    return _save(folder, MPNetModel, config, tokenizer, pooling="mean")


def make_deberta_v2(folder: Path, **size: Any) -> Path:
    """An encoder with disentangled attention, which keeps what every layer gave until its pass is over."""
    tokenizer = _wrap(
        _unigram(), pad_token="<pad>", bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip
    defaults: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "num_attention_heads": 4,
        "max_position_embeddings": 512, "relative_attention": True, "position_buckets": 32, "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
        "type_vocab_size": 0,
    }  # fmt: skip
    config = DebertaV2Config(**_vocabulary(tokenizer), initializer_range=_INIT_STD, **{**defaults, **size})
    return _save(folder, DebertaV2Model, config, tokenizer, pooling="mean")


def make_t5(folder: Path, **size: Any) -> Path:
    """The encoder of an encoder-decoder, like the GTR and Sentence-T5 models, with its own names for sizes."""
    tokenizer = _wrap(_unigram(), pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    defaults: dict[str, Any] = {"d_model": 64, "d_kv": 24, "d_ff": 128, "num_layers": 4, "num_heads": 4}
    ids = {name: value for name, value in _vocabulary(tokenizer).items() if value is not None}
    config = T5Config(**ids, **{**defaults, **size})
    return _save(folder, T5EncoderModel, config, tokenizer, pooling="mean")


def make_xlnet(folder: Path, **size: Any) -> Path:
    """An encoder whose places have no end, because it tells them by their distance."""
    tokenizer = _wrap(_unigram(), pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    defaults: dict[str, Any] = {"d_model": 48, "n_layer": 2, "n_head": 4, "d_inner": 96}
    config = XLNetConfig(**_vocabulary(tokenizer), initializer_range=_INIT_STD, **{**defaults, **size})
    return _save(folder, XLNetModel, config, tokenizer, pooling="mean")


def make_gpt2(folder: Path, **size: Any) -> Path:
    """A causal decoder with a table of places and left padding."""
    tokenizer = _wrap(_bpe(), padding_side="left", pad_token="<|endoftext|>", eos_token="<|endoftext|>")
    defaults: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_inner": 64}
    config = GPT2Config(**_vocabulary(tokenizer), initializer_range=_INIT_STD, **{**defaults, **size})
    return _save(folder, GPT2Model, config, tokenizer, pooling="lasttoken")


def make_qwen3(folder: Path, **size: Any) -> Path:
    """A causal decoder whose heads are wider than its hidden size says, like the Qwen3 embedding models."""
    tokenizer = _wrap(_bpe(), padding_side="left", pad_token="<|endoftext|>", eos_token="<|endoftext|>")
    defaults: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 1024,
    }  # fmt: skip
    config = Qwen3Config(**_vocabulary(tokenizer), initializer_range=_INIT_STD, **{**defaults, **size})
    return _save(folder, Qwen3Model, config, tokenizer, pooling="lasttoken")


def make_static(folder: Path, dim: int = 64, rows: int = 20_000) -> Path:
    """A table of token vectors that are averaged, like WordLlama; `rows` beyond the vocabulary are never used."""
    tokenizer = _wordpiece()
    weights = torch.from_numpy(np.random.default_rng(20).normal(size=(rows, dim)))
    module = StaticEmbedding(tokenizer, embedding_weights=weights.float())
    SentenceTransformer(modules=[module], device="cpu").save(str(folder), create_model_card=False)
    return folder


def tiny_wordpiece() -> PreTrainedTokenizerFast:
    """The tokenizer of `make_bert`."""
    return _wrap(
        _wordpiece(), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )


def _vocabularies() -> dict[str, Any]:
    """What trainers once made of `SENTENCES`: of these two kinds, they make something else in every process."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("tiny_vocabularies.json").read_text(encoding="utf-8"))
    return found


def _bpe() -> Tokenizer:
    tokenizer = Tokenizer(token_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(token_models.Unigram([tuple(piece) for piece in _vocabularies()["unigram"]], unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    _frame(tokenizer, "<s>", "</s>")
    return tokenizer


def _wordpiece() -> Tokenizer:
    vocabulary = {token: row for row, token in enumerate(_vocabularies()["wordpiece"])}
    tokenizer = Tokenizer(token_models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    _frame(tokenizer, "[CLS]", "[SEP]")
    return tokenizer


def _frame(tokenizer: Tokenizer, first: str, last: str) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )


def _wrap(tokenizer: Tokenizer, **settings: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **settings)


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _save(
    folder: Path, architecture: type[PreTrainedModel], config: Any, tokenizer: PreTrainedTokenizerFast, *, pooling: str
) -> Path:
    """Write the bare transformer, read it as a module, and save the whole pipeline in its place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        network = architecture(config)
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformer = Transformer(str(folder))
    modules = [transformer, Pooling(config.hidden_size, pooling_mode=pooling), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder
