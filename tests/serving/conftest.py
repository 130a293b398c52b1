"""A run with a member of each kind, made once for all tests of the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.collections import write_catalogue, write_collection
from support.tiny_sparse import make_splade

from soloist.config import RunConfig
from soloist.engine.run import run


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Path:
    """The folder of a run of two dense models, a sparse one and words. bert has a prompt for questions."""
    root = tmp_path_factory.mktemp("serving")
    write_collection(root / "chunks", "alpha", 40, longest=30, seed=1)
    write_collection(root / "chunks", "beta", 10, longest=30, seed=2)
    models = {"splade": make_splade(root / "splade", num_hidden_layers=1), "bert": tiny_models["bert"]}
    catalogue = write_catalogue(root / "models.toml", models)
    catalogue.write_text(catalogue.read_text() + 'query_prompt = "question: "\n')
    config = RunConfig(
        chunks_root=root / "chunks", out=root / "run", models=("bert", "wordllama", "splade", "bm25"),
        accelerator="cpu", catalogue=catalogue, shard_chunks=32, lock_dir=root / "locks", cache_dir=root / "cache",
    )  # fmt: skip
    run(config)
    return root / "run"
