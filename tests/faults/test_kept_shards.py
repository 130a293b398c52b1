"""What a pass keeps when it is stopped, killed or fails within a shard, in shards; and the order of its events.

A shard can be in two places: on a device that computes, and on its way to the disk. So each test names the shard that
is being computed at its moment, `AT`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import os
import signal
import threading
import types
from collections.abc import Callable

import pytest
import torch
from support.commands import Commands, Death
from support.editing import empty_run
from support.fault_runs import On, command_of, require_sentence, write_chunks
from support.file_moments import just_before
from support.forks import STARTED

from soloist.engine import run
from soloist.errors import EncodingError, OutputError, RowTooLargeError, RunInterruptedError, RunStoppedError
from soloist.events import (
    BatchEncoded,
    Event,
    LeaseReleased,
    ListSink,
    Notice,
    PassFinished,
    RunFinished,
    ShardEncoded,
)
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.models.user_catalogue import load_catalogue
from soloist.stores import RunFolder

SHARDS, ROWS = 6, 8
AT = 2
DEVICE = "simulated:1x1GB"
PATIENCE_SECONDS = 300


@pytest.fixture
def many(config):
    """A run of one model over six shards of one collection, each in several batches."""
    for name in ("alpha", "beta"):
        (config.chunks_root / name / "doc_chunks.json").unlink()
        (config.chunks_root / name).rmdir()
    write_chunks(config.chunks_root, "many", SHARDS * ROWS)
    reuse = (empty_run(config.out.parent / "empty"),)  # on the CPU, the model would embed beside the reading
    return dataclasses.replace(
        config, models=("two",), accelerator=DEVICE, shard_chunks=ROWS, token_budget=32, reuse=reuse
    )


@pytest.fixture
def planted(many):
    """Something that every replica of the model does once it is set, in each of its forward passes."""
    staged = stage(resolve("two", load_catalogue(many.catalogue)), "float32")  # the very module that the run will share
    planted = Planted()

    def call(module, args, output):  # a replica has copies of objects, and the same functions
        return planted(output)

    hook = staged.module.register_forward_hook(call)
    yield planted
    hook.remove()


class Planted:
    """Changes the vectors of a batch once `act` is set."""

    def __init__(self) -> None:
        self.act: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __call__(self, output):
        if self.act is not None:
            output["sentence_embedding"] = self.act(output["sentence_embedding"])
        return output


class Gate:
    """Holds forward passes while it is shut."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def __call__(self, vectors):
        assert self._open.wait(PATIENCE_SECONDS), "nobody opened the gate"
        return vectors

    def open(self) -> None:
        self._open.set()


def in_the_midst_of(shard: int) -> Callable[[Event], bool]:
    """Whether this is the event of the first batch of a shard. More of its batches follow."""
    rows = 0

    def is_it(event: Event) -> bool:
        nonlocal rows
        rows += event.rows if isinstance(event, BatchEncoded) else 0
        return rows > shard * ROWS

    return is_it


def kept(out) -> list[int]:
    """The shards that have their vectors, in the order in which they were finished."""
    return [record.shard for record in RunFolder(out).manifest.read().values() if record.kind == "vectors"]


def require_kept(config, sink, shards, why) -> None:
    """The first shards are kept and were told of in order, before the devices were given back; and the run goes on."""
    assert kept(config.out) == list(range(shards))
    places = {place: event for place, event in enumerate(sink.events) if isinstance(event, ShardEncoded)}
    assert [event.shard for event in places.values()] == list(range(shards))
    assert isinstance(sink.events[-2], LeaseReleased) and sink.events[-2].held == ()
    assert max(places) < len(sink.events) - 2
    last = sink.events[-1]
    assert isinstance(last, RunFinished) and last.error is not None and why in last.error
    result = run(dataclasses.replace(config, stop_after=None))
    assert (result.models[0].kept, result.models[0].embedded) == (shards * ROWS, (SHARDS - shards) * ROWS)


