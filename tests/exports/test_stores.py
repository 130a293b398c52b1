"""What a store has beside this export: rows and columns of others, other exports at work, and what those left."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import numpy as np
import pytest
from support.export_readers import READERS
from support.exported_runs import DIMS, some_chunks, vectors_of, write_run
from support.forks import run_forked

from soloist.errors import ConfigError, ExportError
from soloist.exports import export_run
from soloist.exports.locks import exclusive
from soloist.exports.rows import key_of
from soloist.types import Chunk

STORES = ("lancedb", "qdrant", "pgvector")


def lance(out):
    import lancedb

    return lancedb.connect(str(out)).open_table("soloist")


@contextmanager
def connected(url, *dropped):
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        for name in dropped:
            connection.execute(psycopg.sql.SQL("DROP TABLE IF EXISTS {}").format(psycopg.sql.Identifier(name)))
        yield connection


@pytest.mark.parametrize("kind", STORES)
def test_a_collection_that_is_gone_from_the_run_goes_from_the_store(make_run, place, kind):
    """Its rows stayed for ever, and the export said that it deleted none."""
    where, read = place(kind)
    export_run(make_run(name="other", other=some_chunks(6)), kind, **where)
    export_run(make_run(alpha=some_chunks(20), beta=some_chunks(9)), kind, **where)
    run = make_run(alpha=some_chunks(20))
    report = export_run(run, kind, collections=["alpha"], **where)
    assert (report.rows, report.unchanged, report.deleted) == (20, 20, 0)
    assert len(read()) == 35
    report = export_run(run, kind, **where)
    assert (report.rows, report.unchanged, report.deleted) == (20, 20, 9)
    assert sorted(row[0] for row in read().values()) == ["alpha"] * 20 + ["other"] * 6


@pytest.mark.parametrize("kind", STORES)
def test_a_run_whose_chunks_are_all_gone(make_run, place, kind):
    """Without a collection there was nothing to look for, or a filter of none was an error."""
    where, read = place(kind)
    export_run(make_run(alpha=some_chunks(5)), kind, **where)
    report = export_run(make_run(alpha=[]), kind, **where)
    assert (report.rows, report.written, report.deleted, report.compared) == (0, 0, 5, 0)
    assert read() == {}
    assert export_run(make_run(alpha=some_chunks(1)), kind, **where).written == 1


COMMAND = [sys.executable, "-m", "soloist", "export"]


def test_two_exports_at_once_into_a_folder_of_lancedb(make_run, tmp_path):
    """Each added the rows that the other was adding: every row was there twice, for good."""
    run, out = make_run(alpha=some_chunks(5)), tmp_path / "out"
    with (
        exclusive(out / ".lock", "it"),
        pytest.raises(ExportError, match=r"another export is writing to .*: wait until it has ended"),
    ):
        export_run(run, "lancedb", out=out)
    assert export_run(run, "lancedb", out=out).written == 5
    import lancedb

    assert list(lancedb.connect(str(out)).list_tables().tables) == ["soloist"]


def test_two_exports_at_once_into_a_folder_of_qdrant(make_run, tmp_path):
    """The client's error is two sentences, of which one is no way on here."""
    from qdrant_client import QdrantClient

    run, out = make_run(alpha=some_chunks(5)), tmp_path / "out"
    export_run(run, "qdrant", out=out)
    with closing(QdrantClient(path=str(out))):
        done = run_forked([*COMMAND, str(run), "--to", "qdrant", "--out", str(out)], capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "is open in another process: wait until that process has ended" in done.stderr
    assert export_run(run, "qdrant", out=out).unchanged == 5


@pytest.mark.parametrize("table", ["locked", "public.locked"])
def test_two_exports_at_once_into_a_table_of_postgres(make_run, postgres, table):
    """Rows of one run were written over by the other, whatever name each had for the table."""
    run = make_run(alpha=some_chunks(5))
    with connected(postgres, "locked", "free") as connection:
        export_run(run, "pgvector", url=postgres, table="locked")
        number = connection.execute("SELECT %s::bigint", [lock_number(connection, run, postgres)]).fetchone()[0]
        connection.execute("SELECT pg_advisory_lock(%s)", [number])
        with pytest.raises(ExportError, match=r"another export is writing to .*: wait until it has ended"):
            export_run(run, "pgvector", url=postgres, table=table)
        assert export_run(run, "pgvector", url=postgres, table="free").written == 5
        connection.execute("SELECT pg_advisory_unlock(%s)", [number])
        assert export_run(run, "pgvector", url=postgres, table=table).unchanged == 5


def lock_number(connection, run, url):
    """The number that an export of the table `locked` holds."""
    import psycopg

    from soloist.exports.pgvector.table import PostgresTable
    from soloist.exports.rows import open_source

    with psycopg.connect(url, autocommit=True) as other:
        PostgresTable(psycopg, other, open_source(run, None, (), several=True), ("locked",), "here")
        found = connection.execute(
            "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory'"
        ).fetchall()
    ((number,),) = found
    return number


def test_rows_that_another_run_has_written_meanwhile(make_run, postgres):
    """They were written over, though nobody had given --take-over."""
    import psycopg

    from soloist.exports.pgvector.table import PostgresTable
    from soloist.exports.rows import open_source

    first, second = make_run(alpha=some_chunks(5)), make_run(name="second", alpha=some_chunks(5))
    with connected(postgres, "meanwhile") as connection:
        source = open_source(second, None, (), several=True)
        (rows,) = source.batches(10)
        export_run(first, "pgvector", url=postgres, table="meanwhile")
        store = PostgresTable(psycopg, connection, source, ("meanwhile",), "here")
        with pytest.raises(
            ExportError, match=r"another run has written rows of collection alpha to here in the meantime: choose"
        ):
            store.add(rows)
        with pytest.raises(ExportError, match="in the meantime"):
            store.update(rows, keep=True)
        runs = connection.execute("SELECT DISTINCT run FROM meanwhile").fetchall()
    assert runs == [(json.loads((first / "id.json").read_text())["id"],)]
    assert export_run(second, "pgvector", url=postgres, table="meanwhile", take_over=True).written == 5


def test_rows_that_are_twice_in_a_lancedb_table(make_run, tmp_path):
    """An upsert keeps both, and the count at the end is too high each time."""
    run, out = make_run(alpha=some_chunks(30)), tmp_path / "out"
    export_run(run, "lancedb", out=out)
    import pyarrow as pa

    table = lance(out)
    table.add_columns(pa.schema([pa.field("mine", pa.string())]))
    table.update(where="id = 'chunk 3'", values={"mine": "kept"})
    table.add(table.to_arrow().slice(0, 10))
    table.add(table.to_arrow().slice(0, 4))
    gone = lance(out).to_arrow().filter(pa.compute.equal(lance(out).to_arrow()["id"], "chunk 29"))
    table.add(gone)
    report = export_run(make_run(alpha=some_chunks(29)), "lancedb", out=out)
    assert (report.rows, report.written, report.unchanged) == (29, 10, 19)
    assert len(READERS["lancedb"](str(out))) == 29
    assert [row["mine"] for row in lance(out).to_arrow().to_pylist() if row["id"] == "chunk 3"] == ["kept"]
    assert export_run(make_run(alpha=some_chunks(29)), "lancedb", out=out).unchanged == 29


def test_columns_of_a_lancedb_table_that_are_somebody_elses(make_run, tmp_path):
    """Each row that was written again lost them, and so did all where a column of metadata got another type."""
    import pyarrow as pa

    out, chunks = tmp_path / "out", some_chunks(6)
    export_run(make_run(alpha=chunks), "lancedb", out=out)
    table = lance(out)
    table.add_columns(pa.schema([pa.field("mine", pa.string()), pa.field("Their own", pa.list_(pa.float32(), 2))]))
    table.update(values={"mine": "kept", "Their own": [1.0, 2.0]})

    def holds(new):
        rows = lance(out).to_arrow().to_pylist()
        assert {row["id"]: row["mine"] for row in rows} == {
            f"chunk {n}": None if n in new else "kept" for n in range(len(rows))
        }
        assert all((row["Their own"] == [1.0, 2.0]) == (row["mine"] == "kept") for row in rows)
        return {row["id"]: row for row in rows}

    chunks[1] = Chunk(id="chunk 1", text="another text", metadata=chunks[1].metadata)
    chunks[2] = Chunk(id="chunk 2", text=chunks[2].text, metadata={"page": 9})
    assert export_run(make_run(alpha=[*chunks, *some_chunks(1, first=6)]), "lancedb", out=out).written == 3
    rows = holds({6})
    assert rows["chunk 2"]["metadata_title"] is None and rows["chunk 1"]["text"] == "another text"
    run = make_run(
        alpha=[*(Chunk(id=c.id, text=c.text, metadata={"page": "one"}) for c in chunks), *some_chunks(1, first=6)]
    )
    assert export_run(run, "lancedb", out=out).written == 7
    rows = holds({6})
    assert rows["chunk 3"]["metadata_page"] == '"one"' and rows["chunk 6"]["metadata_page"] == "6"
    np.testing.assert_allclose(rows["chunk 1"]["vector_fused"], vectors_of(["another text"], "fused")[0], atol=1e-6)


def test_a_column_of_a_lancedb_table_that_only_begins_as_one_of_vectors(make_run, tmp_path):
    """It was emptied with the vectors of another text, or kept a field from getting another type."""
    import pyarrow as pa

    out, chunks = tmp_path / "out", some_chunks(2)
    export_run(make_run(alpha=chunks), "lancedb", out=out)
    own = [pa.field("vector_note", pa.string()), pa.field("vector_ids", pa.list_(pa.int64(), 2))]
    lance(out).add_columns(pa.schema(own))
    lance(out).update(values={"vector_note": "mine", "vector_ids": [1, 2]})
    chunks[0] = Chunk(id="chunk 0", text="another", metadata=chunks[0].metadata)
    assert export_run(make_run(alpha=chunks), "lancedb", out=out, vectors="fused").written == 1
    rows = {row["id"]: row for row in lance(out).to_arrow().to_pylist()}
    assert rows["chunk 0"]["vector_model_a"] is None and rows["chunk 1"]["vector_model_a"] is not None
    chunks = [Chunk(id=chunk.id, text=chunk.text, metadata={"page": "one"}) for chunk in chunks]
    assert export_run(make_run(alpha=chunks), "lancedb", out=out).written == 2
    rows = lance(out).to_arrow().to_pylist()
    assert [(row["vector_note"], row["vector_ids"]) for row in rows] == [("mine", [1, 2])] * 2


def test_a_column_of_a_lancedb_table_that_has_to_have_values(make_run, tmp_path):
    """LanceDB's own error came after some rows had been written, and names no way on."""
    import lancedb
    import pyarrow as pa

    run, out = make_run(alpha=some_chunks(3)), tmp_path / "out"
    text = [pa.field(name, pa.string()) for name in ("key", "run", "collection", "id", "text", "digest")]
    schema = pa.schema([*text, pa.field("mine", pa.int64(), nullable=False)])
    lancedb.connect(str(out)).create_table("soloist", schema=schema)
    with pytest.raises(ExportError, match=r"has a column mine that has to have values.*: choose another --table"):
        export_run(run, "lancedb", out=out)
    wrong = pa.schema([pa.field("key", pa.int64()), *text[1:]])
    lancedb.connect(str(out)).create_table("soloist", schema=wrong, mode="overwrite")
    with pytest.raises(ExportError, match="is a table that no export wrote"):
        export_run(run, "lancedb", out=out)
    assert lance(out).schema == wrong


def test_what_somebody_else_put_into_a_payload_of_qdrant(make_run, tmp_path):
    """Each point that was written again lost it."""
    from qdrant_client import QdrantClient, models

    out, chunks = tmp_path / "out", some_chunks(3)
    export_run(make_run(alpha=chunks), "qdrant", out=out)
    with closing(QdrantClient(path=str(out))) as client:
        client.set_payload("soloist", {"mine": "kept"}, points=models.Filter())
    chunks[0] = Chunk(id="chunk 0", text="another", metadata={})
    chunks[1] = Chunk(id="chunk 1", text=chunks[1].text, metadata={"page": 7})
    assert export_run(make_run(alpha=chunks), "qdrant", out=out).written == 2
    with closing(QdrantClient(path=str(out))) as client:
        payloads = {point.payload["id"]: point.payload for point in client.scroll("soloist")[0]}
    assert [payload["mine"] for payload in payloads.values()] == ["kept"] * 3
    assert payloads["chunk 0"]["metadata"] == {} and payloads["chunk 1"]["metadata"] == {"page": 7}


def test_vectors_that_somebody_else_put_beside_those_of_an_export_to_qdrant(make_run, tmp_path):
    """Each point that was written again lost them: sparse ones were not seen, dense ones went with another text."""
    from qdrant_client import QdrantClient, models

    from soloist.stores import folder_name

    out, chunks = tmp_path / "out", some_chunks(5)
    dims = {"model-a": 6, "org/model.b": 4, "fused": 10, "dense": 2}
    with closing(QdrantClient(path=str(out))) as client:
        vectors = {
            folder_name(name): models.VectorParams(size=dim, distance=models.Distance.COSINE)
            for name, dim in dims.items()
        }
        client.create_collection("sparse", vectors, sparse_vectors_config={"bm25": models.SparseVectorParams()})
        client.create_collection("dense", vectors)
    chunks[1] = Chunk(id="chunk 1", text=chunks[1].text, metadata={"page": 9})
    changed = [*chunks]
    changed[2] = Chunk(id="chunk 2", text="another", metadata={})
    changed[3] = Chunk(id="chunk 3", text="another, of no mark", metadata={})
    for table, own in {
        "sparse": {"bm25": models.SparseVector(indices=[1], values=[0.5]), "dense": [1.0, 0.0]},
        "dense": {"dense": [1.0, 0.0]},
    }.items():
        export_run(make_run(alpha=some_chunks(5)), "qdrant", out=out, table=table)
        with closing(QdrantClient(path=str(out))) as client:
            keys = [point.id for point in client.scroll(table)[0]]
            client.update_vectors(table, [models.PointVectors(id=key, vector=own) for key in keys])
            client.set_payload(table, {"digest": "gone"}, points=[key_of("alpha", "chunk 3")])
        assert export_run(make_run(alpha=changed), "qdrant", out=out, table=table, vectors="fused").written == 3
        with closing(QdrantClient(path=str(out))) as client:
            points = {point.payload["id"]: point for point in client.scroll(table, with_vectors=True)[0]}
        names = {id_: sorted(point.vector) for id_, point in points.items()}
        all_names = sorted([*own, "fused", "model-a", folder_name("org/model.b")])
        sparse = [name for name in own if name == "bm25"]
        assert names == dict.fromkeys(names, all_names) | {
            "chunk 2": sorted([*own, "fused"]), "chunk 3": sorted([*sparse, "fused"]),
        }  # fmt: skip
        np.testing.assert_allclose(points["chunk 2"].vector["fused"], vectors_of(["another"], "fused")[0], atol=1e-6)
        assert points["chunk 2"].payload["text"] == "another" and points["chunk 1"].payload["metadata"] == {"page": 9}
        assert export_run(make_run(alpha=changed), "qdrant", out=out, table=table).written == 2


def test_an_export_to_qdrant_that_was_broken_off_at_a_text_that_is_taken_back(make_run, tmp_path, monkeypatch):
    """The vectors of the text between had the mark of the first one, and were believed to be its own."""
    from qdrant_client import QdrantClient
    from qdrant_client.local.local_collection import LocalCollection

    out, before = tmp_path / "out", some_chunks(1)
    export_run(make_run(alpha=before), "qdrant", out=out)
    changed = make_run(alpha=[Chunk(id="chunk 0", text="another", metadata=before[0].metadata)])
    write = LocalCollection.update_vectors

    def written_and_killed(*args, **options):
        write(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalCollection, "update_vectors", written_and_killed)
    with pytest.raises(KeyboardInterrupt):
        export_run(changed, "qdrant", out=out, vectors="fused")
    monkeypatch.undo()
    assert export_run(make_run(alpha=before), "qdrant", out=out, vectors="fused").written == 1
    with closing(QdrantClient(path=str(out))) as client:
        (point,) = client.scroll("soloist", with_vectors=True)[0]
    np.testing.assert_allclose(point.vector["fused"], vectors_of([before[0].text], "fused")[0], atol=1e-6)
    assert set(point.vector) == {"fused"}


def test_indexes_of_a_qdrant_server_that_an_export_was_broken_off_before(make_run, tmp_path):
    """They were made with the collection alone, and never where that moment had passed."""
    from qdrant_client import QdrantClient

    from soloist.exports.qdrant.collection import QdrantCollection
    from soloist.exports.rows import open_source
    from soloist.exports.stores import fill
    from soloist.exports.target import Target

    class Server(QdrantClient):
        """A folder that keeps indexes of payloads, as a server does."""

        def __init__(self, path):
            super().__init__(path=path)
            self.made, self.left = [], 1

        def create_payload_index(self, collection_name, field_name, field_schema):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.made.append(field_name)

        def get_collection(self, collection_name):
            found = super().get_collection(collection_name)
            return found.model_copy(update={"payload_schema": dict.fromkeys(self.made)})

    source, target = open_source(make_run(alpha=some_chunks(3)), None, (), several=True), Target(url="http://server")
    with closing(Server(str(tmp_path / "out"))) as client:
        with pytest.raises(KeyboardInterrupt):
            fill(QdrantCollection(client, source, target, "here"), source, target)
        assert len(client.made) == 1
        client.left = 9
        for written in (3, 0):
            assert fill(QdrantCollection(client, source, target, "here"), source, target).written == written
        assert sorted(client.made) == ["collection", "run"]


@pytest.mark.parametrize("table", ["per%cent", "100%s", 'quo"te', "it's", "Ünï cödé", "x" * 90, "%(a)s", "a {b}"])
def test_any_name_of_a_postgres_table(make_run, postgres, table):
    """A % was taken for the place of a value, where the name is in a query that has such."""
    from soloist.exports.pgvector.address import identifier

    with connected(postgres, identifier(table)) as connection:
        assert export_run(make_run(alpha=some_chunks(5)), "pgvector", url=postgres, table=table).written == 5
        report = export_run(make_run(alpha=some_chunks(2)), "pgvector", url=postgres, table=table)
        assert (report.unchanged, report.deleted) == (2, 3)
        found = connection.execute("SELECT 1 FROM pg_class WHERE relname = %s", [identifier(table)]).fetchall()
    assert len(found) == 1


def test_a_dot_in_the_name_of_a_postgres_table(make_run, postgres):
    """`--table mine.chunks` made a table in another schema, whose name has a dot in it."""
    run = make_run(alpha=some_chunks(5))
    with connected(postgres) as connection:
        connection.execute('DROP SCHEMA IF EXISTS "mi%ne" CASCADE')
        with pytest.raises(
            ExportError, match=r"schema mi%ne, which does not exist: make the schema with CREATE SCHEMA"
        ):
            export_run(run, "pgvector", url=postgres, table="mi%ne.chunks")
        connection.execute('CREATE SCHEMA "mi%ne"')
        assert export_run(run, "pgvector", url=postgres, table="mi%ne.chunks").written == 5
        assert export_run(run, "pgvector", url=postgres, table="mi%ne.chunks").unchanged == 5
        assert connection.execute('SELECT count(*) FROM "mi%ne".chunks').fetchone() == (5,)
    for table in ("a.b.c", ".a", "a.", ""):
        with pytest.raises(
            ConfigError, match=r"is not the name of a PostgreSQL table: give it as name, or as schema\.name"
        ):
            export_run(run, "pgvector", url=postgres, table=table)


@pytest.mark.parametrize(
    "columns",
    [
        "key uuid, run text, collection text, id text, text text, metadata jsonb, digest text, vector_fused vector(10)",
        "key text PRIMARY KEY, run text, collection text, id text, text text, metadata jsonb, digest text, "
        "vector_fused vector(10)",
    ],
)
def test_a_postgres_table_that_looks_like_one_of_an_export(make_run, postgres, columns):
    """Without a unique key, or with one of another type, the export failed halfway with PostgreSQL's own error."""
    with connected(postgres, "alike") as connection:
        connection.execute(f"CREATE TABLE alike ({columns})")
        with pytest.raises(ExportError, match="is a table that no export wrote: choose another --table"):
            export_run(make_run(alpha=some_chunks(3)), "pgvector", url=postgres, table="alike", vectors="fused")


def test_a_column_of_vectors_that_is_of_another_type(make_run, postgres):
    """varchar(6) has the modifier that 6 dims have, and half precision is not what was written."""
    run = make_run(alpha=some_chunks(3))
    with connected(postgres, "typed") as connection:
        export_run(run, "pgvector", url=postgres, table="typed", vectors="fused")
        connection.execute("ALTER TABLE typed ADD COLUMN vector_model_a varchar(6)")
        with pytest.raises(ExportError, match="has no column vector_model_a for vectors of model-a: give"):
            export_run(run, "pgvector", url=postgres, table="typed", vectors="model-a")


def test_a_user_of_postgres_who_may_make_no_table(make_run, postgres):
    """One that was there was made all the same, if it was not there: that asks for the right to make any."""
    from psycopg.conninfo import make_conninfo

    run = make_run(alpha=some_chunks(3))
    with connected(postgres) as connection:
        connection.execute("DROP SCHEMA IF EXISTS given CASCADE")
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute("CREATE SCHEMA given")
        export_run(run, "pgvector", url=postgres, table="given.chunks")
        connection.execute("CREATE ROLE guest LOGIN")
        connection.execute("GRANT USAGE ON SCHEMA given TO guest")
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON given.chunks TO guest")
        url = make_conninfo(postgres, user="guest")
        assert export_run(make_run(alpha=some_chunks(5)), "pgvector", url=url, table="given.chunks").written == 2
        with pytest.raises(ExportError, match=r"permission denied for schema given\): correct that"):
            export_run(run, "pgvector", url=url, table="given.other")


def test_two_first_exports_at_once_into_a_database(make_run, postgres):
    """Both made the extension: one of them failed with `duplicate key value violates unique constraint`."""
    import psycopg
    from psycopg.conninfo import make_conninfo

    run = make_run(alpha=some_chunks(3))
    with connected(postgres) as connection:
        connection.execute("DROP DATABASE IF EXISTS fresh")
        connection.execute("CREATE DATABASE fresh")
    url = make_conninfo(postgres, dbname="fresh")
    with psycopg.connect(url) as first, psycopg.connect(url, autocommit=True) as watched:
        first.execute("CREATE EXTENSION vector")  # not committed yet
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(export_run, run, "pgvector", url=url)
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'CREATE EXTENSION%'"
            while not watched.execute(waiting).fetchone() and not second.done():
                time.sleep(0.01)
            first.commit()
            assert second.result().written == 3
        assert export_run(run, "pgvector", url=url).unchanged == 3


def test_columns_of_a_postgres_table_that_are_somebody_elses(make_run, postgres):
    """A text in a column `vector_note` was emptied with the vectors of another text."""
    chunks = some_chunks(2)
    with connected(postgres, "noted") as connection:
        export_run(make_run(alpha=chunks), "pgvector", url=postgres, table="noted")
        connection.execute("ALTER TABLE noted ADD COLUMN vector_note text")
        connection.execute("UPDATE noted SET vector_note = 'mine'")
        chunks[0] = Chunk(id="chunk 0", text="another", metadata={})
        report = export_run(make_run(alpha=chunks), "pgvector", url=postgres, table="noted", vectors="fused")
        assert (report.written, report.unchanged) == (1, 1)
        found = connection.execute("SELECT vector_note, vector_model_a IS NULL FROM noted ORDER BY id").fetchall()
    assert found == [("mine", True), ("mine", False)]


def test_postgres_keeps_the_rows_until_they_are_asked_for(make_run, postgres):
    """The client had the keys of all rows in memory before it looked at the first."""
    import psycopg

    from soloist.exports.pgvector.table import PostgresTable
    from soloist.exports.rows import open_source
    from soloist.exports.stores import Scope

    run = make_run(alpha=some_chunks(9))
    with connected(postgres, "paged") as connection:
        export_run(run, "pgvector", url=postgres, table="paged")
        store = PostgresTable(psycopg, connection, open_source(run, None, (), several=True), ("paged",), "here")
        pages = store.scan(Scope(("alpha",), None))
        assert len(next(pages)) == 9
        assert connection.execute("SELECT count(*) FROM pg_cursors WHERE name = 'soloist_scan'").fetchone() == (1,)
        pages.close()
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.parametrize("kind", ["lancedb", "qdrant"])
def test_a_folder_that_is_not_the_stores(make_run, tmp_path, kind):
    """An export lay among the files of another run, of another export or of somebody, or ended in a KeyError."""
    run, other = make_run(alpha=some_chunks(3)), make_run(name="other", alpha=some_chunks(3))
    for out in (other, other / "alpha", other / "new" / "er"):
        with pytest.raises(ConfigError, match=r"is (a|inside the) run folder.*, which has its own files only: choose"):
            export_run(run, kind, out=out)
    export_run(run, "parquet", out=tmp_path / "parquet")
    export_run(run, "qdrant" if kind == "lancedb" else "lancedb", out=tmp_path / "store")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "meta.json").write_text('{"mine": 1}')
    for name in ("parquet", "store", "mine"):
        before = sorted(path.name for path in (tmp_path / name).rglob("*"))
        with pytest.raises(ExportError, match=f"has files that no export to {kind} wrote: choose another folder"):
            export_run(run, kind, out=tmp_path / name)
        assert sorted(path.name for path in (tmp_path / name).rglob("*")) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="is a file: choose a folder"):
        export_run(run, kind, out=tmp_path / "file")
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        assert export_run(run, kind, out=tmp_path / "empty").rows == 3


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("dim", [1, 5_000])
def test_vectors_of_one_dim_and_of_very_many(tmp_path, place, kind, dim, monkeypatch):
    """A list of one number, or more than an index takes, is read back as another shape or not at all."""
    monkeypatch.setitem(DIMS, "fused", dim)
    run = write_run(tmp_path / "run", {"it's": some_chunks(1)})
    where, read = place(kind)
    assert export_run(run, kind, **where).compared == 1
    assert export_run(run, kind, **where).unchanged == 1
    ((collection, _, _, vectors),) = read().values()
    assert collection == "it's" and len(vectors["fused"]) == dim


