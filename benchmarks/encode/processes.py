"""Workers from the outside: start one, ask it, end it. Knows no engine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.encode.adapters import Setup
from benchmarks.machine import ROOT


class WorkerError(Exception):
    """A worker ended before it answered; the message has the last line that it said."""


class Worker:
    """A process that runs one engine. Answers come in the order of the requests."""

    def __init__(self, python: Path, setup: Setup, texts: Path) -> None:
        self._name = f"{setup.adapter} {setup.precision}"
        work = Path(setup.work)
        work.mkdir(parents=True, exist_ok=True)
        (work / "setup.json").write_text(json.dumps(dataclasses.asdict(setup)), encoding="utf-8")
        self._log = work / "log.txt"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", "benchmarks.encode.worker", str(work / "setup.json"), str(texts)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8", cwd=ROOT,
                env=_environment(setup.threads),
            )  # fmt: skip

    def send(self, do: str, **values: Any) -> None:
        """Give a request; `receive` has its answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `receive` says why
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            WorkerError: the process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise WorkerError(f"{self._name} failed: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """`send`, then `receive`."""
        self.send(do, **values)
        return self.receive()

    def finish(self) -> None:
        """Tell the process that there is nothing more to do."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self) -> None:
        """End the process, and wait for its end."""
        assert self._process.stdout is not None
        self.finish()
        self._process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=20)
        self._process.kill()
        self._process.wait()

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self._process.returncode}"


@contextlib.contextmanager
def working(python: Path, setup: Setup, texts: Path) -> Iterator[Worker]:
    """A worker that ends with the block."""
    worker = Worker(python, setup, texts)
    try:
        yield worker
    finally:
        worker.close()


def _environment(threads: int) -> dict[str, str]:
    """The same number of threads for every library, and no network."""
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    return {
        **os.environ, **counts, "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
    }  # fmt: skip
