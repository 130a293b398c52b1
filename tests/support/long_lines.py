"""Reads files of one long line in a process of its own: `python -m support.long_lines FOLDER LINE_BYTES`.

Prints one line of JSON a case. The resident peak is reset before each, so it is that of the one file, above what the
process had at its start.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from support.readings import peak_bytes, read

_ONE_LINE_BYTES = 100_000_000
_BLOCK_BYTES = 100_000
# The bodies of items, each repeated to the length of the line: what opens it, the block, what closes it.
_BODIES = {
    "text": (b'{"text":"', b"abcde fghij", b'"}'),
    "wide text": (b'{"text":"\xf0\x9f\x98\x80', b"abcde fghij", b'"}'),
    "deep escapes": (b'{"text":"', b"\\n\\u0041", b'","m":' + b"[" * 401 + b"]" * 401 + b"}"),
    "escaped text": (b'{"text":"', b"\\nabc\\u0041", b'"}'),
    "metadata": (b'{"text":"a","m":"', b"abcde fghij", b'"}'),
    "name": (b'{"', b"abcde fghij", b'":1}'),
    "cut text": (b'{"text":"', b"abcde fghij", b""),
    "digits": (b'{"text":"a","m":', b"1234567890", b"}"),
    "brackets": (b"", b"[", b""),
    "spaces": (b"", b" ", b""),
    "zeros": (b"", b"\0", b""),
    "noise": (b"", b"\xff\x00\xfe", b""),
}


def cases(folder: Path, line_bytes: int) -> Iterator[tuple[str, Path]]:
    """Each file with its name, made when it is asked for; the text itself is of full length at any `line_bytes`."""
    for name, (opening, block, closing) in _BODIES.items():
        for ending, before, after in (("jsonl", b"", b"\n"), ("json", b"[", b"]")):
            file = folder / f"line.{ending}"
            size_bytes = _ONE_LINE_BYTES if name == "text" else line_bytes
            _write(file, before + opening, block, closing + after if closing else b"", size_bytes)
            yield f"{name} {ending}", file
    file = folder / "line.parquet"
    pq.write_table(pa.table({"text": ["abcde fghij" * (line_bytes // 11)]}), file, compression="none")
    pa.default_memory_pool().release_unused()
    yield "text parquet", file
    file = folder / "line.jsonl"
    _write(file, b'{"text":"a","m":[', b"[],", b"0]}\n", line_bytes // 5)
    yield "empty lists jsonl", file


def _write(file: Path, opening: bytes, block: bytes, closing: bytes, size_bytes: int) -> None:
    blocks = block * (_BLOCK_BYTES // len(block))
    with file.open("wb") as out:
        out.write(opening)
        for _ in range(-(-size_bytes // len(blocks))):
            out.write(blocks)
        out.write(closing)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main(folder: Path, line_bytes: int) -> None:
    """Read each file as a run does, and say how much memory and time it took."""
    first = folder / "first.parquet"  # what reading one imports and sets up is not of a file's size
    pq.write_table(pa.table({"text": ["a"] * 2}), first)
    read(first, "error")
    before = _resident_bytes()
    for name, file in cases(folder, line_bytes):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        began = time.perf_counter()
        reading = read(file, "error")
        print(
            json.dumps(
                {
                    "name": name,
                    "file_bytes": file.stat().st_size,
                    "grown_bytes": peak_bytes() - before,
                    "seconds": round(time.perf_counter() - began, 2),
                    "chunks": len(reading.chunks),
                    "error": reading.error,
                }
            ),
            flush=True,
        )
        del reading
        file.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
