"""Stores that are asked as their export says: by the code that it leaves beside its rows."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import pytest

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
        assert list(sections) == [HYBRID, *MEMBERS]
        opened = open_run(asked_run)
        for question in QUESTIONS:
            for title, code in sections.items():
                found = ask(code, run=opened, question=question, connection=connection)["hits"]
                assert_same(found, opened.search(question, 10, by=None if title == HYBRID else title), title)


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
        found = ask(code, run=opened, question=QUESTIONS[0], connection=connection)["hits"]
    assert_same(found, opened.search(QUESTIONS[0], 10, by="bm25", collections=["it's"]), title)


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
        names = ask(read[1], run=opened, question=question, table=table)
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
