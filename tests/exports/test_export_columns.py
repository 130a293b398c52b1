"""Columns are told apart by the names of fields and models alone, whatever else is exported."""

from __future__ import annotations

import json
import re
from pathlib import Path

import lancedb
import numpy as np
import polars
import psycopg
import pyarrow.parquet as pq
import pytest
from support.export_readers import READERS
from support.exported_runs import some_chunks

from soloist.errors import ExportError
from soloist.exports import export_run
from soloist.exports.columns import metadata_column, vector_column
from soloist.models.catalogue import BUILT_IN
from soloist.stores import RunFolder
from soloist.types import Chunk

NAMES = ["page no", "page-no", "page_no", "page.no", "Page_no", "PAGE_NO", "", "_", "é", "è", "a_0123abcd", "x" * 200]
NAMES += ["x" * 201, "a", "A", "cosine-ops", "\ud800"]


@pytest.mark.parametrize("column", [metadata_column, vector_column])
def test_no_two_names_share_a_column(column):
    """Which of two had the plain name was a matter of what else was exported."""
    columns = [column(name) for name in NAMES]
    assert len({each.casefold() for each in columns}) == len(NAMES)
    assert all(each.isascii() and each.islower() and len(each) <= 60 for each in columns)
    assert all(each.replace("_", "").isalnum() for each in columns)
    digests = [column(name).rpartition("_")[2] for name in NAMES]
    assert column(f"a_{digests[0]}") not in columns
    assert metadata_column("page_no") == "metadata_page_no"
    assert vector_column("bge-m3") == "vector_bge_m3"


def test_models_known_by_name_have_columns_without_a_digest():
    """A person had to look the column of all-MiniLM-L6-v2 up; or a model of one's own had the column of another."""
    known = BUILT_IN.names()
    assert vector_column("all-MiniLM-L6-v2") == "vector_all_minilm_l6_v2"
    assert not any(re.search("_[0-9a-f]{8}$", vector_column(name)) for name in known)
    names = {form for name in known for form in (name, name.lower(), name.replace("-", "_"), name.replace(".", "-"))}
    columns = [vector_column(name) for name in names]
    assert len(set(columns)) == len(names) > 2 * len(known) and all(len(column) <= 60 for column in columns)


def with_model(run, name, vector):
    """The run, with a third model whose vectors are all the same."""
    folder = RunFolder(run)
    summary = folder.read_json("run.json")
    summary["models"].append({"name": name, "dim": len(vector), "fingerprint": name})
    folder.reopen()
    ids = folder.shards.read_ids("alpha", 0)
    vectors = np.tile(np.float32(vector), (len(ids), 1))
    folder.manifest.append(folder.shards.write_vectors("alpha", name, 0, ids, vectors, [b"0" * 16] * len(ids), name))
    folder.finish(summary)
    return run


def test_models_whose_names_differ_in_a_sign_have_a_column_each(make_run, tmp_path):
    """An export of model.a alone wrote over the vectors of model-a."""
    run, out = with_model(make_run(alpha=some_chunks(3)), "model.a", [0, 0, 0, 0, 0, 1]), str(tmp_path / "out")
    export_run(run, "lancedb", out=out)
    before = READERS["lancedb"](out)
    assert export_run(run, "lancedb", out=out, vectors="model.a").unchanged == 3
    lancedb.connect(out).open_table("soloist").delete("id = 'chunk 1'")
    assert export_run(run, "lancedb", out=out, vectors="model.a").written == 1
    row = next(
        row for row in lancedb.connect(out).open_table("soloist").to_arrow().to_pylist() if row["id"] == "chunk 1"
    )
    assert row[vector_column("model.a")] == [0, 0, 0, 0, 0, 1] and row["vector_model_a"] is None
    export_run(run, "lancedb", out=out, vectors="model-a")
    export_run(run, "lancedb", out=out)
    assert READERS["lancedb"](out) == before


def test_postgres_does_not_take_a_model_for_another(make_run, postgres):
    """The table had a column by the name that model.a was given where it was alone: that of model-a."""
    run = with_model(make_run(alpha=some_chunks(3)), "model.a", [0, 0, 0, 0, 0, 1])
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS signs")
        export_run(run, "pgvector", url=postgres, table="signs", vectors="model-a")
        before = connection.execute("SELECT id, vector_model_a::text FROM signs ORDER BY id").fetchall()
        with pytest.raises(ExportError, match=f"has no column {vector_column('model.a')} for vectors of model.a"):
            export_run(run, "pgvector", url=postgres, table="signs", vectors="model.a")
        assert connection.execute("SELECT id, vector_model_a::text FROM signs ORDER BY id").fetchall() == before


MINILM = "all-MiniLM-L6-v2"
OF_BEFORE = "vector_all_minilm_l6_v2_07db4e1f"


def _renamed(kind, target, table):
    """Give the column of MiniLM the name that earlier versions gave it."""
    if kind == "lancedb":
        opened = lancedb.connect(target).open_table(table)
        opened.alter_columns({"path": vector_column(MINILM), "rename": OF_BEFORE})
    elif kind == "pgvector":
        with psycopg.connect(target, autocommit=True) as connection:
            connection.execute(f"ALTER TABLE {table} RENAME {vector_column(MINILM)} TO {OF_BEFORE}")
    else:
        for path in Path(target).glob("alpha*.parquet"):
            there = pq.read_table(path)
            names = [OF_BEFORE if name == vector_column(MINILM) else name for name in there.column_names]
            pq.write_table(there.rename_columns(names), path)


