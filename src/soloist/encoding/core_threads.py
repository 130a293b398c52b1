"""Threads of the host that compute a batch each, on one core. Knows torch's number of threads, and no model.

With more threads in a product, its size says where the product is cut, and so would say the last bits of a row.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from soloist.workers import Task, WorkerThread

Result = TypeVar("Result")

# Calls of one caller for each thread: one at work, and one that begins when that has ended.
_AT_ONCE = 2


class CoreThreads:
    """As many threads as torch computes with in the thread that makes this. Each starts when it is first needed.

    A call goes to the thread that has the fewest calls to make. Any thread may submit calls.
    """

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        self._lock = threading.Lock()
        self._threads: list[WorkerThread | None] = [None] * self.count
        self._waiting = [0] * self.count

    def submit(self, call: Callable[[int], Result]) -> Task[Result]:
        """Have a call made by one of the threads. It is given the number of its thread, from 0."""
        with self._lock:
            number = min(range(self.count), key=self._waiting.__getitem__)
            thread = self._threads[number]
            if thread is None or not thread.is_alive:
                thread, self._waiting[number] = thread_on_one_core(f"soloist-core-{number}"), 0
                self._threads[number] = thread
            self._waiting[number] += 1
        return thread.submit(functools.partial(self._made, call, number))

    def all(self, calls: Iterable[Callable[[int], Result]]) -> list[Result]:
        """The results of calls. None of them is at work any more when this returns, or raises.

        Only a few are submitted at a time, so that who asks little does not wait for all that another has asked.

        Raises:
            Exception: what the first of the calls that failed raised.
            EncodingError: a thread was ended during its work.
        """
        results: list[Result] = []
        begun: deque[Task[Result]] = deque()
        try:
            for call in calls:
                if len(begun) >= _AT_ONCE * self.count:
                    results.append(begun.popleft().result())
                begun.append(self.submit(call))
            while begun:
                results.append(begun.popleft().result())
        finally:
            for task in begun:  # after an error, or Ctrl-C
                task.wait()
        return results

    def _made(self, call: Callable[[int], Result], number: int) -> Result:
        try:
            return call(number)
        finally:
            with self._lock:
                self._waiting[number] -= 1


@functools.cache
def core_threads() -> CoreThreads:
    """The threads of this process."""
    return CoreThreads()


os.register_at_fork(after_in_child=core_threads.cache_clear)  # a forked process has no threads but its own


def thread_on_one_core(name: str) -> WorkerThread:
    """A thread in which torch computes on one core."""
    thread = WorkerThread(name)
    try:
        thread.submit(functools.partial(_on_one_core, torch.get_num_threads())).result()
    except BaseException:  # by a signal
        thread.close_later()
        raise
    return thread


def _on_one_core(of_others: int) -> None:
    torch.get_num_threads()  # before its first look a thread takes the number of others, whatever was set in it
    torch.set_num_threads(1)
    # The last number that was set is that of every thread that begins later. No signal is handled in this thread.
    other = threading.Thread(target=torch.set_num_threads, args=(of_others,))
    other.start()
    other.join()
