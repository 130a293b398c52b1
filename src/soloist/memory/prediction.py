"""The memory of a pass before it runs: weights, activations and peak, from a blueprint, a dtype and a card.

    predict(BUILT_IN.get("bge-m3"), "float16", rows=8, length=512, card=CARDS["T4"]).peak_bytes

Traces are replayed in a model of the card's own allocator, beside the weights as a replica lays them out. Knows
blueprints, networks and cards; reads no weights and touches no device.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from soloist.errors import PredictionError
from soloist.memory.allocator import Allocator, CachingAllocator, IdealAllocator
from soloist.memory.cards import Card
from soloist.models.blueprint import Blueprint, read_blueprint, table_shape
from soloist.models.location import WORDLLAMA_WEIGHTS, find_settings
from soloist.models.spec import ModelSpec
from soloist.types import DType

if TYPE_CHECKING:
    from soloist.memory.tracing import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class PassMemory:
    """The memory of one batch on one device, in bytes.

    - `weights_bytes` are the model's own tensors.
    - `resident_bytes` are all weights on the device as the allocator counts them, with the matrix library's workspace.
    - `peak_bytes` is what `max_memory_allocated` should show.
    - `reserved_bytes` is what the allocator takes from the driver. The process's context comes on top.
    """

    weights_bytes: int
    resident_bytes: int
    peak_bytes: int
    reserved_bytes: int

    @property
    def activations_bytes(self) -> int:
        """The memory of the batch itself at its peak."""
        return self.peak_bytes - self.resident_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedPoint:
    """The activations of a batch, as traced."""

    rows: int
    length: int
    activations_bytes: int

    @property
    def bytes_per_token(self) -> float:
        """Activations for each padded token."""
        return self.activations_bytes / (self.rows * self.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakCurve:
    """Activations as a linear and a quadratic term in the tokens of a row, between traced points.

    Bytes per token are a straight line between neighbouring points, so the bytes of a row have a linear and a quadratic
    term there. The true figure is the largest of several such forms. Such a figure is convex, so the line is never
    below it.
    """

    points: tuple[TracedPoint, ...]

    def terms(self, length: int) -> tuple[float, float]:
        """The coefficients of `length` and of its square, in bytes a row, near a length."""
        points = self.points
        if len(points) == 1:
            return points[0].bytes_per_token, 0.0
        high = next((i for i in range(1, len(points) - 1) if points[i].length >= length), len(points) - 1)
        low, up = points[high - 1], points[high]
        slope = (up.bytes_per_token - low.bytes_per_token) / (up.length - low.length)
        return up.bytes_per_token - slope * up.length, slope

    def activations_bytes(self, rows: int, length: int) -> float:
        """The memory of a batch beside the weights."""
        linear, quadratic = self.terms(length)
        return rows * (linear * length + quadratic * length * length)


class Tracer:
    """The traces of one model in one dtype with one card's attention kernels, made on demand and kept.

    Safe to use from several threads.

    Raises:
        PredictionError: the network cannot be built from the blueprint.
    """

    def __init__(self, blueprint: Blueprint, dtype: DType, card: Card) -> None:
        from soloist.memory.network import Network, network_to_trace  # imports transformers, which tables do without

        self.weights = Network(blueprint, dtype).weights()
        self.uses_matrix_library = not blueprint.is_static
        self._card = card
        # Built now and not on demand: transformers changes the process's default dtype while it builds.
        self._network = network_to_trace(blueprint, dtype, card)
        self._traces: dict[tuple[int, int, bool], Trace] = {}
        self._points: dict[int, TracedPoint] = {}
        self._lock = threading.Lock()

    def traces(self, rows: int, length: int, *, masked: bool | None = None) -> tuple[Trace, ...]:
        """The trace of a batch with padded rows, or without; both where `masked` is None.

        A mask takes memory of its own, and may change the attention kernel. A static model has no mask.
        """
        ways = (True, False) if masked is None else (masked,)
        return tuple(self._trace(rows, length, way) for way in (ways if self.uses_matrix_library else (True,)))

    def reference(self, length: int) -> tuple[int, tuple[Trace, ...]]:
        """A number of rows, and the traces of such a batch: with many tokens the rounding of storages vanishes."""
        rows = max(2, _REFERENCE_TOKENS // length)
        return rows, self.traces(rows, length)

    def point(self, length: int) -> TracedPoint:
        """The activations of the reference batch, kept: a plan asks a thousand times for a few lengths."""
        if length not in self._points:
            rows, traces = self.reference(length)
            peak_bytes = max(trace.peak_bytes for trace in traces)
            self._points[length] = TracedPoint(rows=rows, length=length, activations_bytes=peak_bytes)
        return self._points[length]

    def _trace(self, rows: int, length: int, masked: bool) -> Trace:
        key = (rows, length, masked)
        with self._lock:
            if key not in self._traces:
                self._traces[key] = self._network.trace(rows, length, self._card, masked=masked)
            return self._traces[key]


class Predictor:
    """Predictions for one model on one card. `residents` are the bytes of other models' tensors on the device."""

    def __init__(self, tracer: Tracer, card: Card, *, residents: Sequence[int] = ()) -> None:
        self.card = card
        self.tracer = tracer
        self.weights = tracer.weights
        self._residents = tuple(residents)
        self._resident_bytes: int | None = None

    def predict(self, rows: int, length: int, *, masked: bool | None = None) -> PassMemory:
        """The memory of a batch of `rows` rows of `length` tokens.

        `masked` says whether a row is padded. Where that is not known, the worse case counts.
        """
        memories = [self.replayed(trace) for trace in self.tracer.traces(rows, length, masked=masked)]
        return max(memories, key=lambda memory: (memory.peak_bytes, memory.reserved_bytes))

    def fits(self, rows: int, length: int, limit_bytes: int) -> bool:
        """Whether a batch fits where the allocator may take no more than `limit_bytes` from the driver."""
        allocator = self._loaded(limit_bytes)
        if allocator is None:
            return False
        traced_rows, traces = self.tracer.reference(length)
        workspace = self.card.workspace_bytes
        for trace in traces:
            if not trace.replay(allocator, workspace, scale=(rows, traced_rows)):
                return False
            allocator.empty_cache()
            workspace = 0  # the first pass made it
        return True

    def resident_bytes(self) -> int:
        """All weights on the device and the workspace, as the allocator reserves them."""
        if self._resident_bytes is None:
            allocator = self._loaded(None)
            assert allocator is not None
            if self.tracer.uses_matrix_library and self.card.workspace_bytes:
                allocator.allocate(self.card.workspace_bytes)
            self._resident_bytes = allocator.reserved
        return self._resident_bytes

    def curve(self, lengths: Sequence[int]) -> PeakCurve:
        """The curve through these lengths."""
        return PeakCurve(points=tuple(self.tracer.point(length) for length in sorted(set(lengths))))

    def replayed(self, trace: Trace) -> PassMemory:
        """The memory of a pass with these requests beside the weights."""
        allocator = self._loaded(None)
        assert allocator is not None
        trace.replay(allocator, self.card.workspace_bytes)
        resident = allocator.allocated  # the weights, and the workspace where there is one
        return PassMemory(
            weights_bytes=self.weights.total_bytes,
            resident_bytes=resident,
            peak_bytes=allocator.peak_allocated,
            reserved_bytes=allocator.peak_reserved,
        )

    def _loaded(self, limit_bytes: int | None) -> Allocator | None:
        """The card's allocator with all weights in it; None where they do not fit."""
        allocator = new_allocator(self.card, limit_bytes)
        if any(allocator.allocate(size) is None for size in (*self._residents, *self.weights.sizes_bytes)):
            return None
        return allocator


