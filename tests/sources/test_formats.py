"""The same rows in every format and packing are the same chunks; what a file is packed with is told by its content."""

from __future__ import annotations

import csv
import decimal
import gzip
import io
import json
import lzma
import struct
import tempfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.chunk_kinds import KINDS, PACKERS, arrow, delimited, json_lines, parquet, zstd

from soloist.config import SourceConfig
from soloist.errors import BadChunkFileError
from soloist.formats import COMPRESSIONS, DEFAULT_FILE_PATTERNS, FORMATS, format_of, uncompressed_name
from soloist.sources import lines, read_chunks
from soloist.sources.readers import READERS
from soloist.types import Chunk, Collection, SkippedInput


def read(file: Path, content: bytes | None = None, **config: Any) -> tuple[list[Chunk], list[SkippedInput]]:
    if content is not None:
        file.write_bytes(content)
    skipped: list[SkippedInput] = []
    collection = Collection(name="C", root=file.parent, files=(file,))
    return [chunk for chunk, _ in read_chunks(collection, SourceConfig(**config), skipped.append)], skipped


def refused(file: Path, content: bytes | None = None, **config: Any) -> str:
    with pytest.raises(BadChunkFileError) as caught:
        read(file, content, **config)
    message = str(caught.value)
    assert message.isprintable() and str(file) in message
    return message


ROWS = [{"id": f"r{n}", "text": f'text {n}, "quoted";\nnext\tline é', "metadata": {"page": n}} for n in range(5)]
CHUNKS = [Chunk(id=row["id"], text=row["text"], metadata=row["metadata"]) for row in ROWS]


@pytest.mark.parametrize("name", KINDS)
def test_the_same_rows_in_every_format_are_the_same_chunks(tmp_path: Path, name: str) -> None:
    """A format would lose or change a text, an id or the metadata; or a packed file be read otherwise."""
    content = KINDS[name](ROWS)
    assert read(tmp_path / name, content) == (CHUNKS, [])
    if format_of(name).is_text:
        for ending, packed in PACKERS.items():
            assert read(tmp_path / (name + ending.upper()), packed(content)) == (CHUNKS, [])
        assert read(tmp_path / f"{name}.gz", gzip.compress(content[:40]) + gzip.compress(content[40:]))[0] == CHUNKS


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=6, unique_by=lambda row: row[0]))
def test_any_texts_are_the_same_in_every_format(rows: list[tuple[str, str, str]]) -> None:
    """A quote, a separator or a line end in a text would move the border of a field or of a row."""
    items = [{"id": id_, "text": text, "metadata": {"note": note}} for id_, text, note in rows]
    expected = [Chunk(id=id_, text=text, metadata={"note": note}) for id_, text, note in rows]
    with tempfile.TemporaryDirectory() as root:
        for name in ("a.csv", "a.tsv", "a.jsonl", "lines_chunks.json", "stream.arrow", "views.arrow"):
            # A lone carriage return is a line end where the first line of a table has no other.
            assert read(Path(root) / name, KINDS[name](items))[0] == expected, name


def test_every_format_has_a_reader_and_names(tmp_path: Path) -> None:
    """A new row of one table would be without its row of the other."""
    assert set(READERS) == {format_.name for format_ in FORMATS}
    assert DEFAULT_FILE_PATTERNS == (
        "*_chunks.json", "chunks.json", "*.jsonl", "*.ndjson", "*.csv", "*.tsv", "*.parquet", "*.arrow", "*.feather",
    )  # fmt: skip
    assert set(COMPRESSIONS) == set(PACKERS)
    assert uncompressed_name("A_Chunks.JSON.GZ") == "a_chunks.json"


