"""A run's models for questions: what they take, what they give, and that threads may share them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from soloist.retrieval import open_run

ASKED = [f"lease {number} of a device" for number in range(6)]


def test_threads_share_a_run(searched, passes_through):
    """Each thread of a server loaded the model for itself, and could get the vectors of another thread's question."""
    alone = open_run(searched)
    expected = [alone.encode("bert", [text]) for text in ASKED]
    once = len(passes_through)
    passes_through.clear()
    shared, together = open_run(searched), threading.Barrier(len(ASKED))

    def encoded(text):
        together.wait()
        return shared.encode("bert", [text])

    with ThreadPoolExecutor(len(ASKED)) as pool:
        found = list(pool.map(encoded, ASKED))
    assert all(np.array_equal(*each) for each in zip(found, expected, strict=True))
    assert len(passes_through) == once, "the model was loaded more than once"
