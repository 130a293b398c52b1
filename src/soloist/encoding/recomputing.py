"""Computes rows once more, in float32. Knows encoders, workers and accelerators, and nothing of shards.

The rows are computed together: on a device if it has room for the weights in float32, else on the host.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from soloist.arrays import Vectors
from soloist.devices.accelerator import Accelerator, run_on
from soloist.encoding.batching import RowsFor, within
from soloist.encoding.copies import replicate
from soloist.encoding.device_workers import DeviceWorker, RowEncoder
from soloist.encoding.forward import forward
from soloist.encoding.found_rows import bad_rows_of, tokens_of_words
from soloist.encoding.out_of_memory import is_out_of_memory
from soloist.encoding.tokenizing import TokenizedTexts
from soloist.errors import PredictionError
from soloist.memory.planner import RESERVE_SHARE
from soloist.memory.prediction import Predictor, blueprint_of, tracer_of
from soloist.types import Batch

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Few rows are computed again. So small batches cost little time. Two copies of the weights leave little memory.
_TOKENS = 4_096

Found = Mapping[int, Vectors]


class Float32Rows:
    """The vectors of rows in float32, for one model on the devices of a pass."""

    def __init__(self, encoder: RowEncoder, accelerator: Accelerator) -> None:
        self._encoder = encoder
        self._accelerator = accelerator
        self._on_host: SentenceTransformer | None = None

    def vectors(self, tokenized: TokenizedTexts, rows: Sequence[int], worker: DeviceWorker) -> Vectors:
        """(rows, dim) float32, not yet normalised; zeros for rows without tokens. The worker must be idle.

        Rows without a usable vector in float32 on the device are computed on the host.
        """
        computed = np.zeros((len(rows), self._encoder.staged.dim), dtype=np.float32)
        places = {row: place for place, row in enumerate(rows) if len(tokenized.ids[row])}
        left = list(places)
        for compute in (self._by_device, self._by_host):
            for row, vector in compute(tokenized, left, worker).items():
                computed[places[row]] = vector
            left = [left[bad] for bad in bad_rows_of(self._encoder.staged, computed[[places[row] for row in left]])]
        return computed

    def forget(self) -> None:
        """Drop the copy in host memory."""
        self._on_host = None

    def _by_device(self, tokenized: TokenizedTexts, rows: Sequence[int], worker: DeviceWorker) -> Found:
        """The vectors of the rows; empty if the device has no room."""
        batches = self._batches_with_room(tokenized, rows, worker.device) if self._accelerator.copies_weights else ()
        if not batches:
            return {}
        # In the thread of the worker, because a matrix library has a workspace for each thread on a device.
        return worker.thread.submit(functools.partial(self._on_device, tokenized, batches, worker)).result()

    def _by_host(self, tokenized: TokenizedTexts, rows: Sequence[int], worker: DeviceWorker) -> Found:
        if not rows:
            return {}
        if self._on_host is None:
            self._on_host = replicate(self._encoder.staged.module, "cpu", torch.float32)
        if self._accelerator.kind == "cpu":  # alone and without padding a row has the same bits in every run
            batches = [Batch(rows=(row,), padded_length=len(tokenized.ids[row])) for row in rows]
        else:
            batches = self._batches(tokenized, rows, within(self._most_tokens))
        return self._forward(self._on_host, tokenized, batches, "cpu")

    def _on_device(self, tokenized: TokenizedTexts, batches: Sequence[Batch], worker: DeviceWorker) -> Found:
        """The vectors of the batches; empty if memory ran out in spite of the prediction."""
        found: Found = {}
        try:
            with run_on(worker.device):
                found = self._by_a_copy(tokenized, batches, worker)
        except Exception as exc:
            if not is_out_of_memory(exc, worker.free_bytes):
                raise worker.failed(exc) from exc
        gc.collect()
        self._accelerator.empty_caches()  # later batches are planned for a device without the copy
        return found

    def _by_a_copy(self, tokenized: TokenizedTexts, batches: Sequence[Batch], worker: DeviceWorker) -> Found:
        module = replicate(self._encoder.staged.module, worker.device, torch.float32)
        return self._forward(module, tokenized, batches, worker.device, worker)

    def _forward(
        self,
        module: SentenceTransformer,
        tokenized: TokenizedTexts,
        batches: Sequence[Batch],
        device: str,
        worker: DeviceWorker | None = None,
    ) -> Found:
        found: dict[int, Vectors] = {}
        for batch in batches:
            attention = worker.attention() if worker is not None else None
            vectors = forward(module, self._encoder.collate(tokenized, batch), device, attention=attention)
            found.update(zip(batch.rows, vectors, strict=False))  # there may be more vectors than rows
        return found

    def _batches_with_room(self, tokenized: TokenizedTexts, rows: Sequence[int], device: str) -> Sequence[Batch]:
        """Batches that are predicted to fit beside what is on the device; empty if not even single rows fit."""
        predictor = self._predictor
        if predictor is None:
            return ()
        self._accelerator.empty_caches()
        room = int((self._accelerator.memory(device).free_bytes or 0) * (1 - RESERVE_SHARE))
        for tokens in (self._most_tokens, 1):
            batches = self._batches(tokenized, rows, within(tokens))
            largest = max(batches, key=lambda batch: batch.padded_tokens)
            if predictor.fits(len(largest.rows), max(1, largest.padded_length), room):
                return batches
        return ()

    def _batches(self, tokenized: TokenizedTexts, rows: Sequence[int], rows_for: RowsFor) -> list[Batch]:
        lengths = [len(tokenized.ids[row]) for row in rows]
        return [
            replace(batch, rows=tuple(rows[place] for place in batch.rows))
            for batch in self._encoder.plan_lengths(lengths, rows_for)
        ]

    @property
    def _most_tokens(self) -> int:
        """The tokens of a batch."""
        staged = self._encoder.staged
        return min(_TOKENS, tokens_of_words(staged.dim)) if staged.predicts_words else _TOKENS

    @functools.cached_property
    def _predictor(self) -> Predictor | None:
        """Predictions for the model in float32; None where its memory cannot be predicted."""
        card = self._accelerator.card
        try:
            blueprint = replace(blueprint_of(self._encoder.staged.spec), input_names=self._encoder.input_names)
            return Predictor(tracer_of(blueprint, "float32", card), card)
        except PredictionError:
            return None