def new_allocator(card: Card, limit_bytes: int | None) -> Allocator:
    """An empty allocator of the card's kind that takes no more than `limit_bytes` from the driver."""
    taken = [0]

    def take(size: int) -> bool:
        if limit_bytes is not None and taken[0] + size > limit_bytes:
            return False
        taken[0] += size
        return True

    def give_back(size: int) -> None:
        taken[0] -= size

    return (CachingAllocator if card.caches else IdealAllocator)(take, give_back)


def blueprint_of(spec: ModelSpec) -> Blueprint:
    """The blueprint of a model: from its files where they are on this machine, else from the catalogue.

    Raises:
        PredictionError: there is neither, or the files are incomplete.
    """
    folder = find_settings(spec)
    if folder is not None:
        blueprint = _wordllama(folder) if spec.loader == "wordllama" else read_blueprint(folder)
        blueprint = replace(blueprint, head=spec.head)
        known = spec.blueprint
        return replace(blueprint, checkpoint_bytes=known.checkpoint_bytes) if known is not None else blueprint
    if spec.blueprint is None:
        raise PredictionError(
            f"nothing is known of the network of {spec.name}, whose files are not on this machine: attach them and "
            f'name their folder as source under [models."{spec.name}"] in a catalogue'
        )
    return spec.blueprint


def predict(spec: ModelSpec, dtype: DType, *, rows: int, length: int, card: Card) -> PassMemory:
    """The memory of a batch of a model on a card, from the model's files or the catalogue. Traces are kept.

    Raises:
        PredictionError: nothing is known of the model's network.
    """
    return Predictor(tracer_of(blueprint_of(spec), dtype, card), card).predict(rows, length)


def tracer_of(blueprint: Blueprint, dtype: DType, card: Card) -> Tracer:
    """The tracer for a model on cards that run the same kernels, one for the process.

    Raises:
        PredictionError: the network cannot be built from the blueprint.
    """
    key = (blueprint.digest, dtype, card.capability, card.multiprocessors)
    with _tracers_lock:
        if key not in _tracers:
            _tracers[key] = Tracer(blueprint, dtype, card)
        return _tracers[key]


_REFERENCE_TOKENS = 4096
_tracers: dict[tuple[object, ...], Tracer] = {}
_tracers_lock = threading.Lock()


def _wordllama(folder: Path) -> Blueprint:
    return Blueprint(
        static_shape=table_shape(folder / WORDLLAMA_WEIGHTS), input_names=("input_ids", "offsets"), source=str(folder)
    )
