"""Parquet files whose footers contradict themselves. Knows as much of Thrift's compact protocol as that needs."""

from __future__ import annotations

from collections.abc import Iterator

_ROWS, _GROUPS = 3, 4  # fields of the footer: https://github.com/apache/parquet-format, FileMetaData
_COLUMNS = 1  # of a row group


def with_rows(file: bytes, count: int) -> bytes:
    """The file, with another number of rows in its footer than in its row groups."""
    footer = _footer(file)
    start, end = _field(footer, 0, _ROWS)
    return _with_footer(file, footer[:start] + _varint(2 * count) + footer[end:])


def with_column_twice(file: bytes) -> bytes:
    """The file, with the last column of its first row group twice."""
    footer = _footer(file)
    groups, _ = _field(footer, 0, _GROUPS)
    columns, end = _field(footer, groups + 1, _COLUMNS)
    *_, last = _items(footer, columns)
    longer = bytes([footer[columns] + 0x10]) + footer[columns + 1 : end] + footer[last:end]
    return _with_footer(file, footer[:columns] + longer + footer[end:])


def _footer(file: bytes) -> bytes:
    size = int.from_bytes(file[-8:-4], "little")
    return file[-8 - size : -8]


def _with_footer(file: bytes, footer: bytes) -> bytes:
    head = file[: len(file) - 8 - len(_footer(file))]
    return head + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _field(data: bytes, at: int, wanted: int) -> tuple[int, int]:
    """Where the value of a field of the struct that begins here is."""
    return next((start, end) for number, start, end in _fields(data, at) if number == wanted)


def _fields(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    number = 0
    while data[at]:
        step, kind = divmod(data[at], 16)
        assert step, "a footer of this size has no field that is numbered in full"
        number, start = number + step, at + 1
        at = _end(data, start, kind)
        yield number, start, at


def _items(data: bytes, at: int) -> Iterator[int]:
    """Where the items of a list of fewer than 15 begin."""
    count, kind = divmod(data[at], 16)
    at += 1
    for _ in range(count):
        yield at
        at = _end(data, at, kind)


def _end(data: bytes, at: int, kind: int) -> int:
    """Where a value ends."""
    if kind in (1, 2):  # a bool, which is its kind
        return at
    if kind == 3:
        return at + 1
    if kind in (4, 5, 6):
        return _number(data, at)[1]
    if kind == 8:
        size, at = _number(data, at)
        return at + size
    if kind == 9:
        *_, end = (at + 1, *(_end(data, start, data[at] % 16) for start in _items(data, at)))
        return end
    assert kind == 12
    *_, end = (at, *(end for _, _, end in _fields(data, at)))
    return end + 1


def _number(data: bytes, at: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        found |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if not data[at - 1] & 0x80:
            return found, at


def _varint(number: int) -> bytes:
    assert 0 <= number < 0x80
    return bytes([number])
