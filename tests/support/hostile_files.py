"""Hostile chunk files from a seed: the same seed makes the same file, wherever and whenever.

Half of them are well-formed files that hold values at the borders of what JSON, Arrow and Python hold; the other
half are such files with bytes flipped, cut, inserted or spliced, and plain noise.
"""

from __future__ import annotations

import bz2
import csv
import datetime
import functools
import gzip
import io
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

_EXTENSIONS = ("json", "jsonl", "parquet")
_MORE_EXTENSIONS = ("csv", "tsv", "arrow", "feather", "jsonl.gz", "json.zst", "csv.bz2", "ndjson.zst")
# Read as the format that the ending says, by --file-patterns of the tests.
_ODD_ENDINGS = ("JSON", "Jsonl", "ndjson", "PARQUET", "gz", "txt")
_TOKENS = (
    b'"', b"\\", b"[", b"]", b"{", b"}", b",", b":", b"\n", b"\r\n", b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b"\\ud800", b"\\udc00", b"\\u00", b"NaN", b"-Infinity", b"1e999", b"-", b"9" * 400, b"1" * 5000,
    b'{"text":', b'"text": null,', b'"id": 1,', b'{"chunks": [', b"\xe2\x80\xa8", b"\x1b[2J", b"PAR1",
)  # fmt: skip
_TEXTS = (
    "A lease gives one model every device.", "", " \n\t", "\u3000", "\u200b", "\x00", "\x1b[31m", "\ufeff", "\ufffe",
    "e\u0301" * 50, "\U0001f600", "\u2028", "\\", '"', "'; DROP TABLE chunks; --", "line\nline\r\n", "\u202etxt.exe",
    "\ud800", "ok \udfff", "\ud83d\ude00", "word " * 700,
)  # fmt: skip
_NUMBERS = (
    0, -1, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**400, 10**4299, 0.1, -0.0, 5e-324, 1.7e308, math.nan,
    math.inf, -math.inf,
)  # fmt: skip
_NAMES = (
    "text", "id", "chunk_id", "_id", "metadata", "title", "", "a\nb", "\ud800", "__proto__", "k" * 300, "ünïcode",
)  # fmt: skip
_DEPTHS = (1, 2, 20, 90, 98, 99, 100, 101, 400, 900, 950, 970, 985, 995, 1100, 10_000)
# More than the buffer of the JSON reader, so that values are cut at its end.
_LARGE_BYTES = 1_300_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileFile:
    """The name and the content of one file, and the seed that makes it again."""

    seed: int
    name: str
    content: bytes


def hostile_file(seed: int) -> HostileFile:
    """The file of a seed."""
    random_ = random.Random(seed)
    format_ = random_.choice(_EXTENSIONS)
    ending = random_.choice(_ODD_ENDINGS) if random_.random() < 0.1 else format_
    # Drawn apart, so that the seeds of before make the files of before.
    more = random.Random(f"format {seed}")
    if more.random() < 0.25:
        ending = format_ = more.choice(_MORE_EXTENSIONS)
    content = _noise(random_) if random_.random() < 0.05 else _well_formed(random_, format_)
    if random_.random() < 0.5:
        content = _mutated(random_, content)
    if random_.random() < 0.05:
        content = gzip.compress(content, compresslevel=1, mtime=0)
    return HostileFile(seed=seed, name=f"{seed}.{ending}", content=content)


def _packed(random_: random.Random, format_: str) -> bytes:
    """A text format, compressed as its ending says or as another does."""
    plain, _, ending = format_.rpartition(".")
    content = _well_formed(random_, plain)
    if random_.random() < 0.3:
        content = _mutated(random_, content)
    return _PACKERS[ending if random_.random() < 0.8 else random_.choice(list(_PACKERS))](content)


_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda content: gzip.compress(content, compresslevel=1, mtime=0),
    "bz2": bz2.compress,
    "zst": lambda content: bytes(pa.compress(content, "zstd", asbytes=True)),
}


def _csv(random_: random.Random, separator: str) -> bytes:
    """A table of texts; most rows are as RFC 4180 wants them."""
    names = ["text", *random_.sample(_NAMES[1:], random_.randrange(4))]
    rows = [names] + [
        [random_.choice((*_TEXTS, "plain", "7", "1.0")) for _ in names] for _ in range(random_.choice((0, 1, 9)))
    ]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, lineterminator=random_.choice(("\n", "\r\n", "\r"))).writerows(rows)
    return file.getvalue().encode("utf-8", "replace")


