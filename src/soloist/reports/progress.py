"""Progress of a run, from its events: bars on a terminal, plain lines elsewhere. Also a line for other commands.

Knows events and rich. Knows nothing of the engine, and decides nothing.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from soloist.events import (
    BadRowsFound,
    BatchEncoded,
    BudgetMeasured,
    ChunksRemoved,
    Event,
    EventSink,
    InputScanned,
    LeaseAcquired,
    LeaseReleased,
    LeaseWaiting,
    ModelStaged,
    Notice,
    PassFinished,
    PassStarted,
    RunStarted,
    ShardEncoded,
    ShardsKept,
)
from soloist.reports.passes import PassState
from soloist.reports.text import bytes_text, clock_text, devices_text, one_line
from soloist.types import MemoryStats
from soloist.wording import count_text

WIDE = 70  # columns
_LINE_AGAIN = "\r\x1b[2K"  # the cursor goes to the beginning of the line, and the line is erased
_CUT = " ..."


@contextlib.contextmanager
def progress(stream: TextIO | None = None) -> Iterator[EventSink]:
    """A sink that shows a run on `stream` (by default stderr): bars on a terminal, plain lines elsewhere."""
    stream = stream or sys.stderr
    console = _console(stream)
    if not console.is_terminal or console.is_dumb_terminal:
        yield LineProgress(stream)
        return
    bars = BarProgress(console)
    with contextlib.closing(bars):
        yield bars


@contextlib.contextmanager
def status_line(stream: TextIO | None = None) -> Iterator[Callable[[str], None]]:
    """A function that shows what a command does on a terminal, by default stderr. Elsewhere it shows nothing.

    It is one line, which is erased in the end. It does not change the cursor, so a command may be killed meanwhile.
    """
    stream = stream or sys.stderr
    console = _console(stream)
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda _: None
        return

    shown = ""

    def show(text: str) -> None:
        nonlocal shown
        shown = text
        encoding = stream.encoding or "utf-8"
        line = Text(one_line(text).encode(encoding, "backslashreplace").decode(encoding))
        if line.cell_len >= console.width:  # in the last column a terminal may begin a new line
            line.truncate(max(0, console.width - 1 - len(_CUT)))
            line.append(_CUT)
        with contextlib.suppress(OSError):  # a terminal that has gone
            stream.write(f"{_LINE_AGAIN}{line.plain}")
            stream.flush()

    try:
        yield show
    finally:
        if shown:  # otherwise the line may hold the end of the result
            show("")


def _console(stream: TextIO) -> Console:
    return Console(file=stream, force_terminal=stream.isatty(), force_jupyter=False)


class NotableLines:
    """The lines that both a terminal and a log show. Only the first bad rows of a model have one."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def clear(self) -> None:
        """Begin another run."""
        self._told.clear()

    def line(self, event: Event) -> str | None:
        """The event's line, if it has one."""
        if isinstance(event, BadRowsFound):
            if event.model in self._told:
                return None
            self._told.add(event.model)
        return notable_line(event)


class LineProgress:
    """A line without control characters for every event that a log should have."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._passes: dict[str, PassState] = {}
        self._notable = NotableLines()

    def emit(self, event: Event) -> None:
        """Write the event's line, if it has one."""
        line = self._line(event)
        if line is not None:
            print(one_line(line), file=self._stream, flush=True)

    def _line(self, event: Event) -> str | None:
        match event:
            case RunStarted():
                self._passes.clear()
                self._notable.clear()
                return None
            case PassStarted():
                self._passes.setdefault(event.model, PassState()).start(event.chunks)
                return None
            case ShardEncoded():
                return self._advance(event)
            case PassFinished():
                return _pass_line(event, self._passes[event.model])
            case LeaseAcquired():
                return _acquired_line(event)
            case LeaseReleased():
                return _released_line(event)
        return self._notable.line(event)

    def _advance(self, event: ShardEncoded) -> str | None:
        """A line for every tenth of a pass but the last: the end of the pass has a line of its own."""
        state = self._passes.setdefault(event.model, PassState())
        before = state.tenths
        state.add_shard(event)
        if not state.chunks or state.tenths == before or state.done == state.chunks:
            return None
        rate = f", {state.rate}" if state.rate else ""
        return f"{event.model}: {state.done:,} of {count_text(state.chunks, 'chunk')}{rate}"


