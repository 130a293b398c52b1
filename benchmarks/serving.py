"""How many questions a second `soloist serve` answers, beside a plain server and infinity's, at 1, 8 and 64 clients.

A run of all-MiniLM-L6-v2 and wordllama, fused. Each question is real text, and each client asks the next one once it
has its answer. The servers are measured in turn, round by round:

- `soloist`: `soloist serve`, the fused vector in one request. Each answer has to have the bits of `open_questions`.
- `loop`: `plain_server.py`, one text at a time through both models with sentence-transformers.
- `infinity`: its own server with all-MiniLM-L6-v2 alone, where its environment is there (`make
  .venv-infinity/.installed`). So it has less to do. infinity 0.0.78 loads no table of vectors: "'StaticEmbedding'
  object has no attribute 'auto_model'".

A ratio is the median of the rounds' own ratios. `--soak SECONDS` asks soloist's server alone for so long, with texts
of all lengths, clients that go away and requests that are refused, and says how its memory grew.

`--hostile` asks soloist's server alone too, in turn without and beside clients whose requests are to be refused, and
says how long the others wait.

Prints a table, and as its last line one JSON object. Exit code 1 where an answer was wrong or lost, or where a request
was answered that is to be refused.

    python -m benchmarks.serving [--quick] [--seconds 10] [--rounds 5] [--soak 600 | --hostile] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import functools
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import psutil

from benchmarks import hostile_clients
from benchmarks.asking import ratio, save
from benchmarks.encode.engines import environment_python
from benchmarks.local_models import located, token_counter
from benchmarks.machine import ROOT, commit, hardware, versions
from benchmarks.options import filled
from benchmarks.serving_clients import Answers, Load, Target, load, merged, vector
from benchmarks.texts import documentation, write_chunk_file

MODELS = ("all-MiniLM-L6-v2", "wordllama")
CLIENTS = (1, 8, 64)
QUESTION_WORDS = 12
CHUNKS, QUESTIONS = 500, 2_000
CLOSE = 0.9999  # the cosine at which an answer of another engine is that of its question
PATIENCE_SECONDS = 120.0
SOAK_CLIENTS = 16
ATTACKED_CLIENTS = 8
SHOWN_SAMPLES = 60
WARM_SHARE, END_SHARE = 0.2, 0.05  # of a soak: what is not counted, and what is compared


def main() -> int:
    """Measure, print the table and the JSON line."""
    options = _options()
    report: dict[str, Any] = {
        "benchmark": "serving", "commit": commit(), "hardware": hardware(), "models": MODELS,
        "versions": versions(("torch", "sentence-transformers", "starlette", "uvicorn", "numpy")),
        "load_averages": [os.getloadavg()[0]],
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="soloist-serving-") as temp, contextlib.ExitStack() as servers:
        setting = Setting(Path(temp))
        targets = [servers.enter_context(soloist(setting))]
        if options.soak:
            report["soak"] = soaked(targets[0], setting, options.soak)
        elif options.hostile:
            report["hostile"] = attacked(targets[0], setting.questions, options)
        else:
            targets.append(servers.enter_context(plain(setting)))
            report["absent"] = {}
            if python := environment_python("infinity"):
                targets.append(servers.enter_context(infinity(setting, python)))
            else:
                report["absent"]["infinity"] = "its environment is not there: make .venv-infinity/.installed"
            report["clients"] = measured(targets, setting.questions, options)
            _print_table(report)
    report["load_averages"].append(os.getloadavg()[0])
    part = "-soak" if options.soak else "-hostile" if options.hostile else ""
    save(report, f"serving{part}", options.results)
    print(json.dumps(report))
    return 1 if _faults(report) else 0


class Setting:
    """A run of real texts, the folders of its models, and questions with the vectors that they have in this process."""

    def __init__(self, temp: Path) -> None:
        from soloist import open_questions

        self.temp = temp
        pieces = documentation(CHUNKS + QUESTIONS, token_counter(), seed=3).texts
        write_chunk_file(temp / "chunks" / "texts", pieces[:CHUNKS])
        command = [sys.executable, "-m", "soloist", "embed", str(temp / "chunks"), "--out", str(temp / "run")]
        subprocess.run(
            [*command, "--models", ",".join(MODELS), "--accelerator", "cpu"], check=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        texts = dict.fromkeys(" ".join(piece.split()[:QUESTION_WORDS]) for piece in pieces)
        self.questions = list(texts)[:QUESTIONS]
        self.long_texts = [*pieces[:200], *self.questions[:300]]
        self.open = functools.cache(lambda: open_questions(temp / "run"))
        self.folders = [str(located(MODELS[0])), str(self._table())]

    def _table(self) -> Path:
        """wordllama as a folder of sentence-transformers, for the plain server."""
        from safetensors.torch import load_file
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        from tokenizers import Tokenizer

        from soloist.models.location import WORDLLAMA_TOKENIZER, WORDLLAMA_WEIGHTS

        package, folder = located(MODELS[1]), self.temp / "wordllama"
        tokenizer = Tokenizer.from_file(str(package / WORDLLAMA_TOKENIZER))
        tokenizer.no_truncation()
        weights = load_file(package / WORDLLAMA_WEIGHTS)["embedding.weight"].float()
        module = StaticEmbedding(tokenizer, embedding_weights=weights)
        SentenceTransformer(modules=[module], device="cpu").save(str(folder), create_model_card=False)
        return folder

    def bits(self, texts: Sequence[str]) -> list[str]:
        """The fused vector of each text in base64."""
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in self.open().encode(texts, "fused")]

    def parts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The vectors of each text by each model, (texts, dim) for each model."""
        return [np.asarray(self.open().encode(texts, name)) for name in MODELS]


