"""Every export holds the run's rows, once each, after whatever happened to it and to the run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.export_readers import READERS, has_begun
from support.exported_runs import WITH_ROWS, some_chunks, vectors_of
from support.forks import Forked

from soloist.errors import ExportError
from soloist.exports import export_run
from soloist.exports.lancedb.indexes import _sub_vectors
from soloist.exports.qdrant.collection import QdrantCollection
from soloist.exports.qdrant.points import requests
from soloist.exports.rows import key_of, open_source
from soloist.exports.stores import Scope
from soloist.exports.target import Target
from soloist.stores import RunFolder
from soloist.types import Chunk

STORES = ("lancedb", "qdrant", "pgvector")
KEEPS_TEXT = ("parquet", "jsonl", *STORES)


@pytest.fixture(params=WITH_ROWS)
def export(request, tmp_path):
    """One kind of export with a target of its own: `export(run)`, `export.read()`, `export.target`."""
    return make_export(request.param, request, tmp_path)


def make_export(kind, request, tmp_path):
    if kind == "pgvector":
        import psycopg

        target = request.getfixturevalue("postgres")
        with psycopg.connect(target, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS soloist")
        where = {"url": target}
    else:
        target = str(tmp_path / ("out.jsonl" if kind == "jsonl" else "out"))
        where = {"out": target}

    def run_export(run, **options):
        return export_run(run, kind, **where, **options)

    run_export.kind, run_export.target, run_export.where = kind, target, where
    run_export.read = lambda: READERS[kind](target)
    return run_export


def assert_holds(export, run):
    """Row by row: the chunks of the run, each once, with its vectors."""
    found = export.read()
    names = ("fused",) if export.kind == "faiss" else ("model-a", "org/model.b", "fused")
    folder, expected = RunFolder.open(run), {}
    for collection in {record.collection for record in folder.manifest.read().values() if record.kind == "chunks"}:
        for shard in folder.shards.indices(collection):
            for chunk in folder.shards.read_chunks(collection, shard):
                expected[key_of(collection, chunk.id)] = (collection, chunk)
    assert found.keys() == expected.keys()
    for key, (collection, chunk) in expected.items():
        there = found[key]
        assert there[:2] == (collection, chunk.id)
        assert there[2] == (chunk.text if export.kind in KEEPS_TEXT else "")
        assert set(there[3]) == set(names)
        for name in names:
            np.testing.assert_allclose(there[3][name], vectors_of([chunk.text], name)[0], atol=1e-6)


def test_every_row_is_there_with_its_vectors(export, make_run):
    """A row of another shard, or vectors of another row, would be a search that finds the wrong chunk."""
    run, told = make_run(alpha=some_chunks(95), beta=some_chunks(7)), []
    report = export(run, progress=lambda *done_of_all: told.append(done_of_all))
    assert (report.rows, report.written, report.unchanged, report.deleted) == (102, 102, 0, 0)
    assert told == sorted(told) and len(told) > 2 and (told[0], told[-1]) == ((0, 102), (102, 102))
    assert report.compared >= 64
    assert_holds(export, run)


def test_twice_is_once(export, make_run):
    """An upsert that is none would have every row twice."""
    run = make_run(alpha=some_chunks(50))
    export(run)
    before = files_of(export)
    report = export(run)
    assert (report.rows, report.deleted) == (50, 0)
    if export.kind in (*STORES, "parquet"):
        assert (report.written, report.unchanged) == (0, 50)
    assert_holds(export, run)
    if export.kind not in STORES:
        assert files_of(export) == before


def files_of(export):
    """The files of an export by their digests; of a server, none."""
    path = Path(export.target)
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def test_killed_in_the_midst_it_goes_on(export, make_run):
    """Rows would be missing, be there twice, or what was written before be written again."""
    run = make_run(alpha=some_chunks(600))
    command = [
        sys.executable, "-m", "soloist", "export", str(run), "--to", export.kind, "--batch-rows", "3",
        *(part for name, value in export.where.items() for part in (f"--{name}", value)),
    ]  # fmt: skip
    process = Forked(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not has_begun(export.kind, export.target) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    was_at_work = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    report = export(run)
    assert_holds(export, run)
    if was_at_work and export.kind in STORES:
        assert 0 < report.unchanged < 600
    leftovers = list(Path(export.target).parent.rglob("*.tmp*")) if export.kind not in STORES else []
    assert not leftovers


def test_chunks_that_are_gone_are_deleted(export, make_run):
    """A search would find chunks that no longer exist."""
    export(make_run(alpha=some_chunks(95), beta=some_chunks(50)))
    run = make_run(alpha=[*some_chunks(10), *some_chunks(20, first=60)], beta=some_chunks(50))
    report = export(run)
    assert report.deleted == 65
    assert_holds(export, run)


def test_a_changed_chunk_is_written_again(export, make_run):
    """The store would keep the text or the vector of before."""
    chunks = some_chunks(50)
    export(make_run(alpha=chunks))
    chunks[7] = Chunk(id=chunks[7].id, text="another text", metadata=chunks[7].metadata)
    chunks[9] = Chunk(id=chunks[9].id, text=chunks[9].text, metadata={**chunks[9].metadata, "page": -1})
    run = make_run(alpha=chunks)
    report = export(run)
    if export.kind in STORES:
        assert (report.written, report.unchanged) == (2, 48)
    assert_holds(export, run)


@pytest.mark.parametrize("kind", STORES)
def test_a_store_keeps_collections_apart(kind, request, tmp_path, make_run):
    """Bringing one collection up to date would delete the others of the table."""
    export = make_export(kind, request, tmp_path)
    run = make_run(alpha=some_chunks(20), beta=some_chunks(9))
    export(run, collections=["alpha"])
    report = export(run, collections=["beta"])
    assert (report.rows, report.written, report.deleted) == (9, 9, 0)
    assert_holds(export, run)
    smaller = make_run(alpha=some_chunks(5), beta=some_chunks(9))
    assert export(smaller, collections=["alpha"]).deleted == 15
    assert_holds(export, smaller)


def test_collections_of_other_metadata_share_a_table(make_run, tmp_path):
    """The table would be made anew for the second collection, and the first be gone."""
    beta = [Chunk(id="b", text="two", metadata={"page": 3, "new field": "x", "odd": "text"})]
    run = make_run(alpha=some_chunks(30), beta=beta)
    target = tmp_path / "out"
    export_run(run, "lancedb", out=target, collections=["alpha"])
    assert export_run(run, "lancedb", out=target, collections=["beta"]).deleted == 0
    assert export_run(run, "lancedb", out=target).unchanged == 31
    assert len(READERS["lancedb"](str(target))) == 31
    other = make_run(alpha=some_chunks(30), beta=[Chunk(id="b", text="two", metadata={"page": "three"})])
    with pytest.raises(ExportError, match=r"has other collections, in which metadata_page is int64 and not string"):
        export_run(other, "lancedb", out=target, collections=["beta"])
    assert len(READERS["lancedb"](str(target))) == 31
    export_run(other, "lancedb", out=target)
    assert len(READERS["lancedb"](str(target))) == 31


@pytest.mark.parametrize("dim", [3, 10, 100, 300, 384, 1000, 1024])
def test_an_index_of_lancedb_takes_any_dim(dim):
    """LanceDB refuses parts that do not divide the dim: at 100,000 rows of 100 dims the export failed at its end."""
    parts = _sub_vectors(dim)
    assert 1 <= parts <= max(1, dim // 16) and dim % parts == 0


def test_requests_that_a_qdrant_server_takes(make_run):
    """1,000 rows of 2,048 dims are 42 MiB of JSON, and a server takes 32 MB."""
    chunks = [Chunk(id=str(number), text="\0" * 200 * number) for number in range(40)]
    source = open_source(make_run(alpha=chunks), None, (), several=True)
    (rows,) = source.batches(40)
    wide = dataclasses.replace(
        rows, vectors={"wide": np.random.default_rng(0).standard_normal((40, 50_000)).astype(np.float32)}
    )
    parts = list(requests(wide))
    assert [key for part in parts for key in part.keys] == list(wide.keys) and len(parts) > 1
    assert np.array_equal(np.concatenate([part.vectors["wide"] for part in parts]), wide.vectors["wide"])
    for part in parts:
        points = [
            {"id": key, "vector": vector.tolist(), "text": chunk.text}
            for key, vector, chunk in zip(part.keys, part.vectors["wide"], part.chunks, strict=True)
        ]
        assert len(json.dumps(points)) < 32e6


def test_a_vector_that_is_not_exported_is_not_kept_of_another_text(make_run, postgres):
    """The row would have the new text, and the fused vector of the old one."""
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS stale")
        chunks = [Chunk(id="a", text="old"), Chunk(id="b", text="same")]
        export_run(make_run(alpha=chunks), "pgvector", url=postgres, table="stale")
        run = make_run(alpha=[Chunk(id="a", text="new"), chunks[1]])
        export_run(run, "pgvector", url=postgres, table="stale", vectors="model-a")
        found = connection.execute("SELECT text, vector_fused FROM stale WHERE id = 'a'").fetchall()
        assert found == [("new", None)]
        export_run(run, "pgvector", url=postgres, table="stale")
        found = connection.execute("SELECT text, vector_fused IS NULL FROM stale ORDER BY id").fetchall()
        assert found == [("new", False), ("same", False)]


def test_an_empty_list_is_of_its_columns_type(make_run, tmp_path):
    """One chunk without tags would turn the tags of all into text."""
    chunks = [Chunk(id="a", text="one", metadata={"tags": ["x"]}), Chunk(id="b", text="two", metadata={"tags": []})]
    export_run(make_run(alpha=chunks), "parquet", out=tmp_path / "out")
    import polars

    frame = polars.read_parquet(f"{tmp_path}/out/*.parquet").sort("id")
    assert frame["metadata_tags"].to_list() == [["x"], []]


def test_metadata_keep_their_types(make_run, tmp_path):
    """Numbers would come out as text, or a type that one chunk does not share would lose its value."""
    chunks = [
        Chunk(
            id="a", text="one", metadata={"n": 1, "x.y": "p", "x y": True, "mixed": 1, "big": 2**70, "list": ["a", "b"]}
        ),
        Chunk(id="b", text="two", metadata={"n": None, "mixed": "one", "nested": {"deep": [1, None]}, "list": ["c"]}),
        Chunk(id="c", text="three", metadata={}),
    ]
    run = make_run(alpha=chunks)
    export_run(run, "parquet", out=tmp_path / "out")
    import duckdb

    relation = duckdb.sql(f"SELECT * FROM read_parquet('{tmp_path}/out/*.parquet') ORDER BY id")
    rows = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    assert [row["metadata_n"] for row in rows] == [1, None, None]
    assert [row["metadata_list"] for row in rows] == [["a", "b"], ["c"], None]
    assert [row["metadata_mixed"] for row in rows] == ["1", '"one"', None]
    assert json.loads(rows[0]["metadata_big"]) == 2**70
    assert json.loads(rows[1]["metadata_nested"]) == {"deep": [1, None]}
    fields = {rows[0][column] for column in rows[0] if column.startswith("metadata_x_y")}
    assert fields == {"p", True}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parquet_loads_in_datasets(make_run, tmp_path, monkeypatch):
    """The files would be of a form that only soloist reads."""
    if int(pa.__version__.partition(".")[0]) < 26:
        pytest.skip("datasets itself fails with pyarrow below 26: an IndexError where it counts the rows of a file")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    export_run(make_run(alpha=some_chunks(50)), "parquet", out=tmp_path / "out")
    import datasets

    datasets.disable_progress_bars()
    files = sorted(map(str, (tmp_path / "out").glob("*.parquet")))
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 50
    np.testing.assert_allclose(loaded[3]["vector_fused"], vectors_of([loaded[3]["text"]], "fused")[0], atol=1e-6)


def test_a_run_without_fused_vectors(make_run, tmp_path):
    """What is exported by default would be asked of a run that does not have it."""
    run = make_run(fused=False, alpha=some_chunks(5))
    assert export_run(run, "numpy", out=tmp_path / "out").rows == 5
    assert sorted(path.name for path in (tmp_path / "out").glob("*.npy"))[0] == "model-a.npy"
    assert export_run(run, "faiss", out=tmp_path / "index", vectors="model-a").rows == 5


def test_keys_are_the_same_everywhere():
    """A key that changes with a version of soloist would leave every row of a store behind."""
    assert key_of("alpha", "chunk 1") == "619c9492-1f15-5144-98e5-a26d854dcbc5"
    assert key_of("alpha", "a\0b") != key_of("alpha\0a", "b")


def test_no_environment_is_needed(make_run, tmp_path):
    """A variable of another tool would decide where rows go."""
    assert "QDRANT_API_KEY" not in os.environ
    export_run(make_run(alpha=some_chunks(3)), "qdrant", out=tmp_path / "out")


@pytest.mark.parametrize("kind", STORES)
def test_float16_vectors_are_what_they_were(kind, request, tmp_path, make_run):
    """Qdrant divides by the norm, which rounding has made another than 1: its check at the end failed."""
    export = make_export(kind, request, tmp_path)
    report = export(make_run(dtype="float16", alpha=some_chunks(50)))
    assert (report.written, report.compared) == (50, 50)


def test_a_store_that_does_not_normalise_is_held_to_every_number(make_run, tmp_path):
    """A vector of another length would pass for the one that was written."""
    import lancedb

    run, out = make_run(alpha=some_chunks(5)), tmp_path / "out"
    export_run(run, "lancedb", out=out)
    table = lancedb.connect(str(out)).open_table("soloist")
    table.update(where="id = 'chunk 3'", values={"vector_fused": (2 * vectors_of(["x"], "fused")[0]).tolist()})
    with pytest.raises(ExportError, match="another fused vector of chunk 'chunk 3' than was written"):
        export_run(run, "lancedb", out=out)
    twice = 2 * vectors_of([some_chunks(5)[3].text], "fused")[0]
    table.update(where="id = 'chunk 3'", values={"vector_fused": twice.tolist()})
    with pytest.raises(ExportError, match="another fused vector of chunk 'chunk 3' than was written"):
        export_run(run, "lancedb", out=out)


def test_a_folder_of_qdrant_is_asked_once_for_all_its_points(make_run, tmp_path):
    """Each of its pages costs a look at every point: bringing 100,000 up to date took a hundred times as many."""
    from qdrant_client import QdrantClient

    run = make_run(alpha=[Chunk(id=str(number), text="") for number in range(1_050)])
    export_run(run, "qdrant", out=tmp_path / "out", vectors="org/model.b")
    with closing(QdrantClient(path=str(tmp_path / "out"))) as client:
        source = open_source(run, "org/model.b", (), several=True)
        store = QdrantCollection(client, source, Target(out=tmp_path / "out"), "here")
        assert [len(page) for page in store.scan(Scope(("alpha",), None))] == [1_050]
        assert [len(page) for page in store.scan(Scope(("beta",), None))] == [0]


@pytest.mark.parametrize("kind", ["parquet", "lancedb"])
def test_a_number_and_its_digits_stay_two_values(kind, request, tmp_path, make_run):
    """1 and "1" came out as one text, also where a field had texts alone when it was first exported."""
    export = make_export(kind, request, tmp_path)

    def values():
        if kind == "lancedb":
            import lancedb

            rows = lancedb.connect(export.target).open_table("soloist").to_arrow().to_pylist()
        else:
            import polars

            rows = polars.read_parquet(f"{export.target}/*.parquet").to_dicts()
        return {row["id"]: row["metadata_n"] for row in rows}

    chunks = [Chunk(id="a", text="one", metadata={"n": "1"}), Chunk(id="b", text="two", metadata={"n": "x"})]
    export(make_run(alpha=chunks))
    assert values() == {"a": "1", "b": "x"}
    mixed = [*chunks, Chunk(id="c", text="three", metadata={"n": 1})]
    export(make_run(alpha=mixed))
    assert values() == {"a": '"1"', "b": '"x"', "c": "1"}
    assert {id_: json.loads(each) for id_, each in values().items()} == {"a": "1", "b": "x", "c": 1}
    export(make_run(alpha=[*chunks, Chunk(id="c", text="three", metadata={"n": "y"})]))
    if kind == "lancedb":  # a column of JSON stays one
        assert values() == {"a": '"1"', "b": '"x"', "c": '"y"'}
    else:
        assert values() == {"a": "1", "b": "x", "c": "y"}
