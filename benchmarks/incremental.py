"""What a change of 1% of the chunks costs: a full run, the same run after the change, and their ratio.

The chunks are made from those of a folder, each with a number before it, so that no two are the same. The changed ones
are spread over all shards, which is the worst case: every file of vectors is written again, with a few new rows.
Encoding seconds are the sum of `seconds` in run.json: tokenizing, encoding, taking over and writing vectors. Prints a
table, and as its last line one JSON object. Exit code 1 where other rows were embedded than those that changed, where
the run does not verify, or where the ratio is not below --limit.

    python -m benchmarks.incremental [--model all-MiniLM-L6-v2] [--chunks 20000] [--source FOLDER] [--save results.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.machine import commit, processor
from benchmarks.texts import SHARED_CHUNKS
from soloist.config import FusionConfig, RunConfig, SourceConfig
from soloist.engine import run
from soloist.sources import discover, read_chunks
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run

_FILE_CHUNKS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run: its seconds, and what became of its rows."""

    name: str
    encoding_seconds: float
    wall_seconds: float
    embedded: int
    reused: int
    kept: int


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = _options()
    source = Path(options.source)
    if not source.is_dir():
        print(f"skipped: {source} does not exist, give a folder of chunk files with --source")
        return 0
    texts = [text[: options.characters] for text in _texts(source, options.chunks)]
    changed = random.Random(options.seed).sample(range(len(texts)), max(1, round(options.changed * len(texts))))
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        full = _measure("full", texts, folder, options)
        for row in changed:
            texts[row] = f"Changed since. {texts[row]}"
        again = _measure("changed", texts, folder, options)
        problems = verify_run(RunFolder.open(folder / "run")).problems
    ratio = again.encoding_seconds / full.encoding_seconds
    _print_table((full, again))
    print(f"{ratio:.1%} of the encoding time for {len(changed):,} of {len(texts):,} chunks changed")
    report = _report(options, (full, again), len(changed), ratio)
    if options.save:
        Path(options.save).write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))
    faults = _faults(again, len(changed), ratio, options.limit, problems)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--chunks", type=int, default=20_000, help="the number of chunks, made from those of --source")
    parser.add_argument("--changed", type=float, default=0.01, help="the share of the chunks that change")
    parser.add_argument("--characters", type=int, help="cut every chunk to this length, so that overheads weigh more")
    parser.add_argument("--source", default=str(SHARED_CHUNKS))
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--limit", type=float, default=0.05, help="the ratio to stay below")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save")
    return parser.parse_args()


def _texts(source: Path, count: int) -> list[str]:
    """As many texts as wanted, each once."""
    settings = SourceConfig()
    found = [
        chunk.text
        for collection in discover(source, settings)
        for chunk, _ in read_chunks(collection, settings, lambda _: None)
    ]
    return [f"{number}. {found[number % len(found)]}" for number in range(count)]


def _measure(name: str, texts: Sequence[str], folder: Path, options: argparse.Namespace) -> Measured:
    chunks = folder / "chunks" / "texts"
    chunks.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(texts), _FILE_CHUNKS):
        items = [{"id": f"{first + row}", "text": text} for row, text in enumerate(texts[first : first + _FILE_CHUNKS])]
        (chunks / f"{first:08d}_chunks.json").write_text(json.dumps(items))
    config = RunConfig(
        chunks_root=chunks.parent,
        out=folder / "run",
        models=(options.model,),
        accelerator=options.accelerator,
        fusion=FusionConfig(method="none"),
    )
    result = run(config)
    return Measured(
        name=name,
        encoding_seconds=sum(model.seconds for model in result.models),
        wall_seconds=result.seconds,
        embedded=sum(model.embedded for model in result.models),
        reused=sum(model.reused for model in result.models),
        kept=sum(model.kept for model in result.models),
    )


def _faults(again: Measured, changed: int, ratio: float, limit: float, problems: Sequence[str]) -> list[str]:
    faults = list(problems)
    if again.embedded != changed:
        faults.append(f"{again.embedded:,} chunks were embedded again, and {changed:,} had changed")
    if ratio >= limit:
        faults.append(f"{ratio:.1%} of the encoding time is not below {limit:.0%}")
    return faults


def _print_table(runs: Sequence[Measured]) -> None:
    print(f"{'run':<10}{'encoding s':>12}{'wall s':>10}{'embedded':>10}{'reused':>10}{'kept':>8}")
    for each in runs:
        print(
            f"{each.name:<10}{each.encoding_seconds:>12.1f}{each.wall_seconds:>10.1f}"
            f"{each.embedded:>10,}{each.reused:>10,}{each.kept:>8,}"
        )


def _report(options: argparse.Namespace, runs: Sequence[Measured], changed: int, ratio: float) -> dict[str, object]:
    return {
        "benchmark": "incremental",
        "commit": commit(),
        "hardware": {"processor": processor(), "torch_threads": torch.get_num_threads()},
        "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers")},
        "model": options.model,
        "accelerator": options.accelerator,
        "chunks": options.chunks,
        "changed": changed,
        "runs": [dataclasses.asdict(each) for each in runs],
        "encoding_ratio": round(ratio, 4),
    }


if __name__ == "__main__":
    sys.exit(main())
