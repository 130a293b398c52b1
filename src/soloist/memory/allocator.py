"""Models of device allocators. Pure: sizes in, blocks and statistics out. Knows nothing of tensors.

`CachingAllocator` follows torch's own, `c10/cuda/CUDACachingAllocator.cpp`:

- Requests are rounded to 512 bytes.
- Blocks are cut from segments, which are taken from the driver and kept.
- The free block that fits best is used, and free neighbours merge.
- A request that the driver refuses is tried once more, after free segments went back.

Streams, graphs and expandable segments are left out: soloist uses none of them. `IdealAllocator` never fragments.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorRules:
    """The constants of an allocator, in bytes.

    Requests up to `small_limit` come from segments of `small_segment`, and those below `large_limit` from segments of
    `large_segment`. All others have their own segment, rounded up to `huge_rounding`. A block of a large segment is cut
    only where more than `small_limit` would be left.
    """

    rounding: int = 512
    small_limit: int = MIB
    small_segment: int = 2 * MIB
    large_limit: int = 10 * MIB
    large_segment: int = 20 * MIB
    huge_rounding: int = 2 * MIB

    def rounded(self, size: int) -> int:
        """The size of the smallest block for a request."""
        return max(self.rounding, -(-size // self.rounding) * self.rounding)

    def segment_size(self, rounded: int) -> int:
        """The size of the segment for a request that no free block can serve."""
        if rounded <= self.small_limit:
            return max(rounded, self.small_segment)
        if rounded < self.large_limit:
            return self.large_segment
        return -(-rounded // self.huge_rounding) * self.huge_rounding

    def leaves_enough(self, rest: int, *, small: bool) -> bool:
        """Whether the rest of a cut block becomes a block of its own."""
        return rest >= self.rounding if small else rest > self.small_limit


@dataclass(slots=True, eq=False)
class Block:
    """A piece of a segment. `requested` is 0 while it is free."""

    size: int
    address: int
    small: bool
    requested: int = 0
    before: Block | None = field(default=None, repr=False)
    after: Block | None = field(default=None, repr=False)

    @property
    def is_whole_segment(self) -> bool:
        """Whether the block has no neighbours."""
        return self.before is None and self.after is None


class Allocator:
    """The counts of an allocator of one device, in bytes. Not safe to use from several threads at once.

    `take` asks the driver for bytes, and is False where the driver has too few; `give_back` returns them.
    """

    rules: AllocatorRules

    def __init__(self, take: Callable[[int], bool], give_back: Callable[[int], None]) -> None:
        self.allocated = 0
        self.reserved = 0
        self.peak_allocated = 0
        self.peak_reserved = 0
        self._take = take
        self._give_back = give_back

    def allocate(self, size: int) -> Block | None:
        """A block of at least `size` bytes; None where the device has no room for it."""
        raise NotImplementedError

    def free(self, block: Block) -> None:
        """Keep the block's bytes for later requests."""
        raise NotImplementedError

    def empty_cache(self) -> None:
        """Return the bytes that no block holds to the driver."""
        raise NotImplementedError

    def reset_peak(self) -> None:
        """Begin new peaks at what is allocated and reserved now."""
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def _reserve(self, size: int) -> bool:
        if not self._take(size):
            return False
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return True

    def _count(self, block: Block) -> Block:
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block


class IdealAllocator(Allocator):
    """Reserves exactly as much as was ever allocated at once, and reuses every byte of it."""

    rules = AllocatorRules()

    def allocate(self, size: int) -> Block | None:
        """A block of `size` bytes rounded to 512; None where the device has no room for it."""
        rounded = self.rules.rounded(size)
        missing = self.allocated + rounded - self.reserved
        if missing > 0 and not self._reserve(missing):
            return None
        return self._count(Block(size=rounded, address=0, small=True, requested=rounded))

    def free(self, block: Block) -> None:
        """Keep the block's bytes for later requests."""
        self.allocated -= block.size

    def empty_cache(self) -> None:
        """Return the bytes that no block holds to the driver."""
        self._give_back(self.reserved - self.allocated)
        self.reserved = self.allocated


class CachingAllocator(Allocator):
    """Torch's allocator. `allocated` counts whole blocks, as `torch.cuda.memory_allocated` does."""

    def __init__(
        self,
        take: Callable[[int], bool],
        give_back: Callable[[int], None],
        rules: AllocatorRules | None = None,
    ) -> None:
        super().__init__(take, give_back)
        self.rules = rules or AllocatorRules()
        self._next_address = 0
        # Free blocks by (size, address), of small and of large segments.
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._blocks: dict[int, Block] = {}

    def allocate(self, size: int) -> Block | None:
        """A block of at least `size` bytes; None where the device has no room for it."""
        rounded = self.rules.rounded(size)
        block = self._best_free(rounded) or self._new_segment(rounded)
        if block is None:
            self.empty_cache()
            block = self._new_segment(rounded)
        if block is None:
            return None
        self._cut(block, rounded)
        block.requested = rounded
        return self._count(block)

    def free(self, block: Block) -> None:
        """Keep the block for later requests, merged with its free neighbours."""
        self.allocated -= block.size
        block.requested = 0
        for neighbour in (block.before, block.after):
            if neighbour is not None and not neighbour.requested:
                self._forget(neighbour)
                self._merge(block, neighbour)
        self._keep(block)

    def empty_cache(self) -> None:
        """Return every free segment to the driver."""
        for small, free in self._free.items():
            whole = [key for key in free if self._blocks[key[1]].is_whole_segment]
            self._free[small] = [key for key in free if key not in set(whole)]
            for size, address in whole:
                del self._blocks[address]
                self.reserved -= size
                self._give_back(size)

    def _best_free(self, rounded: int) -> Block | None:
        small = rounded <= self.rules.small_limit
        free = self._free[small]
        index = bisect.bisect_left(free, (rounded, -1))
        if index == len(free):
            return None
        _, address = free.pop(index)
        return self._blocks.pop(address)

    def _new_segment(self, rounded: int) -> Block | None:
        size = self.rules.segment_size(rounded)
        if not self._reserve(size):
            return None
        block = Block(size=size, address=self._next_address, small=rounded <= self.rules.small_limit)
        self._next_address += size
        return block

    def _cut(self, block: Block, rounded: int) -> None:
        rest = block.size - rounded
        if not rest or not self.rules.leaves_enough(rest, small=block.small):
            return
        remainder = Block(
            size=rest, address=block.address + rounded, small=block.small, before=block, after=block.after
        )
        if block.after is not None:
            block.after.before = remainder
        block.after, block.size = remainder, rounded
        self._keep(remainder)

    def _merge(self, block: Block, neighbour: Block) -> None:
        if neighbour is block.before:
            block.address, block.before = neighbour.address, neighbour.before
            if block.before is not None:
                block.before.after = block
        else:
            block.after = neighbour.after
            if block.after is not None:
                block.after.before = block
        block.size += neighbour.size

    def _keep(self, block: Block) -> None:
        bisect.insort(self._free[block.small], (block.size, block.address))
        self._blocks[block.address] = block

    def _forget(self, block: Block) -> None:
        free = self._free[block.small]
        del free[bisect.bisect_left(free, (block.size, block.address))]
        del self._blocks[block.address]
