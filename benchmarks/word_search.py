"""How long words take over a million chunks: embed them with the member `bm25` alone, and ask; bm25s beside it.

The chunks are real: each is three pieces of documentation, code or abstracts, drawn at random, some 60 words. The first
process embeds them by the command. The second opens the run and asks, and its memory is its own. The third asks soloist
and bm25s in turn, round by round, over the same terms. A ratio is the median of the rounds' own ratios.

bm25s adds up in float32 and soloist in float64, so rankings are compared by their scores: they differ where the scores
at one place are more than 1e-5 apart. Prints a table, and as its last line one JSON object. Exit code 1 where a ranking
differs.

    python -m benchmarks.word_search [--quick] [--rows 1000000] [--questions 20] [--rounds 5] [--results FOLDER]
"""

from __future__ import annotations

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.asking import FOUND, in_turn, measured, memory_of, options_of, print_part, ratio, save
from benchmarks.machine import commit, hardware, versions
from benchmarks.texts import many_pieces, write_chunk_file
from soloist.retrieval import By, open_run
from soloist.words import Analyser, analyser_of

LANGUAGE = "english"
PIECES = 20_000  # that chunks are drawn from, three each
QUESTION_WORDS = 8
CLOSE = 1e-5  # scores that are further apart are different
BY = By(model="bm25")


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = options_of(__doc__)
    if options.measure:
        print_part(options, {"alone": _alone, "beside": _beside})
        return 0
    report = {"benchmark": "word-search", "commit": commit(), "hardware": hardware(), "rows": options.rows}
    report["versions"] = versions(("numpy", "pyarrow", "bm25s", "PyStemmer"))
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="soloist-words-") as temp:
        folder, questions, report["embedding"] = _embedded(Path(temp), options.rows, options.questions)
        report["index_bytes"] = sum(file.stat().st_size for file in folder.rglob("index.safetensors"))
        report["asked_alone"] = measured("benchmarks.word_search", folder, questions, "alone", options.rounds)
        loads.append(os.getloadavg()[0])
        report["beside"] = measured("benchmarks.word_search", folder, questions, "beside", options.rounds)
        loads.append(os.getloadavg()[0])
    report["load_averages"] = loads
    _print_table(report)
    save(report, "word-search", options.results)
    print(json.dumps(report))
    return 1 if report["beside"]["rankings_that_differ"] else 0


def _embedded(temp: Path, rows: int, count: int) -> tuple[Path, list[str], dict[str, Any]]:
    """A finished run of the member of words alone, questions to it, and what the run took."""
    pieces = many_pieces(PIECES + count, lambda text: len(text.split()), seed=1).texts
    write_chunk_file(temp / "chunks" / "texts", _drawn(pieces[:PIECES], rows))
    command = [
        sys.executable, "-m", "soloist", "embed", str(temp / "chunks"), "--out", str(temp / "run"), "--models", "bm25",
        "--language", LANGUAGE,
    ]  # fmt: skip
    began = time.perf_counter()
    said = temp / "said.txt"
    with said.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(said.read_text())
    seconds = time.perf_counter() - began
    events = [json.loads(line) for line in (temp / "run" / "events.jsonl").read_text().splitlines()]
    (indexed,) = (number for number, event in enumerate(events) if event["event"] == "CollectionIndexed")
    took = {
        "wall_seconds": seconds,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "index_seconds": events[indexed]["time"] - events[indexed - 1]["time"],
        "peak_resident_bytes": used.ru_maxrss * 1024,
    }
    return temp / "run", [" ".join(piece.split()[:QUESTION_WORDS]) for piece in pieces[PIECES:]], took


def _drawn(pieces: Sequence[str], rows: int) -> Iterator[str]:
    drawn = random.Random(0)
    for _ in range(rows):
        yield "\n".join(drawn.sample(pieces, 3))