@pytest.mark.parametrize("kind", STORES)
def test_a_vector_that_somebody_has_taken_away(make_run, place, kind):
    """The row's mark says that it is there: reading it back was a traceback."""
    where, _ = place(kind)
    run = make_run(alpha=some_chunks(3))
    export_run(run, kind, **where)
    if kind == "lancedb":
        lance(where["out"]).update(where="id = 'chunk 1'", values_sql={"vector_fused": "NULL"})
    elif kind == "pgvector":
        with connected(where["url"]) as connection:
            connection.execute("UPDATE soloist SET vector_fused = NULL WHERE id = 'chunk 1'")
    else:
        from qdrant_client import QdrantClient

        with closing(QdrantClient(path=where["out"])) as client:
            client.delete_vectors("soloist", ["fused"], points=[key_of("alpha", "chunk 1")])
    with pytest.raises(ExportError, match="has another fused vector of chunk 'chunk 1' than was written"):
        export_run(run, kind, **where)


def test_a_mark_that_somebody_has_changed(make_run, tmp_path):
    """It was a traceback, or the row was taken for unchanged."""
    run, out = make_run(alpha=some_chunks(6)), tmp_path / "out"
    export_run(run, "lancedb", out=out)
    marks = ["{}", "7", '{"text": "zz", "metadata": "", "vectors": {}}', '{"text": 1, "metadata": 2, "vectors": {}}']
    marks.append(json.dumps({"text": "0" * 32, "metadata": "0" * 32, "vectors": {"a": [1]}}))
    for number, mark in enumerate(marks):
        lance(out).update(where=f"id = 'chunk {number}'", values={"digest": mark})
    report = export_run(run, "lancedb", out=out)
    assert (report.written, report.unchanged) == (5, 1)
    assert export_run(run, "lancedb", out=out).unchanged == 6


