"""Digests of texts and ids, and a compact table of them. Pure.

A digest has 16 bytes. The table is an open hash table of 4-byte entry numbers, at most half full. It takes 20 to 36
bytes a digest, with the spare room of growing arrays.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Sequence

import numpy as np

DIGEST_BYTES = 16
_FIRST_HALF = struct.Struct("<Q")
_EMPTY = -1
_FIRST_SLOTS = 1 << 10
# Entries that are put into a grown table at a time. It bounds the memory that numpy needs meanwhile.
_BLOCK = 1 << 15


def text_digest(text: str) -> bytes:
    """The digest of a text: 16 bytes of BLAKE2b over its UTF-8."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


class DigestTable:
    """Digests with entry numbers: 0 for the first digest that was added, then 1, and so on."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._count = 0
        self._slots = array("i", [_EMPTY]) * _FIRST_SLOTS
        self._mask = _FIRST_SLOTS - 1

    def __len__(self) -> int:
        return self._count

    def find(self, digest: bytes) -> int | None:
        """The entry of a digest; None where the digest was not added."""
        entry = self._slots[self._slot(digest)]
        return None if entry == _EMPTY else entry

    def add(self, digest: bytes) -> int | None:
        """Add a digest. The entry that it had already; None where the digest is new."""
        slot = self._slot(digest)
        entry = self._slots[slot]
        if entry != _EMPTY:
            return entry
        self._slots[slot] = self._count
        self._digests += digest
        self._count += 1
        if 2 * self._count > len(self._slots):
            self._grow()
        return None

    def _slot(self, digest: bytes) -> int:
        """The slot that holds a digest, or the free one that it would take."""
        slot: int = _FIRST_HALF.unpack_from(digest)[0] & self._mask
        while (entry := self._slots[slot]) != _EMPTY and not self._digests.startswith(digest, entry * DIGEST_BYTES):
            slot = (slot + 1) & self._mask
        return slot

    def _grow(self) -> None:
        n_slots = 2 * len(self._slots)
        self._slots = array("i")  # the old table is free before the new one is made
        self._slots = array("i", [_EMPTY]) * n_slots
        self._mask = n_slots - 1
        for first in range(0, self._count, _BLOCK):
            self._place_block(first, min(first + _BLOCK, self._count))

    def _place_block(self, first: int, last: int) -> None:
        """Put a block of entries into the table at once. An entry takes the first free slot from its own on."""
        table = np.frombuffer(self._slots, dtype=np.int32)
        digests = bytes(self._digests[first * DIGEST_BYTES : last * DIGEST_BYTES])
        slots = (np.frombuffer(digests, dtype="<u8")[::2] & np.uint64(self._mask)).astype(np.int64)
        entries = np.arange(first, last, dtype=np.int32)
        while entries.size:
            free = table[slots] == _EMPTY
            table[slots[free]] = entries[free]
            # Where several entries wanted a slot, one has it now. The others try the next slot.
            waiting = table[slots] != entries
            entries, slots = entries[waiting], (slots[waiting] + 1) & self._mask


def shard_digest(ids: Sequence[str], digests: Sequence[bytes]) -> str:
    """The digest of a shard: its ids with the digests of their texts, in order; 32 hex digits."""
    whole = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for id_, digest in zip(ids, digests, strict=True):
        whole.update(text_digest(id_) + digest)
    return whole.hexdigest()
