"""Tokens of a tokenizer for which the network has no vector: words that were added without a row of their own.

Such a token is an index out of range on the host, and an assertion on CUDA that ends the process: so a text that has
one is found before any device works on it. Knows sentence-transformers; knows nothing of batches.
"""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding


def rows_too_few(module: SentenceTransformer, tokenizer: Any) -> int | None:
    """The rows of a model's table of tokens, where its tokenizer has tokens beyond them; None where each has one."""
    rows = _rows(module)
    if rows is None:
        return None
    return rows if max(tokenizer.get_vocab().values(), default=0) >= rows else None


def padding_text(name: str, token: object, rows: int) -> str:
    """Why a model is refused whose rows could not be padded."""
    return (
        f"{name} pads with the token {token}, and its network has vectors for {rows} tokens alone, not for that one: "
        "set pad_token in its tokenizer_config.json to a token that it was trained with"
    )


def unknown_words_text(failure: str) -> str:
    """What a user should know of a tokenizer that fails where others give a token for what they do not know."""
    return f"its tokenizer fails at a word that it does not know ({failure}): a text with such a word has no tokens"


def _rows(module: SentenceTransformer) -> int | None:
    if isinstance(module[0], StaticEmbedding):
        return int(module[0].num_embeddings)
    try:
        table = module.transformers_model.get_input_embeddings()
    except Exception:  # of a network without a table, or of code of its own
        return None
    return table.num_embeddings if isinstance(table, torch.nn.Embedding) else None
