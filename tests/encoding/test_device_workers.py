"""Workers of the CPU: a batch for each, no more tokens at once than the host can hold, no thread left behind."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soloist.devices.accelerator import CpuAccelerator
from soloist.encoding.device_workers import TokensInFlight, for_every_worker
from soloist.encoding.encoder import Encoder
from soloist.encoding.replicas import Replicas
from soloist.events import ListSink
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
