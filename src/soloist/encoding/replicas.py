"""One replica of a model per leased device, and the threads that feed them. Knows encoders and accelerators.

A device has a thread, or several, its lanes, where it is the host's processor: each computes batches of its own on one
core, so that none waits for another within an operation.

Replicas are made for one pass and gone after it. The staged model on the CPU is never touched:
a replica is its own module tree around copied tensors, so giving it back is forgetting it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from soloist.arrays import Vectors
from soloist.devices.accelerator import Accelerator, run_on
from soloist.devices.lease import error_chain, forget_frames
from soloist.encoding.batching import halves
from soloist.encoding.copies import replicate, twin
from soloist.encoding.encoder import Computed, Encoder, TokenizedTexts, begin, forward, unit_rows
from soloist.errors import BadVectorError, EncodingError, ModelTooLargeError, RowTooLargeError
from soloist.events import BatchEncoded, BatchSplit, EventSink, Notice
from soloist.memory.kernels import ExpandGroupedHeads
from soloist.models.loading import StagedModel
from soloist.types import Batch
from soloist.workers import WorkerThread


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedShard:
    """Unit vectors (rows, dim) float32 in input order, and who made them."""

    vectors: Vectors
    rows_per_device: dict[str, int]
    recomputed_rows: tuple[int, ...]


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    """One shard on its way through the replicas: what is left to do, and where results go."""

    ids: Sequence[str]
    tokenized: TokenizedTexts
    batches: queue.SimpleQueue[Batch]
    vectors: Vectors
    rows_per_device: dict[str, int]
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, device: str, rows: int) -> None:
        """Take note of finished rows; lanes of one device may come at once."""
        with self.lock:
            self.rows_per_device[device] += rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Lane:
    """A thread, and the device and module tree that it computes with."""

    device: str
    module: SentenceTransformer
    thread: WorkerThread


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Begun:
    """A batch that a device has been given, and its vectors to come."""

    batch: Batch
    computed: Computed


# What lanes may compute together: at bge-m3's widest, 4,096 float32 a token, 65,536 tokens take 1.1 GB.
_TOKENS_IN_FLIGHT = 65_536
_TOKENS_IN_FLIGHT_PER_LANE = 4_096


class Replicas:
    """A model on every device of an accelerator, as a context manager inside a lease.

    Raises:
        ModelTooLargeError: on entering, the weights do not fit on a device.
    """

    def __init__(self, staged: StagedModel, encoder: Encoder, accelerator: Accelerator, sink: EventSink) -> None:
        self._staged = staged
        self._encoder = encoder
        self._accelerator = accelerator
        self._sink = sink
        self._modules: dict[str, SentenceTransformer] = {}
        self._host_float32: SentenceTransformer | None = None
        # Always the same threads: a matrix library has a workspace for each thread on a device.
        self._lanes: list[_Lane] = []
        self._host_threads = torch.get_num_threads()
        most = max(_TOKENS_IN_FLIGHT, _TOKENS_IN_FLIGHT_PER_LANE * accelerator.lanes)
        # Lanes share a memory that nothing is planned for; a static model takes next to none of it.
        self._in_flight = _InFlight(most) if accelerator.lanes > 1 and not staged.is_static else None

    def __enter__(self) -> Replicas:
        """Put one replica on each device."""
        self._host_threads = torch.get_num_threads()
        try:
            for device in self._accelerator.devices:
                self._modules[device] = self._replica(device)
            for device in self._modules:
                self._add_lanes(device)
        except BaseException:
            self._forget()
            raise
        return self

    def _add_lanes(self, device: str) -> None:
        count = self._accelerator.lanes
        module = self._modules[device]
        if count == 1:
            self._lanes.append(_Lane(device=device, module=module, thread=WorkerThread(f"soloist-{device}")))
            return
        for number in range(count):
            # Trees of their own: a module may keep state while it computes.
            lane = _Lane(device=device, module=twin(module), thread=WorkerThread(f"soloist-{device}-{number}"))
            self._lanes.append(lane)
            lane.thread.submit(functools.partial(torch.set_num_threads, 1)).result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forget the replicas, once every thread has let go of them."""
        self._forget()

    def _forget(self) -> None:
        for lane in self._lanes:
            lane.thread.close()
        if self._accelerator.lanes > 1:
            torch.set_num_threads(self._host_threads)  # a lane's number is that of every thread that begins later
        self._lanes.clear()
        self._modules.clear()
        self._host_float32 = None

    def encode(self, ids: Sequence[str], tokenized: TokenizedTexts, batches: Sequence[Batch]) -> EncodedShard:
        """Embed the rows of one shard; every device takes batches as it gets free.

        Raises:
            RowTooLargeError: one row alone does not fit on its device.
            BadVectorError: a vector is not finite or zero, in fp32 too.
            EncodingError: the model failed for another reason.
        """
        job = _Job(
            ids=ids,
            tokenized=tokenized,
            batches=queue.SimpleQueue(),
            vectors=np.zeros((len(ids), self._staged.dim), dtype=np.float32),
            rows_per_device=dict.fromkeys(self._modules, 0),
        )
        if self._accelerator.lanes > 1:  # on one device a batch's size is part of the plan
            batches = _spread(batches, len(self._lanes))
        # Each lane begins with a batch of its own: none stays idle because another thread woke up first.
        first = list(batches[: len(self._lanes)])
        for batch in batches[len(first) :]:
            job.batches.put(batch)
        self._run(job, first)
        vectors, bad = unit_rows(job.vectors)
        if bad:
            vectors[bad] = self._recompute(job, bad)
        return EncodedShard(vectors=vectors, rows_per_device=job.rows_per_device, recomputed_rows=tuple(bad))

    def _run(self, job: _Job, first: Sequence[Batch]) -> None:
        tasks = [
            lane.thread.submit(functools.partial(self._serve, job, lane, batch))
            for lane, batch in zip(self._lanes, first, strict=False)
        ]
        try:
            for task in tasks:
                task.result()
        except KeyboardInterrupt:
            self._sink.emit(
                Notice(about="interrupted", message="the batches that are running end first; then the devices are free")
            )
            raise
        finally:
            job.stop.set()
            for task in tasks:
                task.wait()

    def _serve(self, job: _Job, lane: _Lane, first: Batch) -> None:
        """Work off batches in one lane until none is left; the body of a thread.

        The device has the next batch before it is asked for the vectors of the last, where it computes beside the host.
        """
        begun: deque[_Begun] = deque()
        try:
            with run_on(lane.device):
                batch: Batch | None = first
                while batch is not None and not job.stop.is_set():
                    self._work_off(job, lane, batch, begun)
                    batch = _next(job.batches)
                while begun:
                    self._collect(job, lane, begun.popleft())
        except BaseException:
            job.stop.set()
            begun.clear()
            raise

    def _work_off(self, job: _Job, lane: _Lane, batch: Batch, begun: deque[_Begun]) -> None:
        """Begin a batch, in halves for as long as the device has no room for more, and collect those before it."""
        device = lane.device
        pending = [batch]
        while pending and not job.stop.is_set():
            current = pending.pop()
            complaint = self._attempt(job, lane, current, begun)
            if complaint is None:
                while len(begun) >= self._accelerator.batches_in_flight:
                    self._collect(job, lane, begun.popleft())
                continue
            while begun:
                self._collect(job, lane, begun.popleft())
            gc.collect()
            self._accelerator.empty_cache(device)
            if len(current.rows) == 1:
                raise RowTooLargeError(self._row_complaint(job, device, current, complaint))
            self._sink.emit(
                BatchSplit(
                    model=self._staged.spec.name,
                    device=device,
                    rows=len(current.rows),
                    padded_length=current.padded_length,
                )
            )
            pending += reversed(halves(current))

    def _attempt(self, job: _Job, lane: _Lane, batch: Batch, begun: deque[_Begun]) -> str | None:
        """None where the batch has begun; else what the device said when it ran out of memory.

        The error is dropped before this returns: while it lives, so do the tensors of its frames.
        """
        try:
            features = self._encoder.collate(job.tokenized, batch)
            with self._in_flight.of(batch) if self._in_flight is not None else contextlib.nullcontext():
                computed = begin(lane.module, features, lane.device, attention=self._attention())
            begun.append(_Begun(batch=batch, computed=computed))
            return None
        except Exception as exc:
            if is_out_of_memory(exc):
                return str(exc)
            raise self._failed(lane, exc) from exc

    def _collect(self, job: _Job, lane: _Lane, done: _Begun) -> None:
        """Put the vectors of a batch into their rows."""
        rows = done.batch.rows
        try:
            job.vectors[list(rows)] = done.computed.rows()[: len(rows)]
        except Exception as exc:  # on CUDA the errors of kernels come now
            raise self._failed(lane, exc) from exc
        job.count(lane.device, len(rows))
        self._sink.emit(BatchEncoded(model=self._staged.spec.name, device=lane.device, rows=len(rows)))

    def _failed(self, lane: _Lane, error: Exception) -> EncodingError:
        forget_frames(error_chain(error))
        return EncodingError(f"{self._staged.spec.name} failed on {lane.device}: {type(error).__name__}: {error}")

    def _attention(self) -> ExpandGroupedHeads | None:
        """A mode of its own for each pass, since it keeps state while it is entered."""
        return ExpandGroupedHeads(self._accelerator.card) if self._encoder.has_grouped_heads else None

    def _row_complaint(self, job: _Job, device: str, batch: Batch, complaint: str) -> str:
        return (
            f"chunk {job.ids[batch.rows[0]]!r} alone, {batch.padded_length} tokens, does not fit on {device} beside "
            f"{self._staged.spec.name}: {complaint} Choose a device with more memory, a smaller dtype, or a lower "
            "max_tokens for the model"
        )

    def _replica(self, device: str) -> SentenceTransformer:
        complaint = None
        try:
            return replicate(self._staged.module, device) if self._accelerator.copies_weights else self._staged.module
        except RuntimeError as exc:
            if not is_out_of_memory(exc):
                raise
            complaint = str(exc)
        need, free = self._staged.weights_bytes / 1e9, (self._accelerator.memory(device).free_bytes or 0) / 1e9
        raise ModelTooLargeError(
            f"{self._staged.spec.name} needs {need:.2f} GB for its weights, which do not fit on {device} "
            f"({free:.2f} GB free now): {complaint} Choose a device with more memory, a smaller "
            "dtype, or exclusive mode"
        )

    def _recompute(self, job: _Job, rows: Sequence[int]) -> Vectors:
        """The vectors of some rows once more, in fp32 on the CPU; (rows, dim) unit float32."""
        if self._host_float32 is None:
            self._host_float32 = replicate(self._staged.module, "cpu", torch.float32)
        found = np.zeros((len(rows), self._staged.dim), dtype=np.float32)
        for index, row in enumerate(rows):
            length = len(job.tokenized.ids[row])
            if length:
                features = self._encoder.collate(job.tokenized, Batch(rows=(row,), padded_length=length))
                found[index] = forward(self._host_float32, features, "cpu")[0]
        vectors, still_bad = unit_rows(found)
        if still_bad:
            more = f" and {len(still_bad) - 1:,} more of its shard" if len(still_bad) > 1 else ""
            raise BadVectorError(
                f"{self._staged.spec.name} gives chunk {job.ids[rows[still_bad[0]]]!r}{more} no usable vector (NaN, "
                "infinite or zero) in float32 too: remove it from its file, or leave this model out; --on-bad-input "
                "skip leaves out only texts that are found before a device works"
            )
        return vectors