@pytest.mark.parametrize(("ending", "packed"), PACKERS.items())
def test_a_packed_file_that_is_cut_off_or_damaged_is_a_fault(tmp_path: Path, ending: str, packed: Any) -> None:
    """Half of a download would pass for the whole."""
    content = packed(b"".join(b'{"text": "text number %d"}\n' % (number * 7919) for number in range(4_000)))
    file = tmp_path / f"a.jsonl{ending}"
    for broken in (content[: len(content) // 2], content[:-1], content[:-9], content + b"more"):
        assert "is damaged or cut off: it cannot be decompressed (" in refused(file, broken)
    chunks, (skip,) = read(file, content[: len(content) // 2], on_bad_input="skip")
    assert skip.detail.endswith(f"; {len(chunks)} of its chunks were read before and kept")


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl", "a.csv.bz2"])
def test_what_packs_a_file_is_told_by_its_content(tmp_path: Path, name: str) -> None:
    """A file that was packed or unpacked under another name would be refused, or read as noise."""
    plain = delimited(ROWS, ",") if "csv" in name else json_lines(ROWS)
    skipped_frame = b"\x50\x2a\x4d\x18\x04\0\0\0size"  # as pzstd puts before each frame of a file
    for content in (gzip.compress(plain), zstd(plain), skipped_frame + zstd(plain), plain):
        assert read(tmp_path / name, content)[0] == CHUNKS


def archive(content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as out:
        out.writestr("a.jsonl", content)
    return sink.getvalue()


FOREIGN: list[tuple[str, bytes, str]] = [
    ("a.jsonl.gz", archive(b"{}"), "is not JSON Lines but a ZIP archive: unpack it"),
    ("a.jsonl", lzma.compress(b"{}"), "is not JSON Lines but compressed with xz: decompress it, or use gzip"),
    (
        "a.jsonl.gz",
        gzip.compress(parquet(ROWS)),
        "is not JSON Lines compressed with gzip but Parquet: rename it to end in .parquet",
    ),
    ("a_chunks.json", arrow(pa.ipc.new_file, ROWS), "is not JSON but Arrow: rename it to end in .arrow"),
    ("a.csv", "text\na".encode("utf-16"), "is not CSV but text in UTF-16: save it as UTF-8"),
    ("a.csv", "text\na".encode("utf-16-le"), "is not text in UTF-8: its first line has a zero byte"),
    ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid", "but a pointer of Git LFS: fetch the file itself"),
    ("a_chunks.json", b"<!DOCTYPE html><html>", "is not JSON but an HTML page: download the file itself"),
    (
        "a.jsonl.gz",
        gzip.compress(gzip.compress(b"{}")),
        "is compressed twice, with gzip and again with gzip: decompress it once",
    ),
    ("a.jsonl.gz", b"\x1e\x8b\x08\0\0\0", "is neither compressed with gzip, as its name says, nor text"),
    ("a.parquet", gzip.compress(b"{}"), "is not Parquet but compressed with gzip: decompress it"),
    ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid", "is not Parquet but a pointer of Git LFS"),
    ("a.parquet", b"PAR1", "cannot be read as Parquet from row 0 on"),
    ("a.arrow", gzip.compress(b"{}"), "is not Arrow but compressed with gzip: decompress it"),
    ("a.feather", parquet(ROWS), "is not Arrow but Parquet: rename it to end in .parquet"),
    ("a.jsonl", json.dumps(ROWS, indent=1).encode(), "is one JSON document over several lines, not one object a line"),
    ("a.csv", b"text\n\xe4hnlich\n", "row 0 of {file} is not UTF-8 (at line 2; "),
    ("a.csv", b"text,gr\xf6\xdfe\na,1\n", "is not UTF-8 in its header: save the file as UTF-8"),
    ("a.csv", b"text;id\na,b;1\n", ""),
    (
        "a.csv",
        b"body;id\na;1\n",
        "has no column 'text', only 'body', 'id' (give --text-field to name another column)",
    ),
    ("a.csv", b'\xef\xbb\xbf"text";"id"\r\n"a,b";"1"\r\n', ""),  # a sheet whose texts are all in quotes
    ("a.csv", b"sep=;\r\ntext;id\r\na,b;1\r\n", ""),  # Excel's own first line
    ("a.csv", b'\xef\xbb\xbf"sep=|"\r\n"text"|"id"\r\na,b|1\r\n', ""),
    ("a.csv", b'"text"x;"id"\n"a";1\n', "has no header: its first line has text after the closing quote of field 1"),
    (
        "a_chunks.json",
        b'{"body": "b", "id": 1}',
        "no text in 'text' (its first fields are 'body', 'id'; give --text-field",
    ),
    ("a.jsonl", b'[{"text": "a"}, {"text": "b"}]\n', "is a list of chunks in line 1, not one object: rename it"),
    ("a.jsonl", b'{"text": "a"},\n{"text": "b"},\n', "chunk 0 of {file} has a comma after it at line 1, column 14: re"),
    (
        "a.jsonl",
        b'{"text": "a", "n": 1, "page": NaN}\n',
        "NaN or infinity in 'page', and JSON has neither: write null",
    ),
    ("a.csv", b'\xef\xbb\xbf\xef\xbb\xbftext,id\r\n"a,b",1\r\n', ""),  # two marks
    (
        "a.csv",
        b"text,id\na,1\n\xef\xbb\xbftext,id\nb,1\n",
        "row 1 of {file} repeats the header (at line 3)",
    ),
    (
        "a.tsv",
        b'id\ttext\n1\t"a\n2\tb\n3\tc"\n',
        "opens at line 2 and is still open at line 3, which looks like a new row",
    ),  # as MS MARCO has its quotes
    ("a.csv", b"text,id,id\na,1,2\n", "has several columns with the same name ('id')"),
    ("a.csv", b'text,id\na,1\n"b,2\nc,3\n', "has a quote that opens at line 3 and never closes"),
    ("a.csv", b'text,id\n"a" b,1\n', "row 0 of {file} has text after the closing quote of field 1"),
    ("a.csv", b"text,id\na\n", "row 0 of {file} has 1 field, but the header has 2 (at line 2)"),
    ("a.feather", b"FEA1" + bytes(100), "is Feather version 1, which is not supported"),
    ("a.arrow", arrow(pa.ipc.new_file, ROWS)[:-20], "is cut off: it begins as an Arrow file, but does not end as one"),
    ("a.arrow", arrow(pa.ipc.new_stream, ROWS)[:-300], "is damaged or cut off: a "),
    ("a.arrow", b"\xff" * 40, "is damaged or cut off: a message goes beyond the end of the file"),
]


# By number: a packed file has the time in it, and each process of a test run would have tests of other names.
@pytest.mark.parametrize(("name", "content", "sentence"), FOREIGN, ids=map(str, range(len(FOREIGN))))
def test_a_file_that_is_something_else_is_told(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    """The error would be of a byte in the midst of noise, and not say what the file is."""
    file = tmp_path / name
    if sentence:
        assert sentence.format(file=file) in refused(file, content)
    else:
        assert [chunk.text for chunk in read(file, content)[0]] == ["a,b"]


def test_what_only_looks_like_joined_files_or_plain_quotes_is_kept(tmp_path: Path) -> None:
    """A text of the same letters as the header, a mark within a text or a quoted text over lines would be refused."""
    assert [chunk.text for chunk in read(tmp_path / "a.csv", b"text\ntext\n")[0]] == ["text"]
    table = b'id\ttext\n1\t"a\nb\tc"\n2\t\xef\xbb\xbfd\n3\t"e ""f""\n4\tg"\n'
    assert [chunk.text for chunk in read(tmp_path / "a.tsv", table, file_patterns=("*",))[0]] == [
        "a\nb\tc",
        "\ufeffd",
        'e "f"\n4\tg',
    ]
    lines = b'{"text": "a"}\n\xef\xbb\xbf{"text": "b"}\n'  # two files with a mark each, one behind the other
    assert [chunk.text for chunk in read(tmp_path / "a.jsonl", lines)[0]] == ["a", "b"]


def test_empty_and_unnamed_columns_and_blank_lines_of_a_table(tmp_path: Path) -> None:
    """A spreadsheet's empty columns, or the index that pandas writes, would make a sound file unreadable."""
    content = b'\r\n,text,,id,\r\n0,a,,1,\r\n\r\n1,"",,2,\r\n2,007,,3,x\r\n'
    chunks, (skip,) = read(tmp_path / "a.csv", content)
    assert chunks == [
        Chunk(id="1", text="a", metadata={"column 1": "0"}),
        Chunk(id="3", text="007", metadata={"column 1": "2", "column 5": "x"}),
    ]
    assert (skip.index, skip.reason) == (1, "empty text")
    for empty in (b"", b"\n", b"text\n"):
        assert [item.reason for item in read(tmp_path / "a.csv", empty)[1]] == ["no chunks"]


@given(st.lists(st.lists(st.text('a",\n;é', max_size=6), min_size=2, max_size=2), max_size=6))
def test_tables_are_read_as_python_reads_them(rows: list[list[str]]) -> None:
    """An independent reader would find other fields in the same bytes."""
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["text", "n"], *rows])
    table = file.getvalue()
    expected = [row for row in list(csv.reader(io.StringIO(table, newline="")))[1:] if row[0].strip()]
    with tempfile.TemporaryDirectory() as root:
        chunks, _ = read(Path(root) / "a.csv", table.encode())
    assert [[chunk.text, chunk.metadata["n"]] for chunk in chunks] == expected


def test_one_object_with_a_text_is_one_chunk_whatever_lists_it_has(tmp_path: Path) -> None:
    """The parts of the chunk would be embedded in place of its text."""
    item = {"id": "door", "text": "How the door is put together.", "items": ["bolt", "nut"], "chunks": []}
    for content in (json.dumps(item), json.dumps(item, indent=1)):
        (chunk,), _ = read(tmp_path / "a_chunks.json", content.encode())
        assert (chunk.id, chunk.text, chunk.metadata["items"]) == ("door", item["text"], ["bolt", "nut"])
    for text in ("null", '" "', "5"):  # which is not text, so the list has the chunks
        content = f'{{"text": {text}, "items": ["bolt", "nut"]}}'.encode()
        assert [chunk.text for chunk in read(tmp_path / "a_chunks.json", content)[0]] == ["bolt", "nut"]
    body = b'{"body": "b", "items": ["x"]}'
    assert [chunk.text for chunk in read(tmp_path / "a_chunks.json", body, text_field="body")[0]] == ["b"]


def test_a_bomb_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed file of some kilobytes would take a machine's memory."""
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 3_000_000)
    monkeypatch.setattr("soloist.sources.json_stream.MAX_VALUE_CHARS", 3_000_000)
    monkeypatch.setattr("soloist.sources.csv_files.MAX_LINE_BYTES", 3_000_000)
    monkeypatch.setitem(lines.read_lines.__kwdefaults__, "max_bytes", 3_000_000)
    spaces, zeros = b" " * 40_000_000, b"a" * 40_000_000
    cases = {
        "a.jsonl.gz": (b'{"text": "' + zeros + b'"}\n"b"\n', "is too large: line 1 has more than "),
        "a_chunks.json.gz": (
            b'["' + zeros + b'"]',
            "has a value of more than 3,000,000 characters at line 1, column 2",
        ),
        "b_chunks.json.gz": (b'{"n": "' + zeros + b'"}', "has a value of more than 3,000,000 characters"),
        "a.csv.gz": (b'text\n"' + zeros + b'"\n', "is too large: line 2 has more than 3 MB"),
        "b.csv.gz": (b"text\n" + zeros + b"\nb\n", "is too large: line 2 has more than "),
        "c.csv.gz": (
            b'text\n"' + b"a few words\n" * 300_000 + b'"\n',
            "has a quote that opens at line 2 and never clo",
        ),
        "b.jsonl.gz": (spaces + b'\n"b"\n', "is too large: line 1 has more than "),
    }
    for name, (content, _) in cases.items():
        (tmp_path / name).write_bytes(gzip.compress(content, 1))
    del spaces, zeros
    sentences = {name: sentence for name, (_, sentence) in cases.items()}
    cases.clear()
    del content
    tracemalloc.start()
    try:
        for name, sentence in sentences.items():
            assert sentence in refused(tmp_path / name)
        chunks, _ = read(tmp_path / "a.jsonl.gz", on_bad_input="skip")
        assert [chunk.text for chunk in chunks] == ["b"]
        assert tracemalloc.get_traced_memory()[1] < 25_000_000
    finally:
        tracemalloc.stop()


def test_a_batch_of_arrow_that_does_not_fit_is_told_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of a kilobyte would take gigabytes: a batch, or a dictionary, is in memory whole."""
    monkeypatch.setattr("soloist.sources.arrow_messages.MAX_BATCH_BYTES", 5_000_000)
    large = [{"text": "a" * 3_000_000}, {"text": "b" * 3_000_000}]
    for name, text in (("plain", ""), ("dictionary", "dictionary")):
        for writer in (pa.ipc.new_stream, pa.ipc.new_file):
            for compression in (None, "zstd", "lz4"):
                content = arrow(writer, large, compression, text)
                assert compression != "zstd" or len(content) < 10_000
                assert "batch of rows that takes 0.0 GB" in refused(tmp_path / f"{name}.arrow", content), compression
    small = [{"text": "a" * 1000}] * 6000  # 6 MB in 3,000 batches
    assert len(read(tmp_path / "a.arrow", arrow(pa.ipc.new_stream, small, "zstd"))[0]) == 6000


def test_views_and_dictionaries_of_one_long_text_cost_no_more_than_it(tmp_path: Path) -> None:
    """Thousands of rows that all say the same bytes would be copies of it all at once."""
    one = pa.array(["a" * 1_900_000])
    texts = {"dictionary": pa.DictionaryArray.from_arrays(pa.array([0] * 150, pa.int32()), one)}
    data = pa.py_buffer(b"a" * 1_900_000)
    views = pa.py_buffer(struct.pack("<i4sii", 1_900_000, b"aaaa", 0, 0) * 150)
    texts["view"] = pa.Array.from_buffers(pa.string_view(), 150, [None, views, data])
    for name, array in texts.items():
        table = pa.table({"text": array})
        file = tmp_path / f"{name}.arrow"
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
            out.write_table(table)
        tracemalloc.start()
        try:
            collection = Collection(name="C", root=tmp_path, files=(file,))
            assert sum(1 for _ in read_chunks(collection, SourceConfig(), print)) == 150
            assert tracemalloc.get_traced_memory()[1] < 150_000_000, name
        finally:
            tracemalloc.stop()


def test_columns_of_unions_and_of_runs_are_refused(tmp_path: Path) -> None:
    """A few bytes stand for any number of values in them."""
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["x"]))
    union = pa.UnionArray.from_dense(pa.array([0, 0], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array(["x"])])
    for column in (runs, union, pa.StructArray.from_arrays([union], ["u"])):
        table = pa.table({"text": ["a", "b"], "odd": column})
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as out:
            out.write_table(table)
        assert "has columns of a union or run-end encoded type ('odd'), which are not supported" in refused(
            tmp_path / "a.arrow", sink.getvalue()
        )


@pytest.mark.parametrize("kind", ["a.parquet", "stream.arrow"])
def test_ids_of_every_type_of_column(tmp_path: Path, kind: str) -> None:
    """1.0 would be another id than 1, or a chunk get an id that its maker does not know."""
    numbers: dict[str, Any] = {
        "int8": pa.array([1, 2], pa.int8()), "uint64": pa.array([1, 2], pa.uint64()), "double": pa.array([1.0, 2.0]),
        "half": pa.array([1, 2], pa.float16()), "decimal": pa.array([decimal.Decimal("1.00"), decimal.Decimal(2)]),
        "text": ["1", "2"], "dictionary": pa.array(["1", "2"]).dictionary_encode(),
    }  # fmt: skip
    for name, column in numbers.items():
        assert [chunk.id for chunk in read(tmp_path / kind, table(kind, id=column))[0]] == ["1", "2"], name
    bad: dict[str, tuple[Any, str]] = {
        "1.5": (pa.array([1.0, 1.5]), "row 1 of {file} has no id: its 'id' is 1.5, not a string or a whole number"),
        "nan": (pa.array([1.0, float("nan")]), "row 1 of {file} has no id: its 'id' is nan, not"),
        "true": (pa.array([True, False]), "row 0 of {file} has no id: its 'id' is true, not"),
        "bytes": (pa.array([b"abc", b"d"]), "row 0 of {file} has no id: its 'id' is the bytes YWJj, not"),
        "list": (pa.array([[1], [2]]), "row 0 of {file} has no id: its 'id' is [1], not"),
        "date": (
            pa.array([1, 2], pa.date32()),
            "row 0 of {file} has no id: its 'id' is the date or time 1970-01-02, not",
        ),
        "decimal": (pa.array([decimal.Decimal("1.5")] * 2), "row 0 of {file} has no id: its 'id' is 1.5, not"),
        "null": (pa.array([1, None]), "row 1 of {file} has no id: its 'id' is null, and other chunks of the file have"),
        "null first": (pa.array([None, 1]), "row 0 of {file} has no id: its 'id' is null, and other chunks of the fi"),
        "empty": (
            pa.array(["", "x"]),
            "row 0 of {file} has no id: its 'id' is empty, and other chunks of the file have",
        ),
    }
    for name, (column, sentence) in bad.items():
        file = tmp_path / kind
        assert sentence.format(file=file) in refused(file, table(kind, id=column)), name
        chunks, skipped = read(file, on_bad_input="skip")
        assert {item.reason for item in skipped} == {"not a chunk"} and len(chunks) + len(skipped) == 2, name
    nested = pa.array([{"chunk_id": 1.5}, {"chunk_id": 2.0}])
    assert "its metadata's 'chunk_id' is 1.5, not" in refused(tmp_path / kind, table(kind, metadata=nested))


def table(kind: str, **columns: Any) -> bytes:
    made = pa.table({"text": ["a", "b"], **columns})
    sink = io.BytesIO()
    if kind.endswith(".parquet"):
        pq.write_table(made, sink)
    else:
        with pa.ipc.new_stream(sink, made.schema) as out:
            out.write_table(made)
    return sink.getvalue()


def test_a_field_of_ids_that_is_empty_throughout_is_none(tmp_path: Path) -> None:
    """A tool that writes null for every id would make files that nobody can read."""
    derived, _ = read(tmp_path / "a.jsonl", b'{"text": "a"}\n{"text": "b"}\n')
    nulls, _ = read(tmp_path / "a.jsonl", b'{"text": "a", "id": null}\n{"text": "b", "id": ""}\n')
    assert [chunk.id for chunk in nulls] == [chunk.id for chunk in derived]


@pytest.mark.parametrize("missing", ["null", "left out"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_a_chunk_without_an_id_among_others_with_one_is_no_chunk(tmp_path: Path, missing: str, first: bool) -> None:
    """Its derived id would be none that its maker knows, and be another after the file is sorted anew."""
    without = b'{"text": "a", "id": null}\n' if missing == "null" else b'{"text": "a"}\n'
    content = b"".join(sorted([without, b'{"text": "b", "id": "x"}\n'], key=lambda line: (line == without) != first))
    assert "has no id" in refused(tmp_path / "a.jsonl", content)
    chunks, (skip,) = read(tmp_path / "a.jsonl", content, on_bad_input="skip")
    assert ([chunk.id for chunk in chunks], skip.index) == (["x"], 0 if first else 1)
    assert skip.detail.endswith("other chunks of the file have one")