@functools.cache
def _arrow_files() -> tuple[bytes, ...]:
    """The tables of the Parquet files as streams and files of Arrow, packed and plain, and as views."""
    files = []
    for number, content in enumerate(_parquet_files()):
        table = pq.read_table(io.BytesIO(content))
        sink = io.BytesIO()
        options = pa.ipc.IpcWriteOptions(compression=(None, "lz4", "zstd")[number % 3])
        writer = pa.ipc.new_file if number % 2 else pa.ipc.new_stream
        if number % 4 == 0 and table.schema.field(0).type == pa.string():
            table = table.set_column(0, table.schema.names[0], table.column(0).cast(pa.string_view()))
        with writer(sink, table.schema, options=options) as out:
            out.write_table(table, max_chunksize=20)
        files.append(sink.getvalue())
    return tuple(files)


def _well_formed(random_: random.Random, format_: str) -> bytes:
    if "." in format_:
        return _packed(random_, format_)
    if format_ in ("csv", "tsv"):
        return _csv(random_, "," if format_ == "csv" else "\t")
    if format_ in ("arrow", "feather"):
        return random_.choice(_arrow_files())
    if format_ == "parquet":
        return random_.choice(_parquet_files())
    items = [_item(random_) for _ in range(random_.choice((0, 1, 2, 3, 8, 40)))]
    if random_.random() < 0.03:
        items.insert(random_.randrange(len(items) + 1), _string("long line " * (_LARGE_BYTES // 10)))
    if random_.random() < 0.03:
        items += ['{"text": "one of many"}'] * (_LARGE_BYTES // 23)
    if format_ == "jsonl":
        text = random_.choice(("\n", "\r\n", "\n\n", "\n \t\n")).join(items) + random_.choice(("", "\n", "\r\n"))
    else:
        text = _document(random_, items)
    mark = b"\xef\xbb\xbf" if random_.random() < 0.1 else b""
    return mark + text.encode("utf-8", "surrogatepass" if random_.random() < 0.1 else "replace")


def _document(random_: random.Random, items: list[str]) -> str:
    text = "[" + random_.choice((",", ", ", ",\n  ")).join(items) + "]"
    for _ in range(random_.choice((0, 0, 1, 2))):
        members = [f"{_string(random_.choice(_NAMES))}: {_value(random_, 3)}" for _ in range(random_.randrange(3))]
        key = random_.choice(("chunks", "data", "records", "items", "chunks", "other"))
        members.insert(random_.randrange(len(members) + 1), f'"{key}": {text}')
        text = "{" + ", ".join(members) + "}"
    return text


def _item(random_: random.Random) -> str:
    """One item as JSON text: most are chunks; some repeat a key, some are no objects."""
    if random_.random() < 0.1:
        return _value(random_, 3)
    text = random_.choice(_TEXTS) if random_.random() < 0.2 else f"text {random_.randrange(10**6)}"
    members = [f'"text": {_string(text, random_.random() < 0.5)}']
    if random_.random() < 0.4:
        members.append(f'"id": {random_.randrange(10**9)}')
    for _ in range(random_.choice((0, 1, 1, 3))):
        members.append(f"{_string(random_.choice(_NAMES[4:]))}: {_value(random_, 3)}")
    if random_.random() < 0.1:
        members.append(f"{_string(random_.choice(_NAMES))}: {_value(random_, 2)}")
    random_.shuffle(members)
    return "{" + ", ".join(members) + "}"


def _value(random_: random.Random, levels: int) -> str:
    kind = random_.randrange(8 if levels else 5)
    if kind == 0:
        return random_.choice(("null", "true", "false", "[]", "{}", '""'))
    if kind in (1, 2):
        return _string(random_.choice(_TEXTS), random_.random() < 0.5)
    if kind == 3:
        return json.dumps(random_.choice(_NUMBERS) if random_.random() < 0.2 else random_.randrange(100))
    if kind == 4:
        if random_.random() < 0.8:
            return "[1]"
        depth = random_.choice(_DEPTHS)
        opening, closing = random_.choice((("[", "]"), ('{"d": ', "}")))
        return opening * depth + "0" + closing * depth
    inner = [_value(random_, levels - 1) for _ in range(random_.randrange(4))]
    if kind in (5, 6):
        return "[" + ", ".join(inner) + "]"
    return "{" + ", ".join(f"{_string(random_.choice(_NAMES))}: {value}" for value in inner) + "}"


def _string(text: str, escaped: bool = True) -> str:
    return json.dumps(text, ensure_ascii=escaped)


def _noise(random_: random.Random) -> bytes:
    size = random_.choice((0, 1, 2, 7, 100, 5000))
    return random_.choice(
        (random_.randbytes(size), bytes(size), b"".join(random_.choices(_TOKENS, k=size % 500)), b"\xff\xfe" * size)
    )


def _mutated(random_: random.Random, content: bytes) -> bytes:
    for _ in range(random_.choice((1, 1, 2, 5))):
        content = random_.choice(_MUTATIONS)(random_, content)
    return content


def _flip(random_: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(random_.choice((1, 2, 10)) if content else 0):
        changed[_place(random_, content) % len(content)] ^= 1 << random_.randrange(8)
    return bytes(changed)


def _cut(random_: random.Random, content: bytes) -> bytes:
    return content[: _place(random_, content)]


def _drop(random_: random.Random, content: bytes) -> bytes:
    at = _place(random_, content)
    return content[:at] + content[at + random_.choice((1, 4, 100)) :]


def _insert(random_: random.Random, content: bytes) -> bytes:
    at = _place(random_, content)
    what = random_.choice(_TOKENS) if random_.random() < 0.8 else random_.randbytes(random_.randrange(1, 50))
    return content[:at] + what + content[at:]


def _repeat(random_: random.Random, content: bytes) -> bytes:
    at = _place(random_, content)
    return content[:at] + content[max(0, at - random_.choice((1, 10, 1000))) :]


def _splice(random_: random.Random, content: bytes) -> bytes:
    other = _well_formed(random_, random_.choice(_EXTENSIONS))
    return content[: _place(random_, content)] + other[_place(random_, other) :]


_MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (_flip, _flip, _cut, _drop, _insert, _repeat, _splice)


def _place(random_: random.Random, content: bytes) -> int:
    """A position; often near the end, where Parquet keeps what it is, and JSON its closing brackets."""
    if random_.random() < 0.3:
        return max(0, len(content) - random_.randrange(1, 600))
    return random_.randrange(len(content) + 1)


@functools.cache
def _parquet_files() -> tuple[bytes, ...]:
    """Well-formed Parquet files of the types, encodings and layouts that a chunker may write."""
    texts = [f"text {number} of a table" for number in range(30)]
    moments = pa.array([1_704_164_645_123_456_789 + number for number in range(30)], pa.timestamp("ns", "UTC"))
    inner = pa.array([{"a": number, "b": [str(number)]} for number in range(30)])
    tables: list[tuple[dict[str, object], dict[str, object]]] = [
        ({"text": texts}, {}),
        ({"text": texts, "id": list(range(30)), "score": [math.nan] * 30}, {"compression": "zstd"}),
        ({"text": texts, "metadata": ['{"a": [1]}', '{"a": NaN}', "[" * 2000] * 10}, {"compression": "gzip"}),
        ({"text": texts, "metadata": inner, "when": moments}, {"row_group_size": 7}),
        ({"text": pa.array(texts).dictionary_encode(), "n": [None] * 30}, {"compression": "none"}),
        ({"text": texts, "big": pa.array([10**37] * 30, pa.decimal128(38, 0))}, {"data_page_version": "2.0"}),
        ({"text": texts, "far": pa.array([2**60] * 30, pa.timestamp("ms"))}, {"write_page_index": True}),
        ({"text": texts, "map": pa.array([[("k", 1)]] * 30, pa.map_(pa.string(), pa.int64()))}, {}),
        ({"text": texts, "map": pa.array([[([1], 1)]] * 30, pa.map_(pa.list_(pa.int64()), pa.int64()))}, {}),
        ({"text": pa.array([b"\xff", b"fine"] * 15).view(pa.string()), "raw": [b"\xff\x00"] * 30}, {}),
        ({"text": texts, "x": [datetime.timedelta(days=1)] * 30}, {"use_dictionary": False, "version": "1.0"}),
        ({"text": ["one text"] * 1500, "n": list(range(1500))}, {"write_page_checksum": True}),
        ({"body": texts, "a\nb\x1b[2J": [1] * 30, "k" * 5000: [2] * 30}, {}),
        ({"text": pa.array([], pa.string())}, {}),
        ({"text": [1, 2]}, {}),
    ]
    return tuple(_parquet(pa.table(columns), options) for columns, options in tables)


def _parquet(table: pa.Table, options: dict[str, object]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()
