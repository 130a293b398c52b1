"""What a run has left out, as a file of its folder has it: skipped.jsonl, one JSON object a line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from soloist.jsontext import json_text
from soloist.stores.atomic import atomic_path, disk_errors
from soloist.stores.layout import SKIPPED
from soloist.stores.manifest import FileRecord, record_of
from soloist.types import SkippedInput


@contextmanager
def skipped_log(root: Path, *, more: bool = False) -> Iterator[SkippedLog]:
    """Write skipped.jsonl; with `more`, the rows that it has stay, and others follow.

    The file appears when the body ends well, also where nothing was appended. The caller then appends the log's record
    to the manifest.

    Raises:
        OutputError: the disk does not take the file.
    """
    path = root / SKIPPED
    with atomic_path(path) as temp:
        with disk_errors(path):
            if more:
                shutil.copyfile(path, temp)
            file = temp.open("a", encoding="utf-8", newline="\n")
        try:
            yield SkippedLog(file, root)
        finally:
            with disk_errors(path):
                file.close()


@dataclass(frozen=True, slots=True)
class SkippedLog:
    """An open skipped.jsonl; made by `skipped_log`."""

    file: IO[str]
    root: Path

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
        with disk_errors(self.root / SKIPPED):
            self.file.write(json_text(row) + "\n")

    def record(self) -> FileRecord:
        """The record of the file, once it is finished.

        Raises:
            OutputError: it is not finished, or cannot be read.
        """
        return record_of(self.root, self.root / SKIPPED, "skipped", 0)
