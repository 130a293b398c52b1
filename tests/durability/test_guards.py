"""What a command must not do to a run that is there: drop what it does not name, or take what is not what it says."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from support.editing import write_chunks

from soloist.config import FusionConfig, RunConfig
from soloist.digests import text_digest
from soloist.engine import run
from soloist.engine.known import known_vectors
from soloist.engine.stopping import Stop
from soloist.errors import ConfigError, InputError, OutputError
from soloist.events import Event, ShardEncoded
from soloist.stores import RunFolder
from soloist.stores.status import run_status
from soloist.types import Chunk

FILES = {"alpha/a": [(f"a{row}", f"the text of row {row}") for row in range(20)]}


@pytest.fixture
def config(catalogue, tmp_path) -> RunConfig:
    """A static model over one collection in three shards."""
    return RunConfig(
        chunks_root=write_chunks(tmp_path / "chunks", FILES), out=tmp_path / "run", accelerator="cpu",
        models=("static",), catalogue=catalogue, shard_chunks=8, fusion=FusionConfig(method="none"),
        lock_dir=tmp_path / "locks", cache_dir=tmp_path / "cache",
    )  # fmt: skip


class BrokenOffError(Exception):
    """Ends a run."""


class BreakOff:
    """Ends a run at the first shard."""

    def emit(self, event: Event) -> None:
        if isinstance(event, ShardEncoded):
            raise BrokenOffError


def test_a_folder_of_other_chunks_does_not_empty_a_run(config, tmp_path):
    """A mistyped root, or one that is not mounted, would take all vectors of the run along."""
    run(config)
    other = write_chunks(tmp_path / "others", {"gamma/g": [("g", "another text")]})
    before = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"is a run over alpha, and .*others has none of them"):
        run(dataclasses.replace(config, chunks_root=other))
    assert {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()} == before


def test_one_collection_of_many_is_not_the_folder_of_a_run(config, tmp_path):
    """The folder of one collection is a root too: whoever names it would lose the others."""
    write_chunks(tmp_path / "chunks", {**FILES, "beta/b": [("b", "of the other collection")]})
    run(config)
    with pytest.raises(ConfigError, match=r"has the collection beta of .*chunks, which .*alpha does not have"):
        run(dataclasses.replace(config, chunks_root=tmp_path / "chunks" / "alpha"))
    write_chunks(tmp_path / "chunks", FILES)
    assert [each.removed for each in run(config).collections] == [0, 1]


def test_vectors_that_are_set_aside_are_vectors_of_the_run(config, tmp_path):
    """Between a change of the chunks and a model's pass, no row of the manifest names its vectors."""
    both = dataclasses.replace(config, models=("static", "bert"))
    run(both)
    write_chunks(tmp_path / "chunks", {"alpha/a": [("new", "in front of all"), *FILES["alpha/a"]]})
    with pytest.raises(BrokenOffError):
        run(both, BreakOff())
    with pytest.raises(ConfigError, match="has vectors of the model bert, which this command leaves out"):
        run(config)
    assert next(model for model in run(both).models if model.name == "bert").embedded == 1


def test_auto_on_another_machine_does_not_begin_anew(config):
    """A session on other cards would throw away what the one before has finished."""
    bert = dataclasses.replace(config, models=("bert",))
    run(bert)
    elsewhere = dataclasses.replace(bert, accelerator="simulated:1xT4")
    with pytest.raises(ConfigError, match="has vectors of bert in float32, and auto is float16 on this machine"):
        run(elsewhere)
    assert run(dataclasses.replace(elsewhere, dtype="float32")).models[0].kept == 20


def test_what_is_not_ours_is_not_removed(config, tmp_path):
    """A folder with a file of a common name, and a run that cannot begin."""
    config.out.mkdir()
    (config.out / "events.jsonl").write_text("mine\n")
    with pytest.raises(OutputError, match="is not empty and no run of soloist"):
        run(config)
    assert (config.out / "events.jsonl").read_text() == "mine\n"
    (config.out / "events.jsonl").unlink()
    (tmp_path / "chunks" / "alpha" / "b_chunks.json").write_text("[{")
    with pytest.raises(InputError):
        run(config)
    assert list(config.out.iterdir()) == []


def test_vectors_of_a_file_that_was_written_anew_are_not_taken(tmp_path):
    """Another run may write while this one reads: rows of other texts would pass every check."""
    folder = RunFolder.create(tmp_path / "run")
    texts = ["one", "two", "three"]
    digests = [text_digest(text) for text in texts]
    folder.write_chunks("c", 0, [Chunk(id=text, text=text) for text in texts])
    folder.write_vectors("c", "m", 0, texts, np.eye(3, dtype=np.float32), digests, "f")
    known = known_vectors(RunFolder(tmp_path / "none"), [folder], "m", "f")
    path = tmp_path / "part-00000.parquet"
    placement = known.place(path, digests[:2])
    folder.write_vectors("c", "m", 0, texts[::-1], np.eye(3, dtype=np.float32), digests[::-1], "f")
    with pytest.raises(OutputError, match="was written anew while its vectors were taken over"):
        known.fill(path, digests[:2], placement, np.zeros((2, 3), np.float32), np.zeros((2, 2), np.int32))


def test_the_rate_of_a_run_is_of_what_it_embedded(config, tmp_path):
    """Vectors that are copied are quick, and would promise an end that does not come."""
    run(config)
    write_chunks(tmp_path / "chunks", {"alpha/a": [*FILES["alpha/a"][:-1], ("new", "a last row")]})
    run(config)
    events = [json.loads(line) for line in (config.out / "events.jsonl").read_text().splitlines()]
    last = [event for event in events if event["event"] == "ShardEncoded"][-1]
    assert (last["rows"], last["reused_rows"]) == (4, 3)
    (status,) = run_status(config.out).models
    assert status.chunks_per_second == pytest.approx(1 / last["seconds"])


def test_listeners_of_a_stop_end_with_their_run():
    """A notebook that runs a hundred times would have two hundred threads that wait for nothing."""
    before, heard = threading.active_count(), []
    stop = Stop()
    with stop.on_request(heard.append):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    with stop.on_request(heard.append):
        stop.request("Ctrl-C")
    assert heard == ["Ctrl-C"]


def test_waiting_for_devices_ends_with_the_time_of_the_run(config, tmp_path):
    """A session would end in the queue, hard and without its line."""
    from soloist.devices import GpuLease, open_accelerator
    from soloist.errors import RunStoppedError
    from soloist.events import ListSink

    simulated = dataclasses.replace(config, accelerator="simulated:1x1GB", stop_after=2.0)
    held = threading.Event()
    done = threading.Event()

    def hold() -> None:
        with GpuLease(open_accelerator("simulated:1x1GB"), ("other",), ListSink(), lock_dir=tmp_path / "locks"):
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(30)
        with pytest.raises(RunStoppedError, match="its time is over"):
            run(simulated)
    finally:
        done.set()
        thread.join()
    assert run(dataclasses.replace(simulated, stop_after=None)).models[0].chunks == 20


def test_the_guards_take_paths_that_are_new(config, tmp_path):
    """A guard that looks at folders must not need one."""
    assert not Path(tmp_path / "new").exists()
    assert run(dataclasses.replace(config, out=tmp_path / "new")).models[0].embedded == 20
