"""A replica of a model on every leased device, and the workers that compute with it. Knows encoders and accelerators.

Replicas are made for one pass and forgotten after it. The staged model on the CPU stays as it is: a replica is a module
tree of its own around copied tensors, so to give a replica back is to forget it.
"""

from __future__ import annotations

import contextlib
import functools
import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from soloist.arrays import Vectors
from soloist.devices.accelerator import Accelerator
from soloist.devices.host_allocator import freed_memory_kept
from soloist.encoding.bad_rows import BadRows
from soloist.encoding.copies import replicate, twin
from soloist.encoding.device_workers import DeviceWorker, Job, RowEncoder, TokensInFlight, for_every_worker
from soloist.encoding.found_rows import (
    FoundRows,
    MemberRows,
    bad_rows_of,
    found_rows_of,
    tokens_of_a_row,
    tokens_of_words,
)
from soloist.encoding.out_of_memory import is_out_of_memory
from soloist.encoding.recomputing import Float32Rows
from soloist.encoding.tokenizing import TokenizedTexts
from soloist.errors import BadVectorError, ModelTooLargeError
from soloist.events import EventSink, Notice
from soloist.models.loading import StagedModel
from soloist.models.numpy_threads import one_thread
from soloist.types import Batch, DTypeRequest
from soloist.workers import WorkerThread

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# What workers may compute together: at bge-m3's widest, 4,096 float32 a token, 65,536 tokens take 1.1 GB.
_TOKENS_IN_FLIGHT = 65_536
_TOKENS_IN_FLIGHT_PER_WORKER = 4_096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedShard:
    """The rows of a shard in input order, as the devices computed them, and the devices that did.

    `recomputed`, (rows, dim) float32, are the rows that the devices could not compute.
    """

    found: FoundRows
    rows_per_device: dict[str, int]
    recomputed_rows: tuple[int, ...]
    recomputed: Vectors | None = None

    def rows(self, member: int = 0) -> MemberRows:
        """The rows as a run keeps them: vectors of length 1, or sparse ones. The devices need not wait for it.

        `member` counts the members whose numbers a row has beside each other.
        """
        return self.found.finished(self.recomputed_rows, self.recomputed, member)


