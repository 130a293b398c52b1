"""The threads that compute a model's batches on its devices. Knows encoders and accelerators, and no replicas.

A GPU has one worker. The host's processor has several: each computes batches of its own on one core, so that none waits
for another within an operation.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import queue
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from soloist.devices.accelerator import Accelerator, run_on
from soloist.encoding.bad_rows import BadRows
from soloist.encoding.batching import RowsFor, halves
from soloist.encoding.features import Features
from soloist.encoding.forward import Computed, begin
from soloist.encoding.found_rows import FoundRows
from soloist.encoding.out_of_memory import came_from_elsewhere, is_out_of_memory, split_until_it_fits
from soloist.encoding.tokenizing import TokenizedTexts
from soloist.error_frames import error_chain, forget_frames
from soloist.errors import EncodingError, RowTooLargeError
from soloist.events import BatchEncoded, BatchSplit, EventSink
from soloist.memory.kernels import ExpandGroupedHeads
from soloist.models.loading import StagedModel
from soloist.types import Batch
from soloist.workers import Task, WorkerThread

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class RowEncoder(Protocol):
    """What puts rows together for a model: an `Encoder` of texts, or a `PairEncoder` of questions with chunks."""

    @property
    def staged(self) -> StagedModel:
        """The model."""

    @property
    def has_grouped_heads(self) -> bool:
        """Whether the model's attention shares key and value heads among query heads."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """The tensors that are moved to a device for each batch."""

    def plan_lengths(self, lengths: Sequence[int], rows_for: RowsFor) -> tuple[Batch, ...]:
        """The batches of rows of these token lengths."""

    def collate(self, tokenized: TokenizedTexts, batch: Batch) -> Features:
        """The CPU tensors of a batch."""


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One shard on its way through the workers: the batches that are left, and where their rows go."""

    ids: Sequence[str]
    tokenized: TokenizedTexts
    batches: queue.SimpleQueue[Batch]
    found: FoundRows
    rows_per_device: dict[str, int]
    bad: BadRows
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, device: str, rows: int) -> None:
        """Count finished rows. Several workers of a device may call this at once."""
        with self.lock:
            self.rows_per_device[device] += rows

    def next_batch(self) -> Batch | None:
        """The next batch, or None if no batch is left."""
        try:
            return self.batches.get_nowait()
        except queue.Empty:
            return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Begun:
    """A batch that a device has been given, and its vectors to come."""

    batch: Batch
    computed: Computed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceWorker:
    """A thread, and the device and module tree that it computes with.

    `in_flight` bounds the tokens that the workers of a device compute together; None where nothing needs to.
    """

    device: str
    module: SentenceTransformer
    thread: WorkerThread
    encoder: RowEncoder
    accelerator: Accelerator
    sink: EventSink
    in_flight: TokensInFlight | None = None

    def start(self, job: Job, first: Batch) -> Task[None]:
        """Compute a first batch, and then the batches of the job that are left."""
        return self.thread.submit(functools.partial(self._serve, job, first))

    def _serve(self, job: Job, first: Batch) -> None:
        """The work of the thread.

        Where a device computes beside the host, it has the next batch before it is asked for the vectors of the last.
        """
        begun: deque[_Begun] = deque()
        try:
            with run_on(self.device):
                batch: Batch | None = first
                while batch is not None and not job.stop.is_set():
                    self._begin(job, batch, begun)
                    batch = job.next_batch()
                self._collect(job, begun, leave=0)
        except BaseException:
            job.stop.set()
            begun.clear()
            raise

    def _begin(self, job: Job, batch: Batch, begun: deque[_Begun]) -> None:
        """Give the device a batch, in halves for as long as it has no room for more."""
        # Methods: the frames of an error keep the closure of a nested function, and with it the replica.
        split_until_it_fits(
            batch, functools.partial(self._try, job, begun), functools.partial(self._make_room, job, begun)
        )

    def _try(self, job: Job, begun: deque[_Begun], batch: Batch) -> str | None:
        """Begin a batch, and collect those before it; the device's message where it ran out of memory."""
        message = None if job.stop.is_set() else self._attempt(job, batch, begun)
        if message is None:
            self._collect(job, begun, leave=self.accelerator.batches_in_flight - 1)
        return message

    def _attempt(self, job: Job, batch: Batch, begun: deque[_Begun]) -> str | None:
        """None where the batch has begun; else the device's message, where it ran out of memory.

        The error is dropped before this returns: while it lives, so do the tensors of its frames.
        """
        try:
            features = self.encoder.collate(job.tokenized, batch)
            with self.in_flight.of(batch) if self.in_flight is not None else contextlib.nullcontext():
                computed = begin(self.module, features, self.device, attention=self.attention())
            begun.append(_Begun(batch=batch, computed=computed))
            return None
        except Exception as exc:
            if is_out_of_memory(exc, self.free_bytes):
                return str(exc)
            raise self.failed(exc) from exc

    def _make_room(self, job: Job, begun: deque[_Begun], batch: Batch, message: str) -> None:
        """Free all that the device can free, before a batch is tried again in halves.

        Raises:
            RowTooLargeError: the batch is a single row.
        """
        self._collect(job, begun, leave=0)
        gc.collect()
        # Only then: this also empties the caches of devices that compute, and those devices have to wait.
        if came_from_elsewhere(message):
            self.accelerator.empty_caches()
        if len(batch.rows) == 1:
            raise RowTooLargeError(
                f"chunk {job.ids[batch.rows[0]]!r} alone, {batch.padded_length} tokens, does not fit on {self.device} "
                f"beside {self._model}: {message} Choose a device with more memory, a smaller dtype, or a lower "
                "max_tokens for the model"
            )
        self.sink.emit(
            BatchSplit(model=self._model, device=self.device, rows=len(batch.rows), padded_length=batch.padded_length)
        )

    def _collect(self, job: Job, begun: deque[_Begun], *, leave: int) -> None:
        """Put the vectors of the oldest batches into their rows, until so many batches are left on the device."""
        while len(begun) > leave:
            oldest = begun.popleft()
            rows = oldest.batch.rows
            try:
                vectors = oldest.computed.rows()[: len(rows)]
            except Exception as exc:  # on CUDA the errors of kernels come now
                raise self.failed(exc) from exc
            job.found.put(rows, vectors)
            job.bad.look(self.device, [job.ids[row] for row in rows], vectors)
            job.count(self.device, len(rows))
            self.sink.emit(BatchEncoded(model=self._model, device=self.device, rows=len(rows)))

    def free_bytes(self) -> int | None:
        """What the driver has free on the device."""
        return self.accelerator.memory(self.device).free_bytes

    def failed(self, error: Exception) -> EncodingError:
        """An error of the model as an error of soloist, without the tensors in its frames."""
        forget_frames(error_chain(error))
        return EncodingError(f"{self._model} failed on {self.device}: {type(error).__name__}: {error}")

    def attention(self) -> ExpandGroupedHeads | None:
        """A mode of its own for every pass, since a mode keeps state while it is entered."""
        return ExpandGroupedHeads(self.accelerator.card) if self.encoder.has_grouped_heads else None

    @property
    def _model(self) -> str:
        return self.encoder.staged.spec.name


