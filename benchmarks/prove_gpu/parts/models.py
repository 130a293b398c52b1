"""Model folders with the shapes of real models and random weights, made on this machine."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as token_models
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from benchmarks.prove_gpu.setting import Seen, Setting
from soloist.models.blueprint import Blueprint
from soloist.models.catalogue import BUILT_IN

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_WORDS = 2000
# The fields that decide how large a network is. A rehearsal has small ones.
_SMALL = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "vocab_size": len(_SPECIAL) + _WORDS,
}  # fmt: skip
_SMALL_IF_THERE = {"num_key_value_heads": 2, "head_dim": 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A model of the proof: the catalogue's model whose shape it has, and the longest text that it is given."""

    shape_of: str
    max_tokens: int


MODELS: Mapping[str, Made] = {
    "minilm": Made(shape_of="all-MiniLM-L6-v2", max_tokens=512),
    "bge": Made(shape_of="bge-m3", max_tokens=2048),
    "qwen": Made(shape_of="qwen3-embedding-0.6b", max_tokens=2048),
    "nomic": Made(shape_of="CodeRankEmbed", max_tokens=2048),
}


def models(setting: Setting) -> Seen:
    """Write the folder of each model. The device draws the weights, because that takes only a moment there."""
    rows = []
    for name, made in MODELS.items():
        blueprint = BUILT_IN.get(made.shape_of).blueprint
        assert blueprint is not None
        began = time.perf_counter()
        parameters = make(setting.models / name, blueprint, made.max_tokens, setting)
        seconds = round(time.perf_counter() - began, 1)
        rows.append({"model": name, "shape of": made.shape_of, "parameters": parameters, "seconds": seconds})
    return Seen(summary=", ".join(f"{row['model']} {row['parameters']:,}" for row in rows), figures={"rows": rows})


def make(folder: Path, blueprint: Blueprint, max_tokens: int, setting: Setting) -> int:
    """Write one model, and return the number of its parameters."""
    fields: dict[str, Any] = {**blueprint.config, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    if setting.small:
        fields |= _SMALL | {name: size for name, size in _SMALL_IF_THERE.items() if name in fields}
    config = AutoConfig.for_model(**fields)
    device = setting.devices.split(",")[0] if setting.is_cuda else "cpu"
    torch.manual_seed(17)
    with torch.device(device):
        network = AutoModel.from_config(config, dtype=torch.float16 if setting.is_cuda else torch.float32)
    network.cpu().save_pretrained(folder)
    parameters: int = sum(parameter.numel() for parameter in network.parameters())
    del network
    is_decoder = blueprint.pooling == ("lasttoken",)
    _tokenizer(max_tokens, "left" if is_decoder else "right").save_pretrained(folder)
    pooling = Pooling(config.hidden_size, pooling_mode=blueprint.pooling[0])
    modules = [Transformer(str(folder)), pooling, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return parameters


def text_of(tokens: int, seed: int) -> str:
    """A text that the models' tokenizer reads as so many tokens, including the two special ones."""
    drawn = random.Random(seed)
    return " ".join(f"w{drawn.randrange(_WORDS)}" for _ in range(max(1, tokens - 2)))


def texts(count: int, longest: int) -> list[str]:
    """Different texts with lengths like those of documentation: many short ones, and few long ones."""
    drawn = random.Random(29)
    lengths = (min(longest, max(8, int(drawn.lognormvariate(4.8, 0.7)))) for _ in range(count))
    return [text_of(length, seed) for seed, length in enumerate(lengths)]


def _tokenizer(max_tokens: int, padding_side: str) -> PreTrainedTokenizerFast:
    vocabulary = {token: row for row, token in enumerate((*_SPECIAL, *(f"w{each}" for each in range(_WORDS))))}
    tokenizer = Tokenizer(token_models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_tokens, padding_side=padding_side, bos_token="<s>",
        pad_token="<pad>", eos_token="</s>", unk_token="<unk>", cls_token="<s>", sep_token="</s>",
    )  # fmt: skip
