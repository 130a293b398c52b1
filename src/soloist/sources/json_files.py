"""The items of JSON and JSON Lines files, as they are. Knows where the list is; not what a chunk is."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from soloist.sources.faults import BadItem, UnreadableFileError
from soloist.sources.json_stream import BUFFER_BYTES, JsonStream
from soloist.sources.nesting import TooDeepError, decode

# In this order: the first that holds a list is read.
LIST_KEYS = ("chunks", "data", "records", "items")


def read_json(
    file: Path, *, buffer_bytes: int = BUFFER_BYTES, check: Callable[[], object] = lambda: None
) -> Iterator[Any]:
    """The items of the list that a JSON file is, or that it holds under one of `LIST_KEYS`, in order.

    A file that is an object is read twice: which of its lists is meant is known only at its end. `check` is called
    whenever some more of the file is read, and may raise.

    Raises:
        UnreadableFileError: the file is not well-formed, or holds no list. Items before the fault come first.
        OSError: the file cannot be opened or read.
    """
    member = _find_list(file, buffer_bytes, check)
    with file.open("rb", buffering=0) as raw:
        stream = JsonStream(raw, buffer_bytes, check)
        yield from _list_values(stream) if member is None else _member_values(stream, member)
        stream.finish()


def read_json_lines(file: Path, *, check: Callable[[], object] = lambda: None) -> Iterator[Any]:
    """The value of each line that is not blank; a `BadItem` for one that cannot be read. `check` is called for each
    line, and may raise.

    Raises:
        OSError: the file cannot be opened or read.
    """
    at_byte = 0
    with file.open("rb") as raw:
        for number, line in enumerate(raw, start=1):
            check()
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content and not content.isspace():  # strip would copy a line that may be a hundred megabytes
                yield _line_value(content, number, at_byte + len(line) - len(content))
            at_byte += len(line)


def _find_list(file: Path, buffer_bytes: int, check: Callable[[], object]) -> int | None:
    """The number of the member that holds the chunks; None where the whole file is their list."""
    with file.open("rb", buffering=0) as raw:
        stream = JsonStream(raw, buffer_bytes, check)
        opening = stream.peek()
        if opening == "[":
            return None
        if opening == "{":
            return _find_member(stream)
        stream.value()
        raise UnreadableFileError(f"holds neither a list of chunks nor an object with one, but {opening} at its start")


def _find_member(stream: JsonStream) -> int:
    lists: dict[str, int] = {}
    try:
        for number, key in enumerate(stream.members()):
            lists.pop(key, None)  # of equal keys the last wins
            if key in LIST_KEYS and stream.peek() == "[":
                lists[key] = number
            stream.skip()
    except UnreadableFileError:
        # With a list to read, the fault is met again by who reads it, after the items before it.
        if not lists:
            raise
    for key in LIST_KEYS:
        if key in lists:
            return lists[key]
    raise UnreadableFileError(f"is an object without a list of chunks under {', '.join(LIST_KEYS)}")


def _member_values(stream: JsonStream, member: int) -> Iterator[Any]:
    for number, _ in enumerate(stream.members()):
        if number == member:
            yield from _list_values(stream)
        else:
            stream.skip()


def _list_values(stream: JsonStream) -> Iterator[Any]:
    for _ in stream.elements():
        yield stream.value()


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
        return BadItem(fault=f"is not JSON at line {number}, column {exc.pos + 1} ({exc.msg})")
    except ValueError as exc:  # an integer with more digits than Python converts
        return BadItem(fault=f"is not JSON at line {number} ({exc})")
