"""Threads whose death is an error. Pure: calls in, results out; knows nothing of what is called.

A thread may be ended between two of its calls, e.g. by an exception that another thread or a debugger sets in it. A
pool of `concurrent.futures` would then let a caller wait for ever. Here the caller gets an error.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from soloist.errors import EncodingError

Result = TypeVar("Result")
INTERRUPTIBLE = "soloist-interruptible"  # the name of a thread for whose call nobody waits at the end
_PULSE_SECONDS = 0.2  # how often a waiting caller looks whether the thread is alive


class Task(Generic[Result]):
    """A call that a thread makes, from `WorkerThread.submit`."""

    def __init__(self, call: Callable[[], Result], thread: threading.Thread) -> None:
        self._call: Callable[[], Result] | None = call
        self._thread = thread
        self._ended = threading.Event()
        self._result: list[Result] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Make the call in the present thread."""
        try:
            assert self._call is not None
            self._result.append(self._call())
        except BaseException as exc:
            self._error = exc
        finally:
            self._call = None
            self._ended.set()

    def wait(self, check: Callable[[], object] = lambda: None) -> None:
        """Return when the call or its thread has ended. `check` is called meanwhile, and may raise."""
        while not self._ended.wait(_PULSE_SECONDS):
            check()
            if not self._thread.is_alive():
                return

    def result(self) -> Result:
        """The result of the call, once it has ended.

        Raises:
            Exception: what the call raised.
            EncodingError: its thread was ended before the call was done.
        """
        self.wait()
        # Taken out: an error that stays here would keep its frames, and the frames keep tensors on the devices.
        error, self._error = self._error, None
        if isinstance(error, Exception):
            raise error
        if self._result:
            return self._result.pop()
        how = type(error).__name__ if error is not None else "from outside"
        raise EncodingError(
            f"the thread {self._thread.name} was ended during its work ({how}): run again, which goes on with what is "
            "not finished"
        ) from error


class WorkerThread:
    """A thread that makes calls in the order in which they are submitted."""

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[Task[object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still takes calls: neither closed nor ended from outside."""
        return self._thread.is_alive()

    def submit(self, call: Callable[[], Result]) -> Task[Result]:
        """Have a call made after the earlier ones."""
        task = Task(call, self._thread)
        self._tasks.put(task)  # type: ignore[arg-type]
        return task

    def drain(self) -> None:
        """Return when the thread has made its calls and holds nothing of them, or has ended."""
        self.submit(lambda: None).wait()

    def close(self) -> None:
        """Let the thread make its remaining calls, and wait until it has ended."""
        self.close_later()
        self._thread.join()

    def close_within(self, seconds: float) -> None:
        """As `close`, but return after these seconds at the latest."""
        self.close_later()
        self._thread.join(seconds)

    def close_later(self) -> None:
        """As `close`, without waiting."""
        self._tasks.put(None)


def interruptible(call: Callable[[], Result], check: Callable[[], object] = lambda: None) -> Result:
    """The result of a long call, which is made in a thread of its own, so that a signal is handled at once.

    A signal's handler that raises inside foreign code leaves that code half done, and may look like a fault of the
    code. And code that waits for its own threads handles no signal before they end. `check` is called often, and may
    raise. Where it raises, or a signal's handler does, the call goes on by itself: see `left_to_themselves`.

    Raises:
        Exception: what the call raised.
        EncodingError: its thread was ended before the call was done.
    """
    thread = WorkerThread(INTERRUPTIBLE)
    task = thread.submit(call)
    thread.close_later()
    task.wait(check)
    return task.result()


def left_to_themselves() -> bool:
    """Whether a call of `interruptible` still runs. A process that ends as usual would wait for its thread."""
    threads = [thread for thread in threading.enumerate() if thread.name == INTERRUPTIBLE]
    for thread in threads:
        thread.join(_PULSE_SECONDS)  # a thread whose call has ended is about to end
    return any(thread.is_alive() for thread in threads)


def _work(tasks: queue.SimpleQueue[Task[object] | None]) -> None:
    with contextlib.suppress(SystemExit):  # ends only this thread; a caller who waits for it gets an error
        while (task := tasks.get()) is not None:
            task.run()
            del task  # it refers to the result of the call
