"""From files to chunks: order, places, skips, and the sentence of each error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soloist.config import SourceConfig
from soloist.errors import BadChunkFileError
from soloist.sources import discover, read_chunks
from soloist.sources.chunk_fields import MAX_TEXT_CHARS
from soloist.types import Chunk, Collection, Place, SkippedInput

REMEDY = "repair it, or leave it out with --on-bad-input skip"
SHARED_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def collection_of(root: Path, **contents: bytes | str) -> Collection:
    """A collection of files that are named and filled by `contents`, their last `_` read as a dot."""
    files = []
    for name, content in contents.items():
        file = root / ".".join(name.rsplit("_", 1))
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        files.append(file)
    return Collection(name="C", root=root, files=tuple(files))


def read(collection: Collection, **config: Any) -> tuple[list[Chunk], list[Place], list[SkippedInput]]:
    skipped: list[SkippedInput] = []
    pairs = list(read_chunks(collection, SourceConfig(**config), skipped.append))
    return [chunk for chunk, _ in pairs], [place for _, place in pairs], skipped


def refused(collection: Collection, **config: Any) -> str:
    with pytest.raises(BadChunkFileError) as caught:
        read(collection, **config)
    return str(caught.value)


ITEMS = [{"text": "a", "id": "1"}, {"text": " b\n", "metadata": {"p": "x\\y"}, "id": "2"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x_json", json.dumps(ITEMS)),
        ("x_json", "\ufeff" + json.dumps(ITEMS, indent=4).replace("\n", "\r\n")),
        *(("x_json", json.dumps({"n": [1], key: ITEMS, "z": {}})) for key in ("chunks", "data", "records", "items")),
        ("x_jsonl", "\n\n".join(map(json.dumps, ITEMS))),
        ("x_JSONL", "\ufeff" + "\r\n".join(map(json.dumps, ITEMS)) + "\r\n"),
        ("x_ndjson", "\n".join(map(json.dumps, ITEMS))),
    ],
)
def test_every_shape_gives_the_same_chunks(tmp_path: Path, name: str, content: str) -> None:
    """A shape that real chunkers write would be refused or read otherwise."""
    collection = collection_of(tmp_path, **{name: content})
    chunks, places, skipped = read(collection)
    assert chunks == [Chunk(id="1", text="a"), Chunk(id="2", text=" b\n", metadata={"p": "x\\y"})]
    assert places == [Place(file=collection.files[0], index=index) for index in (0, 1)]
    assert skipped == []


def test_parquet_gives_text_id_and_metadata(tmp_path: Path) -> None:
    """The columns beside the text would be lost."""
    table = pa.table({"key": [7, 8], "text": ["a", "b"], "metadata": ['{"p": 1}', None], "n": [1, None]})
    pq.write_table(table, tmp_path / "x.parquet")
    collection = Collection(name="C", root=tmp_path, files=(tmp_path / "x.parquet",))
    chunks, places, _ = read(collection, id_field="key")
    assert chunks == [
        Chunk(id="7", text="a", metadata={"p": 1, "n": 1}),
        Chunk(id="8", text="b", metadata={"n": None}),
    ]
    assert [place.index for place in places] == [0, 1]


def test_plain_strings_are_texts_with_derived_ids(tmp_path: Path) -> None:
    """Equal texts would have one id, or an id change with the folder that the collection lies in."""
    ids = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        chunks, _, _ = read(collection_of(tmp_path / folder, x_json='["a", "a"]', y_jsonl='"a"\n'))
        assert [chunk.text for chunk in chunks] == ["a", "a", "a"]
        assert len({chunk.id for chunk in chunks}) == 3
        ids.append([chunk.id for chunk in chunks])
    assert ids[0] == ids[1]


def test_files_come_in_the_order_of_the_collection(tmp_path: Path) -> None:
    """Shards would not be in input order."""
    chunks, _, _ = read(collection_of(tmp_path, b_json='["1", "2"]', a_jsonl='"3"', c_json='["4"]'))
    assert [chunk.text for chunk in chunks] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("mode", ["error", "skip"])
def test_empty_texts_and_empty_files_are_counted(tmp_path: Path, mode: str) -> None:
    """What is left out would not be told, or an index shift."""
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "e.parquet")
    made = collection_of(
        tmp_path, a_json='["", "x", " \\n\\u3000"]', b_json="[]", c_jsonl=" \n\n", d_json='{"data":[]}'
    )
    collection = Collection(name="C", root=tmp_path, files=(*made.files, tmp_path / "e.parquet"))
    chunks, places, skipped = read(collection, on_bad_input=mode)
    assert [(chunk.text, place.index) for chunk, place in zip(chunks, places, strict=True)] == [("x", 1)]
    assert [(skip.file.name, skip.index, skip.reason) for skip in skipped] == [
        ("a.json", 0, "empty text"),
        ("a.json", 2, "empty text"),
        ("b.json", None, "no chunks"),
        ("c.jsonl", None, "no chunks"),
        ("d.json", None, "no chunks"),
        ("e.parquet", None, "no chunks"),
    ]
    assert {skip.collection for skip in skipped} == {"C"}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x_json", '["a",\n "b"', "{file} is not JSON at line 2, column 5 (Expecting ',' or ']'): "),
        ("x_json", b'["\xff"]', "{file} is not UTF-8 at byte 2 (invalid start byte): "),
        ("x_json", "[" * 100_000, "{file} is nested too deeply at line 1, column 2: "),
        (
            "x_json",
            "{}",
            "{file} is an object with no list of chunks under chunks, data, records, items, and no text in",
        ),
        ("x_json", '["a", 5]', "chunk 1 of {file} is not a chunk: it is a number, not an object or a string: "),
        ("x_json", '["\\ud800"]', "chunk 0 of {file} is not a chunk: its 'text' has a lone surrogate at character 0,"),
        (
            "x_json",
            '[{"text": "a", "m": [NaN]}]',
            "chunk 0 of {file} cannot be stored: its metadata has NaN or inf",
        ),
        ("x_jsonl", '"a"\n\n{"b"}', "chunk 1 of {file} is not JSON at line 3, column 5 (Expecting ':' delimiter): "),
        ("x_jsonl", b'"a"\n"\xff"', "chunk 1 of {file} is not UTF-8 at line 2, byte 5 (invalid start byte): "),
        ("x_parquet", "PAR1", "{file} cannot be read as Parquet from row 0 on ("),
    ],
)
def test_a_fault_is_one_sentence_with_file_position_and_remedy(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    """The user would have to search for the fault."""
    collection = collection_of(tmp_path, **{name: content})
    message = refused(collection)
    assert message.startswith(sentence.format(file=collection.files[0]))
    assert message.endswith(f": {REMEDY}")
    assert "\n" not in message


def test_a_bad_row_of_parquet_is_told_as_a_row(tmp_path: Path) -> None:
    """Rows would be looked for as chunks."""
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "x.parquet")
    collection = Collection(name="C", root=tmp_path, files=(tmp_path / "x.parquet",))
    assert refused(collection) == (
        f"row 1 of {tmp_path / 'x.parquet'} is not a chunk: its 'text' is null, not a string: {REMEDY}"
    )


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    """A file that vanishes between discovery and reading would show as a traceback."""
    collection = Collection(name="C", root=tmp_path, files=(tmp_path / "gone.json",))
    assert refused(collection) == f"{tmp_path / 'gone.json'} cannot be read (No such file or directory): {REMEDY}"
    _, _, (skip,) = read(collection, on_bad_input="skip")
    assert (skip.index, skip.reason) == (None, "unreadable file")
    assert skip.detail == "cannot be read (No such file or directory); 0 of its chunks were read before and kept"


def test_skipping_goes_on_and_counts_everything(tmp_path: Path) -> None:
    """A fault would end the run, or something be left out uncounted."""
    collection = collection_of(
        tmp_path,
        a_json='["1", 2, "3", "", oops, "4"]',
        b_jsonl='"5"\n{oops}\n["6"]\n"7"',
        c_parquet="no Parquet",
        d_json='["8"]',
    )
    chunks, places, skipped = read(collection, on_bad_input="skip")
    assert [(chunk.text, place.index) for chunk, place in zip(chunks, places, strict=True)] == [
        ("1", 0), ("3", 2), ("5", 0), ("7", 3), ("8", 0),
    ]  # fmt: skip
    assert [(skip.file.name, skip.index, skip.reason) for skip in skipped] == [
        ("a.json", 1, "not a chunk"),
        ("a.json", 3, "empty text"),
        ("a.json", None, "unreadable file"),
        ("b.jsonl", 1, "not a chunk"),
        ("b.jsonl", 2, "not a chunk"),
        ("c.parquet", None, "unreadable file"),
    ]
    assert skipped[0].detail == "is not a chunk: it is a number, not an object or a string"
    assert skipped[2].detail == (
        "is not JSON at line 1, column 19 (Expecting value); 2 of its chunks were read before and kept"
    )


@pytest.mark.parametrize("is_utf8_long", [False, True])
def test_a_text_that_no_tokenizer_should_be_given_is_told(tmp_path: Path, is_utf8_long: bool) -> None:
    """One text would take all memory, hours into the run; or a text in Greek be too long at half the characters."""
    character = "\u03b1" if is_utf8_long else "a"
    texts = [character * MAX_TEXT_CHARS, character * (MAX_TEXT_CHARS + 1), "b"]
    collection = collection_of(tmp_path, x_json=json.dumps(texts))
    detail = "is too long: its 'text' has 2,000,001 characters, and a chunk may have at most 2,000,000"
    assert refused(collection) == f"chunk 1 of {collection.files[0]} {detail}: {REMEDY}"
    chunks, places, (skip,) = read(collection, on_bad_input="skip")
    assert [(len(chunk.text), place.index) for chunk, place in zip(chunks, places, strict=True)] == [
        (MAX_TEXT_CHARS, 0), (1, 2),
    ]  # fmt: skip
    assert (skip.index, skip.reason, skip.detail) == (1, "text too long", detail)


def test_a_configured_id_must_be_there(tmp_path: Path) -> None:
    """A chunk without the id that was asked for would get another one."""
    collection = collection_of(tmp_path, x_json='[{"text": "a", "key": "k"}, {"text": "b", "id": "i"}]')
    assert refused(collection, id_field="key").startswith(
        f"chunk 1 of {collection.files[0]} has no id: neither it nor its metadata has the id field 'key'"
    )


def test_an_error_of_the_caller_is_not_taken_for_one_of_the_file(tmp_path: Path) -> None:
    """A full disk, met in `on_skip`, would be reported as an unreadable chunk file."""

    def full_disk(skip: SkippedInput) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        list(read_chunks(collection_of(tmp_path, x_json='[""]'), SourceConfig(on_bad_input="skip"), full_disk))


def test_a_read_only_folder_is_enough(tmp_path: Path) -> None:
    """Reading would write beside the chunks, which mounted data sets do not allow."""
    collection_of(tmp_path, x_json='["a"]', y_jsonl='"b"')
    before = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(tmp_path)}
    tmp_path.chmod(0o500)
    try:
        (collection,) = discover(tmp_path, SourceConfig(file_patterns=("*.json", "*.jsonl")))
        assert [chunk.text for chunk in read(collection)[0]] == ["a", "b"]
        assert {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(tmp_path)} == before
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("depth", [300, 700, 900, 950, 1000, 3000])
def test_deep_nesting_beside_the_chunks_is_read_or_told(tmp_path: Path, depth: int) -> None:
    """What is larger than the buffer is passed over level by level, and Python's own stack would overflow."""
    deep = "[" * depth + '"' + "a" * (1 << 20) + '"' + "]" * depth
    collection = collection_of(tmp_path, x_json=f'{{"deep": {deep}, "chunks": ["t"]}}')
    try:
        assert [chunk.text for chunk in read(collection)[0]] == ["t"]
    except BadChunkFileError as exc:
        assert depth > 300
        assert "is nested too deeply" in str(exc)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cut")


