"""What a change of the chunks costs each kind of member, in rows and tokens."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.editing import random_text, write_chunks
from support.tiny_models import make_static
from support.tiny_sparse import make_m3, make_splade

from soloist.config import RunConfig
from soloist.engine.run import run
from soloist.events import ListSink, ShardEncoded
from soloist.stores import RunFolder
from soloist.stores.verification import verify_run

CHUNKS = 400


@pytest.mark.parametrize("names", [("static", "splade"), ("m3", "m3:sparse")])
def test_one_percent_of_new_texts_costs_one_percent_of_the_rows(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Catches shards that are embedded or cut again as a whole for one of their texts."""
    makers = {"static": make_static, "splade": make_splade, "m3": make_m3}
    for name in set(names) & makers.keys():
        makers[name](tmp_path / name)
    generator = random.Random(5)
    items = [(f"id-{number}", f"{random_text(generator)} {number}") for number in range(CHUNKS)]
    config = RunConfig(
        chunks_root=tmp_path / "chunks", out=tmp_path / "run", models=(*(str(tmp_path / n) for n in names), "bm25"),
        accelerator="cpu", shard_chunks=64, lock_dir=tmp_path / "locks", cache_dir=tmp_path / "cache",
    )  # fmt: skip
    costs = []
    for number in (None, 7, 100, 263, 399):
        if number is not None:
            items[number] = (items[number][0], f"a new text {number}")
        if number in (None, 399):
            write_chunks(tmp_path / "chunks", {"alpha/a": items})
            sink = ListSink()
            run(config, sink)
            encoded = [event for event in sink.events if isinstance(event, ShardEncoded)]
            costs.append({
                name: (
                    sum(event.embedded_rows for event in encoded if event.model == name),
                    sum(event.tokens for event in encoded if event.model == name),
                )
                for name in (*names, "bm25")
            })  # fmt: skip
    first, second = costs
    for name in (*names, "bm25"):
        assert first[name][0] == CHUNKS and second[name][0] == 4, name
        assert 0 < second[name][1] < 0.05 * first[name][1], name
    assert verify_run(RunFolder(config.out)).problems == ()
