"""A thread of a run that is ended from outside: an error in one sentence, soon, and what was finished is kept."""

from __future__ import annotations

import ctypes
import dataclasses
import threading
import time

import pytest
from support.fault_runs import N_CHUNKS, On, finish, require_sentence, vector_rows

from soloist.engine import run
from soloist.errors import EncodingError
from soloist.events import BatchEncoded, LeaseReleased, ListSink, PassStarted, ShardEncoded
from soloist.workers import WorkerThread

GOES_ON = "run again, which goes on with what is not finished"
PATIENCE_SECONDS = 300


def end(name: str, error: type[BaseException] = SystemExit) -> None:
    """Set an exception in a thread, as a debugger or an embedding program can: it dies where it is."""
    threads = [thread for thread in threading.enumerate() if thread.name == name]
    assert len(threads) == 1, f"there is no thread {name}: {threading.enumerate()}"
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threads[0].ident or 0), ctypes.py_object(error))


def at(kind, model="two"):
    return lambda event: isinstance(event, kind) and event.model == model


@pytest.mark.parametrize(
    ("name", "accelerator", "when"),
    [
        ("soloist-cpu", "cpu", PassStarted),  # it waits for its first batch, and dies on the way to it
        ("soloist-cpu", "cpu", ShardEncoded),
        ("soloist-cpu", "cpu", BatchEncoded),  # it is at work: the event comes from it
        ("soloist-sim:1", "simulated:2x1GB", BatchEncoded),
        ("soloist-write", "simulated:2x1GB", PassStarted),
        ("soloist-write", "simulated:2x1GB", ShardEncoded),  # it is at work: the event comes from it
        ("soloist-prepare", "cpu", PassStarted),
        ("soloist-prepare", "cpu", ShardEncoded),
    ],
)
def test_a_thread_that_dies_is_an_error_and_no_wait_without_end(in_passes, fresh, name, accelerator, when):
    """The pool of the standard library leaves whoever waits for the next result waiting for ever."""
    own = dataclasses.replace(in_passes, accelerator=accelerator, token_budget=64)
    sink, ends = ListSink(), On(at(when), lambda: end(name))
    began = time.monotonic()
    with pytest.raises(EncodingError) as caught:
        run(own, sink, ends)
    assert time.monotonic() - began < PATIENCE_SECONDS
    assert require_sentence(caught.value).startswith(f"the thread {name} was ended during its work (")
    assert str(caught.value).endswith(GOES_ON)
    assert isinstance(sink.events[-2], LeaseReleased) and sink.events[-2].held == ()
    assert not [thread for thread in threading.enumerate() if thread.name in ("soloist-cpu", "soloist-prepare", name)]
    had = vector_rows(own.out)
    assert had["one"] == N_CHUNKS and had["two"] < N_CHUNKS
    if name != "soloist-prepare":  # that one is a shard ahead, or two
        assert had["two"] == (8 if when is ShardEncoded else 0)
    finish(own, fresh)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_ends_a_thread_is_never_taken_for_the_end_of_the_process(error):
    """A SystemExit that travels out of a worker would end the program with exit code 0."""
    thread = WorkerThread("soloist-test")

    def call() -> None:
        raise error

    with pytest.raises(EncodingError) as caught:
        thread.submit(call).result()
    sentence = require_sentence(caught.value)
    assert sentence.startswith(f"the thread soloist-test was ended during its work ({error.__name__}")
    assert thread.submit(lambda: 7).result() == 7
    thread.close()


def test_a_thread_that_died_while_it_was_idle_fails_the_next_call():
    """Nobody looks at an idle thread: the call would be put where nobody takes it."""
    thread = WorkerThread("soloist-idle")
    assert thread.submit(lambda: 1).result() == 1
    end("soloist-idle")
    first = thread.submit(lambda: 2)  # wakes it up, to die
    for task in (first, thread.submit(lambda: 3)):
        with pytest.raises(EncodingError, match="the thread soloist-idle was ended"):
            task.result()
    thread.close()
