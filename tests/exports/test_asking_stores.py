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

HYBRID = "As the run ranks: all members together"
QUESTIONS = ("which device has memory for a lease?", "the fusion of vectors, and vectors", "nothing of it")
MEMBERS = ("bert", "wordllama", "fused", "splade", "bm25")


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_models) -> Path:
    """A run of all kinds of members over two collections, in several shards."""
    root = tmp_path_factory.mktemp("asked")
    write_collection(root / "chunks", "alpha", 50, longest=30, seed=3)
    write_collection(root / "chunks", "it's", 15, longest=30, seed=4)
    splade = make_splade(root / "splade", num_hidden_layers=1)
    config = RunConfig(
        chunks_root=root / "chunks", out=root / "run", accelerator="cpu",
        models=(str(tiny_models["bert"]), "wordllama", str(splade), "bm25"),
        dtype="float32", shard_chunks=32, lock_dir=root / "locks",
    )  # fmt: skip
    run(config)
    return root / "run"


def sections_of(text: str) -> dict[str, str]:
    """The code of each section of what an export says, by title."""
    return dict(re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def ask(code: str, **names) -> dict:
    """The names that a section's code has made."""
    exec(code, names)
    return names


def assert_same(found, hits, title):
    """The same chunks in the same order, with the same scores."""
    assert [tuple(row[:2]) for row in found] == [(hit.collection, hit.id) for hit in hits], title
    assert [row[2] for row in found] == pytest.approx([hit.score for hit in hits], abs=1e-5), title


def test_postgres_ranks_as_the_run_does(made, postgres):
    """Somebody who asks the table would get other chunks than soloist search shows."""
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS asked")
        export_run(made, "pgvector", url=postgres, table="asked")
        (text,) = connection.execute("SELECT obj_description('asked'::regclass, 'pg_class')").fetchone()
        sections = sections_of(text)
        assert list(sections) == [HYBRID, *MEMBERS]
        opened = open_run(made)
        for question in QUESTIONS:
            for title, code in sections.items():
                found = ask(code, run=opened, question=question, connection=connection)["hits"]
                assert_same(found, opened.search(question, 10, by=None if title == HYBRID else title), title)


def test_postgres_ranks_some_collections_in_a_table_of_any_name(made, postgres):
    """A sign in a name was a placeholder of the query's, or ended its text; or other collections counted."""
    import psycopg

    table, opened = 'as%ked "x"', open_run(made)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("DROP TABLE IF EXISTS {}").format(psycopg.sql.Identifier(table)))
        export_run(made, "pgvector", url=postgres, table=table, vectors="bm25", collections=["it's"])
        found = connection.execute(
            "SELECT obj_description(oid, 'pg_class') FROM pg_class WHERE relname = %s", [table]
        ).fetchone()
        ((title, code),) = sections_of(found[0]).items()
        found = ask(code, run=opened, question=QUESTIONS[0], connection=connection)["hits"]
    assert_same(found, opened.search(QUESTIONS[0], 10, by="bm25", collections=["it's"]), title)


@pytest.fixture(scope="module")
def lance(made, tmp_path_factory) -> Path:
    """A folder of LanceDB with the run."""
    out = tmp_path_factory.mktemp("lance") / "out"
    export_run(made, "lancedb", out=out)
    return out


def test_lancedb_ranks_as_the_run_does(made, lance):
    """Somebody who asks the table would get other chunks than soloist search shows."""
    import lancedb

    read, hybrid, *members = sections_of((lance / "README-soloist.md").read_text()).items()
    assert hybrid[0] == HYBRID and [title for title, _ in members if "index" not in title] == list(MEMBERS)
    opened, table = open_run(made), lancedb.connect(lance).open_table("soloist")
    for question in QUESTIONS:
        names = ask(read[1], run=opened, question=question, table=table)
        for title, code in (hybrid, *members):
            name = title.partition(",")[0]
            hits = opened.search(question, 10, by=None if title == HYBRID else name)
            found = ask(code, **names)["hits"]
            if title == "bm25, by LanceDB's index":
                scores = {(hit.collection, hit.id): hit.score for hit in opened.search(question, 65, by=name)}
                assert_bounded(found, scores)
            else:
                assert_same(found, hits, title)


def assert_bounded(found, scores):
    """LanceDB's scores are what its k1 explains, so it may only swap rows whose own scores are near each other."""
    ratios = [score / scores[collection, id_] for collection, id_, score in found]
    assert all(2.2 * 0.999 <= ratio <= 2.75 * 1.001 for ratio in ratios)
    assert len(found) == min(10, len(scores))
    least = min((scores[row[:2]] for row in found), default=0)
    missed = [score for row, score in scores.items() if row not in {each[:2] for each in found}]
    assert max(missed, default=0) <= least * 1.25 * 1.002
