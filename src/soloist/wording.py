"""Numbers with their nouns and verbs. Pure: values in, text out."""

from __future__ import annotations


def count_text(count: int, noun: str) -> str:
    """A number with its noun, e.g. `1 chunk`, `1,200 chunks`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def is_or_are(count: int) -> str:
    """The verb that goes with a number."""
    return "is" if count == 1 else "are"