class TokensInFlight:
    """The tokens that workers compute together, so that long rows do not need more memory than a host has.

    A row counts as `a_row` tokens at least.
    """

    def __init__(self, most: int, a_row: int = 0) -> None:
        self._most = most
        self._a_row = a_row
        self._tokens = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def of(self, batch: Batch) -> Iterator[None]:
        """Hold a batch's tokens, once there is room for them or no worker holds any."""
        tokens = max(batch.padded_tokens, self._a_row * len(batch.rows))
        with self._changed:
            self._changed.wait_for(lambda: not self._tokens or self._tokens + tokens <= self._most)
            self._tokens += tokens
        try:
            yield
        finally:
            with self._changed:
                self._tokens -= tokens
                self._changed.notify_all()


@contextlib.contextmanager
def threads_of_a_pass(accelerator: Accelerator) -> Iterator[Mapping[str, WorkerThread]]:
    """A thread for each device, which computes for all models of a pass.

    A matrix library keeps a workspace for each thread on a device: 8.5 MB on a T4, 34 MB on an H100. The host keeps
    no workspace. If it has several workers, each model has threads of its own, and there are none here.
    """
    threads: dict[str, WorkerThread] = {}
    try:
        for device in accelerator.devices if accelerator.workers == 1 else ():
            threads[device] = WorkerThread(f"soloist-{device}")
        yield threads
    finally:
        for thread in threads.values():
            thread.close()


def for_every_worker(batches: Sequence[Batch], workers: int) -> Sequence[Batch]:
    """The largest batches in halves until there is one for each worker, or only single rows are left."""
    parts = list(batches)
    while 0 < len(parts) < workers:
        largest = max(parts, key=lambda batch: batch.padded_tokens if len(batch.rows) > 1 else 0)
        if len(largest.rows) == 1:
            break
        parts.remove(largest)
        parts += halves(largest)
    return parts
