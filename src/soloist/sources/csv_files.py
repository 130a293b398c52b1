"""The rows of CSV and TSV files. Knows quotes and separators (RFC 4180), but not what a chunk is.

The first line that is not blank has the names of the columns. Excel may write a line `sep=;` before it. A field in
quotes may hold separators, line ends and doubled quotes. Every value stays the text that the file has: 007 stays
`007`, and an empty field is an empty text.
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

# Spreadsheets separate with a semicolon where numbers have a comma. The first separator is used where none fits.
_SEPARATORS = {CSV.name: (b",", b";", b"\t"), TSV.name: (b"\t",)}
# Excel writes and reads such a first line, which is not part of the table.
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
    """Each row as a dict of texts by column names; a `BadItem` for a row that does not fit the header or is not UTF-8.

    Texts in a `metadata` column that are JSON objects are parsed.

    Raises:
        UnreadableFileError: the file is not text, has no column `text_field`, has two columns of one name, or has a
            quote that is never closed.
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
        for line in records.first_lines():
            check()
            yield _row(records, line, header)


def lacks_text_column(file: Path, text_field: str, format_name: str) -> str:
    """The fault of a table without the text column, as the rest of a sentence. It is empty where the table has that
    column, and where only reading the whole file can tell what is wrong.
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
    """The first bytes of a stream, as a stream."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._left = _HEADER_BYTES

    def read(self, size: int, /) -> bytes:
        """At most so many bytes. They are empty only at the end."""
        data = self._stream.read(min(size, self._left)) if self._left else b""
        self._left -= len(data)
        return data