@pytest.mark.parametrize("kind", STORES)
def test_a_collection_whose_name_is_no_unicode(make_run, place, kind):
    """The name of a folder on the disk can be any bytes, which a store of texts cannot have: it was a traceback."""
    where, _ = place(kind)
    run = make_run(**{"a\ud800": some_chunks(2), "b": some_chunks(2)})
    if kind == "qdrant":  # a folder of it takes any
        assert export_run(run, kind, **where).written == 4
        return
    with pytest.raises(ExportError) as caught:
        export_run(run, kind, **where)
    assert "\n" not in str(caught.value)
    assert export_run(run, kind, collections=["b"], **where).written == 2


@pytest.mark.parametrize("left", ["", "data", "_versions"])
def test_a_lancedb_table_that_was_being_made(make_run, tmp_path, left):
    """An export that was killed in that moment could never be made again: its table was there and was not found."""
    run, out = make_run(alpha=some_chunks(3)), tmp_path / "out"
    (out / "soloist.lance" / left).mkdir(parents=True)
    assert export_run(run, "lancedb", out=out).written == 3
    for file in (out / "soloist.lance" / "_versions").glob("*.manifest"):
        file.write_bytes(b"damaged")
    with pytest.raises(ExportError, match=r"LanceDB at .* failed"):
        export_run(run, "lancedb", out=out)
    assert list((out / "soloist.lance" / "data").iterdir())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_folder_of_qdrant_that_is_damaged(make_run, tmp_path):
    """SQLite's errors, of a disk that is full too, were tracebacks."""
    run, out = make_run(alpha=some_chunks(3)), tmp_path / "out"
    export_run(run, "qdrant", out=out)
    (out / "collection" / "soloist" / "storage.sqlite").write_bytes(b"junk" * 1_000)
    with pytest.raises(ExportError, match=r"cannot be opened \(DatabaseError: file is not a database\): correct that"):
        export_run(run, "qdrant", out=out)


