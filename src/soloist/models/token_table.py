"""Tables of token vectors: a text's vector is the mean of its tokens' vectors. Knows torch, tokenizers and safetensors.

Such a model needs neither transformers nor sentence-transformers, whose import takes longer than a question. Runs and
questions compute with the same modules here. Folders that say more than a table and a length of 1 are not read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from soloist.models.own_settings import read_pipeline
from soloist.models.pipeline import ModuleEntry, modules_of, names_bare_table

_WEIGHTS, _TOKENIZER, _CONFIG = "model.safetensors", "tokenizer.json", "config.json"
# What sentence-transformers and model2vec call the table. A file with more tensors is folded by the former's own code.
_NAMES = ("embedding.weight", "embeddings")
_VECTORS = "sentence_embedding"
_TYPE = "SentenceTransformer"


class TokenTable(nn.Module):
    """A table (tokens, dim) and its tokenizer."""

    def __init__(self, tokenizer: Tokenizer, table: torch.Tensor) -> None:
        super().__init__()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.embedding = nn.EmbeddingBag.from_pretrained(table)

    @property
    def num_embeddings(self) -> int:
        """How many tokens have a vector."""
        return self.embedding.num_embeddings

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Ids (tokens) and offsets (rows) to `sentence_embedding`, (rows, dim); zeros of a row without tokens."""
        features[_VECTORS] = self.embedding(features["input_ids"], features["offsets"])
        return features


class UnitRows(nn.Module):
    """Vectors of length 1."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """`sentence_embedding`, (rows, dim), with rows of length 1."""
        features[_VECTORS] = nn.functional.normalize(features[_VECTORS], p=2, dim=-1)
        return features


class TablePipeline(nn.Sequential):
    """A table as the first of its modules, with what all pipelines have. It has no network, and no limit of tokens."""

    transformers_model: None = None
    truncate_dim: None = None
    max_seq_length: None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the table."""
        return self._table.tokenizer

    @property
    def _table(self) -> TokenTable:
        table = self[0]
        assert isinstance(table, TokenTable)
        return table

    def get_embedding_dimension(self) -> int:
        """The dimensions of the vectors."""
        return self._table.embedding.embedding_dim

    def preprocess(self, texts: Sequence[str], prompt: str | None = None) -> dict[str, torch.Tensor]:
        """The tensors of texts, with a prompt before each: ids (tokens), and where each text begins, (rows)."""
        encoded = self.tokenizer.encode_batch([(prompt or "") + text for text in texts], add_special_tokens=False)
        lengths = [len(row.ids) for row in encoded]
        return {
            "input_ids": torch.tensor([token for row in encoded for token in row.ids], dtype=torch.int64),
            "offsets": torch.from_numpy(np.cumsum([0, *lengths[:-1]], dtype=np.int64)),
        }


def table_pipeline(tokenizer: Tokenizer, table: torch.Tensor, *, units: bool = False) -> TablePipeline:
    """A pipeline around a table (tokens, dim), with `units` of vectors of length 1."""
    return TablePipeline(TokenTable(tokenizer, table), *([UnitRows()] if units else []))


def can_read_table(folder: Path) -> bool:
    """Whether a folder has a table in one tensor, and nothing behind it but the length of 1.

    Raises:
        ModelLoadError: a file of settings cannot be read.
        OSError: a file is missing.
        ValueError: a file has other content than it should have.
        SafetensorError: the weights are not a whole safetensors file.
    """
    settings = read_pipeline(folder)
    if settings.get("model_type", _TYPE) != _TYPE or settings.get("truncate_dim") is not None:
        return False
    if not names_bare_table(folder):
        return False
    first, *others = modules_of(folder)
    if first.kind != "StaticEmbedding" or [entry.kind for entry in others] not in ([], ["Normalize"]):
        return False
    if not all(map(_is_of_vectors, others)):
        return False
    return (first.folder / _WEIGHTS).is_file() and _only_name(first.folder / _WEIGHTS) is not None


def read_table(folder: Path, dtype: torch.dtype) -> TablePipeline:
    """The pipeline of a folder that `can_read_table`. Weights of the wanted dtype stay mapped from their file.

    Raises:
        OSError: a file is missing.
        Exception: what tokenizers and safetensors raise at files that they cannot read.
    """
    first, *others = modules_of(folder)
    tokenizer = Tokenizer.from_file(str(first.folder / _TOKENIZER))
    return table_pipeline(tokenizer, _table_of(load_file(first.folder / _WEIGHTS)).to(dtype), units=bool(others))


def _is_of_vectors(entry: ModuleEntry) -> bool:
    """Whether a module of the length 1 reads and writes the vectors, and not the tokens'."""
    path = entry.folder / _CONFIG
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return all(config.get(key) in (None, _VECTORS) for key in ("module_input_name", "module_output_name"))


def _table_of(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    (table,) = tensors.values()
    return table.contiguous()


def _only_name(weights: Path) -> str | None:
    """The name of the only tensor of a file, if it is that of a table."""
    with safe_open(weights, framework="pt") as opened:
        names = list(opened.keys())
    return names[0] if len(names) == 1 and names[0] in _NAMES else None