# What torch says of memory that is short without raising its OutOfMemoryError: cuBLAS on a nearly full device, the
# driver itself, and the allocator of the CPU.
_OUT_OF_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "can't allocate memory")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that a smaller batch could succeed."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def _spread(batches: Sequence[Batch], lanes: int) -> Sequence[Batch]:
    """The largest batches in halves until there is one for each lane, or only single rows are left."""
    found = list(batches)
    while 0 < len(found) < lanes:
        largest = max(found, key=lambda batch: batch.padded_tokens if len(batch.rows) > 1 else 0)
        if len(largest.rows) == 1:
            break
        found.remove(largest)
        found += halves(largest)
    return found


class _InFlight:
    """The tokens that lanes compute together, so that the memory of a host with many cores is enough for long rows."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tokens = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def of(self, batch: Batch) -> Iterator[None]:
        """Hold a batch's tokens, once there is room for them or nobody else holds any."""
        tokens = batch.padded_tokens
        with self._changed:
            self._changed.wait_for(lambda: not self._tokens or self._tokens + tokens <= self._most)
            self._tokens += tokens
        try:
            yield
        finally:
            with self._changed:
                self._tokens -= tokens
                self._changed.notify_all()


def _next(batches: queue.SimpleQueue[Batch]) -> Batch | None:
    try:
        return batches.get_nowait()
    except queue.Empty:
        return None
