"""How long a question takes over a million fused vectors, and what memory: soloist's exact search beside faiss's.

A small run of two models is made for real, so that questions go through its models and its fusion; then its fused
vectors are replaced by random unit vectors of the same 640 dimensions, as many as --rows, written as a run writes them.
The search is a process of its own, whose memory is its own: anonymous memory is what it needs, and mapped
files are the system's to take back. The rankings are held against faiss's IndexFlatIP over the same vectors. Prints
a table, and as its last line one JSON object. Exit code 1 where a ranking differs.

    python -m benchmarks.search [--quick] [--rows 1000000] [--questions 20] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import ROOT, commit, cores, hardware, versions, warn_of_kernel_variables
from benchmarks.texts import write_chunk_file
from soloist.arrays import Vectors
from soloist.config import FusionConfig, RunConfig
from soloist.digests import shard_digest, text_digest
from soloist.engine import run
from soloist.retrieval import By, OpenedRun, open_run
from soloist.stores import RunFolder
from soloist.types import Chunk

MODELS = ("all-MiniLM-L6-v2", "wordllama")
WEIGHTS = {"all-MiniLM-L6-v2": 0.7, "wordllama": 0.3}
SHARD_ROWS = 4_096
FOUND = 10


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = _options()
    if options.measure:
        print(json.dumps(_measured(Path(options.measure), options.questions)))
        return 0
    warn_of_kernel_variables()
    with tempfile.TemporaryDirectory(prefix="soloist-search-") as temp:
        folder = _made(Path(temp), options.rows)
        command = [
            sys.executable,
            "-m",
            "benchmarks.search",
            "--measure",
            str(folder),
            "--questions",
            str(options.questions),
        ]
        measured: dict[str, Any] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
        differing, faiss_seconds = _against_faiss(folder, measured.pop("positions"), options.questions)
    report = {
        "benchmark": "search",
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(("torch", "numpy", "pyarrow", "faiss-cpu")),
        "rows": options.rows,
        "dim": measured.pop("dim"),
        **measured,
        "faiss_median_seconds": faiss_seconds,
        "rankings_that_differ": differing,
    }
    _print_table(report)
    if options.results:
        Path(options.results).mkdir(parents=True, exist_ok=True)
        path = Path(options.results) / f"search-{cores()}-core-cpu.json"
        path.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))
    return 1 if differing else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a trial: 20,000 rows, nothing saved")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--results")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    usual = {"rows": 20_000, "results": ""} if options.quick else {
        "rows": 1_000_000, "results": str(ROOT / "benchmarks" / "results")
    }  # fmt: skip
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _questions(count: int) -> list[str]:
    return [f"how does part {number} of the machine give its memory back?" for number in range(count)]


def _made(temp: Path, rows: int) -> Path:
    """A finished run whose chunks and fused vectors are as many as asked for."""
    write_chunk_file(temp / "chunks" / "texts", ["one text", "and another"])
    out = temp / "run"
    run(
        RunConfig(
            chunks_root=temp / "chunks", out=out, models=MODELS, accelerator="cpu",
            fusion=FusionConfig(weights=WEIGHTS),
            lock_dir=temp / "locks", cache_dir=temp / "cache",
        )
    )  # fmt: skip
    folder = RunFolder(out)
    summary = folder.read_json("run.json")
    summary["collections"][0]["chunks"] = rows
    folder.reopen()
    fingerprint = next(each.fingerprint for each in folder.manifest.read().values() if each.kind == "fused")
    for index, vectors in enumerate(_random_blocks(rows, summary["fusion"]["dim"])):
        first = index * SHARD_ROWS
        chunks = [Chunk(id=f"{row}", text=f"text {row}") for row in range(first, first + len(vectors))]
        folder.manifest.append(folder.shards.write_chunks("texts", index, chunks))
        content = shard_digest([chunk.id for chunk in chunks], [text_digest(chunk.text) for chunk in chunks])
        folder.manifest.append(
            folder.shards.write_fused("texts", index, [chunk.id for chunk in chunks], vectors, content, fingerprint)
        )
    folder.finish(summary)
    return out


def _random_blocks(rows: int, dim: int) -> Iterator[Vectors]:
    drawn = np.random.default_rng(0)
    for first in range(0, rows, SHARD_ROWS):
        block = drawn.standard_normal((min(SHARD_ROWS, rows - first), dim), dtype=np.float32)
        yield block / np.linalg.norm(block, axis=1, keepdims=True)


def _measured(folder: Path, count: int) -> dict[str, Any]:
    """The times of questions one by one, of all in one pass, and this process's memory."""
    opened, by = open_run(folder), By(ranker="fused")
    seconds: list[float] = []
    positions: list[list[int]] = []
    loaded = 0
    for question in _questions(count + 1):
        began = time.perf_counter()
        positions.append(opened.rank([question], FOUND, by=by).positions[0].tolist())
        seconds.append(time.perf_counter() - began)
        loaded = loaded or _memory("RssAnon")
    began = time.perf_counter()
    hits = opened.search(_questions(1)[0], FOUND)
    with_texts = time.perf_counter() - began
    began = time.perf_counter()
    together = [row.tolist() for row in opened.rank(_questions(count + 1), FOUND, by=by).positions]
    return {
        "dim": opened.record.fusion_plan.dim,
        "first_seconds": seconds[0],
        "median_seconds": statistics.median(seconds[1:]),
        "slowest_seconds": max(seconds[1:]),
        "with_texts_seconds": with_texts,
        "batch_seconds": time.perf_counter() - began,
        "batch_questions": count + 1,
        "batch_has_the_same_rankings": together == positions,
        "vectors_bytes": opened.vectors("fused").stored_bytes * opened.corpus().rows,
        "anonymous_bytes_after_first": loaded,
        "anonymous_bytes": _memory("RssAnon"),
        "peak_resident_bytes": _memory("VmHWM"),
        "positions": positions,
        "found": len(hits),
    }


