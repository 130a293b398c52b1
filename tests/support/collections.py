"""Collections of reproducible texts, and a config that embeds them with tiny models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from soloist.config import RunConfig

WORDS = [
    "lease", "chunk", "vector", "shard", "device", "memory", "batch", "token", "replica", "model", "pass", "fusion",
    "weight", "norm", "query", "index",
]  # fmt: skip

# A run by a table of token vectors, which takes no time.
TABLE_SETTINGS = {"models": ["wordllama"], "accelerator": "cpu", "shard_chunks": 32}


def write_collection(root: Path, name: str, chunks: int, *, longest: int = 120, seed: int = 0) -> Path:
    """A collection of reproducible texts of 1 to `longest` words, in one chunk file."""
    generator = np.random.default_rng(seed)
    items = [
        {
            "text": " ".join(generator.choice(WORDS, size=generator.integers(1, longest + 1))),
            "metadata": {"chunk_id": f"{name}-{index:04d}"},
        }
        for index in range(chunks)
    ]
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "doc_chunks.json").write_text(json.dumps(items))
    return folder


def some_words(count: int) -> str:
    """A text of that many words."""
    return " ".join(WORDS[number % len(WORDS)] for number in range(count))


def config_below(root: Path, tiny_models: dict[str, Path]) -> RunConfig:
    """A decoder and an encoder in exclusive mode on two roomy simulated devices, in several shards; the chunks, the
    catalogue and all that a run writes are below `root`.
    """
    return config_of(root, chunks_below(root), catalogue_below(root, tiny_models))


def chunks_below(root: Path, longest: int = 50) -> Path:
    """Two collections, `alpha` of 70 chunks and `beta` of 25."""
    write_collection(root / "chunks", "alpha", 70, longest=longest, seed=1)
    write_collection(root / "chunks", "beta", 25, longest=longest, seed=2)
    return root / "chunks"


def catalogue_below(root: Path, tiny_models: dict[str, Path]) -> Path:
    """A user catalogue with the tiny models under their own names."""
    return write_catalogue(root / "catalogue.toml", tiny_models)


def write_catalogue(path: Path, models: Mapping[str, Path]) -> Path:
    """A user catalogue with models under their names."""
    tables = (f"[models.{json.dumps(name)}]\nsource = {json.dumps(str(folder))}\n" for name, folder in models.items())
    path.write_text("".join(tables))
    return path


def config_of(root: Path, chunks_root: Path, catalogue: Path) -> RunConfig:
    """The same with chunks and a catalogue that are there."""
    return RunConfig(
        chunks_root=chunks_root,
        out=root / "run",
        models=("qwen2", "xlm-roberta"),
        accelerator="simulated:2x1GB",
        catalogue=catalogue,
        shard_chunks=32,
        lock_dir=root / "locks",
    )