@contextlib.contextmanager
def soloist(setting: Setting) -> Iterator[Target]:
    """`soloist serve`."""
    expected = setting.bits(setting.questions)
    command = [sys.executable, "-m", "soloist", "serve", str(setting.temp / "run"), "--port"]
    with _served("soloist", command, "/health", setting.temp) as (port, pid):
        yield Target(
            name="soloist",
            port=port,
            pid=pid,
            models=("fused",),
            is_right=lambda number, found: found[0] == expected[number],
        )


@contextlib.contextmanager
def plain(setting: Setting) -> Iterator[Target]:
    """The loop of sentence-transformers."""
    command = [sys.executable, str(ROOT / "benchmarks" / "plain_server.py"), *setting.folders, "--port"]
    fused = np.hstack(setting.parts(setting.questions)) / np.sqrt(len(MODELS))
    with _served("loop", command, "", setting.temp) as (port, pid):
        yield Target(name="loop", port=port, pid=pid, models=("both",), is_right=_is_close([fused]))


@contextlib.contextmanager
def infinity(setting: Setting, python: Path) -> Iterator[Target]:
    """infinity's server with all-MiniLM-L6-v2."""
    command = [str(python.with_name("infinity_emb")), "v2", "--model-id", setting.folders[0]]
    command += [
        "--engine",
        "torch",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--no-model-warmup",
        "--log-level",
        "error",
        "--port",
    ]
    with _served("infinity", command, "/health", setting.temp) as (port, pid):
        yield Target(
            name="infinity", port=port, pid=pid, models=[Path(setting.folders[0]).name],
            is_right=_is_close(setting.parts(setting.questions)[:1]), path="/embeddings",
        )  # fmt: skip


def _is_close(expected: Sequence[np.ndarray]) -> Callable[[int, Answers], bool]:
    """Whether each vector of a question is the expected one but for rounding."""

    def is_right(number: int, answers: Answers) -> bool:
        found = [vector(answer) for answer in answers]
        return all(
            float(one @ rows[number] / np.linalg.norm(one)) > CLOSE for one, rows in zip(found, expected, strict=True)
        )

    return is_right


