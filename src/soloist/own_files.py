"""Recognises files that soloist itself wrote, so that they are not read as chunks. Pure: names and first bytes in.

A run folder is recognised by its files, an exported folder by its marker (`soloist.exported`), and a file of the JSON
Lines export by the beginning of its first line.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from soloist.exported import MARKERS

# Any of these sets identifies a run folder, finished or not. One name alone is common elsewhere.
_RUN_FILES = (
    frozenset({"manifest.jsonl", "id.json"}),
    frozenset({"manifest.jsonl", "run.json"}),
    frozenset({"state.json", "events.jsonl"}),
    frozenset({".lock", "events.jsonl"}),
)
_EXPORTED_LINE = re.compile(rb'\{"key": ?"[^"]*", ?"run": ?"[^"]*", ?"collection": ?"')
EXPORTED_LINE_BYTES = 1024


def own_folder(names: Collection[str]) -> str | None:
    """The kind of soloist's folders that has files with these names, e.g. a run folder; None for other folders."""
    if any(marker in names for marker in MARKERS):
        return "a folder that soloist exported"
    if any(files <= set(names) for files in _RUN_FILES):
        return "a run folder of soloist"
    return None


def is_exported_line(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a JSON Lines export."""
    return _EXPORTED_LINE.match(head) is not None
