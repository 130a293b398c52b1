"""Numbers with their nouns and verbs, and what errors say. Pure: values in, text out."""

from __future__ import annotations

from collections.abc import Sequence


def count_text(count: int, noun: str) -> str:
    """A number with its noun, e.g. `1 chunk`, `1,200 chunks`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def is_or_are(count: int) -> str:
    """The verb that goes with a number."""
    return "is" if count == 1 else "are"


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names as a sentence has them, e.g. `a, b and c`."""
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def first_line(error: BaseException) -> str:
    """The first line of an error's message that has any text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no more is known")
