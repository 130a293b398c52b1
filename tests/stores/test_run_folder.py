"""The run folder: what is written reads back, other tools can read it, and nothing else lies in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soloist.arrays import Vectors
from soloist.errors import InputError, OutputError
from soloist.stores import RunFolder
from soloist.stores.skipped import skipped_log
from soloist.stores.tables import chunk_table, table_chunks, table_vectors, vector_table
from soloist.types import Chunk, SkippedInput

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CHUNKS = st.builds(Chunk, id=TEXT, text=TEXT, metadata=st.dictionaries(TEXT, JSON, max_size=3))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """An empty run folder."""
    return RunFolder.create(tmp_path / "run")


def files(run: RunFolder) -> list[str]:
    """Every file of the run, relative, hidden ones included."""
    return sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file())


def numbers(rows: int, dim: int) -> Vectors:
    """Vectors that are all different and predictable by eye."""
    return np.arange(rows * dim, dtype=np.float32).reshape(rows, dim)


def test_a_run_leaves_exactly_these_files(run: RunFolder) -> None:
    """A temp file, or a shard in another place, would be left."""
    run.manifest.append(run.shards.write_chunks("notes", 0, [Chunk(id="a", text="x")]))
    run.manifest.append(run.shards.write_vectors("notes", "BAAI/bge-m3", 0, ["a"], numbers(1, 4)))
    run.manifest.append(run.shards.write_fused("notes", 0, ["a"], numbers(1, 4)))
    run.write_json("run.json", {})
    with skipped_log(run.path) as skipped:
        pass
    run.manifest.append(skipped.record())
    assert files(run) == [
        "manifest.jsonl",
        "notes/chunks/part-00000.parquet",
        "notes/fused/part-00000.parquet",
        "notes/vectors/BAAI--bge-m3-d790e737/part-00000.parquet",
        "run.json",
        "skipped.jsonl",
    ]


def test_create_makes_missing_parents_and_takes_an_empty_folder(tmp_path: Path) -> None:
    """The user would have to make the folder, or would be refused the one that they made."""
    RunFolder.create(tmp_path / "a" / "b")
    assert RunFolder.create(tmp_path / "a" / "b").path == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_create_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    """A run would mix its shards with somebody's files."""
    (tmp_path / ".hidden").write_text("")
    with pytest.raises(OutputError, match="is not empty and is not a run folder: choose a new folder"):
        RunFolder.create(tmp_path)


def test_create_takes_the_folder_of_a_run(run: RunFolder) -> None:
    """A run that was stopped, even before its first shard, could not be gone on with."""
    with run.locked():
        (run.path / "events.jsonl").write_text("")
    assert not RunFolder.create(run.path).manifest.exists()
    run.manifest.append(run.shards.write_chunks("notes", 0, [Chunk(id="a", text="x")]))
    assert RunFolder.create(run.path).manifest.exists()
    (run.path / "manifest.jsonl").unlink()
    with pytest.raises(OutputError, match="is not empty and is not a run folder"):
        RunFolder.create(run.path)


def test_create_refuses_a_file(tmp_path: Path) -> None:
    """The user would read `[Errno 17] File exists`."""
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="out is a file: choose a new folder for the run"):
        RunFolder.create(tmp_path / "out")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, which even root cannot write")