def _alone(folder: Path, questions: Sequence[str], rounds: int) -> dict[str, Any]:
    """Questions to a run that was just opened, one by one, and this process's memory."""
    opened = open_run(folder)
    seconds: list[float] = []
    for question in questions:
        began = time.perf_counter()
        opened.rank([question], FOUND, by=BY)
        seconds.append(time.perf_counter() - began)
    return {
        "seconds_one_by_one": seconds,
        "anonymous_bytes": memory_of("RssAnon"),
        "peak_resident_bytes": memory_of("VmHWM"),
    }


def _beside(folder: Path, questions: Sequence[str], rounds: int) -> dict[str, Any]:
    """soloist and bm25s in turn, round by round, once both have answered every question."""
    opened, analyser = open_run(folder), analyser_of(LANGUAGE)
    began = time.perf_counter()
    index = _bm25s_index([chunk.text for chunk in opened.chunks()], analyser)
    built = time.perf_counter() - began

    def by_soloist(number: int) -> list[float]:
        found: list[float] = opened.rank([questions[number]], FOUND, by=BY).scores[0].tolist()
        return found

    def by_bm25s(number: int) -> list[float]:
        terms = [term for term in analyser.terms(questions[number]) if term in index.vocab_dict]
        scores = index.retrieve([terms], k=FOUND, show_progress=False)[1][0]
        return [score for score in scores.tolist() if score > 0]

    answers = [(by_soloist(number), by_bm25s(number)) for number in range(len(questions))]
    medians = in_turn({"soloist": by_soloist, "bm25s": by_bm25s}, len(questions), rounds)
    return {
        "median_seconds": {name: statistics.median(each) for name, each in medians.items()},
        "to_bm25s": ratio(medians["soloist"], medians["bm25s"]),
        "seconds_of_rounds": medians,
        "bm25s_index_seconds": built,
        "rankings_that_differ": sum(
            len(mine) != len(other) or not np.allclose(mine, other, rtol=CLOSE, atol=0) for mine, other in answers
        ),
    }


def _bm25s_index(texts: Sequence[str], analyser: Analyser) -> Any:
    import bm25s
    from bm25s.tokenization import Tokenized

    rows = analyser.rows(texts)
    numbers = list(range(len(rows.vocabulary)))  # one object each
    keys = np.repeat(rows.rows.keys, rows.rows.values.astype(np.int64))
    ends = np.concatenate([[0], np.cumsum(rows.rows.values, dtype=np.int64)])[rows.rows.starts]
    ids = [[numbers[key] for key in keys[start:end].tolist()] for start, end in itertools.pairwise(ends)]
    index = bm25s.BM25()
    index.index(Tokenized(ids=ids, vocab=dict(zip(rows.vocabulary, numbers, strict=True))), show_progress=False)
    return index


def _print_table(report: dict[str, Any]) -> None:
    took, alone, beside = report["embedding"], report["asked_alone"], report["beside"]
    print(f"{report['rows']:,} chunks, an index of {report['index_bytes'] / 1e6:,.0f} MB")
    print(f"{'embed, from command to finished files':<40}{took['wall_seconds']:>8.1f} s")
    print(f"{'of these the index':<40}{took['index_seconds']:>8.1f} s")
    print(f"{'peak memory of embed':<40}{took['peak_resident_bytes'] / 1e6:>8,.0f} MB")
    print(f"{'bm25s, words and index, in memory':<40}{beside['bm25s_index_seconds']:>8.1f} s")
    for name, each in beside["median_seconds"].items():
        print(f"{f'a question, {name}':<40}{each:>8.4f} s")
    print(f"{'soloist to bm25s':<40}{beside['to_bm25s']:>8.2f}")
    first = ", ".join(f"{seconds:.3f}" for seconds in alone["seconds_one_by_one"][:8])
    print(f"{'a new session, one question each':<40}{first} s")
    print(f"{'memory of its own, after all':<40}{alone['anonymous_bytes'] / 1e6:>8,.0f} MB")
    print(f"load of the machine: {', '.join(f'{load:.1f}' for load in report['load_averages'])}")
    print(f"rankings that differ: {beside['rankings_that_differ']}")


if __name__ == "__main__":
    sys.exit(main())
