"""The hits of a search, for people: rank, score, source, and the first lines of the text."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from soloist.reports.text import one_line, printable
from soloist.retrieval.probes import HEADING_FIELDS
from soloist.types import Hit, Reason
from soloist.wording import count_text

_TEXT_LINES = 4
_LOOKED_AT = 4  # times the characters of the lines that are shown, some of which may be blanks
_NARROWEST = 20
_CUT = " ..."
_INDENT = "    "
_SEPARATORS = ("/", "\\")
_SHOWN_VALUES = 80  # characters of a value of the metadata


def print_hits(hits: Sequence[Hit], console: Console) -> None:
    """Print a block for each hit: a line with rank, score, collection and id, one with file and metadata, and the text.

    Words and sparse vectors find only chunks that share something with the question, so there may be no hit.

    Only the text is broken into lines. Ids are copied from here, and a terminal breaks what is too long for it.
    """
    if not hits:
        console.print(Text("no chunk has a word of the question"))
    for number, hit in enumerate(hits):
        if number:
            console.print()
        head = f"{hit.rank:>3}  {hit.score:.4f}  {one_line(hit.collection)}  {one_line(hit.id)}"
        console.print(Text(head, style="bold"), soft_wrap=True)
        known = "  ".join(filter(None, (source_of(hit), metadata_line(hit))))
        if known:
            console.print(Text(_shortened(known, max(_NARROWEST, 2 * console.width)), style="dim"), soft_wrap=True)
        if hit.first_rank is not None:
            line = f"{_INDENT}first stage: {hit.first_score:.4f}, rank {hit.first_rank:,}"
            console.print(Text(line, style="dim"), soft_wrap=True)
        for reason in hit.reasons:
            console.print(Text(_INDENT + reason_line(reason), style="dim"), soft_wrap=True)
        for line in text_lines(hit.text, max(_NARROWEST, console.width - len(_INDENT))):
            console.print(Text(_INDENT + line), soft_wrap=True)


def text_lines(text: str, width: int, most: int = _TEXT_LINES) -> list[str]:
    """The first lines of a text, with long lines broken, and a last line that says how much is left out.

    Only the beginning of a long text is read, so only that part sets the common indent.
    """
    whole = text.strip("\r\n")
    head = whole[: most * width * _LOOKED_AT]
    lines = [
        piece
        for line in textwrap.dedent(head.expandtabs(4)).splitlines()
        for piece in (textwrap.wrap(printable(line.rstrip()), width) or [""])
    ]
    shown = lines[:most]
    if len(head) < len(whole):
        return [*shown, f"... about {count_text(len(whole) - sum(map(len, shown)), 'more character')}"]
    return shown if len(lines) <= most else [*shown, f"... {count_text(len(lines) - most, 'more line')}"]


def _shortened(line: str, most: int) -> str:
    """The beginning of a line, up to a blank if there is one near its end."""
    if len(line) <= most:
        return line
    head = line[: most - len(_CUT)]
    words = line[: len(head) + 1].rsplit(" ", 1)[0].rstrip()
    return (words if len(words) > most // 2 else head) + _CUT


def metadata_line(hit: Hit) -> str:
    """The short metadata as `name: value`, the headings first.

    Empty values, the hit's id and repeated headings are left out. So are paths that repeat another path or its end,
    such as the hit's file.
    """
    headings: set[str] = set()
    paths = [hit.source_file] if hit.source_file else []
    parts: list[str] = []
    for name in sorted(hit.metadata, key=_order):
        value = hit.metadata[name]
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        shown = value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if value in (None, [], {}) or not 0 < len(shown) <= _SHOWN_VALUES or shown in (hit.id, *headings):
            continue
        if any(_ends(path, shown) for path in paths):
            continue
        if name in HEADING_FIELDS:
            headings.add(shown)
        if any(separator in shown for separator in _SEPARATORS):
            paths.append(shown)
        parts.append(f"{name}: {shown}")
    return one_line("  ".join(parts))


def source_of(hit: Hit) -> str:
    """The file that a hit was read from, and its index there; empty if unknown. Chunks from Python have no file."""
    if hit.source_index is None:
        return ""
    if hit.source_file is None:
        return f"chunk {hit.source_index}"
    return one_line(f"{hit.source_file} (chunk {hit.source_index})")


def _order(name: str) -> int:
    """Where a field of the metadata is shown: headings in their order, and then the others as they come."""
    return HEADING_FIELDS.index(name) if name in HEADING_FIELDS else len(HEADING_FIELDS)


def _ends(path: str, value: str) -> bool:
    """Whether a path is this, or ends in a file or with an ending of this name."""
    if not path.endswith(value):
        return False
    return path == value or value[0] == "." or path[-len(value) - 1] in _SEPARATORS


def hit_values(hit: Hit) -> dict[str, Any]:
    """A hit as JSON-ready values."""
    return {
        "rank": hit.rank, "score": hit.score, "collection": hit.collection, "id": hit.id, "text": hit.text,
        "metadata": dict(hit.metadata), "source_file": hit.source_file, "source_index": hit.source_index,
        **({"first_rank": hit.first_rank, "first_score": hit.first_score} if hit.first_rank is not None else {}),
        **({"reasons": [asdict(reason) for reason in hit.reasons]} if hit.reasons else {}),
    }  # fmt: skip


def reason_line(reason: Reason) -> str:
    """What a member says of a hit, e.g. `bm25: 8.1234, rank 1 (frost 5.01, plants 3.11)`."""
    rank = f"rank {reason.rank:,}" if reason.rank is not None else "without a word of the question"
    words = ", ".join(f"{one_line(word)} {share:.2f}" for word, share in reason.words.items())
    return f"{one_line(reason.member)}: {reason.score:.4f}, {rank}" + (f" ({words})" if words else "")
