"""Whether a run slows down or grows with its chunks: a static model on 100,000 chunks, and on 1,000,000.

Each size is a run of the command in a process of its own. The chunks are short, all different, made as they are written
to the chunk file, and never in memory together. Prints a table, and as its last line one JSON object. Three figures:

- the rate of the last tenth of the chunks, divided by the rate of the first, by the shards' seconds in events.jsonl;
- the peak of the large run, divided by the peak of the small one. A large input is read by a second process, and both
  processes count;
- the wall time of the large run, divided by the wall time of its longest stage.

The peak of several processes is that of their sum, looked at ten times a second. That of one process is exact. Pages
that two processes share count twice.

The stages `start`, `reading`, `between`, `pass` and `end` follow each other, and their sum is the wall time. `encoding`
is the sum of the shards' seconds of embedding. It lies in `pass`. If a static model embeds while the input is read,
`encoding` lies mostly in `reading` and `between`.

    python -m benchmarks.scale [--quick] [--sizes 100000,1000000] [--model wordllama] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import ROOT, commit, cores, hardware, versions, warn_of_kernel_variables
from benchmarks.options import filled
from benchmarks.texts import write_chunk_file

_WORDS = (
    "batch", "cache", "chunk", "commit", "config", "device", "engine", "error", "event", "file", "graph", "index",
    "kernel", "layer", "lease", "limit", "lock", "memory", "model", "network", "page", "path", "plan", "process",
    "query", "queue", "record", "replica", "result", "row", "run", "schema", "shard", "source", "store", "stream",
    "table", "tensor", "thread", "token", "vector", "weight", "worker",
)  # fmt: skip
_PULSE_SECONDS = 0.1
_STAGES = ("start", "reading", "between", "pass", "end")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """One run: its rates are of its first and of its last tenth, in chunks a second.

    The peak is that of its processes together, `largest_process_bytes` that of the largest one alone.
    """

    chunks: int
    wall_seconds: float
    processor_seconds: float
    encoding_seconds: float
    stage_seconds: dict[str, float]
    first_rate: float
    last_rate: float
    peak_rss_bytes: int
    largest_process_bytes: int

    @property
    def longest_stage(self) -> tuple[str, float]:
        """The name and the seconds of the longest stage. The wall time cannot be shorter."""
        return max({**self.stage_seconds, "encoding": self.encoding_seconds}.items(), key=lambda stage: stage[1])

    @property
    def wall_ratio(self) -> float:
        """The wall time, divided by the seconds of the longest stage."""
        return self.wall_seconds / self.longest_stage[1]


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = _options()
    warn_of_kernel_variables()
    print(
        f"{'chunks':>10}{'wall s':>9}{'cpu s':>8}"
        + "".join(f"{stage:>10}" for stage in (*_STAGES, "encoding"))
        + f"{'wall/longest':>14}{'first tenth':>13}{'last tenth':>12}{'peak MB':>9}   chunks/s"
    )
    found = []
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory(prefix="soloist-scale-") as temp:
            found.append(_measure(size, Path(temp), options))
        _print_row(found[-1])
    report = _report(options, found)
    print(
        f"last tenth / first tenth: {report['rate_ratio']:.2f}; peak / peak: {report['peak_ratio']:.2f}; "
        f"wall / longest stage ({report['longest_stage']}): {report['wall_ratio']:.2f}"
    )
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


def tenths(shards: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Chunks a second in the first and in the last tenth, from the seconds and the rows of each shard, in order.

    A tenth ends with the shard in which it is reached.

    >>> tenths([(1.0, 5), (1.0, 5), (2.0, 5)])
    (5.0, 2.5)
    """
    wanted = sum(rows for _, rows in shards) / 10
    return _rate(shards, wanted), _rate(shards[::-1], wanted)


def _rate(shards: Sequence[tuple[float, int]], wanted: float) -> float:
    reached, seconds = 0, 0.0
    for taken, rows in shards:
        reached, seconds = reached + rows, seconds + taken
        if reached >= wanted:
            break
    return reached / seconds


