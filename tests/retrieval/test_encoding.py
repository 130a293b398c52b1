"""A run's models for questions: what they take, what they give, and that threads may share them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sentence_transformers import SentenceTransformer
from torch.nn.modules.module import register_module_forward_hook

from soloist.retrieval import open_run


def test_threads_share_a_run(searched):
    """Each thread of a server loaded the model for itself, and could get the vectors of another thread's question."""
    asked = [f"lease {number} of a device" for number in range(6)]
    alone = open_run(searched)
    expected = [alone.encode("bert", [text]) for text in asked]
    shared, together, ran = open_run(searched), threading.Barrier(len(asked)), set()

    def encoded(text):
        together.wait()
        return [shared.encode("bert", [text]) for _ in range(5)]

    hook = register_module_forward_hook(
        lambda module, _, __: ran.add(module) if isinstance(module, SentenceTransformer) else None
    )
    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(encoded, asked))
    hook.remove()
    assert len(ran) == 1, "the model was loaded more than once"
    for vectors, wanted in zip(found, expected, strict=True):
        assert all(np.array_equal(each, wanted) for each in vectors)
