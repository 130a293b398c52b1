"""Measuring: every engine in a worker, one warm-up, then rounds in which each has its turn.

Knows how to ask workers, and nothing of what an engine is. One worker computes at a time; the others wait for a line.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.encode.adapters import Setup
from benchmarks.encode.engines import BATCH_SIZES, REFERENCE, Engine, environment_python, python_of
from benchmarks.encode.processes import Worker, WorkerError, working
from benchmarks.machine import slug

# Rows of the matrix products: tokens of a batch as the engines make them.
_ROOF_ROWS = 2048
# Texts that an engine embeds before its batch sizes are timed.
_WARMING_CHUNKS = 64

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all engines do alike. `search_chunks` of the texts decide which batch size is best.

    With `loads_again` the model is loaded again before each encoding. Tokenizers remember words that they have read,
    and that changes the time of a static model, which is mostly tokenizing.
    """

    model: str
    folder: Path
    texts: Sequence[str]
    devices: tuple[str, ...]
    threads: int
    rounds: int
    search_chunks: int
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    loads_again: bool = False


@dataclass(slots=True, kw_only=True)
class Measured:
    """One engine's rounds. `warm` is the answer of its warm-up, whose vectors are in the file `vectors`."""

    engine: Engine
    batch_size: int
    vectors: Path
    known: dict[str, Any]
    warm: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    wall_seconds: list[float] = field(default_factory=list)
    searched: dict[int, float] = field(default_factory=dict)
    peak_rss_bytes: int = 0


@dataclass(slots=True, kw_only=True)
class Measurement:
    """Everything that was measured. `absent` says of each engine that is not there why; `roofs` are by precision."""

    engines: list[Measured]
    absent: dict[str, str]
    roofs: dict[str, list[dict[str, Any]]]


def measure(job: Job, engines: Sequence[Engine], work: Path, say: Say) -> Measurement:
    """Measure the engines that are there. `work` is a folder for everybody's files."""
    texts = work / "texts.json"
    texts.write_text(json.dumps(list(job.texts)), encoding="utf-8")
    bench = _Bench(job, work, texts, say)
    return bench.measure(engines)


