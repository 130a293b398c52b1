"""soloist against sentence-transformers' own `encode`, in the same run, in turn, on the same texts and threads.

What is timed on soloist's side is a model's `seconds` of run.json: tokenizing, encoding and writing the
vectors; on the other side, `encode` alone, which writes nothing. Loading is timed on neither. The
vectors must agree. Run with `make bench`; prints a table, and as its last line one JSON object.

    python -m benchmarks.encode [--chunks FOLDER] [--models a,b] [--rounds 3] [--save results.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from soloist.config import FusionConfig, RunConfig
from soloist.engine import run
from soloist.models.catalogue import resolve
from soloist.models.loading import StagedModel, stage
from soloist.stores import RunFolder

SHARED_CHUNKS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "chunks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round: seconds of each side, and how well their vectors agree."""

    model: str
    chunks: int
    tokens: int
    soloist_seconds: float
    reference_seconds: float
    lowest_cosine: float


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = _options()
    chunks = Path(options.chunks)
    if not chunks.is_dir():
        print(f"{chunks} does not exist: give a folder of chunk files with --chunks", file=sys.stderr)
        return 2
    rounds: list[Round] = []
    for turn in range(options.rounds + 1):
        for name in options.models.split(","):
            measured = _round(name, chunks)
            if turn:  # the first is the warm-up
                rounds.append(measured)
    report = _report(rounds)
    _print_table(report["models"])
    if options.save:
        Path(options.save).write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", default=str(SHARED_CHUNKS))
    parser.add_argument("--models", default="all-MiniLM-L6-v2,wordllama")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save")
    return parser.parse_args()


def _round(name: str, chunks: Path) -> Round:
    staged = stage(resolve(name), "float32")
    with tempfile.TemporaryDirectory() as temp:
        config = RunConfig(
            chunks_root=chunks,
            out=Path(temp) / "run",
            models=(name,),
            accelerator="cpu",
            fusion=FusionConfig(method="none"),
        )
        report = run(config).models[0]
        texts, vectors = _read(RunFolder.open(config.out), name)
    began = time.perf_counter()
    reference = _reference(staged, texts)
    reference_seconds = time.perf_counter() - began
    return Round(
        model=name,
        chunks=report.chunks,
        tokens=report.tokens,
        soloist_seconds=report.seconds,
        reference_seconds=reference_seconds,
        lowest_cosine=float(np.einsum("ij,ij->i", vectors, reference).min()),
    )


def _read(folder: RunFolder, model: str) -> tuple[list[str], NDArray[np.float32]]:
    texts: list[str] = []
    vectors: list[NDArray[np.float32]] = []
    for collection in folder.read_json("run.json")["collections"]:
        for shard in folder.shards(collection["name"]):
            texts += folder.read_shard(collection["name"], shard).texts
            vectors.append(folder.read_vectors(collection["name"], model, shard)[1])
    return texts, np.concatenate(vectors)


def _reference(staged: StagedModel, texts: list[str]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = staged.module.encode_document(
        texts, normalize_embeddings=True, show_progress_bar=False
    )
    return found


def _report(rounds: list[Round]) -> dict[str, object]:
    names = list(dict.fromkeys(each.model for each in rounds))
    return {
        "benchmark": "encode",
        "commit": commit(),
        "hardware": {"processor": processor(), "cores": os.cpu_count(), "torch_threads": torch.get_num_threads()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "sentence-transformers", "numpy")},
        },
        "models": {name: _summary([each for each in rounds if each.model == name]) for name in names},
    }


def _summary(rounds: list[Round]) -> dict[str, object]:
    soloist = statistics.median(each.soloist_seconds for each in rounds)
    reference = statistics.median(each.reference_seconds for each in rounds)
    assert min(each.lowest_cosine for each in rounds) >= 0.99999, "the vectors do not agree"
    return {
        "chunks": rounds[0].chunks,
        "tokens": rounds[0].tokens,
        "soloist_chunks_per_second": round(rounds[0].chunks / soloist, 1),
        "reference_chunks_per_second": round(rounds[0].chunks / reference, 1),
        "median_ratio": round(statistics.median(each.reference_seconds / each.soloist_seconds for each in rounds), 3),
        "lowest_cosine": min(each.lowest_cosine for each in rounds),
        "rounds": [dataclasses.asdict(each) for each in rounds],
    }


def _print_table(models: object) -> None:
    assert isinstance(models, dict)
    print(f"{'model':<20}{'chunks':>8}{'soloist':>12}{'s-t':>12}{'ratio':>8}   chunks/s, median of rounds")
    for name, row in models.items():
        print(
            f"{name:<20}{row['chunks']:>8}{row['soloist_chunks_per_second']:>12}"
            f"{row['reference_chunks_per_second']:>12}{row['median_ratio']:>8}"
        )


def processor() -> str:
    """The name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str:
    """The commit that is measured."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
