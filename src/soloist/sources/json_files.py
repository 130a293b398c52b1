"""The items of JSON and JSON Lines files, unchanged. Knows where the list of items is, but not what a chunk is."""

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

# In this order: the first of these members that holds a list is read.
LIST_KEYS = ("chunks", "data", "records", "items")
# The first characters that a chunk can have.
_OPENINGS = '{"'
_NAME, _LINES_NAME = JSON.name, JSON_LINES.name
_BLANK = object()
_NAMES_TOLD = 8


class _Shape(Enum):
    """The content of a JSON file that is not an object with a list of chunks."""

    LIST = "a list of chunks"
    CHUNK = "an object that is a chunk"
    VALUES = "one value after another, as in JSON Lines"


def read_json(
    file: Path,
    text_field: str = "text",
    *,
    buffer_bytes: int = BUFFER_BYTES,
    check: Callable[[], object] = lambda: None,
) -> Iterator[Any]:
    """The items of a JSON file, in order.

    - A list: its elements.
    - An object with a list under one of `LIST_KEYS`: the elements of that list.
    - An object with a text: the object.
    - JSON Lines under another name: one value after another.

    A file that begins with an object is read twice up to that object's end, because only there its kind is known.
    `check` is called whenever more of the file is read, and may raise.

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
    """The value of each line that is not blank; a `BadItem` for a line that cannot be read. `check` is called for each
    line, and may raise.

    Raises:
        UnreadableFileError: the file is one JSON document over several lines, or not text.
        OSError: the file cannot be opened or read.
    """
    is_first = True
    with open_bytes(file, _LINES_NAME) as raw:
        for line in read_lines(raw, check):
            check()
            value = _line_item(line)
            if value is _BLANK:
                continue
            if is_first and _is_spread(line.content, value):
                raise UnreadableFileError(
                    f"is one JSON document over several lines, not one object a line: {_rename_text(file)}"
                )
            if _is_list_of_objects(value):
                value = BadItem(
                    fault=f"is a list of chunks in line {line.number}, not one object: {_rename_text(file)}"
                )
            is_first = False
            yield value


def _rename_text(file: Path) -> str:
    return f"rename it, such as to {file.name.split('.')[0]}_chunks.json"


def _shape(stream: JsonStream, text_field: str) -> _Shape | int:
    """The content of the file, or the number of the member that holds the chunks."""
    opening = stream.peek()
    if opening == "[":
        return _Shape.LIST
    if opening == "{":
        return _find_chunks(stream, text_field)
    stream.value()
    if opening == '"' and stream.peek() and stream.peek() in _OPENINGS:
        return _Shape.VALUES
    raise UnreadableFileError(f"is neither a list of chunks nor an object with one: it begins with {opening}")


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
                has_text = _skip_text(stream, opening)
                continue
            if key in LIST_KEYS and opening == "[":
                lists[key] = number
            stream.skip()
        following = stream.peek()
    except UnreadableFileError:
        # Where there are items to read, the reader meets the fault again, after the items before it.
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
        f"is an object with no list of chunks under {', '.join(LIST_KEYS)}, and no text in {text_field!r} "
        f"(its first fields are {names_text(names) or 'none'}; give --text-field to name another field)"
    )


def _skip_text(stream: JsonStream, opening: str) -> bool:
    """Skip the next value; whether it is a text that is not blank."""
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
    """One value after another, up to the end of the file or to a character that cannot begin a value."""
    while (opening := stream.peek()) and opening in _OPENINGS:
        yield stream.value()


def _line_item(line: Line) -> Any:
    """The value of a line, `_BLANK` for a blank line."""
    content = line.content
    if content is None:
        return BadItem(fault=f"is too large: line {line.number} has more than {MAX_LINE_BYTES / 1e6:,.0f} MB")
    # Files that were joined can have a byte order mark in the middle.
    mark = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    content = content[mark:] if mark else content
    if not content or content.isspace():  # strip would copy the line, which can have a hundred megabytes
        return _BLANK
    return _line_value(content, line.number, line.at_byte + mark)


def _is_spread(line: bytes | None, value: Any) -> bool:
    """Whether a line is not JSON and ends like a line of a JSON document with line breaks."""
    is_cut = isinstance(value, BadItem) and value.fault.startswith("is not JSON")
    return is_cut and line is not None and line.rstrip()[-1:] in (b"[", b"{", b",")


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(element, dict) for element in value)


def _line_value(line: bytes, number: int, at_byte: int) -> Any:
    try:
        text = line.rstrip(b"\r\n\t ").decode("utf-8")
    except UnicodeDecodeError as exc:
        return BadItem(fault=f"is not UTF-8 at line {number}, byte {at_byte + exc.start} ({exc.reason})")
    try:
        return decode(text)
    except TooDeepError:
        return BadItem(fault=f"is nested too deeply at line {number}")
    except json.JSONDecodeError as exc:
        if exc.msg == "Extra data" and text[exc.pos :] == ",":
            return BadItem(fault=f"has a comma after it at line {number}, column {exc.pos + 1}: remove the comma")
        return BadItem(fault=f"is not JSON at line {number}, column {exc.pos + 1} ({exc.msg})")
    except ValueError as exc:  # an integer with more digits than Python converts
        return BadItem(fault=f"is not JSON at line {number} ({exc})")
