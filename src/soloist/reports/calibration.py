"""Calibrated budgets on a terminal. Knows calibrations and rich; prints to the console that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from soloist.reports.table import print_table
from soloist.reports.text import one_line

if TYPE_CHECKING:
    from soloist.sizing.calibration import CalibrationResult

_COLUMNS = ("model", "dtype", "token budget", "tokens/s", "of the best", "what it is")


def print_calibrations(found: Sequence[CalibrationResult], path: Path, console: Console) -> None:
    """The rate of every candidate, a line on each choice, and where it is kept."""
    print_table(console, _COLUMNS, [row for each in found for row in _rows(each)])
    console.print()
    kept = f"kept in {path}: runs and plans take it where no --token-budget is given"
    for line in (*(_choice(each) for each in found), kept):
        console.print(Text(one_line(line)), soft_wrap=True)


def _rows(found: CalibrationResult) -> list[list[str]]:
    best = max(found.rates.values())
    marks = {found.table_tokens: "the table's", found.tokens: "chosen"}
    if found.tokens == found.table_tokens:
        marks = {found.tokens: "chosen, as in the table"}
    return [
        [found.model, found.dtype, f"{budget:,}", f"{rate:,.0f}", f"{rate / best:.1%}", marks.get(budget, "")]
        for budget, rate in found.rates.items()
    ]


def _choice(found: CalibrationResult) -> str:
    return (
        f"{found.model}: {found.tokens:,} tokens a batch, the table has {found.table_tokens:,} ({found.table_source})"
    )
