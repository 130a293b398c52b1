"""Whatever keeps an export from being made is one sentence that names it and the way on."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.export_readers import marker_of
from support.exported_runs import some_chunks
from support.forks import run_forked

from soloist.errors import ConfigError, ExportError, OutputError, SoloistError
from soloist.exports import export_run
from soloist.extras import install_command
from soloist.stores import folder_name
from soloist.types import Chunk


@pytest.fixture
def run(make_run):
    return make_run(alpha=some_chunks(5))


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text and ": " in text, text
    return text


@pytest.fixture
def closed_port():
    """An address where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"to": "excel"}, "there is no export to excel: choose one of parquet, numpy"),
        ({"to": "parquet"}, "this export writes files: give --out PATH"),
        ({"to": "parquet", "url": "http://localhost"}, "this export writes files, not to a server: give --out PATH"),
        ({"to": "numpy", "out": "x", "url": "http://y"}, "give --out PATH, and leave out --url"),
        ({"to": "qdrant"}, "needs a server or a folder of its own: give --url or --out"),
        ({"to": "pgvector"}, "needs --url postgresql://"),
        ({"to": "numpy", "out": "x", "vectors": "bge-m3"}, "has no vectors of bge-m3: give --vectors one of model-a"),
        ({"to": "faiss", "out": "x", "vectors": "all"}, "one vector a row: give --vectors one of"),
        ({"to": "numpy", "out": "x", "collections": ["gamma"]}, "has no collection gamma: choose one of alpha"),
        ({"to": "numpy", "out": "x", "batch_rows": 0}, "batch_rows is 0"),
    ],
)
def test_a_setting_that_cannot_be_honoured(run, options, sentence):
    """It would end in a traceback, or write somewhere else."""
    with pytest.raises(ConfigError) as caught:
        export_run(run, **options)
    assert sentence in one_sentence(caught)


@pytest.mark.parametrize("inside", ["", "exported", "alpha/../x.jsonl", "skipped.jsonl"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "lancedb"])
@pytest.mark.parametrize("other", [False, True])
def test_an_export_into_a_run(run, make_run, kind, inside, other):
    """Files that no run has would lie in it, or a run's own be taken for stale ones; so it is with another run."""
    into = make_run(name="other", alpha=some_chunks(3)) if other else run
    (into / "skipped.jsonl").touch()
    before = sorted(into.rglob("*"))
    with pytest.raises(ConfigError, match=r"is (a|inside the) run folder.*, which has its own files only: choose"):
        export_run(run, kind, out=into / inside)
    assert sorted(into.rglob("*")) == before and not (into / "skipped.jsonl").read_bytes()


@pytest.mark.parametrize(("kind", "name"), [("numpy", "fused.npy"), ("parquet", "beta-part-00000.parquet")])
def test_a_users_own_file_in_the_folder_is_not_overwritten(make_run, tmp_path, kind, name):
    """It was taken for a file of the export, because an export would call one so."""
    out, run = tmp_path / "out", make_run(alpha=some_chunks(3))
    export_run(run, kind, out=out, vectors="model-a")
    (out / name).write_text("my own")
    make_run(alpha=some_chunks(3), beta=some_chunks(2))
    with pytest.raises(ExportError, match=f"has a file {name} that no export wrote: move it away, or choose"):
        export_run(run, kind, out=out)
    assert (out / name).read_text() == "my own"
    (out / name).unlink()
    assert export_run(run, kind, out=out).rows == 5


def test_a_marker_cannot_name_files_outside_of_its_folder(make_run, tmp_path):
    """They were removed as files of the export before."""
    out, mine = tmp_path / "out", tmp_path / "mine.txt"
    run = make_run(alpha=some_chunks(3))
    export_run(run, "numpy", out=out)
    mine.write_text("my own")
    marker = marker_of(out)
    marker["files"]["../mine.txt"] = {"of": "", "sha256": ""}
    (out / ".soloist-export.json").write_text(json.dumps(marker))
    with pytest.raises(ExportError, match="has files that no export to numpy wrote"):
        export_run(run, "numpy", out=out)
    assert mine.read_text() == "my own"


