"""The second stage of a search: a cross-encoder reads the question with each of the first chunks, and reranks them.

The model is loaded once, when it is first needed. On devices it has a lease as a pass of a run has: one replica on each
device, and the memory is verified to be back. On the host's processor there is no lease. Knows models and devices;
nothing of how the first stage ranks.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soloist.devices import Accelerator, DeviceLease, open_accelerator
from soloist.devices.locks import LOCK_DIR
from soloist.encoding.batching import within
from soloist.encoding.device_workers import threads_of_a_pass
from soloist.encoding.pairs import PairEncoder, TokenizedPairs
from soloist.encoding.replicas import Replicas
from soloist.errors import EncodingError, UnknownModelError
from soloist.events import Event, LeaseWaiting, Notice
from soloist.models.catalogue import resolve
from soloist.models.cross_encoder_folders import require_reranker
from soloist.models.cross_encoders import stage_cross_encoder
from soloist.models.spec import ModelSpec
from soloist.models.user_catalogue import load_catalogue
from soloist.retrieval.rankings import Rankings
from soloist.staging import dtype_on
from soloist.types import Chunk
from soloist.wording import count_text
from soloist.workers import interruptible

# Padded tokens of a batch. A batch is halved where a device has no room for it. Each core of a host has a batch.
_DEVICE_TOKENS = 16_384
_HOST_TOKENS = 4_096
# Chunks whose texts are in memory at a time: as many questions as have so many together, and at least one.
_CANDIDATES = 20_000

Texts = Callable[[Sequence[NDArray[np.int64]]], Mapping[int, tuple[str, Chunk]]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reranked:
    """The rows of each query in the order of a cross-encoder's scores.

    `first_ranks` and `first_scores` are the first stage's, of each row in the new order; ranks count from 1. `seconds`
    is what reading and scoring the pairs took, without loading the model and waiting for devices.
    """

    rankings: Rankings
    first_ranks: Sequence[NDArray[np.int64]]
    first_scores: Sequence[NDArray[np.float64]]
    seconds: float
    device: str

    def best(self, k: int) -> Reranked:
        """The first `k` rows of each query."""
        return replace(
            self,
            rankings=Rankings(
                positions=[rows[:k] for rows in self.rankings.positions],
                scores=[scores[:k] for scores in self.rankings.scores],
            ),
            first_ranks=[ranks[:k] for ranks in self.first_ranks],
            first_scores=[scores[:k] for scores in self.first_scores],
        )


class SecondStage:
    """A cross-encoder, and the devices of this machine that it may use.

    `catalogue` is a file of the user's models. Threads may share it: they take turns.
    """

    def __init__(
        self, name: str, *, catalogue: Path | None = None, accelerator: str = "auto", lock_dir: Path | None = None
    ) -> None:
        self._spec = _found(name, catalogue)
        self._described = accelerator
        self._lock_dir = lock_dir
        self._lock = threading.Lock()
        self._notices: dict[str, None] = {}

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._spec.name

    @property
    def notices(self) -> tuple[str, ...]:
        """What was noticed so far, such as that the model cut pairs."""
        return tuple(self._notices)

    def load(self) -> None:
        """Load the model now.

        Raises:
            ModelLoadError: it cannot be loaded, or is not a cross-encoder with one score for a pair.
        """
        with self._lock:
            _ = self._encoder

    def rerank(
        self,
        queries: Sequence[str],
        first: Rankings,
        chunks_at: Texts,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Reranked:
        """The rows of the first stage in the order of this model's scores. Equal scores keep the first stage's order.

        `chunks_at` reads the chunks of some rows.

        Raises:
            ModelLoadError: as `load`.
            LeaseError: the devices cannot be leased, or are not given back.
            EncodingError: a pair does not fit on a device, or has no score.
        """
        scores: list[NDArray[np.float64]] = []
        seconds = 0.0
        with self._lock, self._on_devices(progress) as replicas:
            for some in _parts([len(positions) for positions in first.positions]):
                positions = first.positions[some]
                progress(_work_text(self.name, positions))
                chunks = chunks_at(positions) if any(map(len, positions)) else {}
                began = time.perf_counter()
                scores += self._scores(replicas, queries[some], positions, chunks)
                seconds += time.perf_counter() - began
        orders = [np.argsort(-found, kind="stable") for found in scores]
        return Reranked(
            rankings=Rankings(
                positions=[positions[order] for positions, order in zip(first.positions, orders, strict=True)],
                scores=[found[order] for found, order in zip(scores, orders, strict=True)],
            ),
            first_ranks=[order + 1 for order in orders],
            first_scores=[found[order] for found, order in zip(first.scores, orders, strict=True)],
            seconds=seconds,
            device=", ".join(self._accelerator.devices),
        )

    @contextlib.contextmanager
    def _on_devices(self, progress: Callable[[str], None]) -> Iterator[Replicas]:
        encoder, accelerator = self._encoder, self._accelerator
        sink = _Sink(self._notices, progress)
        with contextlib.ExitStack() as held:
            if accelerator.copies_weights:
                held.enter_context(DeviceLease(accelerator, [self.name], sink, lock_dir=self._lock_dir))
            threads = held.enter_context(threads_of_a_pass(accelerator))
            yield held.enter_context(Replicas(encoder.staged, encoder, accelerator, sink, threads))

    def _scores(
        self,
        replicas: Replicas,
        queries: Sequence[str],
        positions: Sequence[NDArray[np.int64]],
        chunks: Mapping[int, tuple[str, Chunk]],
    ) -> list[NDArray[np.float64]]:
        """The score of each row with its query. Equal texts are scored once, so their scores are equal."""
        pairs: dict[tuple[str, str], int] = {}
        ids: list[str] = []
        places: list[list[int]] = []
        for query, rows in zip(queries, positions, strict=True):
            places.append([])
            for row in rows.tolist():
                chunk = chunks[row][1]
                place = pairs.setdefault((query, chunk.text), len(pairs))
                places[-1].append(place)
                if place == len(ids):
                    ids.append(chunk.id)
        found = self._pair_scores(replicas, list(pairs), ids)
        return [found[each] for each in places]

    def _pair_scores(
        self, replicas: Replicas, pairs: Sequence[tuple[str, str]], ids: Sequence[str]
    ) -> NDArray[np.float64]:
        if not pairs:
            return np.empty(0, np.float64)
        tokenized = self._encoder.tokenize(pairs)
        self._tell_cut(tokenized)
        tokens = _DEVICE_TOKENS if self._accelerator.copies_weights else _HOST_TOKENS
        batches = self._encoder.plan_lengths(tokenized.lengths, within(tokens))
        scores = np.asarray(replicas.encode(ids, tokenized, batches).rows(), np.float64)[:, 0]
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            raise EncodingError(_no_score_text(self._encoder, len(bad), ids[bad[0]]))
        return scores

    def _tell_cut(self, tokenized: TokenizedPairs) -> None:
        cut, pairs = sum(tokenized.dropped), len(tokenized.dropped)
        if cut:
            self._notices[
                f"{self.name} reads {self._encoder.staged.max_tokens} tokens of a question and a chunk together: it "
                f"cut {cut:,} of {count_text(pairs, 'pair')}"
            ] = None

    @functools.cached_property
    def _accelerator(self) -> Accelerator:
        return open_accelerator(self._described, self._lock_dir or LOCK_DIR)

    @functools.cached_property
    def _encoder(self) -> PairEncoder:
        # float32 unless a catalogue says otherwise: with fewer digits, scores that differ would be equal.
        requested = self._spec.dtype if self._spec.dtype != "auto" else "float32"
        dtype = dtype_on(self._accelerator, self._spec, requested)
        staged = interruptible(functools.partial(stage_cross_encoder, self._spec, dtype))  # it may be downloaded
        for message in staged.notices:
            self._notices[f"{self.name}: {message}"] = None
        return PairEncoder(staged)


class _Sink:
    """Keeps the notices of a lease and of replicas, and tells who waits for a device."""

    def __init__(self, notices: dict[str, None], progress: Callable[[str], None]) -> None:
        self._notices = notices
        self._progress = progress

    def emit(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, Notice):
            self._notices[f"{event.about}: {event.message}"] = None
        elif isinstance(event, LeaseWaiting):
            self._progress(f"waiting for {event.device}, which {event.holder} holds")


def _found(name: str, catalogue: Path | None) -> ModelSpec:
    try:
        spec = resolve(name, load_catalogue(catalogue))
    except UnknownModelError as exc:
        if os.sep in name or name.startswith((".", "~")):  # its message says what is wrong with the folder
            raise
        raise UnknownModelError(
            f"the cross-encoder {name!r} is not found: give its folder, its name in a catalogue, or a hub id such as "
            "org/name"
        ) from exc
    require_reranker(spec)
    return spec


def _parts(candidates: Sequence[int]) -> Iterator[slice]:
    """Neighbouring queries with so many candidates together as are read at a time, or one query with more."""
    first = together = 0
    for query, count in enumerate(candidates):
        if together + count > _CANDIDATES and query > first:
            yield slice(first, query)
            first, together = query, 0
        together += count
    if len(candidates) > first:
        yield slice(first, len(candidates))


def _no_score_text(encoder: PairEncoder, pairs: int, first: str) -> str:
    name, dtype = encoder.staged.spec.name, encoder.staged.dtype
    wider = f'set dtype = "float32" under [models."{name}"] in a catalogue, or ' if dtype != "float32" else ""
    return (
        f"{name} gives NaN or infinity in {dtype} as the score of {count_text(pairs, 'pair')}, the first of them with "
        f"the chunk {first!r}: {wider}choose another cross-encoder"
    )


def _work_text(name: str, positions: Sequence[NDArray[np.int64]]) -> str:
    chunks = count_text(sum(map(len, positions)), "chunk")
    return f"reranking {chunks} for {count_text(len(positions), 'question')} by {name}"
