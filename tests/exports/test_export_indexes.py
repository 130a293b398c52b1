"""Indexes of stores: which are built, when, and what they are called."""

from __future__ import annotations

import pytest
from exports.conftest import DIMS, some_chunks, write_run

from soloist.exports import export_run
from soloist.exports.columns import Columns
from soloist.exports.lancedb_table import _LanceTable
from soloist.exports.pgvector import _Table
from soloist.exports.rows import open_source


@pytest.mark.filterwarnings("ignore:.*create_index.*:DeprecationWarning")
def test_lancedb_builds_an_index_once_and_again_when_it_is_outgrown(make_run, tmp_path):
    """From 100,000 rows on every export built all indexes anew, which takes minutes."""
    import lancedb

    run, out = make_run(alpha=some_chunks(300)), str(tmp_path / "out")
    export_run(run, "lancedb", out=out, vectors="fused")
    source = open_source(run, "fused", (), several=True)

    def indexed_for(rows):
        store = _LanceTable(lancedb.connect(out), "soloist", source, Columns.of(source), "here")
        store.index(rows)
        return {each.name: each.num_indexed_rows for each in lancedb.connect(out).open_table("soloist").list_indices()}

    assert indexed_for(100_000) == {"vector_fused_of_100000": 300}
    export_run(make_run(alpha=some_chunks(310)), "lancedb", out=out, vectors="fused")
    assert indexed_for(399_999) == {"vector_fused_of_100000": 310}  # with the new rows
    assert indexed_for(400_000) == {"vector_fused_of_400000": 310}


def test_indexes_of_postgres(tmp_path, postgres, monkeypatch):
    """Their names had quotes in them, and vectors of more than 2,000 dims had none where pgvector can have one."""
    import psycopg

    monkeypatch.setitem(DIMS, "fused", 2_100)
    source = open_source(write_run(tmp_path / "run", {"alpha": some_chunks(3)}), None, (), several=True)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute('DROP TABLE IF EXISTS "My Vectors"')
        store = _Table(psycopg, connection, source, "My Vectors", "here")
        for _ in range(2):
            notes = store.index(10_000)
        found = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'My Vectors' AND indexname LIKE '%hnsw'"
        ).fetchall()
        has_halfvec = connection.execute("SELECT to_regtype('halfvec') IS NOT NULL").fetchone() == (True,)
    expected = {"My Vectors_vector_model_a_hnsw", "My Vectors_vector_org_model_b_hnsw"}
    assert {name for name, _ in found} == expected | ({"My Vectors_vector_fused_hnsw"} if has_halfvec else set())
    if has_halfvec:
        assert any("(vector_fused)::halfvec(2100)) halfvec_cosine_ops" in made for _, made in found)
        assert "fused has an HNSW index in half precision, for ORDER BY vector_fused::halfvec(2100) <=> " in notes[2]
    else:
        assert notes[2] == "fused has more than 2,000 dims, which this pgvector does not index: it is scanned"
