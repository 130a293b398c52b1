"""Whether an id was seen before, and where, in a few bytes an id. Knows ids and places, no files.

An id is kept as a digest of 16 bytes, its place as two numbers, and both are found through an open hash
table of 4-byte entry numbers that is at most half full: 28 to 44 bytes an id, growth of the arrays included.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from pathlib import Path

import numpy as np

from soloist.errors import DuplicateIdError
from soloist.sources.faults import shortened
from soloist.types import Place

_DIGEST_BYTES = 16
_FIRST_HALF = struct.Struct("<Q")
_EMPTY = -1
_FIRST_SLOTS = 1 << 10
# Entries that are put into a grown table at a time; bounds what numpy needs meanwhile.
_BLOCK = 1 << 15


class DuplicateIds:
    """Raises at the second chunk with an id; one object a collection.

    Example:
        >>> duplicates = DuplicateIds()
        >>> duplicates.check("a-1", Place(file=Path("a_chunks.json"), index=0))
    """

    def __init__(self) -> None:
        self._files: list[Path] = []
        self._digests = bytearray()
        self._file_numbers = array("i")
        self._indices = array("i")
        self._slots = array("i", [_EMPTY]) * _FIRST_SLOTS
        self._mask = _FIRST_SLOTS - 1

    def check(self, id: str, place: Place) -> None:
        """Take note of the id of the chunk at `place`.

        Raises:
            DuplicateIdError: an earlier chunk has this id; the message names both places.
        """
        digest = hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
        slot = _FIRST_HALF.unpack_from(digest)[0] & self._mask
        while (entry := self._slots[slot]) != _EMPTY:
            if self._digests.startswith(digest, entry * _DIGEST_BYTES):
                raise DuplicateIdError(
                    f"two chunks have the id {shortened(id)!r}: {self._place(entry)} and {place}: "
                    "give each chunk an id of its own, or name the field that holds one with --id-field"
                )
            slot = (slot + 1) & self._mask
        self._slots[slot] = len(self._indices)
        self._append(digest, place)

    def _append(self, digest: bytes, place: Place) -> None:
        if not self._files or (self._files[-1] is not place.file and self._files[-1] != place.file):
            self._files.append(place.file)
        self._digests += digest
        self._file_numbers.append(len(self._files) - 1)
        self._indices.append(place.index)
        if 2 * len(self._indices) > len(self._slots):
            self._grow()

    def _place(self, entry: int) -> Place:
        return Place(file=self._files[self._file_numbers[entry]], index=self._indices[entry])

    def _grow(self) -> None:
        n_slots = 2 * len(self._slots)
        self._slots = array("i")  # the old table is free before the new one is made
        self._slots = array("i", [_EMPTY]) * n_slots
        self._mask = n_slots - 1
        for first in range(0, len(self._indices), _BLOCK):
            self._place_block(first, min(first + _BLOCK, len(self._indices)))

    def _place_block(self, first: int, last: int) -> None:
        """Put entries into the table, each into the first free slot from its own on, all of a block at once."""
        table = np.frombuffer(self._slots, dtype=np.int32)
        digests = bytes(self._digests[first * _DIGEST_BYTES : last * _DIGEST_BYTES])
        slots = (np.frombuffer(digests, dtype="<u8")[::2] & np.uint64(self._mask)).astype(np.int64)
        entries = np.arange(first, last, dtype=np.int32)
        while entries.size:
            free = table[slots] == _EMPTY
            table[slots[free]] = entries[free]
            # Where entries wanted one slot, one has it now: the others go on to the next.
            waiting = table[slots] != entries
            entries, slots = entries[waiting], (slots[waiting] + 1) & self._mask