def test_create_refuses_a_place_that_cannot_be_written() -> None:
    """The run would fail after its first pass instead of before."""
    with pytest.raises(OutputError, match=r"^cannot write /proc/soloist-run: .*: .*choose another folder$"):
        RunFolder.create(Path("/proc/soloist-run"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_create_refuses_an_empty_folder_without_write_permission(tmp_path: Path) -> None:
    """An empty folder that exists would pass without a write ever being tried."""
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied: allow writing there, or choose another folder"):
        RunFolder.create(tmp_path)


def test_open_needs_run_json(run: RunFolder) -> None:
    """A mistyped folder would look like a run without collections."""
    with pytest.raises(OutputError, match=r"is not a run folder, it has neither manifest\.jsonl nor state\.json: give"):
        RunFolder.open(run.path)
    (run.path / "questions.json").write_text("{}")
    with pytest.raises(OutputError, match="has the questions of a run, and no chunks: give the folder that soloist"):
        RunFolder.open(run.path)
    (run.path / "questions.json").unlink()
    run.write_json("run.json", {"models": ["a"]})
    with pytest.raises(OutputError, match=r"has no manifest\.jsonl: an earlier version of soloist wrote the run"):
        RunFolder.open(run.path)
    run.manifest.append(run.shards.write_chunks("notes", 0, [Chunk(id="a", text="x")]))
    assert RunFolder.open(run.path).read_json("run.json") == {"models": ["a"]}
    run.reopen()
    with pytest.raises(OutputError, match="the run is not finished: run its soloist embed command again"):
        RunFolder.open(run.path)


@given(st.lists(CHUNKS, max_size=5))
def test_chunks_survive_their_table(chunks: list[Chunk]) -> None:
    """Text, ids or metadata would change on the way: emoji, NUL, line ends, nested values."""
    assert table_chunks(chunk_table(chunks)) == chunks


def test_chunks_survive_the_disk(run: RunFolder) -> None:
    """What holds in memory would not hold in Parquet; or `read_shard` would give other rows than `read_chunks`."""
    chunks = [
        Chunk(id="\N{ROCKET} é/\\ 1", text="a\r\n\tb  c\x00", metadata={"path": "C:\\x", "n": [1, None, {"é": 1.5}]}),
        Chunk(id="", text=""),
    ]
    run.manifest.append(run.shards.write_chunks("c", 3, chunks))
    assert run.shards.read_chunks("c", 3) == chunks
    shard = run.shards.read_shard("c", 3)
    assert (shard.collection, shard.index) == ("c", 3)
    assert shard.ids == tuple(chunk.id for chunk in chunks)
    assert shard.texts == tuple(chunk.text for chunk in chunks)
    assert shard.name == "part-00003" and files(run) == ["c/chunks/part-00003.parquet", "manifest.jsonl"]


@pytest.mark.parametrize(
    ("chunk", "named"),
    [
        (Chunk(id="a", text="ok \ud800"), "the text of chunk 'a' has a lone surrogate at character 3"),
        (Chunk(id="\udfff", text="ok"), r"the id of chunk '\\udfff' has a lone surrogate at character 0"),
        (Chunk(id="a", text="ok", metadata={"x": float("nan")}), "the metadata of chunk 'a' is not JSON"),
        (Chunk(id="a", text="ok", metadata={"x": object()}), "the metadata of chunk 'a' is not JSON"),
    ],
)
def test_a_chunk_that_no_file_can_hold_is_named(run: RunFolder, chunk: Chunk, named: str) -> None:
    """A UnicodeEncodeError without the chunk's name would end the run, or NaN would make a file that DuckDB refuses."""
    with pytest.raises(InputError, match=named + ".*: repair it in its chunk file"):
        run.manifest.append(run.shards.write_chunks("c", 0, [Chunk(id="good", text="good"), chunk]))
    assert files(run) == []


def test_a_lone_surrogate_in_metadata_is_kept(run: RunFolder) -> None:
    """The name of a source file that is not UTF-8 would end the run, though it is never embedded."""
    run.manifest.append(run.shards.write_chunks("c", 0, [Chunk(id="a", text="x", metadata={"source": "caf\udce9"})]))
    assert run.shards.read_chunks("c", 0)[0].metadata == {"source": "caf\udce9"}


def test_shards_are_listed_in_order_of_their_number(run: RunFolder) -> None:
    """Part 100000 would come before part 99999, or a temp or foreign file would count as a shard."""
    for index in (100_000, 2, 99_999, 0):
        run.manifest.append(run.shards.write_chunks("c", index, [Chunk(id="a", text="x")]))
    (run.path / "c" / "chunks" / ".part-00001.parquet.abcd.tmp").write_text("")
    (run.path / "c" / "chunks" / "part-00001.parquet.bak").write_text("")
    assert run.shards.indices("c") == (0, 2, 99_999, 100_000)
    assert run.shards.indices("unknown") == ()


@given(st.integers(0, 5), st.integers(1, 9), st.data())
def test_vectors_survive_their_table(rows: int, dim: int, data: st.DataObject) -> None:
    """A number would be rounded, or rows mixed."""
    values = data.draw(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=rows * dim, max_size=rows * dim)
    )
    ids = data.draw(st.lists(TEXT, min_size=rows, max_size=rows))
    vectors = np.array(values, np.float32).reshape(rows, dim)
    read_ids, read = table_vectors(vector_table("m", ids, vectors))
    assert read_ids == ids
    assert read.dtype == np.float32 and read.shape == (rows, dim)
    assert read.tobytes() == vectors.tobytes()


@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_vectors_survive_the_disk(run: RunFolder, rows: int) -> None:
    """An empty shard, or one of several pages, would come back with another shape."""
    ids = [f"{i} \N{ROCKET}" for i in range(rows)]
    vectors = numbers(rows, 96)
    run.manifest.append(run.shards.write_vectors("c", "m", 0, ids, vectors))
    read_ids, read = run.shards.read_vectors("c", "m", 0)
    assert read_ids == ids and read.flags.c_contiguous
    assert read.dtype == np.float32 and read.shape == (rows, 96)
    assert np.array_equal(read, vectors)


def test_fused_vectors_survive_the_disk_beside_the_models(run: RunFolder) -> None:
    """A model called `fused` would be taken for the fused vectors."""
    run.manifest.append(run.shards.write_vectors("c", "fused", 0, ["a"], numbers(1, 2)))
    run.manifest.append(run.shards.write_fused("c", 0, ["a"], numbers(1, 3)))
    assert run.shards.read_fused("c", 0)[1].tolist() == [[0, 1, 2]]
    assert run.shards.read_vectors("c", "fused", 0)[1].tolist() == [[0, 1]]


def test_vectors_go_into_arrow_and_out_without_a_copy() -> None:
    """A shard's vectors would be in memory twice."""
    vectors = numbers(4, 3)
    table = vector_table("m", list("abcd"), vectors)
    assert table["vector"].chunk(0).values.buffers()[1].address == vectors.ctypes.data
    assert table_vectors(table)[1].ctypes.data == vectors.ctypes.data


def test_rows_of_a_slice_are_the_slice(run: RunFolder) -> None:
    """An array that is not contiguous, or a sliced table, would be read with the wrong stride or start."""
    vectors = numbers(4, 6)
    run.manifest.append(run.shards.write_vectors("c", "m", 0, ["a", "b"], vectors[::2, 1:4]))
    assert run.shards.read_vectors("c", "m", 0)[1].tolist() == [[1, 2, 3], [13, 14, 15]]
    ids, tail = table_vectors(vector_table("m", list("abcd"), vectors).slice(3))
    assert ids == ["d"] and tail.tolist() == [[18, 19, 20, 21, 22, 23]]


@pytest.mark.parametrize(
    ("ids", "vectors", "named"),
    [
        (["a"], np.ones((1, 2)), "vectors are float64: give float32"),
        (["a"], np.ones((1, 2), np.float16), "vectors are float16: give float32"),
        (["a"], np.ones(2, np.float32), r"shape \(2,\): give \(rows, dim\)"),
        (["a"], np.ones((1, 0), np.float32), r"shape \(1, 0\): give \(rows, dim\)"),
        (["a", "b"], np.ones((1, 2), np.float32), "2 ids for 1 vectors: give one id a row"),
        (["a", "b"], np.array([[0, 1], [0, np.nan]], np.float32), r"row 1 \('b'\) has NaN or infinity"),
        (["a", "b"], np.array([[np.inf, 1], [0, 0]], np.float32), r"row 0 \('a'\) has NaN or infinity"),
    ],
)
def test_bad_vectors_are_refused(run: RunFolder, ids: list[str], vectors: np.ndarray[Any, Any], named: str) -> None:
    """A float64 or NaN row would be stored and found in a search much later."""
    with pytest.raises(ValueError, match=named):
        run.manifest.append(run.shards.write_vectors("c", "m", 0, ids, vectors))
    with pytest.raises(ValueError, match=named):
        run.manifest.append(run.shards.write_fused("c", 0, ids, vectors))
    assert files(run) == []


def test_other_tools_see_plain_columns(run: RunFolder) -> None:
    """A reader that knows nothing of soloist would see other types, or no dim."""
    run.manifest.append(run.shards.write_chunks("c", 0, [Chunk(id="a", text="x", metadata={"é": 1})]))
    run.manifest.append(run.shards.write_vectors("c", "org/model", 0, ["a"], numbers(1, 4)))
    chunks = pq.read_table(run.path / "c" / "chunks" / "part-00000.parquet")
    texts = {"id": pa.string(), "text": pa.large_string(), "metadata": pa.large_string()}
    files = pa.dictionary(pa.int32(), pa.string())
    assert chunks.schema == pa.schema({**texts, "source_file": files, "source_index": pa.int64()})
    assert chunks["metadata"].to_pylist() == ['{"é": 1}']
    folder = next((run.path / "c" / "vectors").iterdir())
    vectors = ds.dataset(folder).to_table()
    assert vectors.schema.field("vector").type == pa.list_(pa.float32(), 4)
    metadata = pq.read_schema(folder / "part-00000.parquet").metadata
    assert metadata[b"soloist.model"] == b"org/model" and metadata[b"soloist.dim"] == b"4"
    assert vectors.to_pylist() == [{"id": "a", "vector": [0, 1, 2, 3]}]


def test_vectors_are_stored_as_they_are(run: RunFolder) -> None:
    """A dictionary or statistics over random numbers would cost time and space for nothing."""
    run.manifest.append(run.shards.write_vectors("c", "m", 0, ["a", "b"], numbers(2, 4)))
    column = pq.read_metadata(run.path / "c" / "vectors" / "m" / "part-00000.parquet").row_group(0).column(1)
    assert (column.compression, column.has_dictionary_page, column.is_stats_set) == ("UNCOMPRESSED", False, False)


def test_a_missing_shard_is_named(run: RunFolder) -> None:
    """A FileNotFoundError would reach the user."""
    with pytest.raises(OutputError, match=r"vectors/nope/part-00007\.parquet is missing: run the soloist embed"):
        run.shards.read_vectors("c", "nope", 7)


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really"])
def test_a_damaged_shard_is_named(run: RunFolder, content: bytes) -> None:
    """An ArrowInvalid without the file's name would reach the user."""
    run.manifest.append(run.shards.write_chunks("c", 0, [Chunk(id="a", text="x")]))
    (run.path / "c" / "chunks" / "part-00000.parquet").write_bytes(content)
    with pytest.raises(
        OutputError,
        match=r"part-00000\.parquet cannot be read: .*: run the soloist embed command of this run again, which",
    ):
        run.shards.read_shard("c", 0)


def test_hostile_names_stay_inside(run: RunFolder) -> None:
    """A collection or a model called `../..` would write outside of the run folder."""
    for name in ("..", "/abs", "a/../../b", "run.json", "\x00", "~", ""):
        run.manifest.append(run.shards.write_chunks(name, 0, [Chunk(id="a", text=name)]))
        run.manifest.append(run.shards.write_vectors("c", name, 0, ["a"], numbers(1, 2)))
        assert run.shards.read_chunks(name, 0)[0].text == name
        assert run.shards.read_vectors("c", name, 0)[0] == ["a"]
    assert list(run.path.parent.iterdir()) == [run.path]
    assert len(files(run)) == 14 + 1  # with the manifest


@pytest.mark.parametrize("name", ["../run.json", "/x.json", ".x.json", "a/b.json", "run.txt", "", "a\\b.json"])
def test_write_json_takes_plain_names_only(run: RunFolder, name: str) -> None:
    """A JSON file would be written outside of the run folder."""
    with pytest.raises(ValueError, match="is not a plain name of a JSON file"):
        run.write_json(name, {})


def test_a_negative_shard_is_refused(run: RunFolder) -> None:
    """A shard would be written that `shards` does not list."""
    with pytest.raises(ValueError, match="shard index -1 is negative"):
        run.manifest.append(run.shards.write_chunks("c", -1, []))


def test_json_is_strict_and_readable(run: RunFolder) -> None:
    """NaN would make a file that other readers refuse; a path that is not UTF-8 would end the run."""
    run.write_json("run.json", {"é": [1, "caf\udce9", None]})
    text = (run.path / "run.json").read_text(encoding="utf-8")
    assert "é" in text and text.endswith("}\n")
    assert json.loads(text) == run.read_json("run.json") == {"é": [1, "caf\udce9", None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        run.write_json("bad.json", float("nan"))
    assert files(run) == ["run.json"]


def test_a_damaged_json_file_is_named(run: RunFolder) -> None:
    """A JSONDecodeError without the file's name would reach the user."""
    (run.path / "run.json").write_text("{")
    with pytest.raises(
        OutputError, match=r"run\.json cannot be read .*: run the soloist embed command of this run again"
    ):
        run.read_json("run.json")


def test_skipped_rows_are_one_object_a_line(run: RunFolder) -> None:
    """A detail with a line end would break the file in two."""
    with skipped_log(run.path) as skipped:
        skipped.append(SkippedInput(collection="c", file=Path("é\udce9.json"), index=3, reason="empty text"))
        skipped.append(
            SkippedInput(collection="c", file=Path("b"), index=None, reason="unreadable file", detail="a\nb")
        )
        assert not (run.path / "skipped.jsonl").exists()
    lines = (run.path / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"collection": "c", "file": "é\udce9.json", "index": 3, "reason": "empty text", "detail": ""},
        {"collection": "c", "file": "b", "index": None, "reason": "unreadable file", "detail": "a\nb"},
    ]


def test_the_skipped_file_is_there_when_nothing_was_skipped(run: RunFolder) -> None:
    """A reader could not tell `nothing was skipped` from `nobody wrote it down`."""
    with skipped_log(run.path):
        pass
    assert (run.path / "skipped.jsonl").read_bytes() == b""


def test_a_scan_that_fails_leaves_no_skipped_file_and_its_own_error(run: RunFolder) -> None:
    """A chunk file that cannot be read would be reported as `cannot write skipped.jsonl`."""
    with pytest.raises(FileNotFoundError), skipped_log(run.path):
        (run.path / "missing").read_text()
    assert files(run) == []


def test_where_nothing_can_be_written_no_run_is_at_work(run: RunFolder) -> None:
    """`soloist status` said of every finished run on a read-only disk that it was at work."""
    assert not run.is_locked()
    with run.locked():
        assert run.is_locked()
    (run.path / ".lock").unlink(missing_ok=True)
    (run.path / ".lock").mkdir()  # as good as a disk that takes no file, also for root
    assert not run.is_locked()
    with pytest.raises(OutputError, match="cannot write"), run.locked():
        pass


def test_a_folder_at_work_is_refused_in_words(run: RunFolder) -> None:
    """The lock's own error is an OSError, and was taken for one of the disk."""
    with (
        run.locked(),
        pytest.raises(OutputError, match=r"another run, process \d+, is writing to .*: wait"),
        run.locked(),
    ):
        pass


def test_a_run_keeps_its_identity(tmp_path: Path) -> None:
    """Rows that it has exported would be taken for those of another run, or those of two runs for one's."""
    run, other = RunFolder.create(tmp_path / "run"), RunFolder.create(tmp_path / "other")
    for each in (run, other):
        each.finish({"models": [], "fusion": None})
    drawn = run.identity()
    assert len(drawn) == 32 and drawn != other.identity()
    run.reopen()
    run.finish({"models": [], "fusion": "another"})
    assert run.identity() == drawn
    (run.path / "id.json").unlink()  # as an earlier version left it
    assert run.identity() == RunFolder.open(run.path).identity() != drawn


@pytest.mark.parametrize("content", ["{", "[]", '{"id": "x"}'])
def test_a_damaged_identity_is_a_sentence_and_is_mended(tmp_path: Path, content: str) -> None:
    """Half an id would be an id, and every export another run's."""
    run = RunFolder.create(tmp_path / "run")
    run.finish({})
    (run.path / "id.json").write_text(content)
    with pytest.raises(OutputError, match=r"id.json .*run the soloist embed command of this run again"):
        run.identity()
    run.finish({})
    assert len(run.identity()) == 32
