"""Shards of a run on a cluster on their way to its nodes and back. What a node does is done here, without Ray."""

from __future__ import annotations

import numpy as np
import pytest

from soloist.digests import text_digest
from soloist.encoding.encoder import Encoder
from soloist.engine.drivers.cluster.attempt_store import AttemptStore, task_of
from soloist.engine.drivers.cluster.shard_queue import GivenShard, ShardQueue
from soloist.engine.drivers.preparing import Work
from soloist.engine.drivers.row_stores import ComputedShard, row_store_of
from soloist.engine.intake.ingest import ShardRef
from soloist.engine.resume.pending import RunShards
from soloist.errors import OutputError
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.stores import RunFolder
from soloist.stores.attempts import attempt_folder, attempts_of_a_session
from soloist.types import Chunk

MODEL = "bert"


@pytest.fixture(scope="module")
def encoder(tiny_models) -> Encoder:
    """Of a model with few weights, on the host."""
    return Encoder(stage(resolve(str(tiny_models[MODEL])), "float32"))


class Run:
    """A run folder with a chunk of each letter, a shard of each word, and the queue of these shards."""

    def __init__(self, path, encoder: Encoder, words: list[str]) -> None:
        self.encoder = encoder
        self.folder = RunFolder(path)
        refs = [written(self.folder, index, word) for index, word in enumerate(words)]
        shards = RunShards(folder=self.folder, refs=refs, vector_dtype="float32")
        store = row_store_of(MODEL, encoder, shards, lambda: None)
        self.queue = ShardQueue([Work(models=(MODEL,), shard=ref) for ref in refs], self.folder, {MODEL: store})

    def compute(self, given: GivenShard, session, read: RunFolder) -> None:
        """Do what a node does with a shard, whose chunks it reads in the folder `read`."""
        store = AttemptStore(MODEL, self.encoder, self.folder, session, "float32")
        task = task_of(given.attempt, given.ref, given.missing)
        store.expect(task)
        shard, placement = read.shards.read_shard("c", given.ref.index), task.placement(MODEL)
        rows = len(placement.fresh)
        vectors = np.eye(rows, self.encoder.staged.member(MODEL).dim, dtype=np.float32)
        record = store.write(
            ComputedShard(
                ref=given.ref, ids=shard.ids, digests=[*map(text_digest, shard.texts)], placement=placement,
                rows=vectors, counts=np.ones((rows, 2), dtype=np.int32),
            )
        )  # fmt: skip
        self.queue.computed(given, MODEL, attempt_folder(session, given.attempt), record)


def written(folder: RunFolder, index: int, letters: str, before: str = "") -> ShardRef:
    """A shard with a chunk of each letter, whose ids begin with `before`."""
    chunks = [Chunk(id=f"{before}{index}-{row}", text=letter) for row, letter in enumerate(letters)]
    record = folder.shards.write_chunks("c", index, chunks)
    return ShardRef(collection="c", index=index, rows=len(letters), content=record.content)


@pytest.mark.parametrize(
    ("index", "seen", "before"),
    [(0, "xb", ""), (0, "ab", "renamed-"), (1, "xbyd", "")],
    ids=["other texts", "other ids", "other texts beside copies"],
)
def test_rows_of_chunks_that_only_a_node_sees_are_refused(index, seen, before, encoder, tmp_path):
    """Catches a node that reads the chunks of before a change: the run would have rows of other texts for ever."""
    at_work, old = Run(tmp_path / "run", encoder, ["ab", "acbd"]), RunFolder(tmp_path / "old")
    written(old, index, seen, before)
    with attempts_of_a_session(at_work.folder.path) as session:
        for _ in range(index):
            given = at_work.queue.hand_out("node-1", alone=True)
            at_work.compute(given, session, at_work.folder)
            assert [taken.given for taken in at_work.queue.take_in()] == [given]
        given = at_work.queue.hand_out("node-1", alone=True)
        at_work.compute(given, session, old)
        with pytest.raises(OutputError, match="has rows of other chunks than the run, because its worker has read"):
            at_work.queue.take_in()


def test_taking_in_comes_to_an_end_before_all_is_taken(encoder, tmp_path):
    """Catches workers that nobody hears for minutes, while a thousand shards with copies are written."""
    at_work = Run(tmp_path / "run", encoder, ["ab", "cd", "ef"])
    with attempts_of_a_session(at_work.folder.path) as session:
        given = [at_work.queue.hand_out("node-1", alone=True) for _ in range(3)]
        for shard in given:
            at_work.compute(shard, session, at_work.folder)
        assert [taken.given for taken in at_work.queue.take_in(0.0)] == given[:1]
        assert [taken.given for taken in at_work.queue.take_in()] == given[1:]
    assert at_work.queue.take_in(0.0) == []
