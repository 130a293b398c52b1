"""What a command must not do to a run that is there: drop what it does not name, or take what is not what it says."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from support.editing import empty_run, write_chunks

from soloist.config import FusionConfig, RunConfig
from soloist.digests import text_digest
from soloist.engine import run
from soloist.engine.resume.vector_reuse import known_vectors
from soloist.errors import ConfigError, InputError, OutputError, RunStoppedError
from soloist.events import Event, ShardEncoded
from soloist.stopping import Stop
from soloist.stores import RunFolder
from soloist.stores.status import run_status
from soloist.stores.tables import read_table, table_matrix
from soloist.stores.verification import verify_run
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
    with pytest.raises(ConfigError, match=r"is a run over alpha, and .*others has none of these collections"):
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
    with pytest.raises(OutputError, match="is not empty and is not a run folder"):
        run(config)
    assert (config.out / "events.jsonl").read_text() == "mine\n"
    (config.out / "events.jsonl").unlink()
    (tmp_path / "chunks" / "alpha" / "b_chunks.json").write_text("[{")
    with pytest.raises(InputError):
        run(config)
    assert list(config.out.iterdir()) == []


TEXTS = ["one", "two", "three"]
DIGESTS = [text_digest(text) for text in TEXTS]


def other_run(path: Path, vectors: np.ndarray, texts=TEXTS, fingerprint: str = "f") -> RunFolder:
    """A run with one shard of a model's vectors, written in the place of the one that is there."""
    folder = RunFolder.create(path)
    folder.manifest.append(folder.shards.write_chunks("c", 0, [Chunk(id=text, text=text) for text in texts]))
    folder.manifest.append(
        folder.shards.write_vectors("c", "m", 0, texts, vectors, [text_digest(text) for text in texts], fingerprint)
    )
    return folder


def written_by_another_model(folder: RunFolder) -> None:
    other_run(folder.path, np.eye(3, dtype=np.float32)[::-1], fingerprint="g")


def with_other_texts(folder: RunFolder) -> None:
    other_run(folder.path, np.eye(3, dtype=np.float32), TEXTS[::-1])


def with_a_flipped_bit(folder: RunFolder) -> None:
    file = folder.path / folder.shards.vectors_file("c", "m", 0)
    content = bytearray(file.read_bytes())
    at = content.index(np.float32(1).tobytes())  # the first of the vectors that is not 0
    content[at] ^= 1  # the last bit of its mantissa
    status = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [written_by_another_model, with_other_texts, with_a_flipped_bit])
def test_vectors_that_have_changed_since_they_were_looked_through_are_not_taken(tmp_path, change):
    """Another run may write while this one reads, and disks fail: its vectors would lie under a wrong fingerprint."""
    folder = other_run(tmp_path / "run", np.eye(3, dtype=np.float32))
    known = known_vectors(RunFolder(tmp_path / "none"), [folder], "m", "f")
    path = tmp_path / "part-00000.parquet"
    placement = known.place(path, DIGESTS[:2])
    vectors, counts = np.zeros((2, 3), np.float32), np.zeros((2, 2), np.int32)
    known.fill(path, DIGESTS[:2], placement, vectors, counts)
    assert np.array_equal(vectors, np.eye(3)[:2])
    change(folder)
    with pytest.raises(OutputError, match=r"has changed since this run first read it: .*run the same command"):
        known.fill(path, DIGESTS[:2], placement, vectors, counts)
    anew = known_vectors(RunFolder(tmp_path / "none"), [folder], "m", "f").place(path, DIGESTS[:2])
    assert anew.fresh == (() if change is with_other_texts else (0, 1))


def test_a_file_of_another_run_that_has_gone_is_told_as_that(tmp_path):
    """The way on was to name a shard that the run has, which nobody had named."""
    folder = other_run(tmp_path / "run", np.eye(3, dtype=np.float32))
    known = known_vectors(RunFolder(tmp_path / "none"), [folder], "m", "f")
    path = tmp_path / "part-00000.parquet"
    placement = known.place(path, DIGESTS)
    (folder.path / folder.shards.vectors_file("c", "m", 0)).unlink()
    with pytest.raises(OutputError, match=r"part-00000\.parquet is missing: .*run the same command again"):
        known.fill(path, DIGESTS, placement, np.zeros((3, 3), np.float32), np.zeros((3, 2), np.int32))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_repeated_texts_of_a_shard_that_was_written_in_this_pass_are_held_against_it(config, tmp_path, dtype):
    """A bit that flips after a shard was written would be copied to every chunk of the same text."""
    repeated = [("again", "the text of row 1"), ("other", "a text of its own")]
    write_chunks(tmp_path / "chunks", {"alpha/a": [*FILES["alpha/a"], *repeated]})
    # With `--reuse` the table embeds in its pass. While the input is read, it would copy no vectors.
    config = dataclasses.replace(config, vector_dtype=dtype, reuse=(empty_run(tmp_path / "empty"),))

    class Flip:
        """Flips a bit of the first shard's vectors, once it is written."""

        def emit(self, event: Event) -> None:
            if isinstance(event, ShardEncoded) and event.shard == 0:
                file = config.out / "alpha" / "vectors" / "static" / "part-00000.parquet"
                first = table_matrix(read_table(file))[1].astype(dtype).tobytes()
                content = bytearray(file.read_bytes())
                content[content.index(first)] ^= 1
                file.write_bytes(content)

    with pytest.raises(OutputError, match=r"part-00000\.parquet has changed since"):
        run(config, Flip())
    run(config)
    assert verify_run(RunFolder(config.out)).problems == ()


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

    def listeners() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "soloist-stop"}

    stop, heard, others = Stop(), [], listeners()
    with stop.on_request(heard.append):
        (listener,) = listeners() - others
    assert not listener.is_alive()
    with stop.on_request(heard.append), stop.shielded():
        stop.request("Ctrl-C")
    assert heard == ["Ctrl-C"]


def test_nobody_is_told_of_a_shard_in_work_where_there_is_none():
    """A stop in a download said that the run ends with the shard in work, and a second Ctrl-C ends it at once."""
    heard, stop = [], Stop()
    with stop.on_request(heard.append), stop.shielded(), contextlib.suppress(RunStoppedError), stop.interruptible():
        stop.request("Ctrl-C")
        stop.check()
    assert heard == []


def test_waiting_for_devices_ends_with_the_time_of_the_run(config, tmp_path):
    """A session would end in the queue, hard and without its line."""
    from soloist.devices import DeviceLease, open_accelerator
    from soloist.errors import RunStoppedError
    from soloist.events import ListSink

    simulated = dataclasses.replace(config, accelerator="simulated:1x1GB", stop_after=2.0)
    held = threading.Event()
    done = threading.Event()

    def hold() -> None:
        with DeviceLease(open_accelerator("simulated:1x1GB"), ("other",), ListSink(), lock_dir=tmp_path / "locks"):
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
