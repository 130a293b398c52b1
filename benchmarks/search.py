"""How long a question takes over a million fused vectors, and what memory: soloist's exact search beside faiss's.

A small run of two models over real texts is made, so that questions go through its models and its fusion. Then rows
around its fused vectors take their place, as many as --rows, written as a run writes them: each is a real vector with
noise, as a text is that resembles another. One process asks a run that it has just opened, and its memory is its own:
anonymous memory is what it needs, and mapped files are the system's to take back. Another process asks soloist and
faiss's IndexFlatIP in turn, round by round. A ratio is the median of the rounds' own ratios. Every ranking is held
against faiss's. Prints a table, and as its last line one JSON object. Exit code 1 where a ranking differs.

    python -m benchmarks.search [--quick] [--rows 1000000] [--questions 20] [--rounds 5] [--results FOLDER]
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.asking import FOUND, Ask, in_turn, measured, memory_of, options_of, print_part, ratio, save
from benchmarks.machine import commit, hardware, versions, warn_of_kernel_variables
from benchmarks.texts import documentation, write_chunk_file
from soloist.arrays import Vectors
from soloist.config import FusionConfig, RunConfig
from soloist.digests import shard_digest, text_digest
from soloist.engine import run
from soloist.fusion_methods import FUSED
from soloist.retrieval import By, OpenedRun, open_run
from soloist.retrieval.exact import WeightedQueries
from soloist.stores import RunFolder
from soloist.types import Chunk

MODELS = ("all-MiniLM-L6-v2", "wordllama")
WEIGHTS = {"all-MiniLM-L6-v2": 0.7, "wordllama": 0.3}
SHARD_ROWS = 4_096
TEXTS = 400
TEXT_TOKENS = 64
QUESTION_WORDS = 10
NOISE = 0.8  # its length beside a unit vector: two rows around one text have a cosine of about 0.6
BY = By(ranker=FUSED)
SOLOIST, WITH_MODELS, FAISS = "soloist", "soloist, with the models", "faiss IndexFlatIP"
EXACT = (SOLOIST, WITH_MODELS, FAISS)  # whose answers must be the same


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = options_of(__doc__)
    if options.measure:
        print_part(options, {"alone": _alone, "beside": _beside})
        return 0
    warn_of_kernel_variables()
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="soloist-search-") as temp:
        folder, questions = _made(Path(temp), options.rows, options.questions)
        alone = measured("benchmarks.search", folder, questions, "alone", options.rounds)
        loads.append(os.getloadavg()[0])
        beside = measured("benchmarks.search", folder, questions, "beside", options.rounds)
        loads.append(os.getloadavg()[0])
    report = {
        "benchmark": "search",
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(("torch", "numpy", "numkong", "pyarrow", "faiss-cpu")),
        "load_averages": loads,
        "rows": options.rows,
        **alone,
        **beside,
    }
    _print_table(report)
    save(report, "search", options.results)
    print(json.dumps(report))
    return 1 if report["rankings_that_differ"] else 0


def _made(temp: Path, rows: int, count: int) -> tuple[Path, list[str]]:
    """A finished run whose chunks and fused vectors are as many as asked for, and questions to it."""
    texts = documentation(TEXTS + count, lambda text: len(text.split()), max_tokens=TEXT_TOKENS).texts
    questions = [" ".join(text.split()[:QUESTION_WORDS]) for text in texts[-count:]]
    write_chunk_file(temp / "chunks" / "texts", list(texts[:-count]))
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
    centres = folder.shards.read_fused("texts", 0)[1]
    folder.reopen()
    fingerprint = next(each.fingerprint for each in folder.manifest.read().values() if each.kind == "fused")
    for index, vectors in enumerate(_blocks_around(centres, rows)):
        first = index * SHARD_ROWS
        chunks = [Chunk(id=f"{row}", text=f"text {row}") for row in range(first, first + len(vectors))]
        folder.manifest.append(folder.shards.write_chunks("texts", index, chunks))
        content = shard_digest([chunk.id for chunk in chunks], [text_digest(chunk.text) for chunk in chunks])
        folder.manifest.append(
            folder.shards.write_fused("texts", index, [chunk.id for chunk in chunks], vectors, content, fingerprint)
        )
    folder.finish(summary)
    return out, questions


def _blocks_around(centres: Vectors, rows: int) -> Iterator[Vectors]:
    drawn, dim = np.random.default_rng(0), centres.shape[1]
    for first in range(0, rows, SHARD_ROWS):
        count = min(SHARD_ROWS, rows - first)
        block = drawn.standard_normal((count, dim), dtype=np.float32)
        block *= np.float32(NOISE / dim**0.5)
        block += centres[drawn.integers(len(centres), size=count)]
        yield block / np.linalg.norm(block, axis=1, keepdims=True)


def _alone(folder: Path, questions: Sequence[str], rounds: int) -> dict[str, Any]:
    """The first questions to a run that was just opened, all in one pass, and this process's memory."""
    opened = open_run(folder)
    seconds: list[float] = []
    positions: list[list[int]] = []
    loaded = 0
    for question in questions:
        began = time.perf_counter()
        positions.append(opened.rank([question], FOUND, by=BY).positions[0].tolist())
        seconds.append(time.perf_counter() - began)
        loaded = loaded or memory_of("RssAnon")
    began = time.perf_counter()
    hits = opened.search(questions[0], FOUND)
    with_texts = time.perf_counter() - began
    began = time.perf_counter()
    together = [row.tolist() for row in opened.rank(questions, FOUND, by=BY).positions]
    return {
        "dim": opened.record.fusion_plan.dim,
        "seconds_one_by_one": seconds,
        "with_texts_seconds": with_texts,
        "batch_seconds": time.perf_counter() - began,
        "batch_questions": len(questions),
        "batch_has_the_same_rankings": together == positions,
        "vectors_bytes": opened.vectors(FUSED).stored_bytes * opened.corpus().rows,
        "anonymous_bytes_after_first": loaded,
        "anonymous_bytes": memory_of("RssAnon"),
        "peak_resident_bytes": memory_of("VmHWM"),
        "found": len(hits),
    }


