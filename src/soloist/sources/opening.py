"""A chunk file as a stream of bytes, decompressed if it is compressed. Knows first bytes, but no format's content.

The first bytes of a file tell its compression, not its name: browsers decompress a `.gz` and keep its name, and some
files are compressed with one tool under the name of another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa

from soloist.formats import COMPRESSIONS
from soloist.sources.faults import UnreadableFileError, foreign_text

_HEAD_BYTES = 64
# pzstd and others begin a zstd file with a skippable frame, of which there are sixteen kinds.
_SKIPPED_FRAMES = tuple(bytes((kind,)) + b"\x2a\x4d\x18" for kind in range(0x50, 0x60))
_COMPRESSED = {
    b"\x1f\x8b\x08": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", **dict.fromkeys(_SKIPPED_FRAMES, "zstd")
}  # fmt: skip
# Other content that files with the name of a text file have in practice, and what to do about it.
_FOREIGN = (
    (b"PAR1", "Parquet: rename it to end in .parquet"),
    (b"ARROW1", "Arrow: rename it to end in .arrow"),
    (b"PK\x03\x04", "a ZIP archive: unpack it"),
    (b"\xfd7zXZ\x00", "compressed with xz: decompress it, or use gzip, bzip2 or zstd"),
    (b"\x04\x22\x4d\x18", "compressed with lz4: decompress it, or use gzip, bzip2 or zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"SQLite format 3\x00", "an SQLite database: export its table as CSV"),
    (b"%PDF-", "a PDF document: extract its text"),
    (b"\xff\xfe\x00\x00", "text in UTF-32: save it as UTF-8"),
    (b"\xff\xfe", "text in UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16: save it as UTF-8"),
    (b"version https://git-lfs.github.com/spec/", "a pointer of Git LFS: fetch the file itself with git lfs pull"),
    (b"<!doctype html", "an HTML page: download the file itself"),
    (b"<html", "an HTML page: download the file itself"),
)


class ByteStream(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes. They are empty only at the end."""
        ...


@contextlib.contextmanager
def open_bytes(file: Path, format_name: str) -> Iterator[ByteStream]:
    """The bytes of a text file, decompressed; the file is closed at the end.

    Raises:
        UnreadableFileError: its first bytes are those of another format.
        OSError: it cannot be opened or read.
    """
    with file.open("rb", buffering=0) as raw:
        codec = _codec(_head(raw))
        stream = raw if codec is None else _Decompressed(raw, codec)
        first = _head(stream) if codec is None else stream.read(_HEAD_BYTES)
        _require_text(first, format_name, f" compressed with {codec}" if codec is not None else "")
        _require_compressed_once(first, codec)
        _require_compressed_as_named(file, first, codec)
        yield raw if codec is None else _Prefixed(first, stream)


def require_not_foreign(raw: BinaryIO, format_name: str, magic: bytes) -> None:
    """Refuse a binary file, at its beginning, whose first bytes are those of another format. `magic` are its own.

    Raises:
        UnreadableFileError: it is of another format.
    """
    head = _head(raw)
    if head.startswith(magic):
        return
    codec = _codec(head)
    if codec is not None:
        raise UnreadableFileError(f"is not {format_name} but compressed with {codec}: decompress it")
    _require_text(head, format_name, "")


def _head(raw: Any) -> bytes:
    """The first bytes of a file, which stays at its beginning."""
    head = b""
    while len(head) < _HEAD_BYTES and (more := raw.read(_HEAD_BYTES - len(head))):
        head += more
    raw.seek(0)
    return head


def _codec(head: bytes) -> str | None:
    return next((codec for magic, codec in _COMPRESSED.items() if head.startswith(magic)), None)


def _require_text(head: bytes, format_name: str, compressed: str) -> None:
    for magic, what in _FOREIGN:
        if head.lower().startswith(magic.lower()):
            raise UnreadableFileError(f"is not {format_name}{compressed} but {what}")


def _require_compressed_once(head: bytes, codec: str | None) -> None:
    inner = _codec(head) if codec is not None else None
    if inner is not None:
        raise UnreadableFileError(f"is compressed twice, with {inner} and again with {codec}: decompress it once")


def _require_compressed_as_named(file: Path, head: bytes, codec: str | None) -> None:
    named = COMPRESSIONS.get(file.suffix.lower())
    if named is not None and codec is None and b"\0" in head:
        raise UnreadableFileError(f"is neither compressed with {named}, as its name says, nor text")


class _Decompressed:
    """Decompresses while it is read, in little memory, however large the result is."""

    def __init__(self, raw: BinaryIO | Any, codec: str) -> None:
        self._codec = codec
        self._stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)

    def read(self, size: int, /) -> bytes:
        """At most so many bytes. They are empty only at the end."""
        try:
            data: bytes = self._stream.read(size)
        except (OSError, pa.ArrowException) as exc:
            raise UnreadableFileError(
                f"is damaged or cut off: it cannot be decompressed ({foreign_text(exc)})"
            ) from exc
        return data


class _Prefixed:
    """A stream whose first bytes were read before."""

    def __init__(self, first: bytes, stream: ByteStream) -> None:
        self._first = first
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        """At most so many bytes. They are empty only at the end."""
        data, self._first = self._first[:size], self._first[size:]
        return data + self._stream.read(size - len(data)) if len(data) < size else data
