"""Stores that are asked as their export says: by the code that it leaves beside its rows."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest
from support.collections import write_collection
from support.tiny_sparse import make_m3

from soloist.config import RunConfig
from soloist.engine.run import run
from soloist.exports import export_run
from soloist.retrieval import open_run

HYBRID = "As the run ranks: all members together"
QUESTIONS = (
    "which device has memory for a lease?", "the fusion of vectors, and vectors", "nothing of it",
    "東京の天気 and the ภาษาไทย, of a naïve הזכרון", "🙂 it's a.b.c in snake_case",
)  # fmt: skip
MEMBERS = ("bert", "wordllama", "fused", "splade", "bm25")


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


def test_postgres_ranks_as_the_run_does(asked_run, postgres):
    """Somebody who asks the table would get other chunks than soloist search shows."""
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS asked")
        export_run(asked_run, "pgvector", url=postgres, table="asked")
        (text,) = connection.execute("SELECT obj_description('asked'::regclass, 'pg_class')").fetchone()
        sections = sections_of(text)
        assert [title for title in sections if "index" not in title] == [HYBRID, *MEMBERS]
        assert str(asked_run.parent) not in text and f"open_questions({asked_run.name!r})" in text
        opened = open_run(asked_run)
        for question in QUESTIONS:
            for title, code in sections.items():
                found = ask(code, questions=opened.questions, question=question, connection=connection)["hits"]
                name = title.partition(",")[0]
                assert_same(found, opened.search(question, 10, by=None if title == HYBRID else name), title)


def test_postgres_ranks_some_collections_in_a_table_of_any_name(asked_run, postgres):
    """A sign in a name was a placeholder of the query's, or ended its text; or other collections counted."""
    import psycopg

    table, opened = 'as%ked "x"', open_run(asked_run)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("DROP TABLE IF EXISTS {}").format(psycopg.sql.Identifier(table)))
        export_run(asked_run, "pgvector", url=postgres, table=table, vectors="bm25", collections=["it's"])
        found = connection.execute(
            "SELECT obj_description(oid, 'pg_class') FROM pg_class WHERE relname = %s", [table]
        ).fetchone()
        ((title, code),) = sections_of(found[0]).items()
        found = ask(code, questions=opened.questions, question=QUESTIONS[0], connection=connection)["hits"]
    assert_same(found, opened.search(QUESTIONS[0], 10, by="bm25", collections=["it's"]), title)


def test_postgres_puts_equal_rows_in_order_and_an_index_is_asked_by_itself(tmp_path, postgres):
    """Of equal chunks PostgreSQL chose any ten. An HNSW index answered what was called exact: with no row at all, where
    other collections are nearer.
    """
    import psycopg

    write_collection(tmp_path / "chunks", "near", 60, longest=8)
    for file in ("b", "a"):
        lines = (json.dumps({"id": f"{file}{number}", "text": "roses in the garden"}) for number in range(12))
        (tmp_path / "chunks" / "twins").mkdir(exist_ok=True)
        (tmp_path / "chunks" / "twins" / f"{file}.jsonl").write_text("\n".join(lines))
    out, locks = tmp_path / "run", tmp_path / "locks"
    run(RunConfig(chunks_root=tmp_path / "chunks", out=out, accelerator="cpu", models=("wordllama",), lock_dir=locks))
    opened, question = open_run(tmp_path / "run"), "memory of a device"
    hits = opened.search(question, 10, by="wordllama", collections=["twins"])
    assert [hit.id for hit in hits] == [f"a{number}" for number in range(10)]
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS twins")
        for collections in (["near"], ["twins"]):
            export_run(tmp_path / "run", "pgvector", url=postgres, table="twins", collections=collections)
        connection.execute("UPDATE twins SET text = text WHERE id = 'a0'")  # now it is the last that is read
        (text,) = connection.execute("SELECT obj_description('twins'::regclass)").fetchone()
        (_, exact), (title, by_index) = sections_of(text).items()
        assert title == "wordllama, by pgvector's index"

        def found(code):
            return ask(code, questions=opened.questions, question=question, connection=connection)["hits"]

        assert_same(found(exact), hits, "exact")
        assert_same(found(by_index), hits, "without an index")
        connection.execute("CREATE INDEX ON twins USING hnsw (vector_wordllama vector_cosine_ops)")
        connection.execute("SET enable_seqscan = off")
        assert_same(found(exact), hits, "exact beside an index")
        assert found(by_index) == []
        with connection.transaction():
            connection.execute("SET LOCAL enable_indexscan = off")
            assert_same(found(by_index), hits, "exact by the setting")
        connection.execute("SET hnsw.iterative_scan = strict_order")
        assert len(found(by_index)) == 10
        connection.execute("DROP TABLE twins")


