"""The rows of CSV and TSV files. Knows quotes and separators (RFC 4180); not what a chunk is.

The first line that is not blank has the names of the columns; a line `sep=;` may stand before it, as Excel has it. A
field in quotes may hold separators, line ends and, doubled, quotes. Every value is the text that stands there: 007
stays `007`, and an empty field is an empty text.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soloist.formats import CSV, TSV
from soloist.sources.faults import BadItem, UnreadableFileError
from soloist.sources.lines import MAX_LINE_BYTES, Line, read_lines
from soloist.sources.opening import ByteStream, open_bytes
from soloist.sources.tables import no_text_column, require_distinct, require_text_column, with_parsed_metadata
from soloist.wording import count_text

# A spreadsheet separates with a semicolon where a comma stands in its numbers. The first is taken where none fits.
_SEPARATORS = {CSV.name: (b",", b";", b"\t"), TSV.name: (b"\t",)}
# Excel writes and reads such a first line, which is none of the table.
_SEPARATOR_LINE = re.compile(rb'(?:\xef\xbb\xbf)?"?sep=([^\w\s"]|\t)"?[\r\n]*')
_TAB = b"\t"
_QUOTE = b'"'
_BLANKS = (b"\n", b"\r\n", b"\r")
_REPLACED = "\ufffd"  # for what is not UTF-8
_HEADER_BYTES = 1 << 20
_Check = Callable[[], object]


@dataclass(frozen=True, slots=True)
class _Header:
    """The columns of a table, and what separates its fields."""

    names: tuple[str, ...]
    separator: bytes


def read_csv(file: Path, text_field: str, format_name: str = CSV.name, check: _Check = lambda: None) -> Iterator[Any]:
    """Each row as a dict of texts by column names; a `BadItem` for one that is not like the header or not UTF-8.

    A `metadata` column of texts that are JSON objects comes parsed.

    Raises:
        UnreadableFileError: the file is no text, has no column `text_field` or two of one name, or a quote that is
            never closed.
        OSError: the file cannot be opened or read.
    """
    with open_bytes(file, format_name) as raw:
        records = _Records(read_lines(raw, check))
        header = _header(records, text_field, _SEPARATORS[format_name])
        if header is None:
            return
        if header.separator == _TAB:
            records.tabs_in_row = len(header.names) - 1
        require_text_column(header.names, text_field)
        require_distinct([name for name in header.names if name])
        if _REPLACED in "".join(header.names):
            raise UnreadableFileError("is not UTF-8 in its header: save the file as UTF-8")
        for line in records.firsts():
            check()
            yield _row(records, line, header)


def lacks_text_column(file: Path, text_field: str, format_name: str) -> str:
    """What a table has in place of the column of texts, as the rest of a sentence; empty where it has that column, or
    where only reading the whole file tells what is wrong with it.
    """
    try:
        with open_bytes(file, format_name) as raw:
            header = _header(_Records(read_lines(_Beginning(raw))), text_field, _SEPARATORS[format_name])
    except (OSError, UnreadableFileError):
        return ""
    if header is None or text_field in header.names:
        return ""
    return no_text_column(header.names, text_field)


class _Beginning:
    """The first bytes of a stream, as if it had no others."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._left = _HEADER_BYTES

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; empty at the end only."""
        found = self._stream.read(min(size, self._left)) if self._left else b""
        self._left -= len(found)
        return found


class _Records:
    """The lines of a table, and the fields of the record that begins with a line."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self.tabs_in_row: int | None = None  # where tabs separate, how many a row has

    def firsts(self) -> Iterator[Line]:
        """The first line of each record; blank lines between records are none."""
        for line in self._lines:
            if line.content is None or (line.content not in _BLANKS and line.content != codecs.BOM_UTF8):
                yield line

    def fields(self, first: Line, separator: bytes) -> list[bytes]:
        """The fields of the record that begins with this line; more lines are taken where a quote goes on in them.

        Raises:
            _BadRecordError: a line is too long, or something follows a closing quote.
            UnreadableFileError: a quote is never closed.
        """
        if first.content is None:
            raise _BadRecordError(f"is too large: line {first.number} has more than {MAX_LINE_BYTES / 1e6:,.0f} MB")
        text = first.content
        if first.number == 1:  # a tool that adds a mark to a file that has one makes two of them
            text = text.removeprefix(codecs.BOM_UTF8).removeprefix(codecs.BOM_UTF8)
        if _QUOTE not in text:
            return text[: _stop(text)].split(separator)
        fields: list[bytes] = []
        at = 0
        while True:
            if text[at : at + 1] == _QUOTE:
                field, text, at = self._quoted(text, at + 1, first)
                end = at if text[at : at + 1] == separator else -1
                if end < 0 and at < _stop(text):
                    raise _BadRecordError(
                        f"goes on after the closing quote of field {len(fields) + 1} (its first line is {first.number})"
                    )
            else:
                end = text.find(separator, at)
                field = text[at : end if end >= 0 else _stop(text)]
            fields.append(field)
            if end < 0:
                return fields
            at = end + 1

    def _quoted(self, text: bytes, at: int, first: Line) -> tuple[bytes, bytes, int]:
        """The field of which the opening quote is just before a place; the line in which it ends, and the place there
        after its closing quote.
        """
        before = bytearray()  # a list of its lines would take twenty times as much where these are short
        start = at
        while True:
            end = text.find(_QUOTE, at)
            if end < 0:
                before += text[start:]
                text, start, at = self._following(first, len(before)), 0, 0
            elif text[end + 1 : end + 2] == _QUOTE:
                at = end + 2
            else:
                before += text[start:end]
                return bytes(before.replace(b'""', _QUOTE)), text, end + 1

    def _following(self, first: Line, size: int) -> bytes:
        line = next(self._lines, None)
        if line is None or line.content is None or size > MAX_LINE_BYTES:
            raise UnreadableFileError(f"has a quote that is opened at line {first.number} and never closed")
        if self.tabs_in_row and first.content and self._is_such_a_row(line.content, first.content):
            raise UnreadableFileError(
                f"has a quote that is opened at line {first.number} and goes on over line {line.number}, which looks "
                "like a row of its own: write JSON Lines, or put such a text in quotes and double the quotes in it"
            )
        return line.content

    def _is_such_a_row(self, line: bytes, row: bytes) -> bool:
        """Whether a line looks like a row, as lines do in files whose quotes are plain text: as many tabs, and what it
        begins with has digits and letters where the row has them. Quotes that are doubled are no plain text.
        """
        if _QUOTE * 2 in row or line.count(_TAB) != self.tabs_in_row or row.count(_TAB) != self.tabs_in_row:
            return False
        key, other = row[: row.find(_TAB)], line[: line.find(_TAB)]
        return bool(key) and not key.startswith(_QUOTE) and _outline(key) == _outline(other)


