"""The benchmark of servers: its clients tell right answers from wrong and lost ones, and its peer does what it says."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from support.collections import TABLE_SETTINGS, write_collection
from support.tiny_models import make_static

import soloist
import soloist.serving
from benchmarks import hostile_clients
from benchmarks.plain_server import Models
from benchmarks.serving_clients import Load, Target, load, merged, vector

QUESTIONS = ["a lease", "a device", "fusion of vectors"]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory):
    """A server of a table of vectors, and what is right of it."""
    root = tmp_path_factory.mktemp("target")
    write_collection(root / "chunks", "alpha", 5)
    soloist.embed(root / "chunks", out=root / "run", **TABLE_SETTINGS)
    expected = soloist.open_run(root / "run").encode("wordllama", QUESTIONS)
    with soloist.serving.start(root / "run", port=0) as server:
        yield Target(
            name="soloist", port=int(server.url.rpartition(":")[2]), pid=0, models=("wordllama",),
            is_right=lambda number, found: vector(found[0]).tobytes() == expected[number].tobytes(),
        )  # fmt: skip


def test_right_answers_are_counted(target):
    """A benchmark that asks nothing, or whose answers nobody looks at, has the best figures."""
    seen = load(target, QUESTIONS, clients=4, seconds=0.3)
    assert len(seen.seconds) >= 4 and (seen.wrong, seen.lost) == (0, 0)
    assert seen.figures()["p99_ms"] >= seen.figures()["median_ms"] > 0
    assert seen.rate == len(seen.seconds) / seen.whole


def test_wrong_and_lost_answers_are_counted(target):
    """An answer that belongs to another question, or an error, would count as a fast answer."""
    wrong = load(dataclasses.replace(target, is_right=lambda number, found: number == 0), QUESTIONS, 1, 0.2)
    assert 0 < wrong.wrong < len(wrong.seconds)
    lost = load(dataclasses.replace(target, models=("other",)), QUESTIONS, 1, 0.2)
    assert lost.lost > 0 and not lost.seconds
    both = merged([wrong, lost])
    assert (both.wrong, both.lost, both.whole) == (wrong.wrong, lost.lost, wrong.whole + lost.whole)
    assert isinstance(both, Load)


def test_hostile_requests_are_refused_and_counted(target):
    """Requests that are answered would count as refused ones, and an attack that sends nothing would do no harm."""
    with hostile_clients.beside(target.port) as attack:
        while not all(sum(each) for each in attack.counts.values()):
            seen = load(target, QUESTIONS, 2, 0.2)
            assert seen.seconds and (seen.wrong, seen.lost) == (0, 0)
    assert {name: each[1] for name, each in attack.counts.items()} == dict.fromkeys(hostile_clients.REQUESTS, 0)


def test_the_peer_gives_the_models_vectors(tiny_models, tmp_path: Path):
    """A loop that does less than soloist would be faster for another reason."""
    folders = [str(tiny_models["bert"]), str(make_static(tmp_path / "static"))]
    found = vector(Models(folders).encode("a lease of devices"))
    parts = [SentenceTransformer(folder, device="cpu").encode("a lease of devices") for folder in folders]
    expected = np.concatenate([part / np.linalg.norm(part) for part in parts]) / np.sqrt(2)
    assert np.allclose(found, expected, atol=1e-6)
    assert base64.b64encode(found.tobytes())