@given(st.sampled_from(["x_json", "x_jsonl"]), st.binary(max_size=40))
def test_any_bytes_are_chunks_or_one_kind_of_error(folder: Path, name: str, content: bytes) -> None:
    """A damaged file would end the run with an error that has no remedy."""
    collection = collection_of(folder, **{name: content})
    read(collection, on_bad_input="skip")
    try:
        read(collection)
    except BadChunkFileError as exc:
        assert str(exc).endswith(REMEDY)


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="there is no shared/data beside the checkout")
def test_the_real_collection_is_read_whole() -> None:
    """Files as a real chunker wrote them would be refused or lose chunks."""
    (collection,) = discover(SHARED_DATA / "chunks", SourceConfig())
    chunks, places, skipped = read(collection)
    assert (collection.name, len(collection.files), len(chunks), skipped) == ("Docling", 46, 738, [])
    items = [item for file in collection.files for item in json.loads(file.read_text(encoding="utf-8"))]
    assert [chunk.text for chunk in chunks] == [item["text"] for item in items]
    assert [chunk.id for chunk in chunks] == [item["metadata"]["chunk_id"] for item in items]
    assert all("advanced_scores" in chunk.metadata for chunk in chunks)
    assert sorted({place.file for place in places}) == sorted(set(collection.files))


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="there is no shared/data beside the checkout")
@pytest.mark.parametrize("name", ["code_rag", "cranfield", "docs_rag"])
def test_a_real_corpus_in_the_beir_layout_is_read_without_its_queries(name: str) -> None:
    """Queries would be embedded among the documents, or the documents' ids not fit the judgements."""
    (collection,) = discover(SHARED_DATA / name, SourceConfig())
    chunks, _, _ = read(collection)
    lines = (SHARED_DATA / name / "corpus.jsonl").read_text(encoding="utf-8").split("\n")
    items = [item for item in map(json.loads, filter(None, lines)) if item["text"].strip()]
    assert [(chunk.id, chunk.text) for chunk in chunks] == [(item["_id"], item["text"]) for item in items]


@pytest.mark.process
def test_a_file_that_memory_is_too_small_for_is_no_bad_input(tmp_path: Path) -> None:
    """With --on-bad-input skip, the rest of a sound file was passed over as damaged."""
    folder = tmp_path / "texts"
    folder.mkdir()
    table = pa.table({"text": [f"{n} " * 100_000 for n in range(400)]})  # 200 MB in one row group
    pq.write_table(table, folder / "a.parquet", compression="zstd", use_dictionary=False)
    script = """
import resource, sys
from pathlib import Path
import pyarrow.parquet, pyarrow.compute
from soloist.config import SourceConfig
from soloist.errors import BadChunkFileError
from soloist.sources import discover, read_chunks
(collection,) = discover(Path(sys.argv[1]), SourceConfig())
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 50_000_000,) * 2)
try:
    print(sum(1 for _ in read_chunks(collection, SourceConfig(on_bad_input="skip"), print)))
except BadChunkFileError as exc:
    print(exc)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert (
        "a.parquet does not fit into memory: reading stopped at its row 0. Use a machine with more memory"
        in done.stdout
    )
