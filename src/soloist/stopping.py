"""A run that ends before it is done, by a signal or at a set time: at the end of the shard that is being computed.

- The first Ctrl-C or SIGTERM asks for the end. The run ends at once where nothing would be lost.
- The second one ends the run immediately.
- Later ones do nothing. An interrupt during a release would leave threads at work on devices that are no longer leased.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from soloist.errors import RunInterruptedError, RunStoppedError, SoloistError

_LISTENER_SECONDS = 5.0
_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_DEFAULTS: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Stop:
    """Whether a run should end.

    The run asks while it reads chunks, before it loads a model, and at the end of every shard. Any thread may call
    `request`.
    """

    def __init__(self, after_seconds: float | None = None) -> None:
        self.limit(after_seconds)
        # Only plain values and reentrant queues: a signal may come at any point of what this does.
        self._why = ""
        self._shields = 0
        self._raised: RunStoppedError | RunInterruptedError | None = None
        self._listeners: list[queue.SimpleQueue[str | None]] = []

    @property
    def remaining_seconds(self) -> float | None:
        """The seconds until the set time; None where no time was set."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    @property
    def is_asked(self) -> bool:
        """Whether a signal or a caller has asked for the end."""
        return bool(self._why)

    def limit(self, after_seconds: float | None) -> None:
        """Set the time after which the run ends, counted from now; None for no end."""
        # By the monotonic clock: a machine's date may jump.
        self._deadline = time.monotonic() + after_seconds if after_seconds is not None else None

    def request(self, why: str) -> None:
        """Ask for the end after the present shard."""
        self._why = self._why or why
        for listener in self._listeners if self._shields else ():  # without a shield the run ends at once
            listener.put(self._why)

    def check(self) -> None:
        """Return where the run may go on.

        Raises:
            RunStoppedError: the run was asked to end, or its time is over.
        """
        if self._why:
            raise RunStoppedError(f"stopped by {self._why}")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise RunStoppedError("stopped because its time is over")

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Within this, the first signal only asks for the end: a shard is being computed, which would be lost."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within this, inside a shield, a signal ends the run at once: the run only waits."""
        shields, self._shields = self._shields, 0
        try:
            self.check()
            yield
        finally:
            self._shields = shields

    @contextlib.contextmanager
    def on_request(self, listener: Callable[[str], None]) -> Iterator[None]:
        """Within this, call `listener` with the reason once somebody asks for an end that a shard delays.

        The call is made in a thread of its own.
        """
        asked: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def wait() -> None:
            why = asked.get()
            if why is not None:
                listener(why)

        thread = threading.Thread(target=wait, name="soloist-stop", daemon=True)
        thread.start()
        self._listeners.append(asked)
        if self._why:
            asked.put(self._why)
        try:
            yield
        finally:
            self._listeners.remove(asked)
            asked.put(None)
            thread.join(_LISTENER_SECONDS)

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Within this, Ctrl-C and SIGTERM end the run as the module says.

        Nothing changes outside the main thread, or where the caller has handlers of its own.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours = {number: default for number, default in _DEFAULTS.items() if signal.getsignal(number) is default}
        try:
            for number in ours:
                signal.signal(number, self._handle)
            with self.unmasked():
                yield
        finally:
            for number, default in ours.items():
                signal.signal(number, default)

    @contextlib.contextmanager
    def unmasked(self) -> Iterator[None]:
        """Within this, what a signal raised comes out, also where code that it interrupted made another error of it.

        A wait of Python's own threading does so: between giving its lock back and taking it again, it ends with
        "release unlocked lock".
        """
        try:
            yield
        except Exception as exc:
            # Others say of themselves what happened, e.g. a full disk while the run was ending.
            if self._raised is None or isinstance(exc, (SoloistError, OSError)) or not _is_beneath(self._raised, exc):
                raise
            raise type(self._raised)(*self._raised.args) from exc

    def _handle(self, number: int, frame: FrameType | None) -> None:
        why = _SIGNALS[signal.Signals(number)]
        if not self._why:
            self.request(why)
            if not self._shields:
                self._raised = RunStoppedError(f"stopped by {why}")
                raise self._raised
            return
        for other in _SIGNALS:
            if signal.getsignal(other) == self._handle:
                signal.signal(other, _ignore)
        self._raised = RunInterruptedError(f"stopped by {'a second ' if why == self._why else ''}{why}")
        raise self._raised


@contextlib.contextmanager
def first_interrupt_only(numbers: Sequence[signal.Signals] = (signal.SIGINT,)) -> Iterator[None]:
    """Within this, the first of these signals raises KeyboardInterrupt, and later ones do nothing.

    For a caller who has nothing to save. Nothing changes outside the main thread, or where the caller has handlers of
    its own.
    """
    is_main = threading.current_thread() is threading.main_thread()
    ours = [number for number in numbers if is_main and signal.getsignal(number) is _DEFAULTS[number]]

    def interrupt(number: int, frame: FrameType | None) -> None:
        for other in ours:
            signal.signal(other, _ignore)
        raise KeyboardInterrupt(f"stopped by {_SIGNALS[signal.Signals(number)]}")

    try:
        for number in ours:
            signal.signal(number, interrupt)
        yield
    finally:
        for number in ours:
            signal.signal(number, _DEFAULTS[number])


def _is_beneath(sought: BaseException, error: BaseException) -> bool:
    """Whether `error` was raised while `sought` was being handled."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if current is sought:
            return True
        seen.add(id(current))
        current = current.__cause__ or current.__context__
    return False


def _ignore(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which child processes would inherit."""
