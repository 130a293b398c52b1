"""Makes the next item in a thread while the caller works on the present one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from soloist.workers import Task, WorkerThread

Item = TypeVar("Item")
Made = TypeVar("Made")


class Lookahead(Generic[Item, Made]):
    """Iterates over `make(item)`, one item ahead. Entering begins with the first item.

    An error in `make` is raised where its result would have come.
    """

    def __init__(self, make: Callable[[Item], Made], items: Iterable[Item]) -> None:
        self._make = make
        self._items = iter(items)
        self._thread = WorkerThread("soloist-prepare")
        self._next: Task[Made] | None = None

    def __enter__(self) -> Lookahead[Item, Made]:
        """Begin to make the first item."""
        self._advance()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the thread; what it made and nobody took is dropped."""
        self._thread.close()
        self._next = None

    def wait_for_first(self) -> None:
        """Return when the first item is made, or has failed."""
        if self._next is not None:
            self._next.wait()

    def __iter__(self) -> Iterator[Made]:
        """The made items, in order."""
        while self._next is not None:
            made = self._next.result()
            self._advance()
            yield made

    def _advance(self) -> None:
        self._next = next((self._thread.submit(functools.partial(self._make, item)) for item in self._items), None)