def test_a_file_of_ours_that_somebody_replaced_is_written_anew(make_run, tmp_path):
    """Its keys were taken for UUIDs, which was an unexpected error."""
    out, run = tmp_path / "out", make_run(alpha=some_chunks(3))
    export_run(run, "parquet", out=out)
    for keys in (["no uuid"], [None], [7]):
        pq.write_table(pa.table({"key": keys}), out / "alpha-part-00000.parquet")
        assert export_run(run, "parquet", out=out).written == 3


def test_what_is_no_file_is_not_replaced(run, tmp_path):
    """A pipe hung for ever, a device became a file, and a link was replaced where its target was meant."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(ExportError, match="is not a file but a device or a pipe: give --out the name of a file"):
            export_run(run, "jsonl", out=path)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "target.jsonl")
    export_run(run, "jsonl", out=tmp_path / "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink() and len((tmp_path / "target.jsonl").read_text().splitlines()) == 5
    assert export_run(run, "jsonl", out=tmp_path / "link.jsonl").rows == 5


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "lancedb"])
def test_a_link_to_itself_is_a_sentence(run, tmp_path, kind):
    """It was a RuntimeError of a symlink loop."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SoloistError) as caught:
        export_run(run, kind, out=tmp_path / "loop")
    assert "loop" in one_sentence(caught)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_group_that_may_write_to_a_place_may_export_to_it(run, tmp_path, kind):
    """The lock of the first was nobody else's to take, so that the second was refused for ever."""
    before = os.umask(0o022)
    try:
        export_run(run, kind, out=tmp_path / "out")
    finally:
        os.umask(before)
    (lock,) = (path for path in tmp_path.rglob("*.lock") if path.parent in (tmp_path, tmp_path / "out"))
    assert lock.stat().st_mode & 0o777 == 0o666


def test_a_run_that_is_not_there_or_not_finished(run, tmp_path):
    """Half a run would be exported as a whole one."""
    with pytest.raises(OutputError, match="does not exist"):
        export_run(tmp_path / "nowhere", "jsonl", out=tmp_path / "x")
    (run / "run.json").unlink()
    with pytest.raises(OutputError, match="the run is not finished"):
        export_run(run, "jsonl", out=tmp_path / "x")


