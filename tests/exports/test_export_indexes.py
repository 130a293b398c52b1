"""Indexes of stores: which are built, when, and what they are called."""

from __future__ import annotations

import pytest
from support.exported_runs import DIMS, some_chunks, write_run

from soloist.exports import export_run
from soloist.exports.columns import Columns, vector_column
from soloist.exports.lancedb.table import LanceTable
from soloist.exports.pgvector.table import PostgresTable
from soloist.exports.rows import open_source

MODEL_B = vector_column("org/model.b")


@pytest.mark.filterwarnings("ignore:.*create_index.*:DeprecationWarning")
def test_lancedb_builds_an_index_once_and_again_when_it_is_outgrown(make_run, tmp_path):
    """From 100,000 rows on every export built all indexes anew, which takes minutes."""
    import lancedb

    out = str(tmp_path / "out")

    def indexed(count):
        run = make_run(alpha=some_chunks(count))
        export_run(run, "lancedb", out=out, vectors="fused")
        source = open_source(run, "fused", (), several=True)
        columns = Columns.of(source)
        store = LanceTable(lancedb.connect(out), "soloist", source, columns, "here", indexed_rows=300)
        notes = store.index()
        assert ("approximate" in notes[0]) == (count >= 300)
        return {each.name: each.num_indexed_rows for each in lancedb.connect(out).open_table("soloist").list_indices()}

    assert indexed(299) == {}
    assert indexed(300) == {"vector_fused_of_300": 300}
    assert indexed(310) == {"vector_fused_of_300": 310}  # with the new rows
    assert indexed(1_200) == {"vector_fused_of_1200": 1_200}


@pytest.mark.filterwarnings("ignore:.*create_index.*:DeprecationWarning")
def test_an_index_is_of_all_vectors_in_the_table(make_run, tmp_path, postgres):
    """Two collections of 60,000 rows each, exported one by one, had none; a column with a few vectors was given one."""
    import lancedb
    import psycopg

    out, run = str(tmp_path / "out"), make_run(alpha=some_chunks(160), beta=some_chunks(150))
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS shared")
        for collection in ("alpha", "beta"):
            for to, where in (("lancedb", {"out": out}), ("pgvector", {"url": postgres})):
                export_run(run, to, collections=[collection], table="shared", **where)
        connection.execute("UPDATE shared SET vector_model_a = NULL WHERE collection = 'alpha'")
        source = open_source(run, None, ["beta"], several=True)
        notes = PostgresTable(psycopg, connection, source, ("shared",), "here", indexed_rows=300).index()
        assert [note.startswith("model-a: all rows are scanned") for note in notes] == [True, False, False]
        found = connection.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'shared'").fetchall()
    assert sorted("hnsw" in made for (made,) in found) == [False, True, True]
    lancedb.connect(out).open_table("shared").update(where="id = 'chunk 1'", values_sql={"vector_model_a": "NULL"})
    LanceTable(lancedb.connect(out), "shared", source, Columns.of(source), "here", indexed_rows=310).index()
    indexes = lancedb.connect(out).open_table("shared").list_indices()
    assert {each.columns[0] for each in indexes} == {MODEL_B, "vector_fused"}


def test_indexes_of_postgres(tmp_path, postgres, monkeypatch):
    """Vectors of more than 2,000 dims had none where pgvector can have one, and each export built all of them anew."""
    import psycopg

    monkeypatch.setitem(DIMS, "fused", 2_100)
    run = write_run(tmp_path / "run", {"alpha": some_chunks(3)})
    source = open_source(run, None, (), several=True)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute('DROP TABLE IF EXISTS "My Vectors", "My Vectors_vector_model"')
        export_run(run, "pgvector", url=postgres, table="My Vectors")
        connection.execute('CREATE TABLE "My Vectors_vector_model" (a int)')
        connection.execute('CREATE INDEX "My Vectors_vector_model_a_idx" ON "My Vectors_vector_model" (a)')
        store = PostgresTable(psycopg, connection, source, ("My Vectors",), "here", indexed_rows=3)
        for _ in range(2):
            notes = store.index()
        found = connection.execute(
            "SELECT indexdef FROM pg_indexes WHERE tablename = 'My Vectors' AND indexdef LIKE '%hnsw%'"
        ).fetchall()
        has_halfvec = connection.execute("SELECT to_regtype('halfvec') IS NOT NULL").fetchone() == (True,)
    made = sorted(each.partition(" USING hnsw ")[2] for (each,) in found)
    plain = ["(vector_model_a vector_cosine_ops)", f"({MODEL_B} vector_cosine_ops)"]
    half = ["(((vector_fused)::halfvec(2100)) halfvec_cosine_ops)"] if has_halfvec else []
    assert made == sorted([*plain, *half])
    if has_halfvec:
        assert (
            "fused has an HNSW index in half precision: to use it, write ORDER BY vector_fused::halfvec(2100) <=> "
            in notes[2]
        )
    else:
        assert (
            notes[2] == "fused has more than 2,000 dims, too many for an index of this pgvector: all rows are scanned"
        )