def test_a_connection_that_is_lost(make_run, postgres):
    """It was a traceback, or rows of half a batch stayed."""
    with connected(postgres, "lost") as connection:
        export_run(make_run(alpha=some_chunks(1)), "pgvector", url=postgres, table="lost")
        run = make_run(alpha=some_chunks(60))
        connection.execute(
            "CREATE OR REPLACE FUNCTION end_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF NEW.id = 'chunk 25' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NEW; END $$"
        )
        connection.execute("CREATE TRIGGER lost BEFORE INSERT ON lost FOR EACH ROW EXECUTE FUNCTION end_it()")
        with pytest.raises(ExportError, match=r"connection.*: make sure that it runs and has pgvector"):
            export_run(run, "pgvector", url=postgres, table="lost", batch_rows=10)
        assert connection.execute("SELECT count(*) FROM lost").fetchone() == (20,)
        connection.execute("DROP TRIGGER lost ON lost")
        report = export_run(run, "pgvector", url=postgres, table="lost")
        assert (report.written, report.unchanged) == (40, 20)
        connection.execute("ALTER TABLE lost ADD CONSTRAINT short CHECK (id <> 'chunk 60')")
        with pytest.raises(ExportError) as caught:
            export_run(make_run(alpha=some_chunks(61)), "pgvector", url=postgres, table="lost")
    assert "violates check constraint" in str(caught.value) and "correct that" in str(caught.value)
    assert "text 60" not in str(caught.value)