@pytest.mark.parametrize("mode", ["exclusive", "standard"])
def test_a_shard_is_told_after_its_batches_and_in_its_turn(many, mode):
    """A reader of the events would count vectors that are not on the disk, or miss those of the last shard."""
    sink = ListSink()
    run(dataclasses.replace(many, models=("one", "two"), mode=mode), sink)
    for model in ("one", "two"):
        rows, shards = 0, 0
        for event in sink.events:
            if isinstance(event, BatchEncoded) and event.model == model:
                assert event.rows < ROWS
                rows += event.rows
            if isinstance(event, ShardEncoded) and event.model == model:
                assert event.shard == shards
                shards += 1
                assert rows >= shards * ROWS
            if isinstance(event, PassFinished) and event.model == model:
                assert (rows, shards) == (SHARDS * ROWS, SHARDS)
                rows = shards = -1
        assert shards == -1, "the pass did not end"


class Presses:
    """A sink that sends signals in the middle of a shard: the first, and the others once the run has heard of it.

    The shard goes on when the last of them was heard.
    """

    def __init__(self, gate: Gate, planted: Planted, *numbers: signal.Signals) -> None:
        self._is_it = in_the_midst_of(AT)
        self._gate, self._planted, self._left = gate, planted, list(numbers)

    def emit(self, event: Event) -> None:
        if self._planted.act is None and self._is_it(event):
            self._planted.act = self._gate
            self._press()
        elif isinstance(event, Notice) and event.about in ("Ctrl-C", "SIGTERM", "interrupted"):
            self._press() if self._left else self._gate.open()

    def _press(self) -> None:
        os.kill(os.getpid(), self._left.pop(0))


@pytest.mark.parametrize("accelerator", ["cpu", DEVICE])
@pytest.mark.parametrize(
    ("numbers", "error", "shards"),
    [
        ([signal.SIGINT], RunStoppedError, AT + 1),
        ([signal.SIGTERM], RunStoppedError, AT + 1),
        ([signal.SIGINT, signal.SIGINT], RunInterruptedError, AT),
    ],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-C twice"],
)
def test_a_signal_keeps_the_shard_in_work_and_a_second_one_those_before(
    many, planted, accelerator, numbers, error, shards
):
    """A computed shard would be thrown away, or be reported without being on the disk."""
    config, sink = dataclasses.replace(many, accelerator=accelerator), ListSink()
    with pytest.raises(error) as caught:
        run(config, sink, Presses(Gate(), planted, *numbers))
    planted.act = None
    require_kept(config, sink, shards, str(caught.value))


@pytest.mark.parametrize("accelerator", ["cpu", DEVICE])
def test_a_time_that_is_over_keeps_the_shard_in_work(many, monkeypatch, accelerator):
    """A session that its host ends would lose the shard in work, or one that was computed before it."""
    config, now, sink = dataclasses.replace(many, accelerator=accelerator, stop_after=1000.0), [0.0], ListSink()
    monkeypatch.setattr("soloist.stopping.time", types.SimpleNamespace(monotonic=lambda: now[0]))
    with pytest.raises(RunStoppedError, match="stopped because its time is over"):
        run(config, sink, On(in_the_midst_of(AT), lambda: now.append(now.pop() + 2000.0)))
    require_kept(config, sink, AT + 1, "stopped because its time is over")


def too_much(vectors):
    """A forward pass that wants more memory than its device has."""
    torch.empty(1_200_000_000, dtype=torch.uint8, device=vectors.device)
    return vectors


def nonsense(vectors):
    """A forward pass that overflows in any precision."""
    return torch.full_like(vectors, torch.nan)


@pytest.mark.parametrize(
    ("act", "error", "sentence"),
    [
        (too_much, RowTooLargeError, "alone, "),
        (nonsense, EncodingError, "two "),
    ],
)
def test_a_row_without_a_vector_costs_the_shard_in_work(many, planted, act, error, sentence):
    """The error of a shard would lose the shard before it, which may still be on its way to the disk."""
    sink = ListSink()
    with pytest.raises(error) as caught:
        run(many, sink, On(in_the_midst_of(AT), lambda: setattr(planted, "act", act)))
    assert sentence in require_sentence(caught.value)
    planted.act = None
    require_kept(many, sink, AT, str(caught.value))


def end_this_thread() -> None:
    """Set an exception in the present thread, as a debugger or an embedding program can."""
    ident = ctypes.c_ulong(threading.get_ident())
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))


def test_a_device_thread_that_dies_costs_the_shard_in_work(many):
    """The pass would wait for the thread for ever, or end without the shard before."""
    sink = ListSink()
    with pytest.raises(EncodingError) as caught:
        run(many, sink, On(in_the_midst_of(AT), end_this_thread))
    assert "was ended during its work" in require_sentence(caught.value)
    require_kept(many, sink, AT, "was ended during its work")


