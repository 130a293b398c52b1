"""Where events go: to memory, to several readers, to `events.jsonl`, to a function of the caller."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol

from soloist.errors import ConfigError, OutputError
from soloist.events.kinds import BatchEncoded, Event
from soloist.events.records import event_to_dict
from soloist.jsontext import json_text


class EventSink(Protocol):
    """An object that takes events. The run calls it from its main thread and from its worker threads."""

    def emit(self, event: Event) -> None:
        """Take one event. An event of an unknown kind must not raise."""
        ...


def as_sink(given: EventSink | Callable[[Event], object]) -> EventSink:
    """The sink itself, or, for a function that takes an event, a sink that calls it.

    Raises:
        ConfigError: `given` is neither a sink nor a function.
    """
    if isinstance(given, type):
        raise ConfigError(f"the sink {given.__name__} is a class: give an object of that class")
    if callable(getattr(given, "emit", None)):
        return given  # type: ignore[return-value]
    if not callable(given):
        raise ConfigError(
            f"the sink {given!r} cannot take events: give a function that takes an event, or an object whose method "
            "emit takes one"
        )
    return _Calling(given)


class _Calling:
    """Hands every event to a function."""

    def __init__(self, call: Callable[[Event], object]) -> None:
        self._call = call

    def emit(self, event: Event) -> None:
        self._call(event)


class ListSink:
    """Keeps the events in memory, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Append the event."""
        self.events.append(event)


class TeeSink:
    """Hands every event to several sinks, one event at a time."""

    def __init__(self, *sinks: EventSink) -> None:
        self._sinks = sinks
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Hand the event on, in the order of the sinks."""
        with self._lock:
            for sink in self._sinks:
                sink.emit(event)


class JsonLinesSink:
    """Writes `{"time": seconds since 1970, "event": "ShardEncoded", ...}` a line, flushed at once."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._path = path
        self._failed = False
        with self._disk_errors():
            self._file: IO[str] = path.open("a+", encoding="utf-8", newline="\n")
            self._end_line()

    def emit(self, event: Event) -> None:
        """Write the event as one line. Events of single batches are left out: there are too many.

        Raises:
            OutputError: the line cannot be written. Later events are left out.
        """
        if isinstance(event, BatchEncoded) or self._failed:
            return
        with self._disk_errors():
            self._file.write(json_text(event_to_dict(event, self._clock())) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file. An event after this is an error."""
        with contextlib.suppress(OSError):  # `emit` has raised it already
            self._file.close()

    def _end_line(self) -> None:
        """End the half line that a killed run left."""
        end = self._file.seek(0, os.SEEK_END)
        if end:
            with self._path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    self._file.write("\n")

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Raise the first error alone: later errors follow from it and would hide it."""
        try:
            yield
        except OSError as exc:
            self._failed = True
            reason = exc.strerror or exc
            raise OutputError(f"cannot write {self._path}: {reason}: free some space and run again") from exc
