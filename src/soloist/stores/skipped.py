"""What a run has left out, as a file of the run has it. Knows one open file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO

from soloist.jsontext import json_text
from soloist.stores.atomic import disk_errors
from soloist.types import SkippedInput


@dataclass(frozen=True, slots=True)
class SkippedWriter:
    """Writes what was left out, one JSON object a line; made by `RunFolder.skipped`."""

    file: IO[str]
    path: Path

    def append(self, skipped: SkippedInput) -> None:
        """Write one row: collection, file, index, reason, detail and, where models are the reason, these and the digest
        of the text.

        Raises:
            OutputError: the disk does not take it.
        """
        row = {
            "collection": skipped.collection,
            "file": str(skipped.file),
            "index": skipped.index,
            "reason": skipped.reason,
            "detail": skipped.detail,
            **({"models": list(skipped.models), "text_digest": skipped.text_digest} if skipped.models else {}),
        }
        with disk_errors(self.path):
            self.file.write(json_text(row) + "\n")