@pytest.mark.parametrize("accelerator", ["cpu", DEVICE])
def test_a_disk_that_is_full_costs_the_shard_that_it_did_not_take(many, disk, accelerator):
    """The run would compute shard after shard that it cannot write, or lose count of those that it has written."""
    disk.mount("size=4m")
    config, sink = dataclasses.replace(many, out=disk.path / "run", accelerator=accelerator), ListSink()
    fills = On(lambda event: isinstance(event, ShardEncoded) and event.shard == AT - 1, disk.fill)
    with pytest.raises(OutputError, match=rf"vectors/two/part-0000{AT}\.parquet: No space left on device: free some"):
        run(config, sink, fills)
    computed = sum(event.rows for event in sink.events if isinstance(event, BatchEncoded))
    assert computed <= (AT + 2) * ROWS, "more than one further shard was computed"
    (disk.path / "ballast").unlink()
    require_kept(config, sink, AT, "No space left on device")


def test_a_kill_before_a_shard_has_its_name_keeps_those_before(many, tmp_path):
    """A shard that is finished out of its turn would be computed again, or be missing between two others."""
    commands = Commands(tmp_path)
    config = dataclasses.replace(many, token_budget=None)
    death = Death(folder=config.out, count=1, pattern=rf"^os.rename \S+ \S+/vectors/two/part-0000{AT}")
    killed = commands.run(*command_of(config, "--reuse", str(config.reuse[0])), death=death)
    assert killed.code == -signal.SIGKILL, killed.stderr
    assert kept(config.out) == list(range(AT))
    events = [json.loads(line) for line in (config.out / "events.jsonl").read_text().splitlines()]
    assert [event["shard"] for event in events if event["event"] == "ShardEncoded"] == list(range(AT))
    result = run(config)
    assert (result.models[0].kept, result.models[0].embedded) == (AT * ROWS, (SHARDS - AT) * ROWS)


def test_an_error_of_the_disk_is_told_before_that_of_the_next_shard(many, planted):
    """The error would name a row without a vector. But without that row, the disk would still be full."""
    begun, sink = threading.Event(), ListSink()

    def begin() -> None:
        planted.act = nonsense
        begun.set()

    def full() -> None:
        assert begun.wait(PATIENCE_SECONDS), f"shard {AT + 1} was to begin when shard {AT} was on the disk"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    name = rf"two/part-0000{AT}\.parquet"
    with (
        just_before(rf"^os.rename \S+ \S*/{name}", full),
        pytest.raises(OutputError, match=rf"{name}: No space left on device: free some space and run again$") as caught,
    ):
        run(many, sink, On(in_the_midst_of(AT + 1), begin))
    planted.act = None
    assert isinstance(caught.value.__context__, EncodingError)
    require_kept(many, sink, AT, "No space left on device")


# A worker process begins with this: it does not give a shard its name before the parent has closed the worker's input.
_SLOW_DISK = """
import select, sys, time

def hold(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith({ending!r}):
        inbox = select.poll()
        inbox.register(0, select.POLLHUP)
        assert inbox.poll(60_000), "the parent did not close the input of this process"
        time.sleep(0.5)

if "drivers.isolated" in " ".join(sys.orig_argv):
    sys.addaudithook(hold)
"""


def test_a_second_signal_lets_a_worker_process_write_what_it_has_computed(many, tmp_path, monkeypatch):
    """The process would end with the signal, and a shard that was computed before it would not get to the disk."""
    (tmp_path / "slow").mkdir()
    ending = f"/two/part-0000{AT - 1}.parquet"
    (tmp_path / "slow" / "sitecustomize.py").write_text(_SLOW_DISK.format(ending=ending))
    monkeypatch.syspath_prepend(tmp_path / "slow")
    monkeypatch.setenv(STARTED, "1")
    config, left = dataclasses.replace(many, isolation="process"), [signal.SIGINT, signal.SIGINT]
    is_it = in_the_midst_of(AT)

    def press(event: Event) -> None:
        began = len(left) == 2 and is_it(event)
        if began or (isinstance(event, Notice) and event.about == "Ctrl-C"):
            os.kill(os.getpid(), left.pop())

    with pytest.raises(RunInterruptedError):
        run(config, press)
    assert kept(config.out)[:AT] == list(range(AT))