class _Bench:
    """A measurement at work."""

    def __init__(self, job: Job, work: Path, texts: Path, say: Say) -> None:
        self._job = job
        self._work = work
        self._texts = texts
        self._say = say
        self._absent: dict[str, str] = {}
        self._prepared: set[str] = set()
        self._best: dict[tuple[str, str], tuple[int, dict[int, float]]] = {}

    def measure(self, engines: Sequence[Engine]) -> Measurement:
        """Warm up, then the rounds."""
        ready = [engine for engine in engines if self._is_ready(engine)]
        with contextlib.ExitStack() as held:
            ours = {engine.precision: engine for engine in ready if not engine.environment}
            roofs = {precision: held.enter_context(self._roof(engine)) for precision, engine in ours.items()}
            turns = list(self._started(ready, held))
            for roof in roofs.values():
                roof.receive()
            turns = [turn for turn in turns if self._warmed_up(*turn)]
            found: dict[str, list[dict[str, Any]]] = {precision: [] for precision in roofs}
            for number in range(self._job.rounds):
                for precision, roof in roofs.items():
                    self._multiply(precision, roof, found)
                # Each round begins with another engine, so that none is always after the same one.
                for turn in (*turns[number % len(turns) :], *turns[: number % len(turns)]):
                    self._take(*turn, number)
            for worker in (*roofs.values(), *(worker for _, worker in turns)):
                worker.finish()
        return Measurement(engines=[measured for measured, _ in turns], absent=self._absent, roofs=found)

    def _is_ready(self, engine: Engine) -> bool:
        """Whether the environment is there, its model is exported, and its best batch size is known."""
        for environment in (engine.environment, engine.prepared_in):
            if environment_python(environment) is None:
                self._absent[engine.name] = f"its environment is not there: make .venv-{environment}"
                return False
        try:
            if engine.environment and engine.adapter not in self._prepared:
                self._prepare(engine)
            if engine.batching == "best":
                self._search(engine)
        except WorkerError as exc:
            self._absent[engine.name] = str(exc)
            return False
        return True

    def _prepare(self, engine: Engine) -> None:
        """Write the files that the engine's adapter loads, once for all its precisions."""
        python = environment_python(engine.prepared_in or engine.environment)
        assert python is not None
        with working(python, self._setup(engine, "prepare"), self._texts) as worker:
            worker.ask("prepare")
        self._prepared.add(engine.adapter)

    def _search(self, engine: Engine) -> None:
        """The fastest batch size, in a process of its own: large ones would count as the engine's memory."""
        seconds: dict[int, float] = {}
        with self._worker(engine, "search") as worker:
            worker.ask("load")
            worker.ask("encode", batch_size=self._job.batch_sizes[0], first=_WARMING_CHUNKS)
            for size in sorted({*self._job.batch_sizes, engine.default_batch_size}):
                seconds[size] = self._encode(worker, size, first=self._job.search_chunks)["seconds"]
        best = min(seconds, key=lambda size: seconds[size])
        self._best[engine.adapter, engine.precision] = (best, seconds)
        self._say(f"{engine.name}: {best}")

    def _started(self, engines: Sequence[Engine], held: contextlib.ExitStack) -> Iterator[tuple[Measured, Worker]]:
        """Load all at once: that is not timed."""
        workers = [(engine, held.enter_context(self._worker(engine, "run"))) for engine in engines]
        for _, worker in workers:
            worker.send("load")
        for engine, worker in workers:
            try:
                known = worker.receive()
            except WorkerError as exc:
                self._absent[engine.name] = str(exc)
                continue
            usual: tuple[int, dict[int, float]] = (engine.default_batch_size, {})
            chosen = self._best[engine.adapter, engine.precision] if engine.batching == "best" else usual
            size, searched = chosen
            vectors = self._work / f"{slug(engine.name)}.npy"
            yield Measured(engine=engine, batch_size=size, vectors=vectors, known=known, searched=searched), worker

    def _warmed_up(self, measured: Measured, worker: Worker) -> bool:
        try:
            measured.warm = self._encode(worker, measured.batch_size, count=True, vectors=str(measured.vectors))
        except WorkerError as exc:
            if measured.engine.name == REFERENCE:
                raise
            self._absent[measured.engine.name] = str(exc)
            return False
        self._say(f"warm-up: {measured.engine.name}: {measured.warm['seconds']:.1f} s")
        return True

    def _take(self, measured: Measured, worker: Worker, number: int) -> None:
        answer = self._encode(worker, measured.batch_size)
        measured.seconds.append(answer["seconds"])
        measured.wall_seconds.append(answer["wall_seconds"])
        measured.peak_rss_bytes = answer["peak_rss_bytes"]
        self._say(f"round {number + 1}: {measured.engine.name}: {answer['seconds']:.2f} s")

    def _encode(self, worker: Worker, batch_size: int, **more: Any) -> dict[str, Any]:
        if self._job.loads_again:
            worker.ask("load")
        return worker.ask("encode", batch_size=batch_size, **more)

    @contextlib.contextmanager
    def _roof(self, engine: Engine) -> Iterator[Worker]:
        """A worker that multiplies in an engine's precision, and begins to load."""
        with working(Path(sys.executable), self._setup(engine, "roof"), self._texts) as worker:
            worker.send("load")
            yield worker

    def _multiply(self, precision: str, roof: Worker, found: dict[str, list[dict[str, Any]]]) -> None:
        with contextlib.suppress(WorkerError):  # a static model multiplies nothing, and has no roof
            found[precision].append(roof.ask("multiply", rows=_ROOF_ROWS))

    def _worker(self, engine: Engine, step: str) -> contextlib.AbstractContextManager[Worker]:
        python = python_of(engine)
        assert python is not None
        return working(python, self._setup(engine, step), self._texts)

    def _setup(self, engine: Engine, step: str) -> Setup:
        job = self._job
        return Setup(
            adapter=engine.adapter, model=job.model, folder=str(job.folder), precision=engine.precision,
            devices=job.devices, threads=job.threads, work=str(self._work / f"{slug(engine.name)}-{step}"),
        )  # fmt: skip
