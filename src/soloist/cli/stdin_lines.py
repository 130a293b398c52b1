"""The lines of stdin as they arrive. Knows streams, but not what the lines are for."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import TextIO

_READ_BYTES = 1 << 20
_MARK = "\ufeff"  # editors on Windows begin a file with it


def incoming_lines(stream: TextIO) -> Iterator[list[str]]:
    """Yield the lines that arrived together, as soon as the first of them is complete. The last line may lack its end.

    Bytes that are not text in the stream's encoding become lone surrogates, as in arguments.
    """
    first = True
    for lines in _by_reads(stream):
        if first:
            lines[0] = lines[0].removeprefix(_MARK)
        first = False
        yield lines


def incoming_texts(stream: TextIO, most: int) -> Iterator[list[str]]:
    """The lines with any text. Those that arrived together are together, up to `most` of them."""
    for lines in incoming_lines(stream):
        texts = [line for line in lines if line.strip()]
        for start in range(0, len(texts), most):
            yield texts[start : start + most]


def _by_reads(stream: TextIO) -> Iterator[list[str]]:
    if not isinstance(stream, io.TextIOWrapper):  # e.g. in a notebook, whose stream has no bytes
        yield from ([line.rstrip("\r\n")] for line in stream)
        return
    decoder = io.IncrementalNewlineDecoder(
        codecs.getincrementaldecoder(stream.encoding)("surrogateescape"), translate=True
    )
    begun: list[str] = []  # the pieces of a line that has no end yet
    # The text layer would wait for a whole block. A thread of our own would keep the process from ending.
    while data := stream.buffer.read1(_READ_BYTES):
        *lines, rest = decoder.decode(data).split("\n")
        if lines:
            lines[0] = "".join([*begun, lines[0]])
            begun.clear()
            yield lines
        begun.append(rest)
    last = "".join([*begun, decoder.decode(b"", final=True)])
    if last:
        yield last.split("\n")
