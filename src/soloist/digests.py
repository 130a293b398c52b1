"""Digests of texts and ids, and a compact table of them. Pure.

A digest has 16 bytes. The table is an open hash table of 4-byte entry numbers, at most half full. It takes 20 to 36
bytes a digest, with the spare room of growing arrays.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
import zlib
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

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

    def add_all(self, digests: Sequence[bytes]) -> NDArray[np.int64]:
        """Add digests in order, as `add` does: the entry that each digest had already, and -1 for a new digest."""
        joined = b"".join(digests)
        found = self._find_all(joined)
        new = np.flatnonzero(found == _EMPTY)
        content = np.frombuffer(joined, dtype=f"V{DIGEST_BYTES}")[new].tobytes()
        halves = np.sort(np.frombuffer(content, dtype="<u8")[::2])
        if (halves[1:] == halves[:-1]).any():  # a new digest may occur twice
            for row in new.tolist():
                entry = self.add(digests[row])
                found[row] = _EMPTY if entry is None else entry
            return found
        first = self._count
        self._digests += content
        self._count += len(new)
        if 2 * self._count > len(self._slots):
            self._grow()
        else:
            self._place_block(first, self._count)
        return found

    def _find_all(self, joined: bytes) -> NDArray[np.int64]:
        """The entry of each digest in the joined bytes; -1 for a digest that is not in the table."""
        wanted = np.frombuffer(joined, dtype="<u8").reshape(-1, 2)
        stored = np.frombuffer(self._digests, dtype="<u8").reshape(-1, 2)
        table = np.frombuffer(self._slots, dtype=np.int32)
        found = np.full(len(wanted), _EMPTY, dtype=np.int64)
        rows = np.arange(len(wanted))
        slots = (wanted[:, 0] & np.uint64(self._mask)).astype(np.int64)
        while rows.size:
            entries = table[slots]
            taken = np.flatnonzero(entries != _EMPTY)  # at a free slot the search for a digest ends
            rows, slots, entries = rows[taken], slots[taken], entries[taken]
            is_same = (stored[entries] == wanted[rows]).all(axis=1)
            found[rows[is_same]] = entries[is_same]
            rows, slots = rows[~is_same], (slots[~is_same] + 1) & self._mask
        return found

    def _slot(self, digest: bytes) -> int:
        """The slot that holds a digest, or the free one that it would take."""
        slot: int = _FIRST_HALF.unpack_from(digest)[0] & self._mask
        while (entry := self._slots[slot]) != _EMPTY and not self._digests.startswith(digest, entry * DIGEST_BYTES):
            slot = (slot + 1) & self._mask
        return slot

    def _grow(self) -> None:
        n_slots = len(self._slots)
        while 2 * self._count > n_slots:
            n_slots *= 2
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


def row_checksums(rows: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The CRC-32 of each row (rows, dim): a row with another bit has another checksum."""
    return np.fromiter(map(zlib.crc32, np.ascontiguousarray(rows)), dtype=np.uint32, count=len(rows))


def shard_digest(ids: Sequence[str], digests: Sequence[bytes]) -> str:
    """The digest of a shard: its ids with the digests of their texts, in order; 32 hex digits."""
    return digest_of_rows([text_digest(id_) for id_ in ids], digests)


def digest_of_rows(id_digests: Sequence[bytes], digests: Sequence[bytes]) -> str:
    """As `shard_digest`, from the digests of the ids."""
    rows = itertools.chain.from_iterable(zip(id_digests, digests, strict=True))
    return hashlib.blake2b(b"".join(rows), digest_size=DIGEST_BYTES).hexdigest()


def contents_digest(contents: Iterable[str]) -> str:
    """The digest of a collection: of the digests of its shards, in order; 32 hex digits."""
    return hashlib.blake2b(" ".join(contents).encode(), digest_size=DIGEST_BYTES).hexdigest()
