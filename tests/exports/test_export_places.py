"""Each exported row says from which file its chunk was read, and what was exported before gets that too."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from pathlib import Path

import pytest
from support.export_readers import READERS
from support.exported_runs import WITH_ROWS, some_chunks

from soloist.errors import ExportError
from soloist.exports import export_run

STORES = ("lancedb", "qdrant", "pgvector")


def placed(chunks, file="alpha/a.jsonl"):
    """The chunks as a run keeps them, with every other line of the file empty."""
    return [dataclasses.replace(chunk, source_file=file, source_index=2 * at) for at, chunk in enumerate(chunks)]


def _rows(kind, target):
    """Rows that have an id and a place, by the store's own client."""
    if kind == "parquet":
        import polars

        return polars.read_parquet(target).to_dicts()
    if kind == "lancedb":
        import lancedb

        return lancedb.connect(target).open_table("soloist").to_arrow().to_pylist()
    if kind == "qdrant":
        from qdrant_client import QdrantClient

        with closing(QdrantClient(path=target)) as client:
            return [point.payload for point in client.scroll("soloist", limit=1_000)[0]]
    if kind == "pgvector":
        import psycopg

        with psycopg.connect(target, row_factory=psycopg.rows.dict_row) as connection:
            return connection.execute("SELECT * FROM soloist").fetchall()
    path = Path(target)
    file = path if path.is_file() else path / "ids.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def places(kind, where):
    """File and index by id."""
    rows = _rows(kind, *where.values())
    return {row["id"]: (row["source_file"], row["source_index"]) for row in rows}


def expected(chunks):
    """The same of chunks."""
    return {chunk.id: (chunk.source_file, chunk.source_index) for chunk in chunks}


@pytest.mark.parametrize("kind", WITH_ROWS)
def test_rows_lead_to_their_file(make_run, place, kind):
    """Nothing led from a row to its file; or a chunk that moved had its old place, or all of its store's rows were new.

    Fields of the metadata with the same names stay beside the columns.
    """
    where, read = place(kind)
    chunks = placed(some_chunks(20))
    chunks[3] = dataclasses.replace(chunks[3], metadata={"source_file": "mine.md", "source_index": "seven"})
    export_run(make_run(alpha=chunks), kind, **where)
    assert places(kind, where) == expected(chunks)
    before = read()
    chunks[7] = dataclasses.replace(chunks[7], source_file="alpha/b.jsonl", source_index=0)
    report = export_run(make_run(alpha=chunks), kind, **where)
    if kind in STORES:
        assert (report.written, report.unchanged) == (1, 19)
    assert places(kind, where) == expected(chunks) and read() == before
    if kind in ("parquet", "lancedb"):
        (row,) = [row for row in _rows(kind, *where.values()) if row["id"] == chunks[3].id]
        assert (row["metadata_source_file"], row["metadata_source_index"]) == ("mine.md", "seven")


def _without_places(kind, target):
    """Make a table one as earlier versions made it, of which no row had a place."""
    if kind == "lancedb":
        import lancedb

        lancedb.connect(target).open_table("soloist").drop_columns(["source_file", "source_index"])
    elif kind == "qdrant":
        from qdrant_client import QdrantClient, models

        with closing(QdrantClient(path=target)) as client:
            client.delete_payload("soloist", ["source_file", "source_index"], points=models.Filter())
    elif kind == "pgvector":
        import psycopg

        with psycopg.connect(target, autocommit=True) as connection:
            connection.execute("ALTER TABLE soloist DROP COLUMN source_file, DROP COLUMN source_index")


@pytest.mark.parametrize("kind", STORES)
def test_a_table_of_an_earlier_version_gets_the_columns(make_run, place, kind):
    """Its rows were taken for unchanged, or its table for one that no export wrote."""
    where, _ = place(kind)
    export_run(make_run(alpha=some_chunks(12)), kind, **where)  # whose marks are those of an earlier version
    _without_places(kind, *where.values())
    assert export_run(make_run(alpha=some_chunks(12)), kind, **where).unchanged == 12
    chunks = placed(some_chunks(12))
    assert export_run(make_run(alpha=chunks), kind, **where).written == 12
    assert places(kind, where) == expected(chunks) and len(READERS[kind](*where.values())) == 12


@pytest.mark.parametrize("kind", ["lancedb", "pgvector"])
def test_a_column_of_somebody_else_is_not_written_over(make_run, place, kind):
    """A column that a user had added under that name lost all of its values."""
    where, _ = place(kind)
    export_run(make_run(alpha=some_chunks(3)), kind, **where)
    _without_places(kind, *where.values())
    if kind == "lancedb":
        import lancedb

        table = lancedb.connect(where["out"]).open_table("soloist")
        table.add_columns({"source_file": "'mine'"})
    else:
        import psycopg

        with psycopg.connect(where["url"], autocommit=True) as connection:
            connection.execute("ALTER TABLE soloist ADD COLUMN source_file text DEFAULT 'mine'")
    with pytest.raises(ExportError, match=r"has a column source_file that no export wrote.*rename yours"):
        export_run(make_run(alpha=placed(some_chunks(3))), kind, **where)
    assert {row["source_file"] for row in _rows(kind, *where.values())} == {"mine"}


def test_a_file_of_lines_of_an_earlier_version(make_run, tmp_path):
    """Its lines have no place, so they were no rows that an export wrote."""
    out, chunks = tmp_path / "out.jsonl", some_chunks(3)
    run = make_run(alpha=chunks)
    export_run(run, "jsonl", out=out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    for row in rows:
        del row["source_file"], row["source_index"]
    out.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert export_run(make_run(alpha=placed(chunks)), "jsonl", out=out).deleted == 0
    assert places("jsonl", {"out": str(out)}) == expected(placed(chunks))