def _beside(folder: Path, questions: Sequence[str], rounds: int) -> dict[str, Any]:
    """soloist and faiss in turn, round by round, once both have answered every question."""
    asked = _contenders(open_run(folder), questions)
    answers = {name: [ask(number) for number in range(len(questions))] for name, ask in asked.items()}
    medians = in_turn(asked, len(questions), rounds)
    return {
        "contenders": {
            name: {
                "median_seconds": statistics.median(each),
                "to_faiss": ratio(each, medians[FAISS]),
                "seconds_of_rounds": each,
            }
            for name, each in medians.items()
        },
        "rankings_that_differ": sum(
            len({tuple(answers[name][number]) for name in EXACT}) > 1 for number in range(len(questions))
        ),
    }


def _contenders(opened: OpenedRun, questions: Sequence[str]) -> dict[str, Ask]:
    """Whoever answers the questions over the same rows: a line of the table each."""
    vectors = opened.encode_fused(questions)
    index = _faiss_index(opened)
    corpus = opened.corpus()

    def by_vector(number: int) -> list[int]:
        query = WeightedQueries.of([vectors[number : number + 1]])
        found: list[int] = corpus.nearest([FUSED], query, FOUND).positions[0].tolist()
        return found

    def by_text(number: int) -> list[int]:
        found: list[int] = opened.rank([questions[number]], FOUND, by=BY).positions[0].tolist()
        return found

    def by_faiss(number: int) -> list[int]:
        found: list[int] = index.search(vectors[number : number + 1], FOUND)[1][0].tolist()
        return found

    return {SOLOIST: by_vector, WITH_MODELS: by_text, FAISS: by_faiss}


def _faiss_index(opened: OpenedRun) -> Any:
    import faiss

    index = faiss.IndexFlatIP(opened.record.fusion_plan.dim)
    for block in opened.vectors(FUSED).blocks():
        index.add(np.ascontiguousarray(block))
    return index


def _print_table(report: dict[str, Any]) -> None:
    print(f"{report['rows']:,} vectors of {report['dim']} dims, {report['vectors_bytes'] / 1e9:.2f} GB on the disk")
    for name, each in report["contenders"].items():
        print(f"{name:<40}{each['median_seconds']:>8.3f} s   {each['to_faiss']:.2f} times faiss's time")
    first = ", ".join(f"{seconds:.2f}" for seconds in report["seconds_one_by_one"][:8])
    print(f"{'a new session, one question each':<40}{first} s")
    print(f"{'with the texts of the hits':<40}{report['with_texts_seconds']:>8.3f} s")
    print(f"{report['batch_questions']:>3} in one pass{'':<26}{report['batch_seconds']:>8.2f} s")
    print(f"{'memory of its own, after one question':<40}{report['anonymous_bytes_after_first'] / 1e6:>8,.0f} MB")
    print(f"{'memory of its own, after all':<40}{report['anonymous_bytes'] / 1e6:>8,.0f} MB")
    print(f"load of the machine: {', '.join(f'{load:.1f}' for load in report['load_averages'])}")
    print(f"rankings that differ: {report['rankings_that_differ']}")


if __name__ == "__main__":
    sys.exit(main())
