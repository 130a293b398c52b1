"""Progress in a notebook: one output that is replaced as the work goes on. It needs no widgets.

An output with an id can be updated wherever IPython has a kernel, as in Jupyter, Kaggle, Colab and VS Code. A saved
notebook keeps the last state. Knows events, and IPython's display. Computes nothing.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from html import escape
from importlib import import_module
from typing import Any

from soloist.events import BatchEncoded, Event, PassFinished, PassStarted, RunStarted, ShardEncoded
from soloist.reports.passes import PassState
from soloist.reports.progress import NotableLines
from soloist.reports.text import clock_text, one_line
from soloist.wording import count_text

Display = Callable[[Mapping[str, str]], object]
_SECONDS_BETWEEN = 0.25  # each update is a message to the browser
_MOST_ITEMS = 100
_LEFT_OUT = "... (earlier lines are left out)"
# Half-transparent grey is visible on white and on black; the text has the colour of the notebook.
_TRACK = "background:rgba(128,128,128,.3);height:.5em;border-radius:.25em;max-width:40em;margin:.15em 0 .5em"
_BAR = "background:#4c78a8;height:100%;border-radius:.25em"


def in_notebook() -> bool:
    """Whether a kernel of IPython runs this code, so that what it displays can be updated."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


@contextlib.contextmanager
def notebook_progress() -> Iterator[NotebookProgress]:
    """A sink that shows a run below the cell that is executed."""
    shown = NotebookProgress(updating_display())
    with contextlib.closing(shown):
        yield shown


@contextlib.contextmanager
def notebook_line() -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done, in one line below the cell. At the end the line is empty."""
    display = updating_display()
    shown = _Paced(time.monotonic)

    def show(text: str) -> None:
        if shown.is_due():
            display(_line_forms(text))

    try:
        yield show
    finally:
        display(_line_forms(""))


def updating_display() -> Display:
    """A function that displays something by its types of content, and with each further call replaces it."""
    display = import_module("IPython.display").display
    handle: Any = None

    def show(forms: Mapping[str, str]) -> None:
        nonlocal handle
        if handle is None:
            handle = display(dict(forms), raw=True, display_id=True)
        else:
            handle.update(dict(forms), raw=True)

    return show


class NotebookProgress:
    """A bar for every pass, with its rate and the time left, between the lines that a run has for a reader."""

    def __init__(self, display: Display, clock: Callable[[], float] = time.monotonic) -> None:
        self._display = display
        self._clock = clock
        self._paced = _Paced(clock)
        self._passes: dict[str, _PassBar] = {}
        self._notable = NotableLines()
        self._items: list[str | _PassBar] = []
        self._head: tuple[str, ...] = ()

    def emit(self, event: Event) -> None:
        """Take the event's line or move the bar of its model. The display follows a few times a second."""
        match event:
            case RunStarted():
                self._passes.clear()
                self._notable.clear()
            case PassStarted():
                bar = self._bar(event.model)
                bar.start(event, self._clock())
                self._items.append(bar)
            case BatchEncoded():
                self._bar(event.model).state.add_batch(event)
            case ShardEncoded():
                self._bar(event.model).end_shard(event)
            case PassFinished():
                self._bar(event.model).end(self._clock())
            case _:
                line = self._notable.line(event)
                if line is None:
                    return
                self._items.append(one_line(line))
        if isinstance(event, PassFinished) or self._paced.is_due():
            self._show()

    def close(self) -> None:
        """Display the last state."""
        if self._items:
            self._show()

    def _bar(self, model: str) -> _PassBar:
        return self._passes.setdefault(model, _PassBar(model))

    def _show(self) -> None:
        if len(self._items) > _MOST_ITEMS:
            del self._items[:-_MOST_ITEMS]
            self._head = (_LEFT_OUT,)
        now, items = self._clock(), (*self._head, *self._items)
        html = "".join(_line_html(item) if isinstance(item, str) else item.html(now) for item in items)
        text = "\n".join(item if isinstance(item, str) else item.text(now) for item in items)
        self._display({"text/html": html, "text/plain": text})


class _PassBar:
    """The bar of a pass; `devices` are known from its start on."""

    def __init__(self, model: str) -> None:
        self.state = PassState()
        self._model = model
        self._devices = ""
        self._rate = ""
        self._started = 0.0
        self._ended: float | None = None

    def start(self, event: PassStarted, now: float) -> None:
        self.state.start(event.chunks)
        self._devices = ", ".join(event.devices)
        self._started = now

    def end_shard(self, event: ShardEncoded) -> None:
        self.state.end_shard(event)
        self._rate = self.state.rate  # within a shard, batches are counted but seconds are not

    def end(self, now: float) -> None:
        self._ended = now

    def text(self, now: float) -> str:
        """The model, its devices, chunks and chunks/s, and the time left. At the end, the time that the pass took."""
        state = self.state
        counted = f"{state.done:,} of {count_text(state.chunks, 'chunk')}"
        parts = (f"{self._model} on {self._devices}: {counted}", self._rate or self._first_rate(now), self._time(now))
        return one_line(", ".join(filter(None, parts)))

    def html(self, now: float) -> str:
        share = self.state.done / max(1, self.state.chunks)
        bar = f'<div style="{_TRACK}"><div style="{_BAR};width:{min(1.0, share):.1%}"></div></div>'
        return _line_html(self.text(now)) + bar

    def _first_rate(self, now: float) -> str:
        """Chunks per second; by the clock until a shard is finished."""
        if self._ended is not None or not self.state.embedded:
            return ""
        return f"{self.state.embedded / max(1e-3, now - self._started):,.1f} chunks/s"

    def _time(self, now: float) -> str:
        if self._ended is not None:
            return f"done in {clock_text(self._ended - self._started)}"
        if self.state.done == self.state.before:
            return ""
        return f"{clock_text(self.state.seconds_left(now - self._started))} left"


class _Paced:
    """Says whether it is time to display something again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: float | None = None

    def is_due(self) -> bool:
        now = self._clock()
        if self._last is not None and now - self._last < _SECONDS_BETWEEN:
            return False
        self._last = now
        return True


def _line_forms(text: str) -> dict[str, str]:
    line = one_line(text)
    return {"text/html": _line_html(line), "text/plain": line}


def _line_html(line: str) -> str:
    return f"<div>{escape(line)}</div>"
