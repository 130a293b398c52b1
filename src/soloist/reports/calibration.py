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

_COLUMNS = ("model", "dtype", "token budget", "tokens/s", "of fastest", "note")


def print_calibrations(results: Sequence[CalibrationResult], path: Path, console: Console) -> None:
    """The rate of every candidate, a line for each choice, and the file that keeps them."""
    print_table(console, _COLUMNS, [row for result in results for row in _rows(result)])
    console.print()
    kept = f"kept in {path}: runs and plans use these budgets where --token-budget is not given"
    for line in (*map(_choice, results), kept):
        console.print(Text(one_line(line)), soft_wrap=True)


def _rows(result: CalibrationResult) -> list[list[str]]:
    best = max(result.rates.values())
    notes = {result.table_tokens: "default", result.tokens: "chosen"}
    if result.tokens == result.table_tokens:
        notes = {result.tokens: "chosen, the default"}
    return [
        [result.model, result.dtype, f"{budget:,}", f"{rate:,.0f}", f"{rate / best:.1%}", notes.get(budget, "")]
        for budget, rate in result.rates.items()
    ]


def _choice(result: CalibrationResult) -> str:
    default = f"the default is {result.table_tokens:,} ({result.table_source})"
    return f"{result.model}: {result.tokens:,} tokens a batch; {default}"
