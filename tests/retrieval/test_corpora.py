"""What an opened run keeps of the collections that were asked for."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path

from support.collections import write_collection

import soloist
from soloist.config import RunConfig
from soloist.engine.run import run
from soloist.retrieval.codes import can_be_scored
from soloist.retrieval.corpus import Corpus


def test_collections_in_every_order_take_no_more_memory(tmp_path: Path) -> None:
    """Clients of a server choose the collections, and each order would stay open for ever, with codes of its own."""
    names = ("a", "b", "c", "d")
    for seed, name in enumerate(names):
        write_collection(tmp_path / "chunks", name, 3, longest=9, seed=seed)
    run(
        RunConfig(
            chunks_root=tmp_path / "chunks", out=tmp_path / "run", models=("wordllama", "bm25"), accelerator="cpu",
            lock_dir=tmp_path / "locks", cache_dir=tmp_path / "cache",
        )
    )  # fmt: skip
    opened = soloist.open_run(tmp_path / "run")
    orders = [order for count in range(1, 5) for order in itertools.permutations(names, count)]
    room = opened.corpus()._room
    for order in orders:
        for _ in range(3):  # from the second question on there are codes
            hits = opened.search("tokens", 3 * len(order), by="wordllama", collections=order)
            assert {hit.collection for hit in hits} == set(order)
    gc.collect()
    kept = [each for each in gc.get_objects() if isinstance(each, Corpus) and each.queries is opened.questions.vectors]
    assert len(kept) <= 16
    codes = [codes for each in kept for coded in each._coded.values() for codes in coded.codes.values()]
    assert sum(each.values.nbytes + each.scales.nbytes + each.errors.nbytes for each in codes) == room.used_bytes
    assert bool(codes) == can_be_scored()