def stages(events: Sequence[Mapping[str, Any]], began: float, ended: float) -> dict[str, float]:
    """The seconds of the stages that follow each other, from the times of a process and the events of its run.

    >>> moments = {"RunStarted": 2.0, "InputScanned": 5.0, "PassStarted": 6.0, "PassFinished": 9.0}
    >>> stages([{"event": kind, "time": time} for kind, time in moments.items()], 1.0, 9.5)
    {'start': 1.0, 'reading': 3.0, 'between': 1.0, 'pass': 3.0, 'end': 0.5}
    """
    last = {event["event"]: event["time"] for event in events}
    moments = [began, *(last[kind] for kind in ("RunStarted", "InputScanned", "PassStarted", "PassFinished")), ended]
    return dict(zip(_STAGES, (later - earlier for earlier, later in itertools.pairwise(moments)), strict=True))


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
    return filled(options, usual)


def _measure(size: int, temp: Path, options: argparse.Namespace) -> Scaled:
    write_chunk_file(temp / "chunks" / "texts", made_texts(size))
    command = [
        sys.executable, "-m", "soloist", "embed", str(temp / "chunks"), "--out", str(temp / "run"), "--models",
        options.model, "--fusion", "none", "--accelerator", "cpu", "--shard-chunks", str(options.shard_chunks),
        "--cache-dir", str(temp / "cache"), "--lock-dir", str(temp / "locks"),
    ]  # fmt: skip
    process = _timed(command, temp / "log.txt")
    events = _events(temp / "run" / "events.jsonl")
    first, last = tenths([(event["seconds"], event["rows"]) for event in events if event["event"] == "ShardEncoded"])
    report = json.loads((temp / "run" / "run.json").read_text(encoding="utf-8"))["models"][0]
    assert report["embedded"] == size, f"{report['embedded']} chunks were embedded, not {size}"
    return Scaled(
        chunks=size, wall_seconds=process.ended - process.began, processor_seconds=process.processor_seconds,
        encoding_seconds=report["seconds"], stage_seconds=stages(events, process.began, process.ended),
        first_rate=first, last_rate=last, peak_rss_bytes=process.peak_rss_bytes,
        largest_process_bytes=process.largest_bytes,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    """What a process took. Its times are of the same clock as the times of events."""

    began: float
    ended: float
    processor_seconds: float
    peak_rss_bytes: int
    largest_bytes: int


def _timed(command: Sequence[str], log: Path) -> _Process:
    """Run a process, and measure it. The measuring process is small, so the highest resident size is not its own."""
    began = time.time()
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        together: list[int] = []
        watching = threading.Thread(target=_watch, args=(psutil.Process(process.pid), together))
        watching.start()
        _, status, usage = os.wait4(process.pid, 0)
    ended = time.time()
    watching.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the run failed: {log.read_text(errors='replace')[-2000:]}")
    largest = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return _Process(
        began=began,
        ended=ended,
        processor_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=max(largest, *together),
        largest_bytes=largest,
    )


def _watch(process: psutil.Process, together: list[int]) -> None:
    """Note the resident size of a process and all that it started, until it ends."""
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            sizes = [process.memory_info().rss]
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    sizes.append(child.memory_info().rss)
            together.append(sum(sizes))
            time.sleep(_PULSE_SECONDS)


def _events(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


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
        "longest_stage": found[-1].longest_stage[0],
        "wall_ratio": found[-1].wall_ratio,
    }


def _print_row(each: Scaled) -> None:
    print(
        f"{each.chunks:>10,}{each.wall_seconds:>9.1f}{each.processor_seconds:>8.1f}"
        + "".join(f"{seconds:>10.1f}" for seconds in (*each.stage_seconds.values(), each.encoding_seconds))
        + f"{each.wall_ratio:>14.2f}{each.first_rate:>13,.0f}{each.last_rate:>12,.0f}"
        + f"{each.peak_rss_bytes / 1e6:>9,.0f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
