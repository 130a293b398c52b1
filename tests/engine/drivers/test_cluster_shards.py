"""Shards of a run on a cluster on their way to its nodes and back. What a node does is done here, without Ray."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.workers_here import Answer, WorkersHere

from soloist.digests import text_digest
from soloist.encoding.encoder import Encoder
from soloist.engine.drivers.cluster.attempt_store import AttemptStore, Task, task_of
from soloist.engine.drivers.cluster.pass_events import PassEvents
from soloist.engine.drivers.cluster.pass_over_nodes import PassOverNodes
from soloist.engine.drivers.cluster.patience import PATIENCE, Patience
from soloist.engine.drivers.cluster.shard_queue import GivenShard, ShardQueue
from soloist.engine.drivers.context import PassContext
from soloist.engine.drivers.preparing import Work
from soloist.engine.drivers.row_stores import ComputedShard, row_store_of
from soloist.engine.resume.pending import RunShards
from soloist.errors import OutputError
from soloist.events import LeaseWaiting, ListSink, Notice, ShardEncoded, event_to_dict
from soloist.ingestion.ingest import ShardRef
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.stopping import Stop
from soloist.stores import RunFolder
from soloist.stores.attempts import attempt_folder, attempts_of_a_session
from soloist.stores.manifest import FileRecord
from soloist.types import Chunk

MODEL = "bert"
PATIENCE_SECONDS = 60.0


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
        self.shards = RunShards(folder=self.folder, refs=refs, vector_dtype="float32")
        store = row_store_of(MODEL, encoder, self.shards, lambda: None)
        self.queue = ShardQueue([Work(models=(MODEL,), shard=ref) for ref in refs], self.folder, {MODEL: store})

    def compute(self, given: GivenShard, session: Path, read: RunFolder) -> None:
        """Do what a node does with a shard, whose chunks it reads in the folder `read`, and take note of it."""
        record = self.written_rows(task_of(given.attempt, given.ref, given.missing), session, read)
        self.queue.computed(given, MODEL, attempt_folder(session, given.attempt), record)

    def written_rows(self, task: Task, session: Path, read: RunFolder | None = None) -> FileRecord:
        """Write the file of an attempt, as a node does."""
        store = AttemptStore(MODEL, self.encoder, self.folder, session, "float32")
        store.expect(task)
        shard, placement = (read or self.folder).shards.read_shard("c", task.shard.index), task.placement(MODEL)
        rows = len(placement.fresh)
        vectors = np.eye(rows, self.encoder.staged.member(MODEL).dim, dtype=np.float32)
        return store.write(
            ComputedShard(
                ref=task.shard, ids=shard.ids, digests=[*map(text_digest, shard.texts)], placement=placement,
                rows=vectors, counts=np.ones((rows, 2), dtype=np.int32),
            )
        )  # fmt: skip

    def through(
        self, answers: Mapping[str, Answer], session: Path, sink: ListSink, patience: Patience = PATIENCE
    ) -> WorkersHere:
        """A pass over workers that answer so."""
        workers, told = WorkersHere(answers), PassEvents((MODEL,), {}, sink)
        context = PassContext(
            encoders={MODEL: self.encoder}, plan=None, accelerator=None, run_shards=self.shards, stop=Stop()
        )
        try:
            PassOverNodes("pass-1", workers, context, self.queue, session, told, sink, patience).through()
        finally:
            workers.close()
        return workers

    def healthy(
        self, session: Path, message: Mapping[str, Any], read: RunFolder | None = None
    ) -> Iterator[Mapping[str, Any]]:
        """What a worker says that computes what it is given, from the chunks that it reads in the folder `read`."""
        if message["word"] == "shard":
            task = Task.from_dict(message["task"])
            record = asdict(self.written_rows(task, session, read))
            event = ShardEncoded(
                model=MODEL, collection="c", shard=task.shard.index, rows=record["rows"], tokens=0, padded_tokens=0,
                truncated_rows=0, truncated_tokens=0, batch_rows=(), padded_lengths=(), rows_per_device={}, seconds=1.0,
            )  # fmt: skip
            said = event_to_dict(event, 0.0)
            yield {"word": "done", "attempt": task.attempt, "model": MODEL, "record": record, "event": said}
        elif message["word"] == "last":
            yield {"word": "passed", "stopped": False}


class Broken:
    """What a worker says whose device is broken, and whether three of them have said it."""

    def __init__(self, kind: str) -> None:
        self.failures, self._kind = 0, kind
        self.has_failed_thrice = threading.Event()

    def __call__(self, message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if message["word"] == "shard":
            self.failures += 1
            if self.failures >= 3:
                self.has_failed_thrice.set()
            yield {"word": "failed", "kind": self._kind, "message": "CUDA error", "notes": []}
        elif message["word"] == "last":
            yield {"word": "passed", "stopped": False}


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
            given = at_work.queue.hand_out("pass-1", "node-1", alone=True)
            at_work.compute(given, session, at_work.folder)
            assert [taken.given for taken in at_work.queue.take_in()] == [given]
        given = at_work.queue.hand_out("pass-1", "node-1", alone=True)
        at_work.compute(given, session, old)
        assert at_work.queue.take_in() == []
        ((node, why),) = at_work.queue.untrue()
        assert node == "node-1"
        assert "has rows of other chunks than the run, because its worker has read" in why
        again = at_work.queue.hand_out("pass-1", "node-2", alone=True)
        assert again is given
        at_work.compute(again, session, at_work.folder)
        assert [taken.given for taken in at_work.queue.take_in()] == [given]


def test_taking_in_comes_to_an_end_before_all_is_taken(encoder, tmp_path):
    """Catches workers that nobody hears for minutes, while a thousand shards with copies are written."""
    at_work = Run(tmp_path / "run", encoder, ["ab", "cd", "ef"])
    with attempts_of_a_session(at_work.folder.path) as session:
        given = [at_work.queue.hand_out("pass-1", "node-1", alone=True) for _ in range(3)]
        for shard in given:
            at_work.compute(shard, session, at_work.folder)
        assert [taken.given for taken in at_work.queue.take_in(0.0)] == given[:1]
        assert [taken.given for taken in at_work.queue.take_in()] == given[1:]
    assert at_work.queue.take_in(0.0) == []


@pytest.mark.parametrize("kind", ["RuntimeError", "EncodingError", "LeaseError"])
def test_a_shard_that_was_lost_goes_to_another_node(kind, encoder, tmp_path):
    """Catches a broken device that ends the run, at once or by getting its lost shard again until that is poison.

    What a model raises on a device is an EncodingError. A node whose lock folder is read-only raises a LeaseError.
    """
    at_work, sink, bad = Run(tmp_path / "run", encoder, [*"abcdefghijklmnop"]), ListSink(), Broken(kind)
    with attempts_of_a_session(at_work.folder.path) as session:

        def good(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
            assert message["word"] != "shard" or bad.has_failed_thrice.wait(PATIENCE_SECONDS)
            yield from at_work.healthy(session, message)

        workers = at_work.through({"good": good, "bad": bad}, session, sink)
    shards = [event.shard for event in sink.events if isinstance(event, ShardEncoded)]
    assert sorted(shards) == [*range(16)]
    assert {*workers.forgotten} == {"bad"}


def test_a_node_that_sees_other_files_takes_no_part_any_more(encoder, tmp_path):
    """Catches one node with an old file in its cache that ends the run of all, and the next one too."""
    at_work, old, sink = Run(tmp_path / "run", encoder, [*"abcdef"]), RunFolder(tmp_path / "old"), ListSink()
    for index in range(6):
        written(old, index, "x")
    with attempts_of_a_session(at_work.folder.path) as session:
        others = {"good": partial(at_work.healthy, session), "bad": partial(at_work.healthy, session, read=old)}
        workers = at_work.through(others, session, sink)
    assert sorted(event.shard for event in sink.events if isinstance(event, ShardEncoded)) == [*range(6)]
    assert "mount the folder there as on the other nodes" in workers.refused["bad"]
    assert "a file of bad cannot be used" in " ".join(
        event.message for event in sink.events if isinstance(event, Notice)
    )


def test_a_node_whose_files_fail_is_left_and_a_full_disk_ends_the_run(encoder, tmp_path):
    """Catches one node without its mount that ends the run of all, and a full disk that nobody is told of."""
    at_work, sink, failed = Run(tmp_path / "run", encoder, [*"abcdef"]), ListSink(), threading.Event()

    def full(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if message["word"] == "shard":
            failed.set()
            yield {"word": "failed", "kind": "OutputError", "message": "the disk is full: free some", "notes": []}
        elif message["word"] == "last":
            yield {"word": "passed", "stopped": False}

    with attempts_of_a_session(at_work.folder.path) as session:

        def good(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
            assert message["word"] != "shard" or failed.wait(PATIENCE_SECONDS)
            yield from at_work.healthy(session, message)

        workers = at_work.through({"good": good, "bad": full}, session, sink)
        assert {*workers.forgotten} == {"bad"}
        assert sorted(event.shard for event in sink.events if isinstance(event, ShardEncoded)) == [*range(6)]
        again = Run(tmp_path / "other", encoder, [*"abcdef"])
        with pytest.raises(OutputError, match=r"^on node-[12], the disk is full: free some$"):
            again.through({"node-1": full, "node-2": full}, session, ListSink())


def test_what_is_computed_is_kept_where_an_error_ends_the_run(encoder, tmp_path):
    """Catches a shard that is computed twice, because a worker raised an error right after it."""
    at_work, sink = Run(tmp_path / "run", encoder, [*"ab"]), ListSink()

    with attempts_of_a_session(at_work.folder.path) as session:

        def fails(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
            yield from at_work.healthy(session, message)
            if message["word"] == "shard":
                yield {"word": "failed", "kind": "OutputError", "message": "the disk is full: free some", "notes": []}

        with pytest.raises(OutputError, match=r"^on node-1, the disk is full: free some$"):
            at_work.through({"node-1": fails}, session, sink)
    assert [event.shard for event in sink.events if isinstance(event, ShardEncoded)] == [0]
    assert [record.kind for record in at_work.folder.manifest.read().values()] == ["vectors"]


@pytest.mark.parametrize("times_out", [False, True], ids=["without end", "until its time is over"])
def test_shards_of_a_node_that_waits_for_its_devices_go_to_others(times_out, encoder, tmp_path):
    """Catches a run that waits for one node's devices, or ends for them, although others have nothing left to do."""
    at_work, sink = Run(tmp_path / "run", encoder, [*"abcdef"]), ListSink()

    def held_up(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if message["word"] == "shard":
            waiting = LeaseWaiting(device="cuda:0", holder="process 7")
            yield {"word": "event", "event": event_to_dict(waiting, 0.0)}
            if times_out:
                yield {"word": "failed", "kind": "LeaseTimeoutError", "message": "process 7 holds it", "notes": []}
        elif message["word"] == "last":
            yield {"word": "passed", "stopped": False}

    with attempts_of_a_session(at_work.folder.path) as session:
        answers = {"good": partial(at_work.healthy, session), "held up": held_up}
        workers = at_work.through(answers, session, sink, Patience(least_seconds=0.6))
    shards = [event.shard for event in sink.events if isinstance(event, ShardEncoded)]
    assert sorted(shards) == [*range(6)]
    assert workers.forgotten == ["held up"]
    assert workers.ends == [None], "it is not the fault of the node, so it does not count as a worker that was lost"