@pytest.mark.parametrize("kind", ["lancedb", "pgvector", "parquet"])
def test_a_column_that_had_a_digest_stays(make_run, place, kind):
    """The next export had a second column for the model, and readers of the first one its old vectors."""
    where, _ = place(kind)
    (target,) = where.values()
    report = export_run(with_model(make_run(alpha=some_chunks(3)), MINILM, [0, 1]), kind, **where)
    assert report.vectors[MINILM] == vector_column(MINILM) and report.vectors["fused"] == "vector_fused"
    _renamed(kind, target, "soloist")
    run = with_model(make_run(alpha=some_chunks(4)), MINILM, [1, 0])
    report = export_run(run, kind, **where)
    assert (report.written, report.vectors[MINILM]) == (4, OF_BEFORE)
    assert export_run(run, kind, **where).unchanged == 4
    if kind == "pgvector":
        with psycopg.connect(target, row_factory=psycopg.rows.dict_row) as connection:
            rows = connection.execute("SELECT * FROM soloist").fetchall()
    else:
        rows = read_rows(kind, target)
    assert len(rows) == 4 and not any(vector_column(MINILM) in row for row in rows)
    assert {str(row[OF_BEFORE]).replace(".0", "").replace(" ", "") for row in rows} == {"[1,0]"}


def many_fields(first, last, **more):
    return {f"key {number}": number for number in range(first, last)} | more


def metadata_of(rows, chunks):
    """What rows have of the chunks' metadata, and in the column of the fields that have none."""
    fields = {field for chunk in chunks for field in chunk.metadata}
    found, others = {}, {}
    for row in rows:
        own = {field: row.get(metadata_column(field)) for field in fields}
        others[row["id"]] = json.loads(row.get("metadata_") or "{}")
        found[row["id"]] = {field: value for field, value in own.items() if value is not None} | others[row["id"]]
        assert not set(others[row["id"]]) & {field for field, value in own.items() if value is not None}
    return found, others


def read_rows(kind, out):
    if kind == "parquet":
        return polars.read_parquet(f"{out}/*.parquet").to_dicts()
    return lancedb.connect(str(out)).open_table("soloist").to_arrow().to_pylist()


@pytest.mark.parametrize("kind", ["lancedb", "parquet"])
def test_metadata_of_more_fields_than_columns(make_run, tmp_path, kind):
    """A field that each chunk has alone had a column of nulls: 4,000 chunks took half a minute, and gigabytes more."""
    out = tmp_path / "out"
    steps = [
        ([many_fields(0, 10), {"seldom": [1, {"a": None}]}, {}, {}], 4, 0),
        # Fields beyond the number: what has a column keeps it, however rare, and the most frequent others get one.
        (
            [many_fields(0, 300), {"seldom": [1, {"a": None}]}, many_fields(54, 300), many_fields(54, 300)],
            3,
            54 - 10 + 1,
        ),
        # The rare are the most frequent now, and yet stay where they are; so do new ones.
        ([many_fields(0, 300), many_fields(0, 50), many_fields(0, 50, new="\ud800"), many_fields(54, 300)], 2, 46),
        ([many_fields(20, 22), many_fields(0, 1), {"seldom": [2], "new": 1}, {"gone": None}], 4, 3),
    ]
    for metadata, written, others in steps:
        chunks = [Chunk(id=f"c{number}", text="t", metadata=each) for number, each in enumerate(metadata)]
        report = export_run(make_run(alpha=chunks), kind, out=out)
        found, beside = metadata_of(read_rows(kind, out), chunks)
        assert report.written in (written, 4)
        columns = [name for name in read_rows(kind, out)[0] if name.startswith("metadata_")]
        assert len(columns) <= 257
        for chunk in chunks:
            expected = {field: value for field, value in chunk.metadata.items() if value is not None}
            if isinstance(found[chunk.id].get("seldom"), str):  # a column of JSON
                found[chunk.id]["seldom"] = json.loads(found[chunk.id]["seldom"])
            assert found[chunk.id] == expected
        if kind == "lancedb":
            assert report.written == written
            assert len({field for each in beside.values() for field in each}) == others
        assert export_run(make_run(alpha=chunks), kind, out=out).written == 0


def test_fields_whose_names_differ_in_a_sign_have_a_column_each(make_run, tmp_path):
    """The pages of one collection came under the name of the other's field."""
    out = str(tmp_path / "out")
    run = make_run(
        alpha=[Chunk(id="a", text="one", metadata={"page no": 1})],
        beta=[Chunk(id="b", text="two", metadata={"page-no": 2})],
    )
    for collection in ("beta", "alpha"):
        export_run(run, "lancedb", out=out, collections=[collection])
    columns = [metadata_column(field) for field in ("page no", "page-no")]
    rows = {
        row["id"]: [row[column] for column in columns]
        for row in lancedb.connect(out).open_table("soloist").to_arrow().to_pylist()
    }
    assert rows == {"a": [1, None], "b": [None, 2]}
