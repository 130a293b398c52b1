"""What was left out, as an error tells it."""

from __future__ import annotations

from pathlib import Path

from soloist.sources import SkippedInputs
from soloist.types import SkippedInput


def skipped(index: int | None, detail: str = "") -> SkippedInput:
    """A fault in one file."""
    reason = "empty text" if index is not None else "unreadable file"
    return SkippedInput(collection="notes", file=Path("notes/a.json"), index=index, reason=reason, detail=detail)


def test_each_has_its_place_its_reason_and_its_detail() -> None:
    """Catches a reason without the place that has to be mended."""
    found = SkippedInputs()
    found.add(skipped(0))
    found.add(skipped(None, "is not UTF-8 at byte 17"))
    assert str(found) == "notes/a.json (chunk 0): empty text; notes/a.json: unreadable file, is not UTF-8 at byte 17"


def test_the_first_are_named_and_the_others_counted() -> None:
    """Catches a sentence that grows with the collection."""
    found = SkippedInputs()
    for index in range(1003):
        found.add(skipped(index))
    assert found.count == 1003
    assert str(found).endswith("(chunk 2): empty text; and 1,000 more")
