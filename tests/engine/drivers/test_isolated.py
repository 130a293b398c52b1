"""A pass in a process of its own: the same vectors, the driver's memory back, and no word of an error lost."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import psutil
import pytest
from support.collections import config_below
from support.forks import STARTED, Forked

from soloist.devices import DeviceLease, open_accelerator
from soloist.engine import run
from soloist.errors import LeaseTimeoutError, RowTooLargeError
from soloist.events import LeaseAcquired, LeaseReleased, ListSink, MemoryPlanned, Notice, event_from_dict, event_to_dict
from soloist.stores import RunFolder

CARD = "simulated:2xT4"


@pytest.fixture
def isolated(config):
    """The config's two models on two simulated T4, each pass in a process of its own."""
    return dataclasses.replace(config, accelerator=CARD, isolation="process", dtype="float32")


@pytest.fixture(scope="module")
def apart(tmp_path_factory, tiny_models):
    """Such a run: its config, its result and its events. Its workers are started as users' are."""
    base = config_below(tmp_path_factory.mktemp("apart"), tiny_models)
    config = dataclasses.replace(base, accelerator=CARD, isolation="process", dtype="float32")
    sink = ListSink()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(STARTED, "1")
        return config, run(config, sink), sink.events


def test_the_vectors_are_those_of_a_pass_in_the_process(apart, embed, all_vectors):
    """A worker that plans or computes otherwise would make the isolation a choice of vectors."""
    config, _, _ = apart
    folder = RunFolder.open(config.out)
    _, inside = embed(accelerator=CARD, dtype="float32")
    for model in config.models:
        ids, vectors = all_vectors(folder, "alpha", model)
        expected_ids, expected = all_vectors(inside, "alpha", model)
        assert ids == expected_ids
        assert np.array_equal(vectors, expected)


def test_both_meanings_of_a_release_are_in_the_record(apart):
    """Allocator zero leaves the contexts on the devices; only the end of the process gives them back."""
    _, result, events = apart
    acquired = [event for event in events if isinstance(event, LeaseAcquired)]
    released = [event for event in events if isinstance(event, LeaseReleased)]
    assert [event.models for event in released] == [("qwen2",), ("xlm-roberta",)]
    card = open_accelerator(CARD).card
    for before, after in zip(acquired, released, strict=True):
        assert before.isolation == after.isolation == "process"
        assert after.held == ()
        for device, worker in after.worker_memory.items():
            assert worker.allocated_bytes == worker.reserved_bytes == 0
            assert worker.peak_bytes > 0
            # The worker's own view: its context is still there. The driver's, after its end: it is not.
            assert worker.free_bytes == card.total_bytes - card.context_bytes
            assert after.memory[device].free_bytes == before.memory[device].free_bytes == card.total_bytes
    assert all(peak > 0 for model in result.models for peak in model.peak_bytes.values())


def test_an_error_in_the_worker_arrives_whole(isolated, tmp_path):
    """An error that becomes `the worker failed` has lost its remedy."""
    tight = dataclasses.replace(isolated, models=("xlm-roberta",), accelerator="simulated:2x0.55MB")
    with pytest.raises(RowTooLargeError, match=r"chunk 'alpha-\d{4}' alone, \d+ tokens, does not fit on sim:"):
        run(tight)


WORKER_KILLED = textwrap.dedent("""
    import dataclasses, json, sys
    from pathlib import Path
    from soloist.config import RunConfig
    from soloist.engine import run
    config = RunConfig.from_dict(json.loads(Path(sys.argv[1]).read_text()))
    try:
        run(config)
    except Exception as error:
        print(type(error).__name__, error)
    except KeyboardInterrupt:
        print("interrupted")
""")


def started(config, tmp_path):
    """A run in a process of its own, and its worker once that is at work."""
    write = tmp_path / "config.json"
    write.write_text(json.dumps(config.to_dict()))
    process = Forked(
        [sys.executable, "-c", WORKER_KILLED, str(write)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, STARTED: "1"},
    )  # fmt: skip
    events = config.out / "events.jsonl"
    deadline = time.monotonic() + 300
    while "PassStarted" not in (events.read_text() if events.exists() else "") and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [
        child for child in psutil.Process(process.pid).children() if "drivers.isolated" in " ".join(child.cmdline())
    ]
    assert len(workers) == 1
    return process, workers[0]


