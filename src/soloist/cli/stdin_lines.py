"""The lines of stdin as they come. Knows streams, and nothing of what the lines are for."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import TextIO

_READ_BYTES = 1 << 20
_MARK = "\ufeff"  # with which editors of Windows begin a file


def incoming_lines(stream: TextIO) -> Iterator[list[str]]:
    """The lines that came in together, as soon as the first of them is complete; the last one may lack its end.

    Bytes that are no text in the stream's encoding stay in a line as lone surrogates, as they do in arguments.
    """
    first = True
    for lines in _by_reads(stream):
        if first:
            lines[0] = lines[0].removeprefix(_MARK)
        first = False
        yield lines


def _by_reads(stream: TextIO) -> Iterator[list[str]]:
    if not isinstance(stream, io.TextIOWrapper):  # e.g. a notebook's, which has no bytes
        yield from ([line.rstrip("\r\n")] for line in stream)
        return
    decoder = io.IncrementalNewlineDecoder(
        codecs.getincrementaldecoder(stream.encoding)("surrogateescape"), translate=True
    )
    begun: list[str] = []  # the pieces of a line without an end so far
    # The text layer would wait for a whole block, and a thread of our own for the end of the process.
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
