"""The lines of a stream of bytes, in bounded memory whatever the stream holds. Knows line ends, but no format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from soloist.sources.opening import ByteStream

BUFFER_BYTES = 1 << 20
# The same limit as for a row of Parquet: far beyond any chunk that makes sense.
MAX_LINE_BYTES = 256_000_000


class Line(NamedTuple):
    """A line with its end, its number from 1, and the offset of its first byte. It has no content if it is too long."""

    number: int
    at_byte: int
    content: bytes | None


def read_lines(
    stream: ByteStream,
    check: Callable[[], object] = lambda: None,
    *,
    buffer_bytes: int = BUFFER_BYTES,
    max_bytes: int = MAX_LINE_BYTES,
) -> Iterator[Line]:
    """Every line of the stream. Lines end in a line feed, or in a carriage return where the first line ends so.
    `check` is called before each read, and may raise.
    """
    buffer = stream.read(buffer_bytes)
    end = _line_end(buffer)
    parts: list[bytes] = []
    number, at_byte, length = 1, 0, 0
    while buffer:
        check()
        for piece in _pieces(buffer, end):
            length += len(piece)
            if length <= max_bytes:
                parts.append(piece)
            else:
                parts.clear()
            if piece.endswith(end):
                yield Line(number, at_byte, b"".join(parts) if length <= max_bytes else None)
                number, at_byte, length, parts = number + 1, at_byte + length, 0, []
        buffer = stream.read(buffer_bytes)
    if length:
        yield Line(number, at_byte, b"".join(parts) if length <= max_bytes else None)


def _line_end(beginning: bytes) -> bytes:
    """The end of the first line; a line feed where it is not known."""
    at = beginning.find(b"\r")
    is_alone = 0 <= at < len(beginning) - 1 and beginning[at + 1 : at + 2] != b"\n"
    return b"\r" if is_alone and b"\n" not in beginning[:at] else b"\n"


def _pieces(buffer: bytes, end: bytes) -> Iterator[bytes]:
    """The lines of a buffer with their ends, then the rest of the buffer, which has no end."""
    pieces = buffer.split(end)
    for piece in pieces[:-1]:
        yield piece + end
    if pieces[-1]:
        yield pieces[-1]
