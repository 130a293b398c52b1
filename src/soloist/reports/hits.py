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
from soloist.wording import count_text

_TEXT_LINES = 4
_LOOKED_AT = 4  # times the characters of the lines that are shown, some of which may be blanks
_NARROWEST = 20
_CUT = " ..."
_INDENT = "    "
_SHOWN_VALUES = 80  # characters of a value of the metadata


def print_hits(hits: Sequence[Hit], console: Console) -> None:
    """A block for each hit: a line with rank, score, collection and id, one with its metadata, and its text.

    Only the text is broken into lines: ids are copied from here, and a terminal breaks what is too long for it.
    """
    for number, hit in enumerate(hits):
        if number:
            console.print()
        place = f"{hit.rank:>3}  {hit.score:.4f}  {one_line(hit.collection)}  {one_line(hit.id)}"
        console.print(Text(place, style="bold"), soft_wrap=True)
        known = metadata_line(hit.metadata)
        if known:
            console.print(Text(_shortened(known, max(_NARROWEST, 2 * console.width)), style="dim"), soft_wrap=True)
        for line in text_lines(hit.text, max(_NARROWEST, console.width - len(_INDENT))):
            console.print(Text(_INDENT + line), soft_wrap=True)


def text_lines(text: str, width: int, most: int = _TEXT_LINES) -> list[str]:
    """The first lines of a text as it stands, those that are too long broken; how much is left out is said.

    Of a long text only the beginning is looked at, which may be all of it that is indented alike.
    """
    whole = text.strip("\r\n")
    head = whole[: most * width * _LOOKED_AT]
    lines = [
        piece
        for line in textwrap.dedent(head.expandtabs(4)).splitlines()
        for piece in (textwrap.wrap(printable(line.rstrip()), width, drop_whitespace=False) or [""])
    ]
    shown = lines[:most]
    if len(head) < len(whole):
        return [*shown, f"... about {count_text(len(whole) - sum(map(len, shown)), 'more character')}"]
    return shown if len(lines) <= most else [*shown, f"... {count_text(len(lines) - most, 'more line')}"]


def _shortened(line: str, most: int) -> str:
    """The beginning of a line, up to a blank where there is one near its end."""
    if len(line) <= most:
        return line
    head = line[: most - len(_CUT)]
    words = line[: len(head) + 1].rsplit(" ", 1)[0].rstrip()
    return (words if len(words) > most // 2 else head) + _CUT


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
