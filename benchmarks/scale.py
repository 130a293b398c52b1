"""Whether a run slows down or grows with its chunks: a static model on 100,000 chunks, and on 1,000,000.

Each size is a run of the command in a process of its own. The chunks are short, all different, made as they are written
to the chunk file, and never in memory together. Two figures: the rate of the last tenth of the chunks beside that
of the first, by the times in events.jsonl, and the peak of the large run beside that of the small one. Prints a
table, and as its last line one JSON object.

    python -m benchmarks.scale [--quick] [--sizes 100000,1000000] [--model wordllama] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, commit, cores, hardware, versions, warn_of_kernel_variables
from benchmarks.texts import write_chunk_file

_WORDS = (
    "batch", "cache", "chunk", "commit", "config", "device", "engine", "error", "event", "file", "graph", "index",
    "kernel", "layer", "lease", "limit", "lock", "memory", "model", "network", "page", "path", "plan", "process",
    "query", "queue", "record", "replica", "result", "row", "run", "schema", "shard", "source", "store", "stream",
    "table", "tensor", "thread", "token", "vector", "weight", "worker",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """One run: its rates are of its first and of its last tenth, in chunks a second."""

    chunks: int
    wall_seconds: float
    encoding_seconds: float
    first_rate: float
    last_rate: float
    peak_rss_bytes: int


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = _options()
    warn_of_kernel_variables()
    print(
        f"{'chunks':>10}{'wall s':>9}{'encoding s':>12}{'first tenth':>13}{'last tenth':>12}{'peak MB':>9}   chunks/s"
    )
    found = []
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory(prefix="soloist-scale-") as temp:
            found.append(_measure(size, Path(temp), options))
        _print_row(found[-1])
    report = _report(options, found)
    print(f"last tenth / first tenth: {report['rate_ratio']:.2f}; peak / peak: {report['peak_ratio']:.2f}")
    if options.results:
        Path(options.results).mkdir(parents=True, exist_ok=True)
        path = Path(options.results) / f"scale-{cores()}-core-cpu.json"
        path.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))
    return 0


def made_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Short texts that are all different, the same ones each time."""
    drawn = random.Random(seed)
    for number in range(count):
        yield f"{number} " + " ".join(drawn.choices(_WORDS, k=drawn.randint(6, 18)))


def tenths(shards: Sequence[tuple[float, int]], began: float) -> tuple[float, float]:
    """Chunks a second in the first and in the last tenth; of each shard its end and its rows, in order.

    A tenth ends with the shard in which it is reached.

    >>> tenths([(1.0, 5), (2.0, 5), (4.0, 5)], began=0.0)
    (5.0, 2.5)
    """
    times = [began, *(end for end, _ in shards)]
    wanted = sum(rows for _, rows in shards) / 10
    return _rate(shards, times, wanted, range(len(shards))), _rate(shards, times, wanted, range(len(shards))[::-1])


def _rate(shards: Sequence[tuple[float, int]], times: Sequence[float], wanted: float, order: Sequence[int]) -> float:
    rows, seconds = 0, 0.0
    for index in order:
        rows += shards[index][1]
        seconds += times[index + 1] - times[index]
        if rows >= wanted:
            break
    return rows / seconds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a trial: 2,000 and 20,000 chunks, nothing saved")
    parser.add_argument("--sizes", help="numbers of chunks, from the smallest to the largest")
    parser.add_argument("--model", default="wordllama")
    parser.add_argument("--shard-chunks", type=int)
    parser.add_argument("--results")
    options = parser.parse_args()
    usual = {"sizes": "2000,20000", "shard_chunks": 200, "results": ""} if options.quick else {
        "sizes": "100000,1000000", "shard_chunks": 4096, "results": str(ROOT / "benchmarks" / "results")
    }  # fmt: skip
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _measure(size: int, temp: Path, options: argparse.Namespace) -> Scaled:
    write_chunk_file(temp / "chunks" / "texts", made_texts(size))
    command = [
        sys.executable, "-m", "soloist", "embed", str(temp / "chunks"), "--out", str(temp / "run"), "--models",
        options.model, "--fusion", "none", "--accelerator", "cpu", "--shard-chunks", str(options.shard_chunks),
        "--cache-dir", str(temp / "cache"), "--lock-dir", str(temp / "locks"),
    ]  # fmt: skip
    wall_seconds, peak = _timed(command, temp / "log.txt")
    first, last = tenths(*_shards(temp / "run" / "events.jsonl"))
    report = json.loads((temp / "run" / "run.json").read_text(encoding="utf-8"))["models"][0]
    assert report["embedded"] == size, f"{report['embedded']} chunks were embedded, not {size}"
    return Scaled(
        chunks=size, wall_seconds=wall_seconds, encoding_seconds=report["seconds"], first_rate=first, last_rate=last,
        peak_rss_bytes=peak,
    )  # fmt: skip


def _timed(command: Sequence[str], log: Path) -> tuple[float, int]:
    """Seconds and the highest resident size of a process; this one is small, so that the size is not its own."""
    began = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the run failed: {log.read_text(errors='replace')[-2000:]}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _shards(events: Path) -> tuple[list[tuple[float, int]], float]:
    """End and rows of each shard, and when the pass began."""
    began, found = 0.0, []
    with events.open(encoding="utf-8") as lines:
        for line in lines:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "PassStarted":
                began = event["time"]
            elif event["event"] == "ShardEncoded":
                found.append((event["time"], event["rows"]))
    return found, began


def _report(options: argparse.Namespace, found: Sequence[Scaled]) -> dict[str, Any]:
    return {
        "benchmark": "scale",
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(("torch", "sentence-transformers", "pyarrow", "numpy")),
        "model": options.model,
        "shard_chunks": options.shard_chunks,
        "sizes": [asdict(each) for each in found],
        "rate_ratio": found[-1].last_rate / found[-1].first_rate,
        "peak_ratio": found[-1].peak_rss_bytes / found[0].peak_rss_bytes,
    }


def _print_row(each: Scaled) -> None:
    print(
        f"{each.chunks:>10,}{each.wall_seconds:>9.1f}{each.encoding_seconds:>12.1f}{each.first_rate:>15,.0f}"
        f"{each.last_rate:>14,.0f}{each.peak_rss_bytes / 1e6:>9,.0f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
