"""The memory of a simulated device, as torch would account for it. Knows allocators and cards, and no values."""

from __future__ import annotations

import collections
import contextlib
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import torch

from soloist.devices.simulated_driver import DriverMemory
from soloist.memory.allocator import Allocator, Block, CachingAllocator, IdealAllocator
from soloist.memory.cards import Card
from soloist.types import MemoryStats

_Watcher = weakref.KeyedRef[int, torch.UntypedStorage]


class DeviceLedger:
    """The memory of one simulated device, in bytes. Safe to use from any thread.

    `waits` counts how often the host would wait for the device, by operator. One thread at a time may count.
    """

    def __init__(self, index: int, card: Card, folder: Path | None = None) -> None:
        self.index = index
        self.card = card
        self.folder = folder
        self.waits: collections.Counter[str] = collections.Counter()
        self._driver = DriverMemory(f"simulated-{index}", card.total_bytes, folder)
        self._process = _ProcessMemory(index, card, self._driver)
        self._blocks: dict[int, Block] = {}
        # A storage may die whenever Python collects garbage, also in the midst of an allocation, of this device or of
        # another. So its death is only noted. Its block is freed when the lock is next taken.
        self._watchers: dict[int, _Watcher] = {}
        self._dead: collections.deque[_Watcher] = collections.deque()
        self._lock = threading.Lock()

    @property
    def allocated_bytes(self) -> int:
        """The bytes of all blocks now; asking makes no context."""
        with self._up_to_date():
            return self._process.allocator.allocated

    def memory(self) -> MemoryStats:
        """What torch says of a CUDA device; asking makes the context, as with CUDA."""
        with self._up_to_date():
            self._process.require_context()
            allocator = self._process.allocator
            return MemoryStats(
                free_bytes=self._driver.free_bytes(),
                allocated_bytes=allocator.allocated,
                reserved_bytes=allocator.reserved,
                total_bytes=self.card.total_bytes,
                peak_bytes=allocator.peak_allocated,
                peak_reserved_bytes=allocator.peak_reserved,
            )

    def driver_free_bytes(self) -> int:
        """The bytes that the driver has left; asking makes no context."""
        return self._driver.free_bytes()

    def enter(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it dies.

        Raises:
            torch.OutOfMemoryError: the device has no room for it.
        """
        key = storage._cdata
        with self._lock:
            self._free_dead()
            if key in self._blocks:
                return
            # First, so that whatever interrupts this leaves no block that nobody frees. `weakref.finalize` is slower.
            self._watchers[key] = weakref.KeyedRef(storage, self._dead.append, key)
            self._blocks[key] = self._process.allocate(storage.nbytes())

    def allocate(self, size: int) -> Block:
        """A block of at least `size` bytes. The caller has to free it.

        Raises:
            torch.OutOfMemoryError: the device has no room for it.
        """
        with self._up_to_date():
            return self._process.allocate(size)

    def free(self, block: Block) -> None:
        """Give a block back to the allocator."""
        with self._up_to_date():
            self._process.allocator.free(block)

    def require_workspace(self) -> None:
        """Make the matrix library's workspace for the handle of this thread, unless there is one."""
        handle = _handles.mine()
        if self._process.lacks_workspace(handle):
            with self._up_to_date():
                self._process.make_workspace(handle)

    def clear_workspaces(self) -> None:
        """Free the matrix library's workspaces, of all threads."""
        with self._up_to_date():
            self._process.clear_workspaces()

    def empty_cache(self) -> None:
        """Give every segment without a block back to the driver."""
        with self._up_to_date():
            self._process.allocator.empty_cache()

    def reset_peak(self) -> None:
        """Begin new peaks at what is allocated and reserved now."""
        with self._up_to_date():
            self._process.allocator.reset_peak()

    def resize(self, card: Card) -> None:
        """Give a device that is in use the memory of another card; its kind stays."""
        with self._up_to_date():
            self.card = self._process.card = self.card.with_memory(card.total_bytes)
            self._driver.total_bytes = card.total_bytes

    def close(self) -> None:
        """Give everything back to the driver, the context too."""
        self.clear_workspaces()
        self.empty_cache()
        with self._up_to_date():
            self._process.drop_context()

    @contextlib.contextmanager
    def _up_to_date(self) -> Iterator[None]:
        """Hold the lock, with the blocks of dead storages freed."""
        with self._lock:
            self._free_dead()
            yield

    def _free_dead(self) -> None:
        while self._dead:
            watcher = self._dead.popleft()
            if self._watchers.get(watcher.key) is watcher:
                del self._watchers[watcher.key]
                block = self._blocks.pop(watcher.key, None)
                if block is not None:
                    self._process.allocator.free(block)


class _Handles:
    """The handles of the matrix library: one for each thread that computes, on all devices.

    When a thread ends, the next thread that needs a handle gets that one (`DeviceThreadHandlePool` in
    aten/src/ATen/cuda/detail/DeviceThreadHandles.h). So there are as many handles as threads that computed at one time.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self._owners: list[threading.Thread] = []
        self._lock = threading.Lock()

    def mine(self) -> int:
        """The number of this thread's handle."""
        number: int | None = getattr(self._of_thread, "number", None)
        if number is None:
            with self._lock:
                number = self._of_thread.number = self._given_to(threading.current_thread())
        return number

    def _given_to(self, thread: threading.Thread) -> int:
        for number, owner in enumerate(self._owners):
            if not owner.is_alive():
                self._owners[number] = thread
                return number
        self._owners.append(thread)
        return len(self._owners) - 1


_handles = _Handles()


class _ProcessMemory:
    """What this process has taken of a device: the context, the matrix library's workspaces and an allocator.

    Not safe to use from several threads at once.
    """

    def __init__(self, index: int, card: Card, driver: DriverMemory) -> None:
        self.card = card
        self.allocator: Allocator = (CachingAllocator if card.caches else IdealAllocator)(driver.take, driver.give_back)
        self._index = index
        self._driver = driver
        self._workspaces: dict[int, Block] = {}
        self._has_context = False

    def lacks_workspace(self, handle: int) -> bool:
        """Whether the card has workspaces, and that of a handle is not made yet."""
        return self.card.workspace_bytes > 0 and handle not in self._workspaces

    def allocate(self, size: int) -> Block:
        """A block, and before it the context.

        Raises:
            torch.OutOfMemoryError: the device has no room for them.
        """
        self.require_context()
        block = self.allocator.allocate(size)
        if block is None:
            raise torch.OutOfMemoryError(self._complaint(self.allocator.rules.rounded(size)))
        return block

    def require_context(self) -> None:
        """Make the process's context, unless there is one.

        Raises:
            torch.OutOfMemoryError: the device has no room for it.
        """
        if self._has_context or not self.card.context_bytes:
            return
        if not self._driver.take(self.card.context_bytes):
            raise torch.OutOfMemoryError(self._complaint(self.card.context_bytes))
        self._has_context = True

    def drop_context(self) -> None:
        """Give the context's memory back to the driver."""
        if self._has_context:
            self._driver.give_back(self.card.context_bytes)
            self._has_context = False

    def make_workspace(self, handle: int) -> None:
        """Allocate the matrix library's workspace for a handle."""
        self._workspaces[handle] = self.allocate(self.card.workspace_bytes)

    def clear_workspaces(self) -> None:
        """Free the matrix library's workspaces."""
        for block in self._workspaces.values():
            self.allocator.free(block)
        self._workspaces.clear()

    def _complaint(self, size: int) -> str:
        return (
            f"sim:{self._index} out of memory. Tried to allocate {size} bytes; {self._driver.free_bytes()} of "
            f"{self.card.total_bytes} bytes are free, {self.allocator.allocated} are allocated and "
            f"{self.allocator.reserved} reserved by this process."
        )
