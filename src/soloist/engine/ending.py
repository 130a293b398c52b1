"""How a run that did not come to its end says why. Knows events and errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from soloist.errors import LeaseTimeoutError, NothingFinishedError, RunStoppedError, SoloistError
from soloist.events import CollectionIndexed, Event, ShardEncoded, ShardFused
from soloist.stopping import Stop


class Finished:
    """An event sink that knows whether this process has finished anything."""

    def __init__(self) -> None:
        self._anything = False

    def emit(self, event: Event) -> None:
        """Take note of what was finished."""
        self._anything = self._anything or isinstance(event, (ShardEncoded, ShardFused, CollectionIndexed))

    @contextlib.contextmanager
    def something_or_said(self, stop: Stop) -> Iterator[None]:
        """Where the time ends before anything is finished, say so: repeating the command would not help."""
        try:
            yield
        except RunStoppedError as exc:
            is_too_short = stop.remaining_seconds == 0 and not stop.is_asked
            if self._anything or not is_too_short or isinstance(exc.__context__, LeaseTimeoutError):
                raise  # more time does not help where another process held the devices, or no node is left
            raise NothingFinishedError(
                f"{exc}, before anything new was finished: give --stop-after enough time to read the chunks, load "
                "the models and embed one shard"
            ) from exc


def first_line(error: BaseException) -> str:
    """What ended a run, in one line."""
    lines = str(error).strip().splitlines()
    if isinstance(error, KeyboardInterrupt) and not lines:  # where the caller of the run hears the signals
        return "stopped by Ctrl-C"
    if lines and isinstance(error, (SoloistError, KeyboardInterrupt)):
        return lines[0]
    return ": ".join([type(error).__name__, *lines[:1]])
