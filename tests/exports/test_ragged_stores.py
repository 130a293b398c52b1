"""Sparse vectors and words in LanceDB and PostgreSQL: written once, brought up to date, and what is not ours left."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from support.exported_runs import LEXICAL, SPARSE, some_chunks, sparse_of, terms_of, vectors_of
from support.term_rows import term_rows

from soloist.errors import ExportError
from soloist.exports import export_run
from soloist.exports.members import entries_of
from soloist.exports.pgvector.members import SparseMember, WordsMember
from soloist.exports.pgvector.table import PostgresTable
from soloist.exports.rows import Rows, open_source
from soloist.ragged import RaggedRows
from soloist.types import Chunk

STORES = ("lancedb", "pgvector")
NAMES = ("model-a", "org/model.b", "fused", SPARSE, LEXICAL)
CHUNKS = [*some_chunks(45), Chunk(id="no words", text=" "), *some_chunks(4, first=60)]


@contextmanager
def connected(url, table):
    """A connection to a server that has no such table."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE EXTENSION IF NOT EXISTS vector; DROP TABLE IF EXISTS {table}")
        yield connection


def assert_holds(found, chunks, names=NAMES):
    """Row by row: these chunks, each with what the run has of it."""
    texts = {chunk.id: chunk.text for chunk in chunks}
    assert sorted(id_ for _, id_, _, _ in found.values()) == sorted(texts)
    for _, id_, _, members in found.values():
        assert set(members) == set(names), id_
        for name in names:
            text = [texts[id_]]
            if name in (SPARSE, LEXICAL):
                (wanted,) = entries_of(sparse_of(text) if name == SPARSE else terms_of(text))
                assert members[name] == pytest.approx(wanted, rel=1e-6)
            else:
                np.testing.assert_allclose(members[name], vectors_of(text, name)[0], atol=1e-6)


@pytest.mark.parametrize("kind", STORES)
def test_rows_are_written_once_and_follow_the_run(kind, make_run, place):
    """Each export would write all words again, or leave those of a text that has changed, or of one that is gone."""
    where, read = place(kind)
    run = make_run(alpha=CHUNKS, ragged=True)
    report = export_run(run, kind, **where)
    assert (set(report.vectors), report.written, report.compared) == (set(NAMES), 50, 50)
    assert_holds(read(), CHUNKS)
    again = export_run(run, kind, **where)
    assert (again.written, again.unchanged, again.deleted) == (0, 50, 0)
    changed = [Chunk(id="chunk 0", text="other words, and more words"), *CHUNKS[1:3], *CHUNKS[40:]]
    report = export_run(make_run(alpha=changed, ragged=True), kind, **where)
    assert (report.written, report.unchanged, report.deleted) == (1, 12, 37)
    assert_holds(read(), changed)


@pytest.mark.parametrize("kind", STORES)
def test_an_export_that_was_broken_off_goes_on(kind, make_run, place):
    """Rows would be without their words for good, because their vectors are there."""
    where, read = place(kind)
    run = make_run(alpha=CHUNKS, ragged=True)

    def stop(done, rows):
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_run(run, kind, **where, batch_rows=10, progress=stop)
    report = export_run(run, kind, **where)
    assert report.unchanged >= 10 and report.written == 50 - report.unchanged
    assert_holds(read(), CHUNKS)


@pytest.mark.parametrize("kind", STORES)
def test_words_go_with_another_text_and_stay_with_the_same(kind, make_run, place):
    """An export of the vectors alone left the words of the text before, or took those of all texts away."""
    where, read = place(kind)
    export_run(make_run(alpha=CHUNKS[:3], ragged=True), kind, **where)
    changed = [Chunk(id="chunk 0", text="another"), Chunk(id="chunk 1", text=CHUNKS[1].text), CHUNKS[2]]
    report = export_run(make_run(alpha=changed, ragged=True), kind, **where, vectors="fused")
    assert report.written == 2
    members = {id_: set(there) for _, id_, _, there in read().values()}
    assert members == {"chunk 0": {"fused"}, "chunk 1": set(NAMES), "chunk 2": set(NAMES)}
    assert export_run(make_run(alpha=changed, ragged=True), kind, **where).written == 1
    assert_holds(read(), changed)


@pytest.mark.parametrize("kind", STORES)
def test_members_without_dense_vectors_are_exported(kind, make_run, place):
    """A run of words alone was refused, and a table without vectors had no index to count."""
    where, read = place(kind)
    run = make_run(alpha=CHUNKS[:5], ragged=True, dense=False)
    export_run(run, kind, **where, vectors=LEXICAL)
    assert_holds(read(), CHUNKS[:5], (LEXICAL,))
    if kind == "lancedb":  # PostgreSQL has room for what its first export had
        export_run(run, kind, **where)
        assert_holds(read(), CHUNKS[:5], (SPARSE, LEXICAL))
    else:
        with pytest.raises(ExportError, match=f"has no column vector_splade_x for sparse vectors of {SPARSE}: give"):
            export_run(run, kind, **where)