def _outline(key: bytes) -> bytes:
    """An id with one digit for all digits in a row, and one letter for all letters: `a0` of both doc1 and doc27."""
    return re.sub(rb"[A-Za-z]+", b"a", re.sub(rb"[0-9]+", b"0", key))


class _BadRecordError(Exception):
    """A record cannot be read; the message is the rest of a sentence about it."""


def _stop(text: bytes) -> int:
    """Where a line ends, without what ends it."""
    if text.endswith(b"\r\n"):
        return len(text) - 2
    return len(text) - 1 if text.endswith((b"\n", b"\r")) else len(text)


def _header(records: _Records, text_field: str, separators: Sequence[bytes]) -> _Header | None:
    """The columns, by the separator with which the column of texts is one of them; else by that which gives the most.
    None of a file without any line.

    Raises:
        UnreadableFileError: its first line is no header.
    """
    first = next(records.firsts(), None)
    if first is not None and (said := _SEPARATOR_LINE.fullmatch(first.content or b"")):
        separators = (said[1],)
        first = next(records.firsts(), None)
    if first is None:
        return None
    if first.content is None or b"\0" in first.content:
        raise UnreadableFileError("is not text in UTF-8: its first line has a zero byte, or no end")
    # A header over several lines would be read to its end once only, and is no header in practice.
    found, fault = _possible_headers(first, separators)
    if fault is not None and not found:
        raise UnreadableFileError(f"has no header: its first line {fault}") from fault
    fitting = next((header for header in found if text_field in header.names), None)
    return fitting or max(found, key=lambda header: len(header.names))


def _possible_headers(first: Line, separators: Sequence[bytes]) -> tuple[list[_Header], _BadRecordError | None]:
    """The header by each separator that it can be read with, and why it cannot be read with the first of the others."""
    found: list[_Header] = []
    fault: _BadRecordError | None = None
    for separator in separators:
        try:
            fields = _Records(iter(())).fields(first, separator)
        except _BadRecordError as exc:  # "id";"text" is no record whose fields a comma separates
            fault = fault or exc
        else:
            found.append(_Header(tuple(field.decode("utf-8", "replace") for field in fields), separator))
    return found, fault


def _row(records: _Records, first: Line, header: _Header) -> Any:
    try:
        fields = records.fields(first, header.separator)
        if len(fields) != len(header.names):
            raise _BadRecordError(
                f"has {count_text(len(fields), 'field')} and the header has {len(header.names)} (its first line is "
                f"{first.number})"
            )
        texts = [field.decode("utf-8") for field in fields]
        if len(texts) > 1 and [texts[0].removeprefix("\ufeff"), *texts[1:]] == list(header.names):
            raise _BadRecordError(
                f"is the header once more (its first line is {first.number}), as joined files have it"
            )
    except _BadRecordError as exc:
        return BadItem(fault=str(exc))
    except UnicodeDecodeError as exc:
        return BadItem(fault=f"is not UTF-8 (its first line is {first.number}; {exc.reason}): save the file as UTF-8")
    item: dict[str, Any] = {}
    for number, (name, text) in enumerate(zip(header.names, texts, strict=True), start=1):
        if name or text:  # spreadsheets add empty columns without a name, pandas its index
            item[name or f"column {number}"] = text
    return with_parsed_metadata(item)
