"""What a server counts, for Prometheus. Knows the client library of Prometheus; has no text, path or key in a label."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Figures:
    """The counters of one server. Any thread may count."""

    def __init__(self, waiting_texts: Callable[[], int], is_ready: Callable[[], bool]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "soloist_requests", "Requests by path and status.", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "soloist_request_seconds", "Seconds from a request to its answer.", ("path",), buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._texts = Counter("soloist_texts", "Texts that were answered.", ("of",), registry=self._registry)
        self._tokens = Counter("soloist_tokens", "Tokens that models read.", ("of",), registry=self._registry)
        self._turn_texts = Histogram(
            "soloist_turn_texts", "Texts that went through the models together.", ("of",), buckets=_TEXTS,
            registry=self._registry,
        )  # fmt: skip
        self._turn_seconds = Histogram(
            "soloist_turn_seconds", "Seconds of one turn of the models.", ("of",), buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        for name, meaning, value in (
            ("soloist_waiting_texts", "Texts that are not answered yet.", waiting_texts),
            ("soloist_ready", "1 once every model has answered a question.", is_ready),
        ):
            Gauge(name, meaning, registry=self._registry).set_function(value)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """An answer was sent."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def turn(self, of: str, texts: int, seconds: float) -> None:
        """Texts went through the models together; `of` is a model's name, or `search`."""
        self._texts.labels(of).inc(texts)
        self._turn_texts.labels(of).observe(texts)
        self._turn_seconds.labels(of).observe(seconds)

    def tokens(self, of: str, tokens: int) -> None:
        """A model has read so many tokens."""
        self._tokens.labels(of).inc(tokens)

    def text(self) -> bytes:
        """All figures in Prometheus' format."""
        return generate_latest(self._registry)
