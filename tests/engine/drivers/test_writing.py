"""Shards that are written beside the next one's computing: in order, one at a time, with errors in their places."""

from __future__ import annotations

import json
import signal
import threading

import pytest
from support.editing import assert_same_files
from support.file_moments import just_before

from soloist.devices import open_accelerator
from soloist.engine.drivers.writing import ShardWriter, writer_for
from soloist.events import BatchEncoded, ListSink, PassFinished, ShardEncoded
from soloist.stores.verification import verify_run

MODEL = "xlm-roberta"
ROWS = 32
PATIENCE_SECONDS = 60


@pytest.fixture
def repeated(chunks_root):
    """Texts of the first shard again in the second, those of the second again in the third, and in their own."""
    file = chunks_root / "alpha" / "doc_chunks.json"
    items = json.loads(file.read_text())
    for row, earlier in ((33, 1), (40, 7), (41, 40), (65, 34), (66, 33), (67, 65)):
        items[row]["text"] = items[earlier]["text"]
    file.write_text(json.dumps(items))


def written_in_turn(monkeypatch):
    """As before there was a thread: each shard is written before the next one is computed."""
    monkeypatch.setattr("soloist.engine.drivers.local.writer_for", lambda accelerator: ShardWriter(beside=False))


def test_a_shard_is_written_while_the_next_one_is_computed(embed, repeated, monkeypatch):
    """Devices would wait for the disk after each shard; or a copy of a vector would be looked for before it is there.

    The first shard does not get its name before a batch of the second is computed.
    """
    rows, begun, sink = 0, threading.Event(), ListSink()

    def listen(event) -> None:
        nonlocal rows
        rows += event.rows if isinstance(event, BatchEncoded) else 0
        if rows > ROWS:
            begun.set()

    def wait() -> None:
        assert begun.wait(PATIENCE_SECONDS), "the second shard was to begin when the first was on the disk"

    options = {"models": (MODEL,), "token_budget": 256}
    with just_before(rf"^os.rename \S+ \S*/alpha/vectors/{MODEL}/part-00000", wait):
        result, folder = embed(sink, listen, **options)
    told = [event for event in sink.events if isinstance(event, ShardEncoded)]
    assert [(event.collection, event.shard) for event in told] == [
        *(("alpha", shard) for shard in range(3)),
        ("beta", 0),
    ]
    assert isinstance(sink.events[sink.events.index(told[-1]) + 1], PassFinished)
    assert result.models[0].repeated >= 6
    assert result.models[0].seconds == pytest.approx(sum(event.seconds for event in told))
    assert verify_run(folder).problems == ()
    written_in_turn(monkeypatch)
    _, other = embed(**options)
    assert_same_files(folder.path, other.path)


def test_the_host_writes_in_turn():
    """On the host, one more thread would take a core from the computing."""
    order = []
    with writer_for(open_accelerator("cpu")) as writer:
        writer.write(lambda: order.append(threading.current_thread()))
        assert order == [threading.current_thread()]


def test_an_error_comes_before_the_next_call_and_that_is_not_made():
    """A shard would be written after a missing shard, and the run would compute for a full disk."""
    calls = []

    def fail() -> None:
        calls.append("first")
        raise OSError("full")

    with pytest.raises(OSError, match="full"), ShardWriter(beside=True) as writer:
        writer.write(fail)
        writer.write(lambda: calls.append("second"))
    assert calls == ["first"]


def test_a_shard_in_hand_is_waited_for_while_the_one_before_is_written():
    """A worker that is to end at once would end with a shard that is computed, and is not on the disk."""
    calls, given, ended = [], threading.Event(), []

    class Noted(ShardWriter):
        """Says when the second shard waits for the first."""

        def settle(self) -> None:
            if calls:
                given.set()
            super().settle()

    with Noted(beside=True) as writer:
        ending = threading.Thread(target=lambda: (writer.wait_within(PATIENCE_SECONDS), ended.append(len(calls))))
        begun = threading.Event()

        def first() -> None:
            calls.append("first")
            begun.set()
            assert given.wait(PATIENCE_SECONDS)

        def second() -> None:
            ending.join(0.2)
            calls.append("second")

        writer.write(first)
        assert begun.wait(PATIENCE_SECONDS)
        ending.start()
        writer.write(second)
    ending.join()
    assert ended == [2]


def test_a_shard_that_is_written_in_turn_is_waited_for():
    """On the CPU a worker that is to end at once would end in the midst of writing a shard."""
    calls, ended = [], []
    with ShardWriter(beside=False) as writer:
        ending = threading.Thread(target=lambda: (writer.wait_within(PATIENCE_SECONDS), ended.append(len(calls))))

        def write() -> None:
            ending.start()
            ending.join(0.2)
            calls.append("written")

        writer.write(write)
    ending.join()
    assert ended == [1]


def test_leaving_waits_for_the_last_call_and_tells_its_error_first():
    """The last shard would be lost with the error of the next one, or its own error would never be told."""
    calls, gone = [], threading.Event()

    def fail() -> None:
        assert gone.wait(PATIENCE_SECONDS)
        calls.append("written")
        raise OSError("full")

    with pytest.raises(OSError, match="full") as caught, ShardWriter(beside=True) as writer:
        writer.write(fail)
        gone.set()
        raise ValueError("of the next shard")
    assert calls == ["written"]
    assert isinstance(caught.value.__context__, ValueError)
    assert not [thread for thread in threading.enumerate() if thread.name == "soloist-write"]


def test_an_interrupt_while_leaving_does_not_lose_the_call():
    """A second Ctrl-C would leave a thread that writes in a folder that is no longer held."""
    calls, heard = [], threading.Event()

    def interrupt(number, frame) -> None:
        heard.set()
        raise KeyboardInterrupt

    def write() -> None:
        signal.raise_signal(signal.SIGINT)  # Python handles it in the main thread, which waits for this call
        assert heard.wait(PATIENCE_SECONDS)
        calls.append("written")

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), ShardWriter(beside=True) as writer:
            writer.write(write)
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == ["written"]
