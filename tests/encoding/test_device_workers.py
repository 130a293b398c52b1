"""Workers of the CPU: a batch for each, no more tokens at once than the host can hold, no thread left behind."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soloist.devices.accelerator import CpuAccelerator, SimulatedAccelerator
from soloist.encoding.device_workers import TokensInFlight, for_every_worker
from soloist.encoding.encoder import Encoder
from soloist.encoding.replicas import Replicas
from soloist.encoding.tokenizing import TokenizedTexts
from soloist.errors import EncodingError
from soloist.events import BatchSplit, ListSink
from soloist.memory.cards import bare_card
from soloist.models.catalogue import resolve
from soloist.models.loading import stage
from soloist.types import Batch


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 16))
def test_every_worker_has_a_batch_where_there_are_rows(sizes, workers):
    """A run of a few chunks would leave cores idle, or lose a row."""
    batches, first = [], 0
    for size in sizes:
        batches.append(Batch(rows=tuple(range(first, first + size)), padded_length=7))
        first += size
    found = for_every_worker(batches, workers)
    assert sorted(row for batch in found for row in batch.rows) == list(range(first))
    assert len(found) >= min(workers, first)
    if len(batches) >= workers:
        assert list(found) == batches


def test_tokens_in_flight_are_bounded():
    """64 workers of long rows would need more memory than the host has, which kills a process without a word."""
    in_flight, lock, now, most = TokensInFlight(100), threading.Lock(), [0], [0]
    batches = [Batch(rows=(0, 1), padded_length=length) for length in (10, 20, 30, 70, 5, 25)] * 20

    def work(batch):
        with in_flight.of(batch):
            with lock:
                now[0] += batch.padded_tokens
                most[0] = max(most[0], now[0])
            with lock:
                now[0] -= batch.padded_tokens

    threads = [threading.Thread(target=work, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert most[0] <= 140  # the largest alone is 140, and no two are beyond 100


def test_workers_that_cannot_begin_leave_no_thread(tiny_models, monkeypatch):
    """Threads of a pass that failed would stay, and later threads would have one core each."""
    accelerator = CpuAccelerator()
    accelerator.workers = 4
    staged = stage(resolve(str(tiny_models["bert"])), "float32")
    before, started = torch.get_num_threads(), []
    start_really = threading.Thread.start

    def start(thread):
        if thread.name == "soloist-cpu-2":
            raise RuntimeError("can't start new thread")
        start_really(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"), Replicas(staged, Encoder(staged), accelerator, ListSink()):
        pass
    # Ours alone: the threads of other libraries' pools come and go.
    assert [thread.name for thread in started] == ["soloist-cpu-0", "soloist-cpu-1"]
    assert not any(thread.is_alive() for thread in started)
    assert torch.get_num_threads() == before


@pytest.fixture(scope="module")
def bert(tiny_models):
    """An encoder with .2 MB of weights."""
    return stage(resolve(str(tiny_models["bert"])), "float32")


def rows_of(length: int, count: int) -> TokenizedTexts:
    """Rows of the same tokens."""
    return TokenizedTexts(ids=(np.full(length, 7, dtype=np.int32),) * count, dropped=(0,) * count)


def encoded(replicas: Replicas, length: int, *sizes: int) -> None:
    """Embed batches of so many rows each. The first begins on the first device, the second on the second."""
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    batches = [
        Batch(rows=tuple(range(start, start + size)), padded_length=length)
        for start, size in zip(starts, sizes, strict=True)
    ]
    count = sum(sizes)
    replicas.encode([f"row {row}" for row in range(count)], rows_of(length, count), batches)


def test_a_device_without_room_leaves_the_cache_of_another_as_it_is(bert):
    """torch empties the caches of all devices at once: a device that computes would wait, and allocate again."""
    tight, roomy = bare_card(bert.weights_bytes + 500_000), bare_card(2**30)
    accelerator, sink = SimulatedAccelerator([tight, roomy]), ListSink()
    with Replicas(bert, Encoder(bert), accelerator, sink) as replicas:
        encoded(replicas, 16, 1, 64)
        before = accelerator.memory("sim:1")
        assert before.reserved_bytes > before.allocated_bytes
        encoded(replicas, 16, 64)
        assert {event.device for event in sink.events if isinstance(event, BatchSplit)} == {"sim:0"}
        assert accelerator.memory("sim:1").reserved_bytes == before.reserved_bytes
    accelerator.empty_caches()


@pytest.fixture
def full_for_cublas(bert):
    """Makes the network fail at its second batch, as cuBLAS does if torch's cache leaves the driver no memory.

    Gives a list of the bytes in the cache at each batch.
    """
    hooks, cached = [], []

    def fails_on(accelerator: SimulatedAccelerator) -> list[int]:
        def fail(module: torch.nn.Module, args: tuple[dict[str, torch.Tensor]]) -> None:
            if args[0]["input_ids"].device.type == "cpu":  # where the model is tried on two texts
                return
            stats = accelerator.memory("sim:0")
            cached.append(stats.reserved_bytes - stats.allocated_bytes)
            if len(cached) == 2:
                raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")

        hooks.append(bert.module[0].register_forward_pre_hook(fail))
        return cached

    yield fails_on
    for hook in hooks:
        hook.remove()


def test_cublas_on_a_full_device_splits_a_batch(bert, full_for_cublas):
    """A first product beside a full cache would end the run, although half the batch would do."""
    accelerator, sink = SimulatedAccelerator([bare_card(100 * 2**20)]), ListSink()
    cached = full_for_cublas(accelerator)
    with Replicas(bert, Encoder(bert), accelerator, sink) as replicas:
        encoded(replicas, 16, 8, 8)
    assert [event.rows for event in sink.events if isinstance(event, BatchSplit)] == [8]
    assert cached[1] > 0
    assert cached[2] == 0  # the driver has had the cache back
    accelerator.empty_caches()


def test_cublas_on_a_device_with_room_ends_the_run(bert, full_for_cublas):
    """The error of a library that does not fit the driver would count as a lack of memory, for every row."""
    accelerator, sink = SimulatedAccelerator([bare_card(2**30)]), ListSink()
    full_for_cublas(accelerator)
    with (
        pytest.raises(EncodingError, match=r"failed on sim:0: RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"),
        Replicas(bert, Encoder(bert), accelerator, sink) as replicas,
    ):
        encoded(replicas, 16, 8, 8)
    assert not any(isinstance(event, BatchSplit) for event in sink.events)
    accelerator.empty_caches()
