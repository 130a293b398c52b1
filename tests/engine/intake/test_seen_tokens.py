"""Tokens that are kept from the look at the texts until they are embedded: the same ones, or none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support.tiny_models import make_static

from soloist.config import RunConfig, SourceConfig
from soloist.digests import text_digest
from soloist.encoding.encoder import Encoder
from soloist.encoding.tokenizing import TokenizedTexts
from soloist.engine.intake.ingest import ingest
from soloist.engine.intake.seen_tokens import SeenTokens
from soloist.engine.intake.vectorless import VectorlessSearch, without_vectorless
from soloist.events import ListSink
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.sources import discover
from soloist.stores import RunFolder

KEY = ("model", "alpha", 0)


def tokenized(*rows: list[int], dropped: tuple[int, ...] | None = None) -> TokenizedTexts:
    return TokenizedTexts(ids=tuple(np.array(row, dtype=np.int32) for row in rows), dropped=dropped or (0,) * len(rows))


def digests(*texts: str) -> list[bytes]:
    return [text_digest(text) for text in texts]


def as_lists(found: TokenizedTexts | None) -> tuple[list[list[int]], list[int]] | None:
    return None if found is None else ([row.tolist() for row in found.ids], list(found.dropped))


@pytest.fixture
def seen(tmp_path):
    with SeenTokens(tmp_path) as seen:
        seen.keep(("other", "alpha", 0), digests("x"), [tokenized([9, 9])])
        parts = [tokenized([1, 2], [], dropped=(7, 0)), tokenized([3])]
        seen.keep(KEY, digests("one", "none", "three"), parts)
        yield seen


def test_rows_are_found_by_their_texts_whatever_was_left_out(seen):
    """Rows that are left out, or a shard that is cut another way, would shift the tokens to other texts."""
    assert as_lists(seen.take(KEY, digests("one", "none", "three"))) == ([[1, 2], [], [3]], [7, 0, 0])
    assert as_lists(seen.take(KEY, digests("three", "one"))) == ([[3], [1, 2]], [0, 7])
    assert as_lists(seen.take(("other", "alpha", 0), digests("x"))) == ([[9, 9]], [0])
    assert as_lists(seen.take(KEY, [])) == ([], [])


def test_what_was_not_kept_is_not_found(seen, tmp_path):
    """A text would get the tokens of another one, or a run fail for want of what only saves time."""
    assert seen.take(KEY, digests("one", "new")) is None
    assert seen.take(("model", "alpha", 1), digests("one")) is None
    assert list(tmp_path.iterdir()) == []  # a file with a name would be left by a killed run
    seen.close()
    assert seen.take(KEY, digests("one")) is None
    with SeenTokens(tmp_path / "missing") as nowhere:
        nowhere.keep(KEY, digests("one"), [tokenized([1])])
        assert nowhere.take(KEY, digests("one")) is None


def test_the_pass_has_the_tokens_that_the_look_has_made(tmp_path):
    """Every text of a static model would be tokenized twice, which is a third of a run."""
    root, folder = tmp_path / "chunks", RunFolder.create(tmp_path / "run")
    (root / "alpha").mkdir(parents=True)
    texts = [f"stone {number % 7} river" * (number % 3 + 1) for number in range(20)]
    (root / "alpha" / "a.jsonl").write_text("".join(f'"{text}"\n' for text in texts))
    config = RunConfig(chunks_root=root, out=folder.path, models=("static",))
    collections, sink = discover(root, SourceConfig()), ListSink()
    staged = stage(resolve(str(make_static(tmp_path / "static", 8, rows=700))), "float32")
    encoder = Encoder(dataclasses.replace(staged, document_prompt="p "))
    shards = ingest(collections, config.source, folder.incoming, 8, sink)
    with SeenTokens(folder.path) as seen:
        search = VectorlessSearch.of({"static": encoder}, folder, config, lambda: None, seen)
        without_vectorless(shards, search, folder, collections, config, sink)
        known: set[bytes] = set()
        for ref in shards:
            read = folder.incoming.shards.read_shard(ref.collection, ref.index).texts
            new = [text for text in dict.fromkeys(read) if text_digest(text) not in known]
            known.update(digests(*new))
            found = seen.take(("static", ref.collection, ref.index), digests(*new))
            assert as_lists(found) == as_lists(encoder.tokenize(new)) and (found is not None or not new)