@pytest.mark.parametrize("kind", ["parquet", "numpy", "faiss"])
def test_a_folder_of_other_files_is_left_alone(run, tmp_path, kind):
    """Somebody's files would be mixed with an export's, or be removed for stale ones."""
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match=f"has files that no export to {kind} wrote: choose another folder"):
        export_run(run, kind, out=out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    export_run(run, "numpy" if kind != "numpy" else "parquet", out=tmp_path / "other")
    with pytest.raises(ExportError, match="that no export to"):
        export_run(run, kind, out=tmp_path / "other")


def test_a_file_where_a_folder_should_be(run, tmp_path):
    """mkdir's error names neither the option nor the way on."""
    (tmp_path / "taken").write_text("")
    for kind in ("parquet", "numpy", "faiss", "lancedb"):
        with pytest.raises(ExportError, match="is a file"):
            export_run(run, kind, out=tmp_path / "taken")
    with pytest.raises(ExportError, match="is a folder: give --out the name of a file"):
        export_run(run, "jsonl", out=tmp_path)


def test_a_qdrant_that_is_down(run, closed_port):
    """The client's error is a page of HTTP."""
    with pytest.raises(ExportError) as caught:
        export_run(run, "qdrant", url=f"http://127.0.0.1:{closed_port}")
    assert "make sure that it runs" in one_sentence(caught)


def test_a_secret_in_the_url_of_a_qdrant(run, closed_port):
    """It would be in every log of the command."""
    with pytest.raises(ExportError) as caught:
        export_run(run, "qdrant", url=f"http://user:s3cret@127.0.0.1:{closed_port}/?api-key=s3cret")
    assert "s3cret" not in one_sentence(caught)
    assert f"Qdrant at http://127.0.0.1:{closed_port}/ failed" in str(caught.value)
    with pytest.raises(ConfigError, match="has an empty --url"):
        export_run(run, "qdrant", url="")


@pytest.mark.parametrize(
    "url",
    [
        "me:s3cret@host:6333", "https:/me:s3cret@host", "//me:s3cret@host", "ftp://me:s3cret@host", "http://me:s3cret@",
        "http://me:s3cret@127.0.0.1:99999", "http://me:s3cret@127.0.0.1:port", "http://me:s3/cret@host",
        "http://me:12/s3cret@host", "http://me:12#s3cret@host", "http://me:12?s3cret@host", "http://me:12\\s3cret@host",
        "http://me:s3\u2100cret@127.0.0.1:1", "http://me:s3cret@[::1", "http://me:s3 cret@host", "http://me:s3cret@1.2.3.999",
        "http://\ud800:s3cret@host", "localhost",
    ],
)  # fmt: skip
def test_a_url_that_is_none_of_a_qdrant(run, url):
    """The message or the client's own had it whole, password and all, or it was a traceback."""
    with pytest.raises(ConfigError) as caught:
        export_run(run, "qdrant", url=url)
    assert "is not the address of a server: give http://host:port" in one_sentence(caught)
    assert not any(part in str(caught.value) for part in ("s3", "cret", "me:", url))


@pytest.mark.parametrize("answer", [b"{}", b'{"result": null, "status": "ok", "time": 0}', b"null", b"<html></html>"])
def test_a_service_that_is_no_qdrant(run, answer):
    """The client asserts that there is a result: it was an unexpected AssertionError."""

    class Service(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(
            ExportError, match=r"Qdrant at http://127.0.0.1:\d+ failed .*: make sure that it runs"
        ) as caught:
            export_run(run, "qdrant", url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    one_sentence(caught)


def test_a_postgres_that_is_down(run, closed_port):
    """The password would be in the error."""
    with pytest.raises(ExportError) as caught:
        export_run(run, "pgvector", url=f"postgresql://me:secret@127.0.0.1:{closed_port}/vectors")
    assert "make sure that it runs and has pgvector" in one_sentence(caught)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "form", ["postgresql://{at}/db?user=me&password=secret", "host={host} port={port} password=secret"]
)
def test_a_password_in_any_form_of_an_address(run, closed_port, form):
    """It would be in logs: an address has it behind the ? too, or has no @ at all."""
    url = form.format(at=f"127.0.0.1:{closed_port}", host="127.0.0.1", port=closed_port)
    with pytest.raises(ExportError) as caught:
        export_run(run, "pgvector", url=url)
    assert f"127.0.0.1:{closed_port}" in one_sentence(caught) and "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://me:sec/ret@host:1/db", "postgresql://me:sec@ret@[host/db", "secret"])
def test_an_address_that_is_none(run, url):
    """libpq's error repeats the part that it cannot read, a password maybe."""
    with pytest.raises(ConfigError) as caught:
        export_run(run, "pgvector", url=url)
    assert "is not the address of a PostgreSQL server" in one_sentence(caught) and "sec" not in str(caught.value)


SURROGATE = [Chunk(id="fine", text="fine", metadata={}), Chunk(id="odd", text="t", metadata={"deep": ["a\ud800"]})]


