"""The same rows as a file of every format, as its usual writers lay it out."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

Rows = list[dict[str, Any]]


def json_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def delimited(rows: Rows, separator: str, end: str = "\r\n") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), delimiter=separator, lineterminator=end)
    writer.writeheader()
    writer.writerows({**row, "metadata": json.dumps(row["metadata"])} for row in rows)
    return file.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def arrow(writer: Any, rows: Rows, compression: str | None = None, text: str = "") -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    if text:
        values = table["text"].dictionary_encode() if text == "dictionary" else table["text"].cast(pa.string_view())
        table = table.set_column(table.schema.get_field_index("text"), "text", values)
    with writer(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as out:
        out.write_table(table, max_chunksize=2)
    return sink.getvalue()


def feather_file(rows: Rows) -> bytes:
    sink = io.BytesIO()
    feather.write_feather(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, "zstd", asbytes=True))


BOM = b"\xef\xbb\xbf"
PACKERS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstd}
KINDS: dict[str, Callable[[Rows], bytes]] = {
    "list_chunks.json": lambda rows: json.dumps(rows).encode(),
    "chunks.json": lambda rows: json.dumps({"n": 1, "data": rows}, indent=1).encode(),
    "lines_chunks.json": json_lines,
    "spread_chunks.json": lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows).encode(),
    "marked_chunks.json": lambda rows: BOM + json_lines(rows),
    "a.jsonl": json_lines,
    "blank.ndjson": lambda rows: b"\n \n" + json_lines(rows).replace(b"\n", b"\r\n\n"),
    "returns.jsonl": lambda rows: json_lines(rows).replace(b"\n", b"\r"),
    "a.csv": lambda rows: delimited(rows, ","),
    "marked.csv": lambda rows: BOM + delimited(rows, ",", "\n"),
    "sheet.csv": lambda rows: delimited(rows, ";"),
    "tabs.csv": lambda rows: delimited(rows, "\t"),
    "old.csv": lambda rows: delimited(rows, ",", "\r"),
    "a.tsv": lambda rows: delimited(rows, "\t", "\n"),
    "a.parquet": parquet,
    "stream.arrow": lambda rows: arrow(pa.ipc.new_stream, rows),
    "file.arrow": lambda rows: arrow(pa.ipc.new_file, rows),
    "packed.arrow": lambda rows: arrow(pa.ipc.new_stream, rows, "zstd"),
    "words.arrow": lambda rows: arrow(pa.ipc.new_file, rows, "lz4", "dictionary"),
    "views.arrow": lambda rows: arrow(pa.ipc.new_stream, rows, None, "views"),
    "a.feather": feather_file,
}