@pytest.fixture(scope="module")
def posted_run(tmp_path_factory) -> Path:
    """A run without dense vectors. By BM25, "lease" tells its chunks apart by less than 1e-6."""
    root = tmp_path_factory.mktemp("posted")
    (root / "chunks" / "alpha").mkdir(parents=True)
    with (root / "chunks" / "alpha" / "alpha.jsonl").open("w") as file:
        for number in range(40):
            words = ["rain"] * (1_200 + number % 2)
            words[number] = "lease"
            if number in (7, 11):
                words[0] = "zebra"
            file.write(json.dumps({"id": str(number), "text": " ".join(words)}) + "\n")
    models = (f"{make_m3(root / 'm3', num_hidden_layers=1)}:sparse", "bm25")
    out = root / "run"
    run(RunConfig(chunks_root=root / "chunks", out=out, accelerator="cpu", models=models, lock_dir=root / "locks"))
    return out


@pytest.mark.parametrize("kind", ["lancedb", "pgvector"])
def test_stores_rank_by_words_and_sparse_vectors_together(kind, posted_run, postgres, tmp_path):
    """Words whose scores differ by less than a millionth had no part."""
    import lancedb
    import psycopg

    opened = open_run(posted_run)
    with psycopg.connect(postgres, autocommit=True) as connection:
        if kind == "lancedb":
            export_run(posted_run, kind, out=tmp_path / "out")
            sections = sections_of((tmp_path / "out" / "README-soloist.md").read_text())
            given = {"table": lancedb.connect(tmp_path / "out").open_table("soloist")}
        else:
            connection.execute("DROP TABLE IF EXISTS posted")
            export_run(posted_run, kind, url=postgres, table="posted")
            sections = sections_of(connection.execute("SELECT obj_description('posted'::regclass)").fetchone()[0])
            given = {"connection": connection}
        for question in ("lease", "zebra", "zebra in a lease"):
            names = {**given, "questions": opened.questions, "question": question}
            if kind == "lancedb":
                names = ask(next(iter(sections.values())), **names)
            hits = opened.search(question, 10)
            assert_same(ask(sections[HYBRID], **names)["hits"], hits, question)


@pytest.fixture(scope="module")
def lance(asked_run, tmp_path_factory) -> Path:
    """A folder of LanceDB with the run."""
    out = tmp_path_factory.mktemp("lance") / "out"
    export_run(asked_run, "lancedb", out=out)
    return out


def test_lancedb_ranks_as_the_run_does(asked_run, lance):
    """Somebody who asks the table would get other chunks than soloist search shows."""
    import lancedb

    read, hybrid, *members = sections_of((lance / "README-soloist.md").read_text()).items()
    assert hybrid[0] == HYBRID and [title for title, _ in members if "index" not in title] == list(MEMBERS)
    opened, table = open_run(asked_run), lancedb.connect(lance).open_table("soloist")
    for question in QUESTIONS:
        names = ask(read[1], questions=opened.questions, question=question, table=table)
        for title, code in (hybrid, *members):
            name = title.partition(",")[0]
            hits = opened.search(question, 10, by=None if title == HYBRID else name)
            found = ask(code, **names)["hits"]
            if title == "bm25, by LanceDB's index":
                (asked,) = opened.encode_words("bm25", [question])
                assert_explained(found, names["rows"], asked)
            else:
                assert_same(found, hits, title)


def assert_explained(found, rows, asked):
    """BM25 by another k1, of the rows that have words; LanceDB 0.34 counts the others too."""
    texts = {(row["collection"], row["id"]): Counter(row["words_bm25"].split()) for row in rows.to_pylist()}
    few = {row: counts for row, counts in texts.items() if counts}
    scores = [bm25(asked, some, k1=1.2) for some in (few, texts)]
    likely = [all(score == pytest.approx(2.2 * each[tuple(row)], rel=1e-4) for *row, score in found) for each in scores]
    assert any(likely)
    assert len(found) == min(10, len(scores[0]))
    # So it can swap two rows only if their scores are within a quarter of each other.
    own = bm25(asked, few if likely[0] else texts, k1=1.5)
    missed = own.keys() - {(collection, id_) for collection, id_, _ in found}
    least = min((own[collection, id_] for collection, id_, _ in found), default=0)
    assert max((own[row] for row in missed), default=0) <= 1.25 * least * 1.0001


def bm25(asked, texts, k1):
    """The scores of the texts that have a word, by row."""
    scores = Counter()
    average = sum(counts.total() for counts in texts.values()) / len(texts)
    for word, times in asked.items():
        having = [row for row, counts in texts.items() if word in counts]
        idf = math.log(1 + (len(texts) - len(having) + 0.5) / (len(having) + 0.5))
        for row in having:
            count, length = texts[row][word], texts[row].total()
            scores[row] += times * idf * count / (count + k1 * (0.25 + 0.75 * length / average))
    return scores
