"""Reads a Parquet file in a process of its own, and says what came of it and how much memory that took.

In the process of the tests the answer depends on what the tests before have left in the allocators.
"""

from __future__ import annotations

import collections
import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from support.readings import peak_bytes

from soloist.sources.faults import BadItem, UnreadableFileError
from soloist.sources.parquet_files import read_parquet

_DIGESTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """How many rows were read, how many of them have a text as long as the longest, the digests of each row that is not
    as the one before, the last fault, and by how much the process grew.
    """

    rows: int
    longest_texts: int
    digests: list[str]
    fault: str
    grown_bytes: int


def digest(row: Any) -> str:
    """A row of JSON in a few characters."""
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


def read_apart(file: Path) -> Read:
    """What a process of its own makes of the file."""
    command = [sys.executable, "-m", "support.parquet_peak", str(file)]
    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tests)
    assert done.returncode == 0, done.stderr
    return Read(**json.loads(done.stdout))


def main(file: Path) -> None:
    """Read it."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, fault, last = peak_bytes(), "", None
    lengths: collections.Counter[int] = collections.Counter()
    digests: list[str] = []
    try:
        for row in read_parquet(file, "text"):
            if isinstance(row, BadItem):
                fault = row.fault
            else:
                lengths[len(row["text"])] += 1
                if row != last and len(digests) < _DIGESTS:
                    digests.append(digest(row))
                last = row
    except UnreadableFileError as exc:
        fault = str(exc)
    found = Read(
        rows=lengths.total(),
        longest_texts=lengths[max(lengths, default=0)],
        digests=digests,
        fault=fault,
        grown_bytes=peak_bytes() - before,
    )
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