class BarProgress:
    """A bar for every pass. Lines that a bar cannot show are printed above it."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            *_columns(wide=console.width >= WIDE),
            console=console,
            expand=True,
            redirect_stdout=False,  # results may go to stdout while a bar is on the screen
        )
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._passes: dict[str, PassState] = {}
        self._notable = NotableLines()

    def emit(self, event: Event) -> None:
        """Move the model's bar, or print the event's line."""
        match event:
            case RunStarted():
                self._passes.clear()
                self._tasks.clear()
                self._notable.clear()
            case PassStarted():
                self._start(event)
            case BatchEncoded():
                self._advance(event)
            case ShardEncoded():
                self._rate(event)
            case PassFinished():
                self._bars.update(self._tasks[event.model], left="")
            case _:
                line = self._notable.line(event)
                if line is not None:
                    self._console.print(Text(one_line(line)), soft_wrap=True)

    def close(self) -> None:
        """Leave the bars as they are, and give the cursor back."""
        self._bars.stop()

    def _start(self, event: PassStarted) -> None:
        where = f" on {devices_text(event.devices)}" if event.devices else ""  # words need no device
        description = Text(one_line(f"{event.model}{where}"))
        description.truncate(max(12, self._console.width * 2 // 5), overflow="ellipsis")
        state = self._passes.setdefault(event.model, PassState())
        state.start(event.chunks)
        self._tasks[event.model] = self._bars.add_task(
            description.plain, total=event.chunks, completed=state.done, rate="", left=""
        )
        self._bars.start()

    def _advance(self, event: BatchEncoded) -> None:
        task, state = self._tasks[event.model], self._passes[event.model]
        state.add_batch(event)
        elapsed = next(item.elapsed for item in self._bars.tasks if item.id == task) or 0.0
        left = clock_text(state.seconds_left(elapsed))
        self._bars.update(task, completed=state.done, left=f"{left} left")

    def _rate(self, event: ShardEncoded) -> None:
        state = self._passes.setdefault(event.model, PassState())
        state.end_shard(event)
        if event.model in self._tasks:  # otherwise nothing of the pass had to be embedded so far
            self._bars.update(self._tasks[event.model], rate=state.rate, completed=state.done)


def _columns(*, wide: bool) -> tuple[ProgressColumn, ...]:
    """The columns of a bar. A narrow terminal has no room for the bar and the rate."""
    description, rate, left = (
        TextColumn(field, markup=False, table_column=Column(no_wrap=True))
        for field in ("{task.description}", "{task.fields[rate]}", "{task.fields[left]}")
    )
    counts = MofNCompleteColumn(table_column=Column(no_wrap=True))
    return (description, BarColumn(bar_width=None), counts, rate, left) if wide else (description, counts, left)


def notable_line(event: Event) -> str | None:
    """The line of an event that both a terminal and a log show; None for other events."""
    match event:
        case InputScanned():
            skipped = f", {event.skipped:,} skipped" if event.skipped else ""
            files = f" in {count_text(event.files, 'file')}" if event.files else ""  # chunks from Python have none
            return f"{event.collection}: {count_text(event.chunks, 'chunk')}{files}{skipped}"
        case ModelStaged():
            limit = "texts of any length" if event.max_tokens is None else f"up to {event.max_tokens:,} tokens"
            return (
                f"{event.model}: {bytes_text(event.weights_bytes)} of weights in {event.dtype}, {event.dim} dims, "
                f"{limit}, staged in {event.seconds:.1f} s"
            )
        case BudgetMeasured():
            return (
                f"{event.model}: {event.tokens_per_second:,.0f} tokens/s in batches of {event.token_budget:,} tokens, "
                f"round {event.round} of {event.rounds}"
            )
        case BadRowsFound():
            return (
                f"{event.model}: {len(event.ids):,} of {count_text(event.rows, 'vector')} of a batch on {event.device} "
                f"have NaN, infinity or only zeros in {event.dtype} (the first is of chunk {event.ids[0]!r}): such "
                "vectors are computed again in float32, and the result of the run counts them"
            )
        case Notice():
            return f"note: {event.about}: {event.message}"
        case ShardsKept():
            return f"{event.model}: {count_text(event.rows, 'chunk')} in {count_text(event.shards, 'shard')} kept"
        case ChunksRemoved():
            return f"{event.collection}: removed {count_text(event.chunks, 'chunk')} that the input no longer has"
        case LeaseWaiting():
            return f"waiting: {event.device} is held by {event.holder}"
    return None


def _acquired_line(event: LeaseAcquired) -> str:
    devices = ", ".join(f"{device} ({_free_text(stats)})" for device, stats in event.memory.items())
    waited = f" after waiting {event.waited_seconds:.1f} s" if event.waited_seconds >= 1 else ""
    return f"{', '.join(event.models)}: leased {devices}{waited}"


def _free_text(stats: MemoryStats) -> str:
    total = bytes_text(stats.total_bytes)
    return f"{total}, free unknown" if stats.free_bytes is None else f"{bytes_text(stats.free_bytes)} of {total} free"


def _released_line(event: LeaseReleased) -> str:
    devices = ", ".join(
        f"{device} ({bytes_text(stats.allocated_bytes)} still allocated)" for device, stats in event.memory.items()
    )
    held = f"; held: {'; '.join(map(str, event.held))}" if event.held else ""
    return f"{', '.join(event.models)}: released {devices} after {event.held_seconds:.1f} s{held}"


def _pass_line(event: PassFinished, state: PassState) -> str:
    peaks = ", ".join(f"{device} {bytes_text(peak)}" for device, peak in event.peak_bytes.items())
    copied = f", {state.embedded:,} of them embedded," if state.embedded < state.done else ""
    rate = f", {state.rate}" if state.rate else ""
    peak = f", peak {peaks}" if peaks else ""
    return f"{event.model}: {count_text(state.done, 'chunk')}{copied} in {state.seconds:.1f} s{rate}{peak}"
