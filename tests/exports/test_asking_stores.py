"""Stores that are asked as their export says: by the code that it leaves beside its rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.collections import write_collection
from support.tiny_sparse import make_splade

from soloist.config import RunConfig
from soloist.engine.run import run
from soloist.exports import export_run
from soloist.retrieval import open_run

QUESTIONS = ("which device has memory for a lease?", "the fusion of vectors, and vectors", "nothing of it")
MEMBERS = ("bert", "wordllama", "fused", "splade", "bm25")


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_models) -> Path:
    """A run of all kinds of members over two collections, in several shards."""
    root = tmp_path_factory.mktemp("asked")
    write_collection(root / "chunks", "alpha", 50, longest=30, seed=3)
    write_collection(root / "chunks", "beta", 15, longest=30, seed=4)
    splade = make_splade(root / "splade", num_hidden_layers=1)
    config = RunConfig(
        chunks_root=root / "chunks", out=root / "run", models=(str(tiny_models["bert"]), "wordllama", str(splade), "bm25"),
        accelerator="cpu", dtype="float32", shard_chunks=32, lock_dir=root / "locks",
    )  # fmt: skip
    run(config)
    return root / "run"


def sections_of(text: str) -> dict[str, str]:
    """The code of each section of what an export says, by title."""
    return dict(re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def ask(code: str, **names) -> list:
    """The hits of a section's code."""
    exec(code, names)
    return names["hits"]


def test_postgres_ranks_as_the_run_does(made, postgres):
    """Somebody who asks the table would get other chunks than soloist search shows."""
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS asked")
        report = export_run(made, "pgvector", url=postgres, table="asked")
        print(report)
        (text,) = connection.execute("SELECT obj_description('asked'::regclass, 'pg_class')").fetchone()
        sections = sections_of(text)
        assert list(sections) == ["As the run ranks: all members together", *MEMBERS]
        opened = open_run(made)
        for question in QUESTIONS:
            for title, code in sections.items():
                by = {"As the run ranks: all members together": None}.get(title, title)
                hits = opened.search(question, 10, by=by)
                found = ask(code, run=opened, question=question, connection=connection)
                assert [row[:2] for row in found] == [(hit.collection, hit.id) for hit in hits], title
                assert [row[2] for row in found] == pytest.approx([hit.score for hit in hits], abs=1e-5)