@contextlib.contextmanager
def _served(name: str, command: Sequence[str], ready: str, folder: Path) -> Iterator[tuple[int, int]]:
    """A server's port and process, once it answers at the path `ready`, or at all."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    said = folder / f"{name}.txt"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"}
    with said.open("wb") as log:
        process = subprocess.Popen([*command, str(port)], stdout=log, stderr=log, env=environment)
    try:
        _wait_for(process, port, ready, said)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, ready: str, said: Path) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            if ready:
                with urlopen(f"http://127.0.0.1:{port}{ready}", timeout=5):
                    return
            else:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                return
        time.sleep(0.2)
    raise SystemExit(f"the server does not answer: {said.read_text(errors='replace')[-2_000:]}")


def measured(targets: Sequence[Target], questions: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """For each number of clients and each server its figures, and its ratio to the loop."""
    found: dict[str, Any] = {}
    for clients in CLIENTS:
        loads: dict[str, list[Load]] = {target.name: [] for target in targets}
        for target in targets:
            load(target, questions, clients, options.seconds / 4)  # warm-up
        for _ in range(options.rounds):
            for target in targets:
                loads[target.name].append(load(target, questions, clients, options.seconds))
        rates = {name: [each.rate for each in rounds] for name, rounds in loads.items()}
        found[str(clients)] = {
            name: {
                **merged(rounds).figures(), "rates": rates[name], "rate": statistics.median(rates[name]),
                "times_the_loop": ratio(rates[name], rates["loop"]),
            }
            for name, rounds in loads.items()
        }  # fmt: skip
    return found


def attacked(target: Target, questions: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """What some clients wait alone, and beside clients whose requests are to be refused, in turn."""
    load(target, questions, ATTACKED_CLIENTS, options.seconds / 4)  # warm-up
    alone: list[Load] = []
    beside: list[Load] = []
    refused: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    fewest_held: list[int] = []
    for _ in range(options.rounds):
        alone.append(load(target, questions, ATTACKED_CLIENTS, options.seconds))
        with hostile_clients.beside(target.port) as attack:
            beside.append(load(target, questions, ATTACKED_CLIENTS, options.seconds))
        refused.update({name: number for name, (number, _) in attack.counts.items()})
        taken.update({name: number for name, (_, number) in attack.counts.items()})
        fewest_held.append(attack.fewest_held)
    found = {"alone": merged(alone).figures(), "beside": merged(beside).figures()}
    cost = _milliseconds_of_a_refusal(target, options.seconds)
    for name, row in found.items():
        print(f"{ATTACKED_CLIENTS} clients {name}: median {row['median_ms']:.0f} ms, p99 {row['p99_ms']:.0f} ms")
    print(f"{refused.total():,} hostile requests were refused, {taken.total():,} were not")
    print(f"a refusal takes {cost:.2f} ms of a core")
    return {
        **found, "clients": ATTACKED_CLIENTS, "fewest_held": min(fewest_held), "refused": dict(refused),
        "not_refused": dict(taken), "p99_ratio": found["beside"]["p99_ms"] / found["alone"]["p99_ms"],
        "milliseconds_of_a_refusal": cost,
    }  # fmt: skip


def _milliseconds_of_a_refusal(target: Target, seconds: float) -> float:
    """Processor time of the server for a hostile request, with no other client."""
    server = psutil.Process(target.pid)
    before = server.cpu_times()
    with hostile_clients.beside(target.port) as attack:
        time.sleep(seconds)
    after = server.cpu_times()
    return 1_000 * (after.user + after.system - before.user - before.system) / sum(map(sum, attack.counts.values()))


def soaked(target: Target, setting: Setting, seconds: float) -> dict[str, Any]:
    """Many clients and rude ones for some time, and the server's memory meanwhile."""
    texts = setting.long_texts
    expected = setting.bits(texts)
    mixed = dataclasses.replace(target, is_right=lambda number, found: found[0] == expected[number])
    memory: list[float] = []
    ended = threading.Event()
    watching = threading.Thread(target=_watch, args=(psutil.Process(target.pid), memory, ended))
    rude = threading.Thread(target=_be_rude, args=(target.port, texts, ended))
    watching.start()
    rude.start()
    try:
        seen = load(mixed, texts, SOAK_CLIENTS, seconds)
    finally:
        ended.set()
        watching.join()
        rude.join()
    warm, share = int(len(memory) * WARM_SHARE), max(1, int(len(memory) * END_SHARE))
    first, last = statistics.median(memory[warm : warm + share]), statistics.median(memory[-share:])
    print(
        f"{seconds:g} s: {len(seen.seconds):,} questions, memory {first:,.1f} MB once warm, {last:,.1f} MB at the end"
    )
    return {
        **seen.figures(), "seconds": seconds, "warm_mb": first, "end_mb": last, "peak_mb": max(memory),
        "growth_mb": last - first, "samples_mb": memory[:: max(1, len(memory) // SHOWN_SAMPLES)],
    }  # fmt: skip


def _watch(process: psutil.Process, memory: list[float], ended: threading.Event) -> None:
    while not ended.wait(1.0):
        memory.append(round(process.memory_info().rss / 1e6, 1))


def _be_rude(port: int, texts: Sequence[str], ended: threading.Event) -> None:
    """Requests that are refused, cut short, or whose client does not wait."""
    drawn = random.Random(4)
    whole = json.dumps({"model": "fused", "input": list(texts[:100])}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(whole)}\r\n\r\n".encode()
    while not ended.wait(0.2):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            body = drawn.choice([whole, whole[:-1] + b"?", whole[: drawn.randrange(len(whole))]])
            connection.sendall(head + body)
            if drawn.random() < 0.3:
                connection.recv(1 << 16)


def _faults(report: Mapping[str, Any]) -> int:
    rows = [row for servers in report.get("clients", {}).values() for row in servers.values()]
    rows += filter(None, [report.get("soak")])
    hostile = report.get("hostile", {})
    rows += [hostile[name] for name in ("alone", "beside") if name in hostile]
    faults: list[int] = [row["wrong"] + row["lost"] for row in rows]
    return sum((*faults, *hostile.get("not_refused", {}).values()))


def _print_table(report: Mapping[str, Any]) -> None:
    head = f"{'clients':>8} {'server':<10}{'questions/s':>12}{'median ms':>11}{'p99 ms':>9}"
    print(head + f"{'wrong':>7}{'lost':>6}{'x loop':>8}")
    for clients, servers in report["clients"].items():
        for name, row in servers.items():
            print(
                f"{clients:>8} {name:<10}{row['rate']:>12.1f}{row['median_ms']:>11.1f}{row['p99_ms']:>9.1f}"
                f"{row['wrong']:>7}{row['lost']:>6}{row['times_the_loop']:>8.2f}"
            )
    for name, why in report["absent"].items():
        print(f"not measured: {name}: {why}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a trial: rounds of a second, nothing saved")
    parser.add_argument("--seconds", type=float, help="of a round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS", help="ask soloist alone for so long")
    parser.add_argument("--hostile", action="store_true", help="ask soloist alone, beside requests that it refuses")
    parser.add_argument("--results")
    options = parser.parse_args()
    usual = {"seconds": 1.0, "rounds": 1, "results": ""} if options.quick else {
        "seconds": 10.0, "rounds": 5, "results": str(ROOT / "benchmarks" / "results")
    }  # fmt: skip
    return filled(options, usual)


if __name__ == "__main__":
    sys.exit(main())
