"""One engine in a process of its own: takes requests as JSON lines on stdin, answers each with one on stdout.

    python -m benchmarks.encode.worker SETUP.json TEXTS.json

Requests are `{"do": "prepare"}`, `{"do": "load"}`, `{"do": "encode", "batch_size": 32}`, where they are wanted with
`count`, `vectors` (a path) and `first` (a number of texts), and `{"do": "multiply", "rows": 2048}`. An error ends the
process, with its traceback on stderr.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.encode.adapter_table import ADAPTERS
from benchmarks.encode.adapters import Adapter, Setup
from benchmarks.encode.multiplying import multiply
from benchmarks.machine import kernels, peak_rss_bytes, versions

_PACKAGES = (
    "soloist", "sentence-transformers", "transformers", "torch", "tokenizers", "numpy", "openvino", "optimum-intel",
    "optimum-onnx", "onnxruntime", "infinity-emb", "ctranslate2", "fastembed", "wordllama", "model2vec",
)  # fmt: skip


def main() -> int:
    """Answer requests until stdin ends."""
    answers = _own_stdout()
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    setup = Setup(**{**settings, "devices": tuple(settings["devices"])})
    texts = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    serve = _server(setup, texts)
    for line in sys.stdin:
        answer = serve(json.loads(line))
        answers.write(json.dumps({**answer, "peak_rss_bytes": peak_rss_bytes()}) + "\n")
        answers.flush()
    return 0


def _own_stdout() -> IO[str]:
    """The stdout that answers go to; what libraries print goes to stderr."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def _server(setup: Setup, texts: Sequence[str]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    adapter: Adapter | None = None

    def serve(request: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal adapter
        if request["do"] == "multiply":
            return multiply(setup, request["rows"])
        if adapter is None:
            adapter = ADAPTERS[setup.adapter](setup)
        if request["do"] == "prepare":
            adapter.prepare()
            return {}
        if request["do"] == "load":
            return {**adapter.load(), "versions": versions(_PACKAGES)}
        return _encode(adapter, texts, request)

    return serve


def _encode(adapter: Adapter, texts: Sequence[str], request: Mapping[str, Any]) -> dict[str, Any]:
    encoded = adapter.encode(texts[: request.get("first")], request["batch_size"], count=request.get("count", False))
    if "vectors" in request:
        np.save(request["vectors"], np.asarray(encoded.vectors, dtype=np.float32))
    warm = {"kernels": kernels()} if request.get("count") else {}
    found = {field.name: getattr(encoded, field.name) for field in dataclasses.fields(encoded)}
    del found["vectors"]
    return {**warm, **{name: value for name, value in found.items() if value is not None}}


if __name__ == "__main__":
    sys.exit(main())