@pytest.fixture
def long_run(isolated, tmp_path):
    """A run that is at work for some time."""
    from support.collections import write_collection

    write_collection(tmp_path / "chunks", "gamma", 3000, longest=200)
    return dataclasses.replace(isolated, models=("all-MiniLM-L6-v2",), shard_chunks=64)


def test_a_worker_that_is_killed_is_an_error_in_one_sentence(long_run, tmp_path):
    """A parent that waits for a dead worker waits for ever."""
    process, worker = started(long_run, tmp_path)
    worker.send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert "EncodingError the worker process of all-MiniLM-L6-v2 was killed by signal 9" in out, err
    released = [json.loads(line) for line in (long_run.out / "events.jsonl").read_text().splitlines()][-2]
    assert (released["event"], released["held"]) == ("LeaseReleased", [])


def test_ctrl_c_reaches_the_worker(long_run, tmp_path):
    """An orphan would hold the devices that its parent has given back."""
    process, worker = started(long_run, tmp_path)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert out.strip() == "RunStoppedError stopped by Ctrl-C", err
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_a_killed_parent_leaves_no_worker(long_run, tmp_path):
    """A worker without a parent would compute for nobody, on devices that others believe to be free."""
    process, worker = started(long_run, tmp_path)
    process.kill()
    process.communicate()
    psutil.wait_procs([worker], timeout=30)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_memory_that_another_process_takes_is_told_and_costs_no_run(isolated, tmp_path, monkeypatch):
    """A finished pass must not be lost because somebody opened a browser; and nobody may believe it went unseen."""
    other = Forked(
        [sys.executable, "-c", OTHER_PROCESS, str(isolated.lock_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert other.stdout is not None and other.stdin is not None
    assert other.stdout.readline() == "ready\n"

    class Takes:
        """Lets another process take memory in the midst of the first pass."""

        def emit(self, event):
            if type(event).__name__ == "PassStarted" and event.model == "qwen2":
                other.stdin.write("take\n")
                other.stdin.flush()
                assert other.stdout.readline() == "taken\n"

    monkeypatch.setattr("soloist.devices.lease.RETURN_TIMEOUT_SECONDS", 0.2)
    try:
        sink = ListSink()
        run(isolated, Takes(), sink)
    finally:
        other.communicate()
    first = next(event for event in sink.events if isinstance(event, LeaseReleased))
    assert [(tensor.device, tensor.size_bytes) for tensor in first.held] == [("sim:0", 1_000_000)]
    assert any(
        isinstance(event, Notice) and "1,000,000 bytes of sim:0 less free" in event.message for event in sink.events
    )


def test_a_lease_that_is_not_to_be_had_ends_the_worker_too(isolated, tmp_path):
    """A worker that waits for a word, and a parent that waits for the worker, wait for ever."""
    holder = open_accelerator("simulated:2xT4", isolated.lock_dir)
    with DeviceLease(holder, ["somebody"], ListSink(), lock_dir=isolated.lock_dir), pytest.raises(LeaseTimeoutError):
        run(dataclasses.replace(isolated, lease_timeout_seconds=0.5))


OTHER_PROCESS = textwrap.dedent("""
    import sys
    from pathlib import Path
    from soloist.devices.simulated_driver import DriverMemory
    from soloist.memory.cards import CARDS
    memory = DriverMemory("simulated-0", CARDS["T4"].total_bytes, Path(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    assert memory.take(1_000_000)
    print("taken", flush=True)
    sys.stdin.read()
""")


def test_events_survive_the_way_through_json(isolated):
    """A worker's events are read by the same code as the parent's own."""
    sink = ListSink()
    run(dataclasses.replace(isolated, isolation="allocator"), sink)
    assert any(isinstance(event, MemoryPlanned) for event in sink.events)
    for event in sink.events:
        assert event_from_dict(json.loads(json.dumps(event_to_dict(event, 1.0)))) == event