class _Records:
    """The records of a table: their first lines, and the fields of the record that begins with a line."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self.tabs_in_row: int | None = None  # where tabs separate, their number in a row

    def first_lines(self) -> Iterator[Line]:
        """The first line of each record. Blank lines between records are skipped."""
        for line in self._lines:
            if line.content is None or (line.content not in _BLANKS and line.content != codecs.BOM_UTF8):
                yield line

    def fields(self, first: Line, separator: bytes) -> list[bytes]:
        """The fields of the record that begins with this line. More lines are read where a quote continues in them.

        Raises:
            _BadRecordError: a line is too long, or text follows a closing quote.
            UnreadableFileError: a quote is never closed.
        """
        if first.content is None:
            raise _BadRecordError(f"is too large: line {first.number} has more than {MAX_LINE_BYTES / 1e6:,.0f} MB")
        text = first.content
        if first.number == 1:  # some tools add a second byte order mark
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
                        f"has text after the closing quote of field {len(fields) + 1} (at line {first.number})"
                    )
            else:
                end = text.find(separator, at)
                field = text[at : end if end >= 0 else _stop(text)]
            fields.append(field)
            if end < 0:
                return fields
            at = end + 1

    def _quoted(self, text: bytes, at: int, first: Line) -> tuple[bytes, bytes, int]:
        """The field whose opening quote is just before `at`, the line in which it ends, and the index there after its
        closing quote.
        """
        before = bytearray()  # a list of short lines would take twenty times the memory
        start = at
        while True:
            end = text.find(_QUOTE, at)
            if end < 0:
                before += text[start:]
                text, start, at = self._next_line(first, len(before)), 0, 0
            elif text[end + 1 : end + 2] == _QUOTE:
                at = end + 2
            else:
                before += text[start:end]
                return bytes(before.replace(b'""', _QUOTE)), text, end + 1

    def _next_line(self, first: Line, size: int) -> bytes:
        line = next(self._lines, None)
        if line is None or line.content is None or size > MAX_LINE_BYTES:
            raise UnreadableFileError(f"has a quote that opens at line {first.number} and never closes")
        if self.tabs_in_row and first.content and self._looks_like_a_row(line.content, first.content):
            raise UnreadableFileError(
                f"has a quote that opens at line {first.number} and is still open at line {line.number}, which looks "
                "like a new row: put such texts in quotes and double the quotes in them, or write JSON Lines"
            )
        return line.content

    def _looks_like_a_row(self, line: bytes, row: bytes) -> bool:
        """Whether a line looks like a row, as in files whose quotes are plain text. It has as many tabs, and its first
        field has digits and letters where the row's has them. Doubled quotes are not plain text.
        """
        if _QUOTE * 2 in row or line.count(_TAB) != self.tabs_in_row or row.count(_TAB) != self.tabs_in_row:
            return False
        key, other = row[: row.find(_TAB)], line[: line.find(_TAB)]
        return bool(key) and not key.startswith(_QUOTE) and _outline(key) == _outline(other)


def _outline(key: bytes) -> bytes:
    """The shape of an id, with one digit for several and one letter for several: `a0` for both doc1 and doc27."""
    return re.sub(rb"[A-Za-z]+", b"a", re.sub(rb"[0-9]+", b"0", key))


class _BadRecordError(Exception):
    """A record cannot be read; the message is the rest of a sentence about it."""


def _stop(text: bytes) -> int:
    """The length of a line without its line end."""
    if text.endswith(b"\r\n"):
        return len(text) - 2
    return len(text) - 1 if text.endswith((b"\n", b"\r")) else len(text)


def _header(records: _Records, text_field: str, separators: Sequence[bytes]) -> _Header | None:
    """The columns, split by the separator that gives the text column, else by the one that gives most columns. None for
    a file without lines.

    Raises:
        UnreadableFileError: its first line is not a header.
    """
    first = next(records.first_lines(), None)
    if first is not None and (match := _SEPARATOR_LINE.fullmatch(first.content or b"")):
        separators = (match[1],)
        first = next(records.first_lines(), None)
    if first is None:
        return None
    if first.content is None or b"\0" in first.content:
        raise UnreadableFileError("is not text in UTF-8: its first line has a zero byte, or is too long")
    # A header over several lines could be read to its end only once, and does not occur in practice.
    headers, fault = _possible_headers(first, separators)
    if fault is not None and not headers:
        raise UnreadableFileError(f"has no header: its first line {fault}") from fault
    fitting = next((header for header in headers if text_field in header.names), None)
    return fitting or max(headers, key=lambda header: len(header.names))


def _possible_headers(first: Line, separators: Sequence[bytes]) -> tuple[list[_Header], _BadRecordError | None]:
    """The header as split by each separator that works, and the fault of the first separator that does not."""
    headers: list[_Header] = []
    fault: _BadRecordError | None = None
    for separator in separators:
        try:
            fields = _Records(iter(())).fields(first, separator)
        except _BadRecordError as exc:  # e.g. "id";"text" with a comma as the separator
            fault = fault or exc
        else:
            headers.append(_Header(tuple(field.decode("utf-8", "replace") for field in fields), separator))
    return headers, fault


def _row(records: _Records, first: Line, header: _Header) -> Any:
    try:
        texts = _texts(records, first, header)
    except _BadRecordError as exc:
        return BadItem(fault=str(exc))
    except UnicodeDecodeError as exc:
        return BadItem(fault=f"is not UTF-8 (at line {first.number}; {exc.reason}): save the file as UTF-8")
    item: dict[str, Any] = {}
    for number, (name, text) in enumerate(zip(header.names, texts, strict=True), start=1):
        if name or text:  # spreadsheets add empty columns without a name, pandas adds its index
            item[name or f"column {number}"] = text
    return with_parsed_metadata(item)


def _texts(records: _Records, first: Line, header: _Header) -> list[str]:
    """The values of a record, one for each column."""
    fields = records.fields(first, header.separator)
    if len(fields) != len(header.names):
        count = count_text(len(fields), "field")
        raise _BadRecordError(f"has {count}, but the header has {len(header.names)} (at line {first.number})")
    texts = [field.decode("utf-8") for field in fields]
    if len(texts) > 1 and [texts[0].removeprefix("\ufeff"), *texts[1:]] == list(header.names):
        raise _BadRecordError(f"repeats the header (at line {first.number}), as in files that were joined")
    return texts
