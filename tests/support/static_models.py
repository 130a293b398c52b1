"""Tables of token vectors as sentence-transformers computes with them."""

from __future__ import annotations

from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

from soloist.models.token_table import TablePipeline, TokenTable


def as_sentence_transformer(module: Any) -> SentenceTransformer:
    """A staged pipeline as a model of sentence-transformers, which it is already unless it is a table."""
    if not isinstance(module, TablePipeline):
        return module
    table = module[0]
    assert isinstance(table, TokenTable)
    first = StaticEmbedding(table.tokenizer, embedding_weights=table.embedding.weight.detach())
    return SentenceTransformer(modules=[first, *[Normalize()] * (len(module) - 1)], device="cpu").eval()
