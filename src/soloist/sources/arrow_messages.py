"""The sizes of the batches in an Arrow file or stream, read from its messages before anything is decompressed: a few
bytes can stand for gigabytes. Knows the framing of Arrow IPC, and the fields of its flatbuffers that give sizes.

The tables are defined in `Message.fbs` and `File.fbs` of Apache Arrow.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from soloist.sources.faults import UnreadableFileError

# A whole batch is in memory at once, unlike a row group of Parquet.
MAX_BATCH_BYTES = 2 << 30
_CONTINUATION = 0xFFFFFFFF
_MAX_METADATA_BYTES = 64 << 20
_DICTIONARY, _RECORDS = 2, 3  # kinds of messages
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3  # fields of a message
_BUFFERS, _COMPRESSION = 2, 3  # fields of a batch of records
_ID, _DATA, _IS_DELTA = 0, 1, 2  # fields of a batch of a dictionary
_DICTIONARY_BLOCKS, _RECORD_BLOCKS = 2, 3  # fields of a footer
_BUFFER = struct.Struct("<qq")  # start, length
_BLOCK = struct.Struct("<qi4xq")  # start, length of the metadata, length of the body
MAGIC = b"ARROW1"
_FOOTER_LENGTH_BYTES = 4
_NOT_COMPRESSED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """One message: its metadata, and the start and size of its body."""

    metadata: bytes
    body: int
    body_bytes: int


def is_file(raw: BinaryIO) -> bool:
    """Whether this is an Arrow file, which has a footer, and not a stream.

    Raises:
        UnreadableFileError: it begins as an Arrow file but does not end as one.
    """
    raw.seek(0)
    if raw.read(len(MAGIC)) != MAGIC:
        return False
    size = raw.seek(0, os.SEEK_END)
    raw.seek(max(0, size - len(MAGIC)))
    if size < 2 * len(MAGIC) + _FOOTER_LENGTH_BYTES or raw.read(len(MAGIC)) != MAGIC:
        raise UnreadableFileError("is cut off: it begins as an Arrow file, but does not end as one")
    return True


def require_bounded(raw: BinaryIO) -> None:
    """Refuse a file or a stream if a batch together with the dictionaries does not fit into memory.

    Raises:
        UnreadableFileError: they do not fit, the framing is damaged, or the file is cut off.
    """
    dictionaries: dict[int, int] = {}
    try:
        for message in _of_file(raw) if is_file(raw) else _of_stream(raw):
            table = _Table.root(message.metadata)
            kind, header = table.uint8(_HEADER_TYPE), table.table(_HEADER)
            if header is None or kind not in (_DICTIONARY, _RECORDS):
                continue
            size = 0
            if kind == _RECORDS:
                size = _decompressed_bytes(raw, message, header)
            elif (data := header.table(_DATA)) is not None:
                before = dictionaries.get(header.int64(_ID), 0) if header.uint8(_IS_DELTA) else 0
                dictionaries[header.int64(_ID)] = before + _decompressed_bytes(raw, message, data)
            _require_fits(size + sum(dictionaries.values()))
    except (struct.error, IndexError) as exc:
        raise UnreadableFileError("is damaged: it does not have the structure of an Arrow file") from exc


def _require_fits(size: int) -> None:
    if size > MAX_BATCH_BYTES:
        raise UnreadableFileError(
            f"has a batch of rows that takes {size / 1e9:,.1f} GB, and a batch may take at most "
            f"{MAX_BATCH_BYTES / 1e9:,.1f} GB: write the file in smaller batches"
        )


def _of_stream(raw: BinaryIO) -> Iterator[_Message]:
    at, end = 0, os.fstat(raw.fileno()).st_size
    while at < end:
        message = _message_at(raw, at, end)
        if message is None:
            return
        yield message
        at = message.body + message.body_bytes


def _of_file(raw: BinaryIO) -> Iterator[_Message]:
    """The messages that the footer lists. Other bytes between them are never read."""
    end = os.fstat(raw.fileno()).st_size - len(MAGIC) - _FOOTER_LENGTH_BYTES
    raw.seek(end)
    (size,) = struct.unpack("<i", raw.read(_FOOTER_LENGTH_BYTES))
    if not 0 < size <= min(_MAX_METADATA_BYTES, end):
        raise UnreadableFileError("is damaged: the length of its footer is impossible")
    raw.seek(end - size)
    footer = _Table.root(raw.read(size))
    for blocks in (_DICTIONARY_BLOCKS, _RECORD_BLOCKS):
        for offset, _, body_bytes in footer.structs(blocks, _BLOCK):
            if not 0 <= offset < end:
                raise UnreadableFileError("is damaged: a batch of rows is outside the file")
            message = _message_at(raw, offset, end)
            if message is None or body_bytes != message.body_bytes:
                raise UnreadableFileError("is damaged: its footer contradicts a batch of rows")
            yield message


def _message_at(raw: BinaryIO, at: int, end: int) -> _Message | None:
    """The message at an offset; None where the stream ends there."""
    raw.seek(at)
    (size,) = struct.unpack("<I", raw.read(4))
    at += 4
    if size == _CONTINUATION:
        (size,) = struct.unpack("<I", raw.read(4))
        at += 4
    if not size:
        return None
    if size > min(_MAX_METADATA_BYTES, end - at):
        raise UnreadableFileError("is damaged or cut off: a message goes beyond the end of the file")
    metadata = raw.read(size)
    body_bytes = _Table.root(metadata).int64(_BODY_LENGTH)
    if not 0 <= body_bytes <= end - at - size:
        raise UnreadableFileError("is damaged or cut off: a batch of rows goes beyond the end of the file")
    return _Message(metadata=metadata, body=at + size, body_bytes=body_bytes)


def _decompressed_bytes(raw: BinaryIO, message: _Message, batch: _Table) -> int:
    """The bytes that the buffers of a batch take in memory."""
    if batch.table(_COMPRESSION) is None:
        return message.body_bytes
    total = 0
    for offset, length in batch.structs(_BUFFERS, _BUFFER):
        if not length:
            continue
        if not 0 <= offset <= message.body_bytes - 8:
            raise UnreadableFileError("is damaged: a column is outside its batch")
        raw.seek(message.body + offset)
        (decompressed,) = struct.unpack("<q", raw.read(8))
        total += length if decompressed == _NOT_COMPRESSED else max(0, decompressed)
    return total


class _Table:
    """A table of a flatbuffer. Its fields have numbers; an absent field is 0 or None."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at
        (distance,) = struct.unpack_from("<i", data, at)
        self._fields = at - distance
        if at < 0 or self._fields < 0:  # struct would count a negative offset from the end
            raise IndexError(at)
        (self._fields_bytes,) = struct.unpack_from("<H", data, self._fields)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, *struct.unpack_from("<I", data, 0))

    def uint8(self, field: int) -> int:
        at = self._position(field)
        return self._data[at] if at else 0

    def int64(self, field: int) -> int:
        at = self._position(field)
        return int(struct.unpack_from("<q", self._data, at)[0]) if at else 0

    def table(self, field: int) -> _Table | None:
        at = self._position(field)
        return _Table(self._data, at + struct.unpack_from("<I", self._data, at)[0]) if at else None

    def structs(self, field: int, layout: struct.Struct) -> Iterator[tuple[Any, ...]]:
        """The values of each struct of a vector."""
        start = self._position(field)
        if not start:
            return
        at = start + struct.unpack_from("<I", self._data, start)[0]
        (count,) = struct.unpack_from("<I", self._data, at)
        for number in range(count):
            yield layout.unpack_from(self._data, at + 4 + number * layout.size)

    def _position(self, field: int) -> int:
        slot = 4 + 2 * field
        if slot >= self._fields_bytes:
            return 0
        (offset,) = struct.unpack_from("<H", self._data, self._fields + slot)
        return self._at + offset if offset else 0