@pytest.mark.parametrize("kind", ["parquet", "lancedb", "pgvector"])
def test_a_surrogate_that_a_store_cannot_keep(make_run, tmp_path, request, kind):
    """JSON has it as an escape, a run keeps it; Arrow ended in a traceback, PostgreSQL was said to be down."""
    where = {"url": request.getfixturevalue("postgres")} if kind == "pgvector" else {"out": tmp_path / "out"}
    with pytest.raises(ExportError, match=r"the metadata of chunk 'odd' have a lone surrogate.*or export to jsonl"):
        export_run(make_run(alpha=SURROGATE), kind, table="surrogates", **where)
    export_run(make_run(alpha=SURROGATE), "jsonl", out=tmp_path / "kept.jsonl")
    lines = (tmp_path / "kept.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["metadata"] == {"deep": ["a\ud800"]}


def qdrant_vectors(distance):
    from qdrant_client import models

    from soloist.stores import folder_name

    return {
        folder_name(name): models.VectorParams(size=dim, distance=distance)
        for name, dim in {"model-a": 6, "org/model.b": 4, "fused": 10}.items()
    }


@pytest.mark.parametrize("id_", [7, "12345678-1234-5678-1234-567812345678"])
def test_points_of_somebody_else_are_left_alone(run, tmp_path, id_):
    """Points whose payload has a collection of the same name were deleted as chunks that are gone."""
    from qdrant_client import QdrantClient, models

    with closing(QdrantClient(path=str(tmp_path / "out"))) as client:
        client.create_collection("soloist", vectors_config=qdrant_vectors(models.Distance.COSINE))
        point = models.PointStruct(id=id_, vector={"fused": [1.0] * 10}, payload={"collection": "alpha", "id": "mine"})
        client.upsert("soloist", points=[point])
    with pytest.raises(ExportError, match=r"in collection alpha that no export wrote: choose another --table"):
        export_run(run, "qdrant", out=tmp_path / "out")
    with closing(QdrantClient(path=str(tmp_path / "out"))) as client:
        assert [point.id for point in client.scroll("soloist")[0]] == [id_]


def test_a_qdrant_collection_of_another_distance(run, tmp_path):
    """Searches in it would rank by lengths."""
    from qdrant_client import QdrantClient, models

    with closing(QdrantClient(path=str(tmp_path / "out"))) as client:
        client.create_collection("soloist", vectors_config=qdrant_vectors(models.Distance.EUCLID))
    with pytest.raises(ExportError, match=r"compares model-a by Euclid, and an export by Cosine: choose another"):
        export_run(run, "qdrant", out=tmp_path / "out")


def test_a_postgres_table_of_somebody_else(run, postgres):
    """Its rows were deleted as chunks that are gone, or the server was said to be down."""
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute("DROP TABLE IF EXISTS theirs, alike")
        connection.execute("CREATE TABLE theirs (id int, vector_fused vector(10))")
        with pytest.raises(ExportError, match=r"is a table that no export wrote: choose another --table"):
            export_run(run, "pgvector", url=postgres, table="theirs", vectors="fused")
        connection.execute(
            "CREATE TABLE alike (key uuid PRIMARY KEY, collection text, id text, text text, metadata jsonb, "
            "digest text, vector_fused vector(10))"
        )
        connection.execute("INSERT INTO alike (key, collection, id) VALUES (gen_random_uuid(), 'alpha', 'mine')")
        with pytest.raises(ExportError, match=r"in collection alpha that no export wrote: choose another --table"):
            export_run(run, "pgvector", url=postgres, table="alike", vectors="fused")
        assert connection.execute("SELECT id FROM alike").fetchall() == [("mine",)]


def dims_changed(run):
    """The run's summary and fused vectors, as another fusion would have them."""
    import numpy as np

    from soloist.stores import RunFolder

    folder = RunFolder(run)
    summary = folder.read_json("run.json")
    summary["fusion"]["dim"] = 3
    ids = folder.shards.read_ids("alpha", 0)
    vectors = np.full((len(ids), 3), 3**-0.5, np.float32)
    folder.reopen()
    folder.manifest.append(folder.shards.write_fused("alpha", 0, ids, vectors, "content", "another fusion"))
    folder.finish(summary)
    return run


@pytest.mark.parametrize("kind", ["lancedb", "qdrant"])
def test_a_table_with_other_dims(run, tmp_path, kind):
    """Vectors of two lengths in one column are an error of the store's, in its own words."""
    export_run(run, kind, out=tmp_path / "store")
    with pytest.raises(ExportError) as caught:
        export_run(dims_changed(run), kind, out=tmp_path / "store")
    assert "10" in str(caught.value) and "the run" in str(caught.value) and "another --table" in one_sentence(caught)
    assert export_run(run, kind, out=tmp_path / "store", table="another").rows == 5


def test_a_postgres_table_with_other_dims(run, postgres):
    """The same of pgvector, which says `expected 10 dimensions`."""
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS dims")
    export_run(run, "pgvector", url=postgres, table="dims")
    with pytest.raises(ExportError, match=r"has 10 dims of fused, and the run has 3: choose another --table"):
        export_run(dims_changed(run), "pgvector", url=postgres, table="dims")


@pytest.mark.parametrize("place", ["text", "metadata"])
def test_a_nul_that_postgres_cannot_store(make_run, postgres, place):
    """It would be dropped from the text without a word, or end in psycopg's own error."""
    text = "with a \0 in it" if place == "text" else "plain"
    metadata = {"deep": [{"a": "b\0"}]} if place == "metadata" else {"literal": "\\u0000"}
    run = make_run(alpha=[Chunk(id="fine", text="fine"), Chunk(id="nul", text=text, metadata=metadata)])
    with pytest.raises(ExportError, match="chunk 'nul' has a NUL character, which PostgreSQL cannot store"):
        export_run(run, "pgvector", url=postgres, table="nul")


@pytest.mark.parametrize(
    ("kind", "module", "package"),
    [
        ("faiss", "faiss", "faiss-cpu"),
        ("lancedb", "lancedb", "lancedb"),
        ("qdrant", "qdrant_client", "qdrant-client"),
        ("pgvector", "psycopg", "psycopg"),
    ],
)
def test_a_library_that_is_not_installed(run, kind, module, package):
    """An ImportError names a module, and no extra."""
    # What the process was forked from has imported soloist: it is imported anew, without the library.
    forget = "[sys.modules.pop(name) for name in [*sys.modules] if name.partition('.')[0] == 'soloist']"
    code = f"import sys; {forget}; sys.modules[{module!r}] = None; from soloist.cli import main; main()"
    done = run_forked(
        [sys.executable, "-c", code, "export", str(run), "--to", kind, "--out", "x"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == f"soloist: error: the export to {kind} needs {package}: run {install_command(kind)}\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('libpq.so.5: cannot open\\n- no such file')", "libpq.so.5: cannot open - no such file"),
        ("import a_part_of_it_that_is_gone", "No module named 'a_part_of_it_that_is_gone'"),
    ],
)
def test_a_library_that_is_broken(run, tmp_path, source, reason):
    """It was said not to be installed, and installing it changed nothing."""
    (tmp_path / "broken_client.py").write_text(source)
    code = "from soloist.exports.client_library import load; load('broken_client', 'qdrant', 'qdrant-client')"
    done = run_forked(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == (
        f"soloist.errors.ConfigError: the export to qdrant cannot load qdrant-client ({reason}): correct that, or "
        "install qdrant-client again with pip install --force-reinstall qdrant-client"
    )


def test_damage_to_a_files_vectors_is_mended(run, tmp_path):
    """An export whose file was damaged since would be taken for whole because its digest is."""
    out = tmp_path / "out"
    export_run(run, "parquet", out=out)
    (part,) = out.glob("alpha*.parquet")
    whole, group = part.read_bytes(), pq.read_metadata(part).row_group(0)
    content = bytearray(whole)
    vectors = next(column for column in map(group.column, range(group.num_columns)) if "fused" in column.path_in_schema)
    content[vectors.data_page_offset + vectors.total_compressed_size // 2] ^= 0xFF
    part.write_bytes(content)
    assert export_run(run, "parquet", out=out).written == 5
    assert part.read_bytes() == whole


def test_the_command(run, tmp_path):
    """Options would not arrive, or the summary be of another export."""
    command = [sys.executable, "-m", "soloist", "export", str(run), "--to", "numpy", "--out", str(tmp_path / "out")]
    done = run_forked(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'out'}: 5 rows, 5 written, 0 unchanged, 0 deleted; 5 read back and compared",
        "  model-a      model-a.npy",
        f"  org/model.b  {folder_name('org/model.b')}.npy",
        "  fused        fused.npy",
    ]
    command[-1] = str(tmp_path / "one")
    again = run_forked([*command, "--vectors", "model-a", "--json"], capture_output=True, text=True)
    said = json.loads(again.stdout)
    assert said["rows"] == 5 and said["vectors"] == {"model-a": "model-a.npy"}
    assert sorted(path.name for path in (tmp_path / "one").glob("*.npy")) == ["model-a.npy"]
    wrong = run_forked([*command, "--collections", "gamma"], capture_output=True, text=True)
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        '{"id": "a", "text": "my own"}\n',
        '{"key": "k", "collection": "c", "id": "i", "vectors": {}}\n',
        "notes\n",
        "[]\n",
        "7",
    ],
)
def test_somebody_elses_file_is_not_overwritten(run, tmp_path, content):
    """The chunks that the run was made from would be replaced by the export of them."""
    mine = tmp_path / "chunks.jsonl"
    mine.write_text(content)
    with pytest.raises(ExportError, match="is a file that no export to jsonl wrote: choose another --out"):
        export_run(run, "jsonl", out=mine)
    assert mine.read_text() == content
    mine.write_text("")
    assert export_run(run, "jsonl", out=mine).rows == 5
    assert export_run(run, "jsonl", out=mine).rows == 5
