"""What the first question of a shell costs in processor time, for each kind of member, and what the libraries take.

Every command is a process of its own, and its processor seconds are what the system says of it: user and system time
together. The commands take turns, so that a busy minute of the machine falls on all of them. With --beside, the source
of another version answers the same questions in turn. Prints a table, and as its last line one JSON object.

    python -m benchmarks.first_question [--rounds 5] [--beside FOLDER] [--results FOLDER | --quick]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.asking import save
from benchmarks.machine import ROOT, commit, hardware, versions
from benchmarks.texts import docstrings, write_chunk_file

# The members of the runs that are asked.
KINDS: Mapping[str, tuple[str, ...]] = {
    "words": ("bm25",),
    "static": ("wordllama",),
    "network": ("all-MiniLM-L6-v2",),
    "all three": ("bm25", "wordllama", "all-MiniLM-L6-v2"),
}
# What a part of such a process takes alone, as Python.
PARTS: Mapping[str, str] = {
    "python": "pass",
    "soloist's command line": "import soloist.cli",
    "torch": "import torch",
    "BertModel of transformers": "from transformers import BertModel",
    "scikit-learn, as sentence-transformers asks": "from sklearn.metrics import pairwise_distances",
    "sentence-transformers": "import sentence_transformers",
}
QUESTION = "how is a list sorted?"
_COMMAND = "from soloist.cli import main; main()"
_CHUNKS = 200


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="soloist-first-question-") as temp:
        root = Path(temp)
        write_chunk_file(root / "chunks", docstrings()[:_CHUNKS])
        for kind, models in KINDS.items():
            _run(["embed", str(root / "chunks"), "--out", str(root / kind), "--models", ",".join(models),
                  "--accelerator", "cpu"])  # fmt: skip
        seconds = _in_turn(_commands(root, options.beside), options.rounds)
    for name, each in seconds.items():
        print(f"{name:<46}{statistics.median(each):>7.2f} s", flush=True)
    report = {
        "benchmark": "first_question",
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(("torch", "transformers", "sentence-transformers", "tokenizers", "scikit-learn", "numpy")),
        "beside": options.beside,
        "rounds": options.rounds,
        "processor_seconds": {name: [round(second, 3) for second in each] for name, each in seconds.items()},
        "median": {name: round(statistics.median(each), 2) for name, each in seconds.items()},
    }
    save(report, "first-question", options.results)
    print(json.dumps(report))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a trial: one round, nothing saved")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", default="", help="the folder src of another version of soloist")
    parser.add_argument("--results", default=str(ROOT / "benchmarks" / "results"))
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.results = 1, ""
    return options


def _commands(root: Path, beside: str) -> dict[str, tuple[Sequence[str], str]]:
    """The Python of each command with its arguments, and the folder of the source that it runs; empty for our own."""
    sources = {"": "", " before": beside} if beside else {"": ""}
    asked = {
        f"search, {kind}{name}": ([_COMMAND, "search", str(root / kind), QUESTION], source)
        for kind in KINDS
        for name, source in sources.items()
    }
    encoded = {
        f"encode, {kind}": ([_COMMAND, "encode", str(root / kind), QUESTION, *_named(models)], "")
        for kind, models in KINDS.items()
    }
    return {**asked, **encoded, **{part: ([code], "") for part, code in PARTS.items()}}


def _named(models: Sequence[str]) -> list[str]:
    """What a run without fused vectors has to be told."""
    return ["--model", models[0]] if len(models) == 1 else []


def _in_turn(commands: Mapping[str, tuple[Sequence[str], str]], rounds: int) -> dict[str, list[float]]:
    """The processor seconds of each command in each round, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for counted in range(-1, rounds):
        for name, (arguments, source) in commands.items():
            spent = _processor_seconds(arguments, source)
            if counted >= 0:
                seconds[name].append(spent)
    return seconds


def _processor_seconds(arguments: Sequence[str], source: str) -> float:
    """What a process of Python takes, from its start to its end, on all cores together."""
    before = os.times()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **({"PYTHONPATH": source} if source else {})}
    subprocess.run([sys.executable, "-c", *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _run(arguments: Sequence[str]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", _COMMAND, *arguments], check=True, capture_output=True, env=environment)


if __name__ == "__main__":
    sys.exit(main())
