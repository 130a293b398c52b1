"""Folders of models with routes for documents and queries, made of the small ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Router, StaticEmbedding


def table(folder: Path, dim: int) -> StaticEmbedding:
    """A random table of vectors for the tokens of the model in a folder."""
    tokenizer = SentenceTransformer(str(folder), device="cpu").tokenizer
    weights = np.random.default_rng(7).normal(size=(len(tokenizer), dim)).astype(np.float32)
    return StaticEmbedding(tokenizer, embedding_weights=weights)


def make_two_encoders(folder: Path, bert: Path, *, query_dim: int = 32, **settings: Any) -> Path:
    """A network for documents and a table for queries, as fast retrieval models have them."""
    network = list(SentenceTransformer(str(bert), device="cpu"))[:2]
    router = Router.for_query_document([table(bert, query_dim)], network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        behind = [Dense(32, 32), Normalize()] if query_dim == 32 else [Normalize()]
    model = SentenceTransformer(modules=[router, *behind], device="cpu", **settings)
    model.save(str(folder), create_model_card=False)
    return folder


def make_table_of_documents(folder: Path, bert: Path) -> Path:
    """The other way round: a table for documents, and a network for queries."""
    network = list(SentenceTransformer(str(bert), device="cpu"))[:2]
    router = Router.for_query_document(network, [table(bert, 32)])
    SentenceTransformer(modules=[router], device="cpu").save(str(folder), create_model_card=False)
    return folder


def make_two_heads(folder: Path, bert: Path, *, document: str = "document") -> Path:
    """One network, and behind its pooling a projection for either side, as the old Asym had it."""
    network = list(SentenceTransformer(str(bert), device="cpu"))[:2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        router = Router({"query": [Dense(32, 24)], document: [Dense(32, 24)]})
    SentenceTransformer(modules=[*network, router], device="cpu").save(str(folder), create_model_card=False)
    return folder


def make_mapped(folder: Path, bert: Path) -> Path:
    """Routes with names of their own, which the router's mappings give to the tasks."""
    network = list(SentenceTransformer(str(bert), device="cpu"))[:2]
    routes = {"small": [table(bert, 32)], "large": network}
    mappings: dict[Any, str] = {("query", "text"): "small", ("document", None): "large"}
    router = Router(routes, route_mappings=mappings)
    SentenceTransformer(modules=[router], device="cpu").save(str(folder), create_model_card=False)
    return folder