class Replicas:
    """A model on every device of an accelerator, as a context manager inside a lease.

    `threads` has the threads of a pass by device (see `threads_of_a_pass`). Another device gets its own thread.
    `shared_dtype` is as in `BadRows`.

    Raises:
        ModelTooLargeError: on entering, the weights do not fit on a device.
    """

    def __init__(
        self,
        staged: StagedModel,
        encoder: RowEncoder,
        accelerator: Accelerator,
        sink: EventSink,
        threads: Mapping[str, WorkerThread] | None = None,
        shared_dtype: DTypeRequest | None = None,
    ) -> None:
        self._staged = staged
        self._encoder = encoder
        self._accelerator = accelerator
        self._sink = sink
        self._modules: dict[str, SentenceTransformer] = {}
        self._bad = BadRows(staged, accelerator.card.capability, sink, shared_dtype)
        self._float32 = Float32Rows(encoder, accelerator)
        # Always the same threads: a matrix library has a workspace for each thread on a device.
        self._threads = threads or {}
        self._workers: list[DeviceWorker] = []
        self._host_threads = torch.get_num_threads()
        most = max(_TOKENS_IN_FLIGHT, _TOKENS_IN_FLIGHT_PER_WORKER * accelerator.workers)
        # Workers of the host share a memory for which nothing is planned; a static model takes next to none of it.
        if staged.predicts_words:
            most = min(most, tokens_of_words(staged.dim))
        in_flight = TokensInFlight(most, tokens_of_a_row(staged))
        self._in_flight = in_flight if accelerator.workers > 1 and not staged.is_static else None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Replicas:
        """Put one replica on each device."""
        self._host_threads = torch.get_num_threads()
        if self._accelerator.kind == "cpu" and not self._staged.is_static:
            self._held.enter_context(freed_memory_kept())
            if self._staged.matmul == "onednn+numpy":
                self._held.enter_context(one_thread)
        try:
            for device in self._accelerator.devices:
                self._modules[device] = self._replica(device)
            for device in self._modules:
                self._add_workers(device)
        except BaseException:
            self._forget()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forget the replicas, once every thread has let go of them."""
        self._forget()

    def encode(self, ids: Sequence[str], tokenized: TokenizedTexts, batches: Sequence[Batch]) -> EncodedShard:
        """Embed the rows of one shard. Every device takes the next batch when it is free.

        Raises:
            RowTooLargeError: one row alone does not fit on its device.
            UnfitDTypeError: many vectors are zero or not finite.
            BadVectorError: a vector is zero or not finite, in float32 too.
            EncodingError: the model failed for another reason.
        """
        job = Job(
            ids=ids,
            tokenized=tokenized,
            batches=queue.SimpleQueue(),
            found=found_rows_of(self._staged, len(ids)),
            rows_per_device=dict.fromkeys(self._modules, 0),
            bad=self._bad,
        )
        self._bad.begin_shard(len(ids))
        if self._accelerator.workers > 1:  # where a device has one worker, the size of a batch is part of the plan
            batches = for_every_worker(batches, len(self._workers))
        # Every worker begins with a batch of its own: none is idle because another thread woke up first.
        first = list(batches[: len(self._workers)])
        for batch in batches[len(first) :]:
            job.batches.put(batch)
        self._run(job, first)
        bad = job.found.unusable()
        return EncodedShard(
            found=job.found,
            rows_per_device=job.rows_per_device,
            recomputed_rows=tuple(bad),
            recomputed=self._recompute(job, bad) if bad else None,
        )

    def _run(self, job: Job, first: Sequence[Batch]) -> None:
        tasks = [worker.start(job, batch) for worker, batch in zip(self._workers, first, strict=False)]
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

    def _add_workers(self, device: str) -> None:
        count = self._accelerator.workers
        if count == 1:
            thread = self._threads.get(device) or WorkerThread(f"soloist-{device}")
            self._add_worker(device, self._modules[device], thread)
            return
        for number in range(count):
            # Trees of their own: a module may keep state while it computes.
            module = twin(self._modules[device])
            worker = self._add_worker(device, module, WorkerThread(f"soloist-{device}-{number}"))
            worker.thread.submit(functools.partial(torch.set_num_threads, 1)).result()

    def _add_worker(self, device: str, module: SentenceTransformer, thread: WorkerThread) -> DeviceWorker:
        worker = DeviceWorker(
            device=device,
            module=module,
            thread=thread,
            encoder=self._encoder,
            accelerator=self._accelerator,
            sink=self._sink,
            in_flight=self._in_flight,
        )
        self._workers.append(worker)
        return worker

    def _forget(self) -> None:
        for worker in self._workers:
            if worker.device in self._threads:  # it serves the other models of the pass too
                worker.thread.drain()
            else:
                worker.thread.close()
        if self._accelerator.workers > 1:
            torch.set_num_threads(self._host_threads)  # a worker's number is that of every thread that begins later
        self._workers.clear()
        self._modules.clear()
        self._float32.forget()
        self._held.close()

    def _replica(self, device: str) -> SentenceTransformer:
        message = None
        try:
            return replicate(self._staged.module, device) if self._accelerator.copies_weights else self._staged.module
        except RuntimeError as exc:
            if not is_out_of_memory(exc, lambda: self._accelerator.memory(device).free_bytes):
                raise
            message = str(exc)
        need, free = self._staged.weights_bytes / 1e9, (self._accelerator.memory(device).free_bytes or 0) / 1e9
        raise ModelTooLargeError(
            f"{self._staged.spec.name} needs {need:.2f} GB for its weights, which do not fit on {device} "
            f"({free:.2f} GB free now): {message} Choose a device with more memory, a smaller "
            "dtype, or exclusive mode"
        )

    def _recompute(self, job: Job, rows: Sequence[int]) -> Vectors:
        """The vectors of some rows once more, in float32; (rows, dim) float32."""
        vectors = self._float32.vectors(job.tokenized, rows, self._workers[0])
        still_bad = bad_rows_of(self._staged, vectors)
        if still_bad:
            more = f" and {len(still_bad) - 1:,} more of its shard" if len(still_bad) > 1 else ""
            raise BadVectorError(
                f"{self._staged.spec.name} has no usable vector for chunk {job.ids[rows[still_bad[0]]]!r}{more} (NaN, "
                "infinite or zero, in float32 too): remove the chunk from its file, or leave this model out; "
                "--on-bad-input skip leaves out only texts that are found before devices compute"
            )
        return vectors
