"""What one run exported is safe from another, until that one is told to take it over."""

from __future__ import annotations

import json

import pytest
from support.export_readers import READERS, marker_of
from support.exported_runs import WITH_ROWS, some_chunks
from support.killed_commands import run_killed

from soloist.errors import ExportError
from soloist.exports import export_run
from soloist.types import Chunk

STORES = ("lancedb", "qdrant", "pgvector")


@pytest.mark.parametrize("kind", WITH_ROWS)
def test_another_runs_rows_are_left_until_they_are_taken_over(make_run, place, kind):
    """A second run with a collection of the same name deleted the rows of the first."""
    where, read = place(kind)
    first = make_run(alpha=some_chunks(20))
    second = make_run(name="second", alpha=[*some_chunks(3), *some_chunks(4, first=50)])
    export_run(first, kind, **where)
    before = read()
    remedy = "choose another --table, or give --take-over" if kind in STORES else "choose another --out, or give --take"
    with pytest.raises(ExportError, match=rf"has .* another run exported: {remedy}"):
        export_run(second, kind, **where)
    assert read() == before
    report = export_run(second, kind, take_over=True, **where)
    assert (report.rows, report.written, report.deleted) == (7, 7, 17)
    assert {row[1] for row in read().values()} == {f"chunk {number}" for number in (0, 1, 2, 50, 51, 52, 53)}
    assert export_run(second, kind, **where).deleted == 0
    with pytest.raises(ExportError, match="another run exported"):
        export_run(first, kind, **where)


@pytest.mark.parametrize("kind", STORES)
def test_runs_of_other_collections_share_a_table(make_run, place, kind):
    """Rows of the other run were counted as too many, or deleted as gone."""
    where, read = place(kind)
    export_run(make_run(alpha=some_chunks(20)), kind, **where)
    second = make_run(name="second", alpha=some_chunks(3), beta=some_chunks(9))
    for take_over in (False, True):
        report = export_run(second, kind, collections=["beta"], take_over=take_over, **where)
        assert (report.rows, report.deleted) == (9, 0)
    assert sorted(row[0] for row in read().values()) == ["alpha"] * 20 + ["beta"] * 9
    with pytest.raises(ExportError, match="has rows of collection alpha that another run exported"):
        export_run(second, kind, **where)


@pytest.mark.parametrize("kind", STORES)
def test_a_table_that_does_not_say_of_which_run_is_not_this_runs(make_run, place, kind):
    """Rows of an earlier version, which named no run, were anybody's to delete."""
    where, read = place(kind)
    run = make_run(alpha=some_chunks(5))
    export_run(run, kind, **where)
    _forget_run(kind, where)
    with pytest.raises(ExportError, match="another run exported"):
        export_run(run, kind, **where)
    assert len(read()) == 5
    assert export_run(run, kind, take_over=True, **where).written == 5
    assert export_run(run, kind, **where).unchanged == 5


def _forget_run(kind, where):
    """Make a table as an earlier version left it."""
    if kind == "lancedb":
        import lancedb

        table = lancedb.connect(where["out"]).open_table("soloist")
        table.update(values={"digest": "0" * 32})
        table.drop_columns(["run"])
    elif kind == "qdrant":
        from qdrant_client import QdrantClient, models

        client = QdrantClient(path=where["out"])
        client.set_payload("soloist", {"digest": "0" * 32}, points=models.Filter())
        client.delete_payload("soloist", keys=["run"], points=models.Filter())
        client.close()
    else:
        import psycopg

        with psycopg.connect(where["url"], autocommit=True) as connection:
            connection.execute("UPDATE soloist SET digest = repeat('0', 32)")
            connection.execute("ALTER TABLE soloist DROP COLUMN run")


def test_a_table_of_another_runs_columns_is_not_made_anew(make_run, tmp_path):
    """LanceDB's table was made anew for metadata of another type before anybody asked whose rows are in it."""
    out = str(tmp_path / "out")
    export_run(make_run(alpha=some_chunks(20)), "lancedb", out=out)
    second = make_run(name="second", alpha=[Chunk(id="a", text="one", metadata={"page": "three"})])
    with pytest.raises(ExportError, match="another run exported"):
        export_run(second, "lancedb", out=out)
    assert len(READERS["lancedb"](out)) == 20
    assert export_run(second, "lancedb", out=out, take_over=True).deleted == 20
    assert len(READERS["lancedb"](out)) == 1


def test_rows_say_of_which_run_they_are(make_run, tmp_path):
    """Whoever reads them could not tell two runs apart."""
    run = make_run(alpha=some_chunks(3))
    import polars

    named = json.loads((run / "id.json").read_text())["id"]
    export_run(run, "parquet", out=tmp_path / "out")
    assert polars.read_parquet(f"{tmp_path}/out/*.parquet")["run"].to_list() == [named] * 3
    export_run(run, "jsonl", out=tmp_path / "out.jsonl")
    assert [json.loads(line)["run"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [named] * 3
    assert marker_of(tmp_path / "out")["run"] == named


def test_a_take_over_that_was_killed_is_not_taken_for_the_other_runs(make_run, tmp_path):
    """Files of two runs would lie in a folder that either of them takes for its own and whole."""
    out = tmp_path / "out"
    export_run(make_run(alpha=some_chunks(90)), "parquet", out=out)
    second = make_run(name="second", alpha=some_chunks(80, first=10))
    command = ["export", str(second), "--to", "parquet", "--out", str(out), "--take-over"]
    run_killed(command, event="os.rename", ending="part-00001.parquet")
    assert marker_of(out)["finished"] is False
    with pytest.raises(ExportError, match="another run exported"):
        export_run(tmp_path / "run", "parquet", out=out)
    export_run(second, "parquet", out=out)
    assert {row[1] for row in READERS["parquet"](str(out)).values()} == {f"chunk {n}" for n in range(10, 90)}
