"""The lines of a stream of bytes, in memory that is bounded whatever the stream holds. Knows line ends, no format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from soloist.sources.opening import ByteStream

BUFFER_BYTES = 1 << 20
# As of a row of Parquet: far beyond any chunk that means something.
MAX_LINE_BYTES = 256_000_000


@dataclass(frozen=True, slots=True)
class Line:
    """A line with its end, its number from 1, and where it begins; without content where it is too long to be held."""

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
    """Every line of the stream. Lines end in a line feed; in carriage returns where the beginning of the file has no
    other ends. `check` is called before each read, and may raise.
    """
    buffer = stream.read(buffer_bytes)
    end = b"\r" if b"\n" not in buffer and b"\r" in buffer.rstrip(b"\r") else b"\n"
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


def _pieces(buffer: bytes, end: bytes) -> Iterator[bytes]:
    """The lines of a buffer with their ends, then what has no end in it."""
    pieces = buffer.split(end)
    for piece in pieces[:-1]:
        yield piece + end
    if pieces[-1]:
        yield pieces[-1]
