"""What a run would change, on a terminal. Knows changes and rich; prints to the console that it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from soloist.reports.table import print_table
from soloist.reports.text import one_line
from soloist.wording import count_text

if TYPE_CHECKING:
    from soloist.engine.resume.changes import Changes

_COLUMNS = ("collection", "new", "changed", "gone", "unchanged")


def print_changes(found: Changes, console: Console) -> None:
    """A row for each collection, a line for each model, and what to know of both."""
    rows = [
        [each.name, *(f"{count:,}" for count in (each.new, each.changed, each.gone, each.unchanged))]
        for each in found.collections
    ]
    print_table(console, _COLUMNS, rows)
    console.print()
    lines = [f"{model}: {count_text(count, 'text')} to embed" for model, count in found.to_embed.items()]
    lines += [f"{count_text(found.skipped, 'input item')} skipped"] if found.skipped else []
    lines += [
        "chunks with the same text count once; these counts hold if the models are the same as in the last session",
        *found.notices,
        f"{found.folder}: nothing was written",
    ]
    for line in lines:
        console.print(Text(one_line(line)), soft_wrap=True)
