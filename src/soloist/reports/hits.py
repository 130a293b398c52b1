"""What a search found, for people: rank, score, where from, and the text in as many lines as fit."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from soloist.reports.text import one_line, printable
from soloist.types import Hit

_TEXT_LINES = 4
_INDENT = "    "
_SHOWN_VALUES = 80  # characters of a value of the metadata


def print_hits(hits: Sequence[Hit], console: Console) -> None:
    """A block for each hit: a line with rank, score, collection and id, one with its metadata, and its text."""
    for number, hit in enumerate(hits):
        if number:
            console.print()
        console.print(
            Text(f"{hit.rank:>3}  {hit.score:.4f}  {one_line(hit.collection)}  {one_line(hit.id)}", style="bold")
        )
        known = metadata_line(hit.metadata)
        if known:
            console.print(Text(textwrap.shorten(known, max(20, 2 * console.width), placeholder=" ..."), style="dim"))
        for line in text_lines(hit.text, max(20, console.width - len(_INDENT))):
            console.print(Text(_INDENT + line), soft_wrap=True)


def text_lines(text: str, width: int, most: int = _TEXT_LINES) -> list[str]:
    """The first lines of a text as it stands, those that are too long broken; how much is left out is said."""
    lines = [
        piece
        for line in textwrap.dedent(text.expandtabs(4)).strip("\r\n").splitlines()
        for piece in (textwrap.wrap(printable(line.rstrip()), width, drop_whitespace=False) or [""])
    ]
    if len(lines) <= most:
        return lines
    return [*lines[:most], f"... {len(lines) - most} more lines"]


def metadata_line(metadata: Mapping[str, Any]) -> str:
    """The metadata that are short, as `name: value`."""
    parts = []
    for name, value in metadata.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if shown and len(shown) <= _SHOWN_VALUES:
            parts.append(f"{name}: {shown}")
    return one_line("  ".join(parts))


def hit_values(hit: Hit) -> dict[str, Any]:
    """A hit as JSON-ready values."""
    return {
        "rank": hit.rank, "score": hit.score, "collection": hit.collection, "id": hit.id, "text": hit.text,
        "metadata": dict(hit.metadata),
    }  # fmt: skip
