"""How large the batches of an Arrow stream are, read from its messages before anything is unpacked: a few bytes can
stand for gigabytes. Knows the framing of Arrow IPC and the few fields of its flatbuffers that say sizes.

The layouts are those of `Message.fbs` in Apache Arrow, format version 1.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from soloist.sources.faults import UnreadableFileError

# A batch is in memory whole, unlike a group of rows of Parquet.
MAX_BATCH_BYTES = 2 << 30
_CONTINUATION = 0xFFFFFFFF
_MAX_METADATA_BYTES = 64 << 20
_DICTIONARY, _RECORDS = 2, 3  # kinds of messages
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3  # fields of a message
_BUFFERS, _COMPRESSION = 2, 3  # fields of a batch of records
_ID, _DATA, _IS_DELTA = 0, 1, 2  # fields of a batch of a dictionary
_BUFFER_BYTES = 16
_NOT_COMPRESSED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """One message: its metadata, and where its body lies."""

    metadata: bytes
    body: int
    body_bytes: int


def require_bounded(raw: BinaryIO, start: int) -> None:
    """Refuse a stream, which begins at `start`, of which a batch and the dictionaries do not fit into memory.

    Raises:
        UnreadableFileError: one does not, or the framing is damaged, or the stream is cut off.
    """
    dictionaries: dict[int, int] = {}
    try:
        for message in _messages(raw, start):
            table = _Table.root(message.metadata)
            kind, header = table.uint8(_HEADER_TYPE), table.table(_HEADER)
            if header is None or kind not in (_DICTIONARY, _RECORDS):
                continue
            size = 0
            if kind == _RECORDS:
                size = _unpacked_bytes(raw, message, header)
            elif (data := header.table(_DATA)) is not None:
                before = dictionaries.get(header.int64(_ID), 0) if header.uint8(_IS_DELTA) else 0
                dictionaries[header.int64(_ID)] = before + _unpacked_bytes(raw, message, data)
            _require_fits(size + sum(dictionaries.values()))
    except (struct.error, IndexError) as exc:
        raise UnreadableFileError("is damaged: it is not laid out as Arrow lays a stream out") from exc


def _require_fits(size: int) -> None:
    if size > MAX_BATCH_BYTES:
        raise UnreadableFileError(
            f"has a batch of rows that takes {size / 1e9:,.1f} GB, and one may take {MAX_BATCH_BYTES / 1e9:,.1f} GB: "
            "write it in smaller batches"
        )


def _messages(raw: BinaryIO, start: int) -> Iterator[_Message]:
    end = os.fstat(raw.fileno()).st_size
    at = start
    while at < end:
        raw.seek(at)
        (size,) = struct.unpack("<I", raw.read(4))
        at += 4
        if size == _CONTINUATION:
            (size,) = struct.unpack("<I", raw.read(4))
            at += 4
        if not size:
            return
        if size > min(_MAX_METADATA_BYTES, end - at):
            raise UnreadableFileError("is damaged or cut off: a message has no end")
        metadata = raw.read(size)
        body_bytes = _Table.root(metadata).int64(_BODY_LENGTH)
        if not 0 <= body_bytes <= end - at - size:
            raise UnreadableFileError("is damaged or cut off: a batch of rows has no end")
        yield _Message(metadata=metadata, body=at + size, body_bytes=body_bytes)
        at += size + body_bytes


def _unpacked_bytes(raw: BinaryIO, message: _Message, batch: _Table) -> int:
    """What the buffers of a batch take in memory."""
    if batch.table(_COMPRESSION) is None:
        return message.body_bytes
    total = 0
    for offset, length in batch.buffers(_BUFFERS):
        if not length:
            continue
        if not 0 <= offset <= message.body_bytes - 8:
            raise UnreadableFileError("is damaged: a column lies outside of its batch")
        raw.seek(message.body + offset)
        (unpacked,) = struct.unpack("<q", raw.read(8))
        total += length if unpacked == _NOT_COMPRESSED else max(0, unpacked)
    return total


class _Table:
    """A table of a flatbuffer: fields by number, absent ones 0 or None."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at
        (distance,) = struct.unpack_from("<i", data, at)
        self._fields = at - distance
        if at < 0 or self._fields < 0:  # which struct would count from the end
            raise IndexError(at)
        (self._fields_bytes,) = struct.unpack_from("<H", data, self._fields)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, *struct.unpack_from("<I", data, 0))

    def uint8(self, field: int) -> int:
        at = self._place(field)
        return self._data[at] if at else 0

    def int64(self, field: int) -> int:
        at = self._place(field)
        return int(struct.unpack_from("<q", self._data, at)[0]) if at else 0

    def table(self, field: int) -> _Table | None:
        at = self._place(field)
        return _Table(self._data, at + struct.unpack_from("<I", self._data, at)[0]) if at else None

    def buffers(self, field: int) -> Iterator[tuple[int, int]]:
        """Where each buffer begins in the body, and its length there."""
        place = self._place(field)
        if not place:
            return
        at = place + struct.unpack_from("<I", self._data, place)[0]
        (count,) = struct.unpack_from("<I", self._data, at)
        for number in range(count):
            yield struct.unpack_from("<qq", self._data, at + 4 + number * _BUFFER_BYTES)

    def _place(self, field: int) -> int:
        slot = 4 + 2 * field
        if slot >= self._fields_bytes:
            return 0
        (offset,) = struct.unpack_from("<H", self._data, self._fields + slot)
        return self._at + offset if offset else 0