def test_a_lancedb_table_of_vectors_gets_words(make_run, place):
    """Whoever adds words to a run would have to make the table anew."""
    where, read = place("lancedb")
    export_run(make_run(alpha=CHUNKS[:5]), "lancedb", **where)
    assert export_run(make_run(alpha=CHUNKS[:5], ragged=True), "lancedb", **where).written == 5
    assert_holds(read(), CHUNKS[:5])


def test_texts_of_somebody_else_stay(make_run, place, postgres):
    """What says how to ask the store was written over a comment or a file of the user's."""
    run = make_run(alpha=CHUNKS[:2], ragged=True)
    where, _ = place("lancedb")
    readme = Path(where["out"], "README-soloist.md")
    export_run(run, "lancedb", **where)
    before = readme.stat().st_mtime_ns, readme.read_text()
    export_run(run, "lancedb", **where)
    assert (readme.stat().st_mtime_ns, readme.read_text()) == before
    readme.write_text("mine")
    assert export_run(run, "lancedb", **where).notes[-1].startswith(f"{readme} is a file of yours")
    assert readme.read_text() == "mine"
    with connected(postgres, "commented") as connection:
        export_run(run, "pgvector", url=postgres, table="commented")
        connection.execute("COMMENT ON TABLE commented IS 'mine'")
        notes = export_run(run, "pgvector", url=postgres, table="commented").notes
        assert notes[-1].startswith("the table has a comment of yours")
        assert connection.execute("SELECT obj_description('commented'::regclass)").fetchone() == ("mine",)
        connection.execute("DROP ROLE IF EXISTS guest; CREATE ROLE guest; GRANT ALL ON commented TO guest")
        connection.execute("COMMENT ON TABLE commented IS NULL")
        as_guest = f"{postgres}&options=-crole%3Dguest"
        notes = export_run(run, "pgvector", url=as_guest, table="commented").notes
        assert notes[-1].startswith("only the owner of the table may write into its comment how to query the table")
        connection.execute("DROP TABLE commented; DROP ROLE guest")


def test_columns_of_somebody_else_stay(make_run, postgres):
    """A column that only begins as one of words was emptied with the words of another text."""
    with connected(postgres, "lengths") as connection:
        export_run(make_run(alpha=CHUNKS[:2], ragged=True), "pgvector", url=postgres, table="lengths")
        connection.execute("ALTER TABLE lengths ADD COLUMN length_cm int4, ADD COLUMN terms_mine text[]")
        connection.execute("UPDATE lengths SET length_cm = 7, terms_mine = '{a}'")
        changed = [Chunk(id="chunk 0", text="another"), CHUNKS[1]]
        export_run(make_run(alpha=changed, ragged=True), "pgvector", url=postgres, table="lengths", vectors="fused")
        rows = connection.execute("SELECT length_cm, terms_mine, length_bm25 FROM lengths ORDER BY id").fetchall()
    assert rows == [(7, ["a"], None), (7, ["a"], len(CHUNKS[1].text.split()))]


def test_columns_of_somebody_else_stay_in_lancedb(make_run, place):
    """Any column of texts whose name began with words_ was emptied with the words of another text."""
    import lancedb
    import pyarrow as pa

    where, _ = place("lancedb")
    export_run(make_run(alpha=CHUNKS[:2], ragged=True), "lancedb", **where)
    table = lancedb.connect(where["out"]).open_table("soloist")
    mine = {"words_notes": pa.large_string(), "indices_mine": pa.list_(pa.uint32())}
    table.add_columns(pa.schema(list(mine.items())))
    table.update(values={"words_notes": "a note", "indices_mine": [7]})
    changed = [Chunk(id="chunk 0", text="another"), CHUNKS[1]]
    export_run(make_run(alpha=changed, ragged=True), "lancedb", **where, vectors="fused")
    rows = lancedb.connect(where["out"]).open_table("soloist").to_arrow().sort_by("id").to_pylist()
    assert [(row["words_notes"], row["indices_mine"]) for row in rows] == [("a note", [7])] * 2
    assert [row["words_bm25"] is None for row in rows] == [True, False]
    assert [row[f"indices_{SPARSE.replace('-', '_')}"] is None for row in rows] == [True, False]


def test_words_are_kept_where_metadata_change_their_type(make_run, place):
    """The export that writes all words again was refused, because the words would be lost."""
    where, read = place("lancedb")
    export_run(make_run(alpha=[Chunk(id="a", text="one", metadata={"page": 1})], ragged=True), "lancedb", **where)
    changed = [Chunk(id="a", text="one", metadata={"page": "three"})]
    assert export_run(make_run(alpha=changed, ragged=True), "lancedb", **where).written == 1
    assert_holds(read(), changed)


