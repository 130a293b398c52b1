"""The items of JSON and JSON Lines files, as they are. Knows where the list is; not what a chunk is."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from soloist.formats import JSON, JSON_LINES
from soloist.sources.faults import BadItem, UnreadableFileError, names_text
from soloist.sources.json_stream import BUFFER_BYTES, JsonStream
from soloist.sources.lines import MAX_LINE_BYTES, Line, read_lines
from soloist.sources.nesting import TooDeepError, decode
from soloist.sources.opening import open_bytes

# In this order: the first that holds a list is read.
LIST_KEYS = ("chunks", "data", "records", "items")
# What a chunk begins with.
_OPENINGS = '{"'
_NAME, _LINES_NAME = JSON.name, JSON_LINES.name
_BLANK = object()
_NAMES_TOLD = 8


class _Shape(Enum):
    """What a JSON file holds, where it is no object with a list of chunks."""

    LIST = "a list of chunks"
    CHUNK = "an object that is a chunk"
    VALUES = "one value after another, as JSON Lines have them"


def read_json(
    file: Path,
    text_field: str = "text",
    *,
    buffer_bytes: int = BUFFER_BYTES,
    check: Callable[[], object] = lambda: None,
) -> Iterator[Any]:
    """The items of a JSON file, in order: those of the list that it is, or holds under one of `LIST_KEYS`; the object
    itself, where that has a text; or one value after another, where the file is JSON Lines under another name.

    A file that begins with an object is read twice up to that object's end, where it is known what the file is.
    `check` is called whenever some more of the file is read, and may raise.

    Raises:
        UnreadableFileError: the file is not well-formed, or holds no chunks. Items before the fault come first.
        OSError: the file cannot be opened or read.
    """
    with open_bytes(file, _NAME) as raw:
        shape = _shape(JsonStream(raw, buffer_bytes, check), text_field)
    with open_bytes(file, _NAME) as raw:
        stream = JsonStream(raw, buffer_bytes, check)
        if isinstance(shape, int):
            yield from _member_values(stream, shape)
        elif shape is _Shape.LIST:
            yield from _list_values(stream)
        else:
            yield from _values(stream)
        stream.finish()


def read_json_lines(file: Path, *, check: Callable[[], object] = lambda: None) -> Iterator[Any]:
    """The value of each line that is not blank; a `BadItem` for one that cannot be read. `check` is called for each
    line, and may raise.

    Raises:
        UnreadableFileError: the file is one JSON text that is spread over several lines, or no text at all.
        OSError: the file cannot be opened or read.
    """
    is_first = True
    with open_bytes(file, _LINES_NAME) as raw:
        for line in read_lines(raw, check):
            check()
            value = _line_item(line)
            if value is _BLANK:
                continue
            as_json = f"name it as a JSON file, such as {file.name.split('.')[0]}_chunks.json"
            if is_first and _is_spread(line.content, value):
                raise UnreadableFileError(f"is one JSON text over several lines, and not an object a line: {as_json}")
            if _is_list_of_objects(value):
                value = BadItem(fault=f"is a whole list of chunks in line {line.number}, and not an object: {as_json}")
            is_first = False
            yield value


def _shape(stream: JsonStream, text_field: str) -> _Shape | int:
    """What the file holds, or the number of the member that holds the chunks."""
    opening = stream.peek()
    if opening == "[":
        return _Shape.LIST
    if opening == "{":
        return _find_chunks(stream, text_field)
    stream.value()
    if opening == '"' and stream.peek() and stream.peek() in _OPENINGS:
        return _Shape.VALUES
    raise UnreadableFileError(f"holds neither a list of chunks nor an object with one, but {opening} at its start")


def _find_chunks(stream: JsonStream, text_field: str) -> _Shape | int:
    lists: dict[str, int] = {}
    names: list[str] = []
    has_text = False
    try:
        for number, key in enumerate(stream.members()):
            if number < _NAMES_TOLD:
                names.append(key)
            lists.pop(key, None)  # of equal keys the last wins
            opening = stream.peek()
            if key == text_field:
                has_text = _passes_text(stream, opening)
                continue
            if key in LIST_KEYS and opening == "[":
                lists[key] = number
            stream.skip()
        following = stream.peek()
    except UnreadableFileError:
        # With something to read, the fault is met again by who reads it, after the items before it.
        if has_text:
            return _Shape.CHUNK
        if not lists:
            raise
        following = ""
    if following and following in _OPENINGS:
        return _Shape.VALUES
    if has_text:
        return _Shape.CHUNK
    for key in LIST_KEYS:
        if key in lists:
            return lists[key]
    raise UnreadableFileError(
        f"is an object without a list of chunks under {', '.join(LIST_KEYS)}, and without a text in {text_field!r} "
        f"(its first fields are {names_text(names) or 'none'}: --text-field names another)"
    )


def _passes_text(stream: JsonStream, opening: str) -> bool:
    """Whether the value that comes next is a text that is not blank; it is consumed."""
    if opening != '"':
        stream.skip()
        return False
    text = stream.value()
    return bool(text) and not text.isspace()


def _member_values(stream: JsonStream, member: int) -> Iterator[Any]:
    for number, _ in enumerate(stream.members()):
        if number == member:
            yield from _list_values(stream)
        else:
            stream.skip()


def _list_values(stream: JsonStream) -> Iterator[Any]:
    for _ in stream.elements():
        yield stream.value()


def _values(stream: JsonStream) -> Iterator[Any]:
    """One value after another, up to the end of the file or to what begins none."""
    while (opening := stream.peek()) and opening in _OPENINGS:
        yield stream.value()


def _line_item(line: Line) -> Any:
    """The value of a line, `_BLANK` where it has none."""
    content = line.content
    if content is None:
        return BadItem(fault=f"is too large: line {line.number} has more than {MAX_LINE_BYTES / 1e6:,.0f} MB")
    # Files that were joined have a mark in their midst.
    mark = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    content = content[mark:] if mark else content
    if not content or content.isspace():  # strip would copy a line that may be a hundred megabytes
        return _BLANK
    return _line_value(content, line.number, line.at_byte + mark)


def _is_spread(line: bytes | None, value: Any) -> bool:
    """Whether a line is not JSON and ends as one of a JSON text with line breaks does."""
    is_cut = isinstance(value, BadItem) and value.fault.startswith("is not JSON")
    return is_cut and line is not None and line.rstrip()[-1:] in (b"[", b"{", b",")


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _line_value(line: bytes, number: int, at_byte: int) -> Any:
    try:
        text = line.rstrip(b"\r\n\t ").decode("utf-8")
    except UnicodeDecodeError as exc:
        return BadItem(fault=f"is not UTF-8 at line {number}, byte {at_byte + exc.start} ({exc.reason})")
    try:
        return decode(text)
    except TooDeepError:
        return BadItem(fault=f"nests too deeply at line {number}")
    except json.JSONDecodeError as exc:
        if exc.msg == "Extra data" and text[exc.pos :] == ",":
            return BadItem(fault=f"has a comma after it at line {number}, column {exc.pos + 1}: remove it")
        return BadItem(fault=f"is not JSON at line {number}, column {exc.pos + 1} ({exc.msg})")
    except ValueError as exc:  # an integer with more digits than Python converts
        return BadItem(fault=f"is not JSON at line {number} ({exc})")