def _memory(field: str) -> int:
    """A figure of Linux's account of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def _against_faiss(folder: Path, positions: list[list[int]], count: int) -> tuple[int, float]:
    """How many rankings are others than faiss's, and how long it takes for one question, all vectors in memory."""
    import faiss

    opened: OpenedRun = open_run(folder)
    index = faiss.IndexFlatIP(opened.record.fusion_plan.dim)
    for block in opened.vectors("fused").blocks():
        index.add(np.ascontiguousarray(block))
    seconds: list[float] = []
    differing = 0
    for question, own in zip(_questions(count + 1), positions, strict=True):
        asked = opened.encode_fused([question])
        began = time.perf_counter()
        found = index.search(asked, FOUND)[1][0].tolist()
        seconds.append(time.perf_counter() - began)
        differing += found != own
    return differing, statistics.median(seconds)


def _print_table(report: dict[str, Any]) -> None:
    print(f"{report['rows']:,} vectors of {report['dim']} dims, {report['vectors_bytes'] / 1e9:.2f} GB on the disk")
    print(f"{'first question':<40}{report['first_seconds']:>8.2f} s  (models are loaded, files are read)")
    print(
        f"{'later ones, median and slowest':<40}{report['median_seconds']:>8.2f} s {report['slowest_seconds']:>6.2f} s"
    )
    print(f"{'with the texts of the hits':<40}{report['with_texts_seconds']:>8.2f} s")
    print(f"{report['batch_questions']:>3} in one pass{'':<26}{report['batch_seconds']:>8.2f} s")
    print(f"{'faiss IndexFlatIP, all in memory, median':<40}{report['faiss_median_seconds']:>8.2f} s")
    print(f"{'memory of its own':<40}{report['anonymous_bytes'] / 1e6:>8,.0f} MB")
    print(f"rankings other than faiss's: {report['rankings_that_differ']}")


if __name__ == "__main__":
    sys.exit(main())
