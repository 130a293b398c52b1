"""Errors that a rehearsal plants: in a pass on devices, and not among words, which have no lease."""

from __future__ import annotations

import pytest

from soloist.events import BatchEncoded, ShardEncoded
from soloist.validation.rehearsal import PlantedError, _Breaker, _Planter


def _shard(model: str, device: str | None) -> ShardEncoded:
    return ShardEncoded(
        model=model, collection="a", shard=0, rows=1, tokens=1, padded_tokens=1, truncated_rows=0, truncated_tokens=0,
        batch_rows=(), padded_lengths=(), rows_per_device={device: 1} if device else {}, seconds=1.0,
    )  # fmt: skip


def test_an_error_is_planted_in_a_pass_that_has_a_lease() -> None:
    """With bm25 in the run, `validate` said that a lease was not given back after an error among the words."""
    planter = _Planter()
    planter.emit(BatchEncoded(model="bm25", device="", rows=1))
    assert not planter.planted
    with pytest.raises(PlantedError):
        planter.emit(BatchEncoded(model="bert", device="cpu", rows=1))


def test_a_run_is_broken_off_in_the_pass_of_a_model() -> None:
    """Only words would be gone on with, and nothing be shown of vectors."""
    breaker = _Breaker()
    for _ in range(5):
        breaker.emit(_shard("bm25", None))
    breaker.emit(_shard("bert", "cpu"))
    with pytest.raises(PlantedError):
        breaker.emit(_shard("bert", "cpu"))
    assert breaker.shards == 7
