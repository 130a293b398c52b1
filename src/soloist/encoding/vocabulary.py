"""Tokens for which the network has no vector: words that were added to a tokenizer and not to the network's table.

Such a token is an index out of range on the host, and on CUDA an assertion that ends the process. So a text with such a
token is found before any device computes it. Knows pipelines; knows nothing of batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from soloist.models.module_facts import is_static

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def rows_too_few(module: SentenceTransformer, tokenizer: Any) -> int | None:
    """The rows of a model's table of tokens, where its tokenizer has more tokens; None where every token has a row."""
    rows = _table_rows(module)
    if rows is None:
        return None
    return rows if max(tokenizer.get_vocab().values(), default=0) >= rows else None


def padding_text(name: str, token: object, rows: int) -> str:
    """Why a model is refused that has no vector for its pad token."""
    return (
        f"{name} pads with the token {token}, but its network has vectors for {rows} tokens only, and none for that "
        "one: set pad_token in its tokenizer_config.json to a token with which it was trained"
    )


def unknown_words_text(failure: str) -> str:
    """A notice about a tokenizer that fails at words where others have a token for unknown words."""
    return f"its tokenizer fails at words that it does not know ({failure}), so a text with such a word has no tokens"


def _table_rows(module: SentenceTransformer) -> int | None:
    if is_static(module):
        return int(module[0].num_embeddings)
    try:
        table = module.transformers_model.get_input_embeddings()
    except Exception:  # a network without a table, or one with its own code
        return None
    return table.num_embeddings if isinstance(table, torch.nn.Embedding) else None
