"""How long `soloist plan` takes, and how much memory, on 10,000 and on 100,000 chunks.

Each size is a process of its own, timed from its start to its end; the peak is that of the process. The chunks are
those beside the checkout where they are there, else the docstrings of the standard library, repeated with a counter.
Prints a table, and as its last line one JSON object.

    python -m benchmarks.plan_speed [--chunks FOLDER] [--models a,b] [--accelerator simulated:2xT4]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import commit
from benchmarks.texts import SHARED_CHUNKS, chunk_texts, docstrings

SIZES = (10_000, 100_000)
CHUNKS_PER_FILE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One run of the command."""

    chunks: int
    text_bytes: int
    wall_seconds: float
    peak_rss_bytes: int


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = _options()
    folder = Path(options.chunks)
    texts = chunk_texts(folder) if folder.is_dir() else docstrings()
    print(f"{'chunks':>8}{'text MB':>10}{'seconds':>10}{'peak MB':>10}   {len(texts)} distinct texts")
    found = []
    for size in SIZES:
        # Largest last: the peak of ended processes is the largest of all of them.
        planned = _plan(texts, size, options.models, options.accelerator)
        found.append(planned)
        print(
            f"{planned.chunks:>8}{planned.text_bytes / 1e6:>10.1f}{planned.wall_seconds:>10.1f}"
            f"{planned.peak_rss_bytes / 1e6:>10.1f}",
            flush=True,
        )
    print(json.dumps(_report(found, options, str(folder) if folder.is_dir() else "docstrings")))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", default=str(SHARED_CHUNKS))
    parser.add_argument("--models", default="all-MiniLM-L6-v2,wordllama")
    parser.add_argument("--accelerator", default="simulated:2xT4")
    return parser.parse_args()


def _plan(texts: list[str], size: int, models: str, accelerator: str) -> Planned:
    with tempfile.TemporaryDirectory(prefix="soloist-plan-speed-") as temp:
        root = Path(temp) / "chunks"
        _write(root / "repeated", texts, size)
        command = [
            sys.executable, "-c", "from soloist.cli import main; main()", "plan", str(root), "--models", models,
            "--accelerator", accelerator, "--out", str(Path(temp) / "run"), "--cache-dir", str(Path(temp) / "cache"),
            "--json",
        ]  # fmt: skip
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=temp)
        wall_seconds = time.perf_counter() - began
    plan: dict[str, Any] = json.loads(done.stdout)
    assert plan["chunks"] == size, f"{plan['chunks']} chunks were planned, not {size}"
    return Planned(
        chunks=size, text_bytes=plan["text_bytes"], wall_seconds=wall_seconds, peak_rss_bytes=_peak_of_children()
    )


def _peak_of_children() -> int:
    """The largest resident size of any child so far; Linux gives kB, macOS bytes."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _write(folder: Path, texts: list[str], size: int) -> None:
    """Chunk files of texts that are all different, in no more memory than one of them."""
    folder.mkdir(parents=True)
    endless = itertools.cycle(texts)
    for start in range(0, size, CHUNKS_PER_FILE):
        numbers = range(start, min(size, start + CHUNKS_PER_FILE))
        items = [{"text": f"{next(endless)} {n}", "metadata": {"chunk_id": f"c{n}"}} for n in numbers]
        (folder / f"part-{start:07}_chunks.json").write_text(json.dumps(items), encoding="utf-8")


def _report(found: list[Planned], options: argparse.Namespace, source: str) -> dict[str, object]:
    first, last = found[0], found[-1]
    return {
        "benchmark": "plan_speed",
        "commit": commit(),
        "hardware": {"cores": os.cpu_count(), "machine": platform.machine()},
        "versions": {"python": platform.python_version()},
        "models": options.models.split(","),
        "accelerator": options.accelerator,
        "source": source,
        "sizes": [asdict(planned) for planned in found],
        "peak_growth": round(last.peak_rss_bytes / first.peak_rss_bytes, 3),
    }


if __name__ == "__main__":
    sys.exit(main())
