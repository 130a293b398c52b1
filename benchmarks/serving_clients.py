"""Clients of the servers that `benchmarks.serving` measures: many connections in one loop, every answer compared."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

Answers = Sequence[str]  # the vectors of a question in base64, one of each request


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server. A question is a request to each of its models; `is_right` judges the answers to a numbered question."""

    name: str
    port: int
    pid: int
    models: Sequence[str]
    is_right: Callable[[int, Answers], bool]
    path: str = "/v1/embeddings"


@dataclass(kw_only=True)
class Load:
    """What clients saw: the seconds of each question, those that had a wrong answer or none, and the whole time."""

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0
    whole: float = 0.0

    @property
    def rate(self) -> float:
        """Questions a second."""
        return len(self.seconds) / self.whole

    def figures(self) -> dict[str, float]:
        """JSON-ready: rate, and milliseconds at the median and at the 99th percentile."""
        median, last = np.quantile(self.seconds, (0.5, 0.99)) * 1e3
        return {
            "questions": len(self.seconds), "questions_per_second": self.rate, "median_ms": float(median),
            "p99_ms": float(last), "wrong": self.wrong, "lost": self.lost,
        }  # fmt: skip


def load(target: Target, questions: Sequence[str], clients: int, seconds: float) -> Load:
    """So many clients ask one question after the other for some seconds."""
    return asyncio.run(_load(target, questions, clients, seconds))


def merged(loads: Sequence[Load]) -> Load:
    """Several rounds as one."""
    return Load(
        seconds=list(itertools.chain.from_iterable(each.seconds for each in loads)),
        wrong=sum(each.wrong for each in loads), lost=sum(each.lost for each in loads),
        whole=sum(each.whole for each in loads),
    )  # fmt: skip


async def _load(target: Target, questions: Sequence[str], clients: int, seconds: float) -> Load:
    seen, numbers = Load(), itertools.cycle(range(len(questions)))
    requests = {
        number: [_request(target, model, text) for model in target.models] for number, text in enumerate(questions)
    }
    began = time.perf_counter()
    asking = [_client(target, requests, numbers, seen, began + seconds) for _ in range(clients)]
    await asyncio.gather(*asking)
    seen.whole = time.perf_counter() - began
    return seen


async def _client(
    target: Target, requests: dict[int, list[bytes]], numbers: Iterator[int], seen: Load, until: float
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    while (began := time.perf_counter()) < until:
        number = next(numbers)
        try:
            answers = [await _answer(reader, writer, request) for request in requests[number]]
        except (OSError, asyncio.IncompleteReadError, KeyError, ValueError):
            seen.lost += 1
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
            continue
        seen.seconds.append(time.perf_counter() - began)
        seen.wrong += not target.is_right(number, answers)
    writer.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> str:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = json.loads(await reader.readexactly(length))
    found: str = body["data"][0]["embedding"]
    return found


def _request(target: Target, model: str, text: str) -> bytes:
    body = json.dumps({"model": model, "input": text, "encoding_format": "base64"}).encode()
    head = f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def vector(text: str) -> np.ndarray:
    """A vector from base64."""
    return np.frombuffer(base64.b64decode(text), "<f4")
