"""The models of the run that most tests of retrieval search, and their weights in its fusion."""

from __future__ import annotations

MODELS = ("bert", "qwen2", "wordllama")
WEIGHTS = {"bert": 0.5, "qwen2": 0.2, "wordllama": 0.3}
