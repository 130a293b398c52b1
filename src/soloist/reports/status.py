"""How far a run is, on a terminal. Knows statuses and rich; reads no clock, and prints to the console that it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from soloist.reports.table import print_table
from soloist.reports.text import clock_text, one_line, time_of_day

if TYPE_CHECKING:
    from soloist.stores.status import ModelStatus, RunStatus

_COLUMNS = ("model", "done", "chunks", "shards", "chunks/s", "left")


def print_status(found: RunStatus, console: Console, now: float) -> None:
    """A row for each model, and a line of what becomes of the run; `now` is in seconds since 1970."""
    if found.models:
        print_table(console, _COLUMNS, [_row(model) for model in found.models])
        console.print()
    console.print(Text(one_line(f"{found.folder}: {_state(found)}{_left(found, now)}")), soft_wrap=True)


def _state(found: RunStatus) -> str:
    if found.finished:
        return "finished"
    if found.at_work:
        return f"running on {', '.join(found.nodes)}" if found.nodes else "running"
    ended = f" ({found.error})" if found.error else ""
    return f"not finished and not running{ended}: {found.way_on} to continue it"


def _left(found: RunStatus, now: float) -> str:
    """What is left, and the local time when that would end."""
    if found.finished or found.seconds_left is None:
        return ""
    end = f"until about {time_of_day(now, found.seconds_left)}{'' if found.at_work else ' if it continues now'}"
    return f"; {clock_text(found.seconds_left)} of encoding left, {end}"


def _row(model: ModelStatus) -> list[str]:
    rate, left = model.chunks_per_second, model.seconds_left
    return [
        model.name,
        f"{model.chunks_done / model.chunks:.0%}" if model.chunks else "-",
        f"{model.chunks_done:,} of {model.chunks:,}",
        f"{model.shards_done:,} of {model.shards:,}",
        f"{rate:,.1f}" if rate else "unknown",
        clock_text(left) if left is not None else "unknown",
    ]
