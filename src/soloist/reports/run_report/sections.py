"""The parts of a report, as values: a heading, sentences, a figure to draw, and tables with the same facts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from soloist.reports.text import clock_text

ROWS = 100  # rows of a table; the files of the run have all rows
CELL_CHARACTERS = 400
_NUMBER = re.compile(r"-|[-+]?[\d,.:]+( ?(%|s|B|kB|MB|GB))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells by row. `left_out` counts the rows that are not shown."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int = 0

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column has only numbers, whose digits are aligned then."""
        return tuple(
            all(map(_NUMBER.fullmatch, column)) and any(cell != "-" for cell in column)
            for column in zip(*self.rows, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report. `name` is that of its figure, if `has_figure`. `alt` says what the figure shows.

    Without a figure, the tables are open. With a figure, they are below it and closed.
    """

    name: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    has_figure: bool = False
    alt: str = ""


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], most: int = ROWS, count: int | None = None
) -> Table:  # fmt: skip
    """A table of the first rows, with long cells cut. `count` is of all rows, where `rows` are the first ones only."""
    every = list(rows)
    return Table(
        caption=caption,
        columns=tuple(columns),
        rows=tuple(tuple(map(_short, row)) for row in every[:most]),
        left_out=max(0, (len(every) if count is None else count) - most),
    )


def shown_text(noun: str, count: int, most: int) -> list[str]:
    """A sentence that says how many things a figure shows, if it does not show all. The tables have more."""
    return [f"The figure shows the first {most:,} of {count:,} {noun}."] if count > most else []


def seconds_text(seconds: float) -> str:
    """A duration: `0.25 s`, `12.3 s`, `2:05`, `1:02:03`."""
    if seconds >= 100:
        return clock_text(seconds)
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def share_text(part: float, whole: float) -> str:
    """A part of a whole in per cent; a dash where there is no whole."""
    return f"{part / whole:.1%}" if whole else "-"


def _short(cell: str) -> str:
    return cell if len(cell) <= CELL_CHARACTERS else cell[:CELL_CHARACTERS] + " …"
