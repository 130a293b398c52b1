"""Reads JSON piece by piece: one value after another, in memory that is bounded by the largest value.

Knows UTF-8, and JSON as `json.load` reads it (NaN and Infinity are floats, the last of equal keys wins). Knows
nothing of chunks.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from soloist.sources.faults import UnreadableFileError
from soloist.sources.nesting import is_too_deep
from soloist.sources.opening import ByteStream

BUFFER_BYTES = 1 << 20
# The same limit as for a row of Parquet: a compressed file of a megabyte can hold a string of gigabytes.
MAX_VALUE_CHARS = 256_000_000
_WHITESPACE = re.compile(r"[ \t\n\r]*")
# Numbers with their commas, none with more digits than Python converts.
_NUMBERS = re.compile(
    r"(?:[ \t\n\r]*-?(?:0|[1-9][0-9]{0,300})(?:\.[0-9]{1,300})?(?:[eE][+-]?[0-9]{1,300})?[ \t\n\r]*,)+"
)
_DECODER = json.JSONDecoder()
# Where the buffer's end cuts a token, the error can start this far before the end: two \uXXXX escapes.
_CUT_CHARS = 12
# Where the buffer's end cuts a number, the decoder can read a shorter one that ends just before: 1 in "1e+".
_CUT_NUMBER_CHARS = 3


class JsonStream:
    """The values of one JSON text, in order. Every fault is an `UnreadableFileError` with its line and column.

    Args:
        raw: the file, at its beginning; a byte order mark is skipped.
        buffer_bytes: how many bytes to read at a time; more only while a value is larger.
        check: called before each read; may raise.
    """

    def __init__(
        self, raw: ByteStream, buffer_bytes: int = BUFFER_BYTES, check: Callable[[], object] = lambda: None
    ) -> None:
        self._source = _Utf8Source(raw)
        self._buffer_bytes = buffer_bytes
        self._check = check
        self._text = ""
        self._at = 0
        self._ended = False
        self._origin = _Origin()

    def peek(self) -> str:
        """The next character that is not whitespace, or an empty text at the end. Nothing is consumed."""
        while True:
            match = _WHITESPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._fill(self._buffer_bytes)

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            complete, value = self._attempt()
            if complete:
                return value
            self._fill(max(self._buffer_bytes, len(self._text) - self._at))

    def skip(self) -> None:
        """Skip the next value, and check that it is well-formed. It need not fit into memory."""
        opening = self.peek()
        complete, _ = self._attempt()
        if complete:
            return
        if opening == "[":
            for _ in self.elements():
                self._skip_numbers()
                self.skip()
        elif opening == "{":
            for _ in self.members():
                self.skip()
        else:
            self.value()

    def _skip_numbers(self) -> None:
        """Skip the numbers with a comma that come next in the buffer: one by one they take far longer."""
        match = _NUMBERS.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def elements(self) -> Iterator[None]:
        """Yield before each element of the next list; the caller reads or skips the element."""
        self._take("[")
        if self.peek() == "]":
            self._take("]")
            return
        while True:
            yield
            if self._take(",]") == "]":
                return

    def members(self) -> Iterator[str]:
        """Yield the key of each member of the next object; the caller reads or skips the value."""
        self._take("{")
        if self.peek() == "}":
            self._take("}")
            return
        while True:
            if self.peek() != '"':
                raise self._fault("Expecting property name enclosed in double quotes", self._at)
            key = self.value()
            self._take(":")
            yield key
            if self._take(",}") == "}":
                return

    def finish(self) -> None:
        """Require that only whitespace follows."""
        if self.peek():
            raise self._fault("Extra data", self._at)

    def _take(self, choices: str) -> str:
        char = self.peek()
        if not char or char not in choices:
            raise self._fault(f"Expecting {' or '.join(map(repr, choices))}", self._at)
        self._at += 1
        return char

    def _attempt(self) -> tuple[bool, Any]:
        """Whether the next value is complete in the buffer, and if so the value, which is consumed."""
        try:
            value, end = _DECODER.raw_decode(self._text, self._at)
        except RecursionError as exc:
            raise self._too_deep() from exc
        except json.JSONDecodeError as exc:
            if is_too_deep(self._text, self._at, exc.pos):
                raise self._too_deep() from exc
            if self._ended or not _may_be_cut(exc, len(self._text)):
                raise self._fault(exc.msg, exc.pos) from exc
            return False, None
        except ValueError as exc:  # an integer with more digits than Python converts, or the start of such a float
            if self._text[-1].isdigit() and not self._ended:
                return False, None
            raise self._fault(str(exc), self._at) from exc
        if is_too_deep(self._text, self._at, end):
            raise self._too_deep()
        if len(self._text) - end < _CUT_NUMBER_CHARS and not self._ended:
            return False, None
        self._at = end
        return True, value

    def _fill(self, size_bytes: int) -> None:
        """Read more, and drop the text that is consumed."""
        self._check()
        if len(self._text) - self._at > MAX_VALUE_CHARS:
            raise UnreadableFileError(
                f"has a value of more than {MAX_VALUE_CHARS:,} characters at {self._origin.moved(self._text, self._at)}"
            )
        more = self._source.read(size_bytes)
        self._ended = not more
        self._origin = self._origin.moved(self._text, self._at)
        self._text, self._at = self._text[self._at :] + more, 0

    def _too_deep(self) -> UnreadableFileError:
        return UnreadableFileError(f"is nested too deeply at {self._origin.moved(self._text, self._at)}")

    def _fault(self, what: str, at: int) -> UnreadableFileError:
        return UnreadableFileError(f"is not JSON at {self._origin.moved(self._text, at)} ({what})")


def _may_be_cut(exc: json.JSONDecodeError, buffer_chars: int) -> bool:
    return exc.msg.startswith("Unterminated string") or exc.pos >= buffer_chars - _CUT_CHARS


class _Origin(NamedTuple):
    """The line and the column of the first character in a buffer, from 1."""

    line: int = 1
    column: int = 1

    def moved(self, text: str, at: int) -> _Origin:
        """The line and the column of another character of the buffer."""
        newlines = text.count("\n", 0, at)
        if not newlines:
            return _Origin(self.line, self.column + at)
        return _Origin(self.line + newlines, at - text.rindex("\n", 0, at))

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


class _Utf8Source:
    """The text of a UTF-8 file. A fault is raised only after all the text before it was returned."""

    def __init__(self, raw: ByteStream) -> None:
        self._raw = raw
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._read_bytes = 0
        self._fault: UnreadableFileError | None = None

    def read(self, size_bytes: int) -> str:
        """The next text, from at most so many bytes. It is empty only at the end."""
        while self._fault is None:
            data = self._raw.read(size_bytes)
            self._read_bytes += len(data)
            text = self._decode(data)
            if text or (not data and self._fault is None):
                return text
        raise self._fault

    def _decode(self, data: bytes) -> str:
        try:
            return self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as exc:
            at_byte = self._read_bytes - len(exc.object) + exc.start
            self._fault = UnreadableFileError(f"is not UTF-8 at byte {at_byte} ({exc.reason})")
            return exc.object[: exc.start].decode("utf-8")