def test_a_table_that_was_dropped_is_made_again(make_run, place):
    """The text on how to ask the table was left, and counted as a file of somebody else's."""
    import lancedb

    where, read = place("lancedb")
    run = make_run(alpha=CHUNKS[:2], ragged=True)
    export_run(run, "lancedb", **where)
    lancedb.connect(where["out"]).drop_table("soloist")
    assert export_run(run, "lancedb", **where).written == 2
    assert_holds(read(), CHUNKS[:2])
    lancedb.connect(where["out"]).drop_table("soloist")
    Path(where["out"], "README-soloist.md").write_text("mine")
    with pytest.raises(ExportError, match="has files that no export to lancedb wrote"):
        export_run(run, "lancedb", **where)


def test_an_index_of_somebody_else_stays(make_run, postgres):
    """An export dropped any HNSW index of sparse vectors, where a chunk had more weights than it takes."""
    long = Chunk(id="long", text=" ".join(f"w{number}" for number in range(1_500)))
    with connected(postgres, "owned") as connection:
        export_run(make_run(alpha=CHUNKS[:2], ragged=True), "pgvector", url=postgres, table="owned")
        connection.execute("CREATE INDEX mine ON owned USING hnsw (vector_splade_x sparsevec_ip_ops)")
        with pytest.raises(ExportError, match=r"has an HNSW index mine of vector_splade_x, .* 1,000 weights .*: drop"):
            export_run(make_run(alpha=[*CHUNKS[:2], long], ragged=True), "pgvector", url=postgres, table="owned")
        assert connection.execute("SELECT count(*) FROM pg_indexes WHERE indexname = 'mine'").fetchone() == (1,)


def test_indexes_of_sparse_vectors_and_words(make_run, postgres):
    """A text with more weights than an HNSW index takes ended every later export with PostgreSQL's own error."""
    import psycopg

    def index(run):
        export_run(run, "pgvector", url=postgres, table="indexed")
        source = open_source(run, None, (), several=True)
        notes = PostgresTable(psycopg, connection, source, ("indexed",), "here", indexed_rows=3).index()
        connection.execute("SELECT pg_advisory_unlock_all()")
        found = connection.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'indexed'").fetchall()
        return notes, sorted(made.partition(" USING ")[2] for (made,) in found if "btree" not in made)

    with connected(postgres, "indexed") as connection:
        few = ["gin (words_bm25)", "hnsw (vector_fused vector_cosine_ops)", "hnsw (vector_model_a vector_cosine_ops)"]
        few.append("hnsw (vector_org_model_b_13d65151 vector_cosine_ops)")
        sparse = "hnsw (vector_splade_x sparsevec_ip_ops)"
        notes, made = index(make_run(alpha=CHUNKS[:5], ragged=True))
        assert made == [*few, sparse] and f"{SPARSE} has an HNSW index: its search is approximate" in notes
        at_most = Chunk(id="at most", text=limit_text())
        notes, made = index(make_run(alpha=[*CHUNKS[:5], at_most], ragged=True))
        assert made == [*few, sparse]
        long = Chunk(id="long", text=" ".join(f"w{number}" for number in range(1_500)))
        notes, made = index(make_run(alpha=[*CHUNKS[:5], long], ragged=True))
        assert made == few
        assert f"{SPARSE} has no index, because a row has over 1,000 weights" in notes[3]


def limit_text():
    """A text whose sparse vector has as many weights as an HNSW index takes."""
    texts = (" ".join([f"w{number}"] * 1_116) for number in range(500))
    return next(text for text in texts if len(sparse_of([text]).keys) == 1_000)


def test_an_older_pgvector_takes_words_and_refuses_sparse_vectors(make_run, old_postgres):
    """PostgreSQL's own error, that the type does not exist, names no way on; or the table was made before it."""
    run = make_run(alpha=CHUNKS[:5], ragged=True)
    with connected(old_postgres, "soloist") as connection:
        with pytest.raises(
            ExportError, match=rf"has pgvector 0\.6\.2, and the sparse vectors of {SPARSE} need .* 0\.7"
        ):
            export_run(run, "pgvector", url=old_postgres)
        assert connection.execute("SELECT to_regclass('soloist')").fetchone() == (None,)
        assert export_run(run, "pgvector", url=old_postgres, vectors=LEXICAL).written == 5


def test_rows_that_postgres_has_no_room_for():
    """A tsvector of over 1 MiB loses words without an error, and the error of a long sparsevec names no chunk."""
    chunks = [Chunk(id="long", text="any")]
    keys = np.arange(16_001, dtype=np.uint32)
    sparse = RaggedRows.of([len(keys)], keys, np.ones(len(keys), np.float32))
    words = term_rows([{f"{number:01000}": 1 for number in range(1_050)}])
    rows = Rows(
        collection="a", keys=["k"], marks=[], chunks=chunks, vectors={}, ragged={SPARSE: sparse, LEXICAL: words}
    )
    with pytest.raises(ExportError, match=r"^chunk 'long' has 16,001 weights of splade-x, and a sparsevec .* 16,000"):
        SparseMember(SPARSE, "v", 20_000).values(rows, 0)
    with pytest.raises(ExportError, match=r"^chunk 'long' has over 1 MiB of different words"):
        WordsMember(LEXICAL, "t", "c", "l", "w").values(rows, 0)
