"""An ensemble in exclusive mode beside its models' own runs: what the hand-over from model to model costs.

Each round has a run of each model alone and one of all, in turn, each from the reading of the chunks to the last
vector; nothing is fused. A ratio of 1 says that the ensemble takes as long as its models one after the other; less,
that reading the chunks once is worth more than handing over. The hand-over is the time from the end of one pass to the
beginning of the next. Prints a table, and as its last line one JSON object.

    python -m benchmarks.ensemble [--quick] [--models a,b] [--chunks 2000] [--rounds 5] [--accelerator cpu]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, commit, cores, hardware, slug, versions, warn_of_kernel_variables
from benchmarks.options import filled
from benchmarks.texts import documentation, write_chunk_file
from soloist.config import FusionConfig, RunConfig
from soloist.engine import run
from soloist.events import Event, PassFinished, PassStarted
from soloist.types import DTypeRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Seconds of each model's own run, of the run of all, and of its hand-overs."""

    alone_seconds: dict[str, float]
    together_seconds: float
    hand_over_seconds: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The ensemble's time in that of its models alone."""
        return self.together_seconds / sum(self.alone_seconds.values())


class _HandOvers:
    """An event sink that measures from the end of each pass to the beginning of the next."""

    def __init__(self) -> None:
        self._ended: float | None = None
        self.seconds: list[float] = []

    def emit(self, event: Event) -> None:
        """Note when passes begin and end."""
        if isinstance(event, PassFinished):
            self._ended = time.perf_counter()
        elif isinstance(event, PassStarted) and self._ended is not None:
            self.seconds.append(time.perf_counter() - self._ended)


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = _options()
    warn_of_kernel_variables()
    models = tuple(options.models.split(","))
    # Without a tokenizer: the few texts that a model cuts off are cut off on both sides.
    texts = documentation(options.chunks, lambda text: len(text) // 4)
    with tempfile.TemporaryDirectory(prefix="soloist-bench-") as temp:
        write_chunk_file(Path(temp) / "chunks" / "texts", texts.texts)
        rounds = [_round(models, Path(temp), number, options) for number in range(options.rounds + 1)][1:]
    report = _report(options, models, len(texts.texts), texts.source, rounds)
    _print(report)
    if options.results:
        place = f"{cores()}-core-cpu" if options.accelerator == "cpu" else slug(options.accelerator)
        Path(options.results).mkdir(parents=True, exist_ok=True)
        (Path(options.results) / f"ensemble-{place}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a trial: 50 chunks, 1 round, nothing saved")
    parser.add_argument("--models", default="all-MiniLM-L6-v2,wordllama")
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--results")
    options = parser.parse_args()
    results = str(ROOT / "benchmarks" / "results")
    usual = {"chunks": 50, "rounds": 1, "results": ""} if options.quick else {
        "chunks": 1000, "rounds": 5, "results": results
    }  # fmt: skip
    return filled(options, usual)


def _round(models: tuple[str, ...], temp: Path, number: int, options: argparse.Namespace) -> Round:
    """All runs of one round; every second round begins with the ensemble."""
    wanted: list[tuple[str, ...]] = [*((model,) for model in models), models]
    alone: dict[str, float] = {}
    together = 0.0
    hand_over: tuple[float, ...] = ()
    for each in wanted if number % 2 else reversed(wanted):
        seconds, handed = _run(each, temp, f"run-{number}-{len(each)}-{each[0]}", options)
        if len(each) == 1:
            alone[each[0]] = seconds
        else:
            together, hand_over = seconds, handed
    return Round(alone_seconds=alone, together_seconds=together, hand_over_seconds=hand_over)


def _run(
    models: tuple[str, ...], temp: Path, name: str, options: argparse.Namespace
) -> tuple[float, tuple[float, ...]]:
    dtype: DTypeRequest = options.dtype
    config = RunConfig(
        chunks_root=temp / "chunks", out=temp / name, models=models, accelerator=options.accelerator, dtype=dtype,
        fusion=FusionConfig(method="none"), lock_dir=temp / "locks", cache_dir=temp / "cache",
    )  # fmt: skip
    watch = _HandOvers()
    result = run(config, watch)
    return result.seconds, tuple(watch.seconds)


def _report(
    options: argparse.Namespace, models: tuple[str, ...], chunks: int, source: str, rounds: list[Round]
) -> dict[str, Any]:
    ratios = [each.ratio for each in rounds]
    return {
        "benchmark": "ensemble",
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(("torch", "transformers", "sentence-transformers", "numpy")),
        "models": models,
        "accelerator": options.accelerator,
        "dtype": options.dtype,
        "chunks": chunks,
        "source": source,
        "ratio": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
        "hand_over_seconds": statistics.median(sum(each.hand_over_seconds) for each in rounds),
        "rounds": [{**asdict(each), "ratio": each.ratio} for each in rounds],
    }


def _print(report: dict[str, Any]) -> None:
    ratio = report["ratio"]
    print(f"{'round':>6}{'alone, sum':>12}{'together':>10}{'hand-over':>11}{'ratio':>8}   seconds")
    for number, each in enumerate(report["rounds"], 1):
        print(
            f"{number:>6}{sum(each['alone_seconds'].values()):>12.2f}{each['together_seconds']:>10.2f}"
            f"{sum(each['hand_over_seconds']):>11.3f}{each['ratio']:>8.3f}"
        )
    models = " and ".join(report["models"])
    print(
        f"{models}, {report['chunks']:,} chunks: the ensemble takes {ratio['median']:.3f} of the time of its models "
        f"alone ({ratio['lowest']:.3f} to {ratio['highest']:.3f})"
    )


if __name__ == "__main__":
    sys.exit(main())
