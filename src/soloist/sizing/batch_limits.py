"""The memory of a run: predicted before it, and compared with the devices after it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from soloist.config import RunConfig
from soloist.devices import Accelerator
from soloist.encoding.encoder import Encoder
from soloist.errors import PredictionError, SoloistError
from soloist.events import EventSink, MemoryPlanned, Notice, PeakCompared, PeakPredicted
from soloist.memory.planner import memory_limit
from soloist.memory.prediction import PassMemory, Tracer, blueprint_of, tracer_of
from soloist.sizing.budgets import Budget
from soloist.sizing.measurements import MeasurementCache, device_key
from soloist.sizing.run_plan import PlannedModel, RunPlan, plan_run
from soloist.types import Batch

# A prediction that is off by more than this share is marked in its event.
MISS_SHARE = 0.10
_PROBE_TOKENS = 128


def plan_memory(
    config: RunConfig,
    encoders: Mapping[str, Encoder],
    budgets: Mapping[str, Budget],
    accelerator: Accelerator,
    measurements: MeasurementCache,
    sink: EventSink,
    growths: Mapping[str, float] | None = None,
) -> RunPlan:
    """The plan of a run, with batches that should fit into memory. Each model's prediction is an event.

    `growths` are by model what another process has measured (see `PlannedModel`), in the place of `measurements`.

    On the CPU only the token budget limits a batch. The same holds for a model whose memory cannot be predicted, and a
    notice says so.
    """
    firsts = {name: encoder.staged.spec.name for name, encoder in encoders.items()}
    companions = {name: first for name, first in firsts.items() if name != first}  # one encoder serves both
    names = [name for name in encoders if name not in companions]
    models = [planned_model(encoders[name], budgets[name], accelerator, measurements, sink) for name in names]
    if growths is not None:
        models = [replace(model, growth=growths.get(model.name, 1.0)) for model in models]
    plan = plan_run(models, config.mode, accelerator.card).with_companions(companions)
    for name, predictor in plan.predictors.items():
        sink.emit(
            MemoryPlanned(
                model=name,
                card=accelerator.card.name,
                token_budget=plan.budgets[name].tokens,
                budget_source=plan.budgets[name].source,
                weights_bytes=predictor.weights.total_bytes,
                resident_bytes=predictor.resident_bytes(),
                limit_bytes=memory_limit(accelerator.card),
            )
        )
    return plan


def planned_model(
    encoder: Encoder, budget: Budget, accelerator: Accelerator, measurements: MeasurementCache, sink: EventSink
) -> PlannedModel:
    """The facts about a staged model that the plan needs. A notice says so where its network cannot be traced."""
    staged = encoder.staged
    known = measurements.of(staged.fingerprint, staged.dtype, device_key(accelerator))
    plain = PlannedModel(
        name=staged.spec.name,
        budget=budget,
        max_tokens=staged.max_tokens,
        weight_sizes=tuple(tensor.nbytes for tensor in (*staged.module.parameters(), *staged.module.buffers())),
    )
    if not accelerator.copies_weights:
        return plain
    try:
        tracer = _tracer(encoder, accelerator)
    except PredictionError as exc:
        sink.emit(Notice(about=staged.spec.name, message=f"its memory is not predicted: {exc}"))
        return plain
    return replace(plain, tracer=tracer, growth=known.growth)


def _tracer(encoder: Encoder, accelerator: Accelerator) -> Tracer:
    staged = encoder.staged
    blueprint = replace(blueprint_of(staged.spec), input_names=encoder.input_names)
    tracer = tracer_of(blueprint, staged.dtype, accelerator.card)
    if tracer.weights.total_bytes != staged.weights_bytes:
        raise PredictionError(
            f"its configuration describes {tracer.weights.total_bytes:,} bytes of weights, but its "
            f"weights have {staged.weights_bytes:,}"
        )
    # Traced now, so that a network that cannot be traced gives a notice here and does not end a pass.
    tracer.reference(min(_PROBE_TOKENS, staged.max_tokens or _PROBE_TOKENS))
    return tracer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """The shape of a batch, and whether a row of the batch is padded; None where that is not known."""

    rows: int
    length: int
    masked: bool | None


class PeakWatch:
    """Remembers each model's batches that should need most memory, to compare their prediction with the device.

    The largest batch with padding and the largest without are two batches. Without padding there is no mask, and a mask
    of long rows may take more memory than all else of a small model.
    """

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        # By model and `masked`: what the largest such batch should need, and its shape.
        self._largest: dict[str, dict[bool | None, tuple[float, _Shape]]] = {}

    def see(self, model: str, batches: Sequence[Batch], masked: Sequence[bool] = ()) -> None:
        """Remember the largest of a shard's batches. `masked` says which batches have padded rows, if that is known."""
        bounds = self._plan.limits[model].bounds
        largest = self._largest.setdefault(model, {})
        shapes = {_shape_of(batch, mask) for batch, mask in itertools.zip_longest(batches, masked)}
        for shape in shapes if bounds else ():
            need = bounds[-1].curve(shape.length).activations_bytes(shape.rows, shape.length)
            if shape.masked not in largest or need > largest[shape.masked][0]:
                largest[shape.masked] = need, shape

    def needed_bytes(self, model: str) -> int:
        """What the largest batch and all weights on the device should need; 0 if nothing is predicted."""
        predictor, largest = self._plan.predictors.get(model), self._largest.get(model)
        if predictor is None or not largest:
            return 0
        return predictor.resident_bytes() + int(max(need for need, _ in largest.values()))

    def predict(self, model: str) -> PassMemory | None:
        """The predicted memory of the largest batch so far; None where nothing is predicted."""
        predictor, largest = self._plan.predictors.get(model), self._largest.get(model)
        if predictor is None or not largest:
            return None
        shapes = [shape for _, shape in largest.values()]
        predicted = [predictor.predict(shape.rows, max(1, shape.length), masked=shape.masked) for shape in shapes]
        return max(predicted, key=lambda memory: memory.peak_bytes)


def _shape_of(batch: Batch, masked: bool | None) -> _Shape:
    return _Shape(rows=len(batch.rows), length=batch.padded_length, masked=masked)


def compare_peaks(
    watch: PeakWatch, models: Sequence[str], peaks: Mapping[str, int], splits: Mapping[str, int], sink: EventSink
) -> None:
    """Compare the predicted peak of a pass with the devices'. Models that share a pass share its peak.

    The device with the highest peak is compared. If a pass split batches, only the prediction is reported, because the
    pass never ran the batch that the prediction is for.
    """
    try:
        predicted = [memory for model in models if (memory := watch.predict(model)) is not None]
    except PredictionError as exc:
        sink.emit(
            Notice(about=", ".join(models), message=f"the predicted peak is not compared with the measured one: {exc}")
        )
        return
    if len(predicted) < len(models):
        return
    worst = max(predicted, key=lambda memory: memory.peak_bytes)
    if any(splits.get(model) for model in models):
        sink.emit(
            PeakPredicted(models=tuple(models), predicted_bytes=worst.peak_bytes, resident_bytes=worst.resident_bytes)
        )
        return
    device = max(peaks, key=lambda name: peaks[name])
    sink.emit(
        PeakCompared(
            models=tuple(models),
            device=device,
            predicted_bytes=worst.peak_bytes,
            measured_bytes=peaks[device],
            resident_bytes=worst.resident_bytes,
            missed=abs(peaks[device] / worst.peak_bytes - 1) > MISS_SHARE,
        )
    )


def remember(
    measurements: MeasurementCache,
    encoder: Encoder,
    device_name: str,
    compared: PeakCompared | None,
    *,
    tokens: int,
    rate: float,
    sink: EventSink,
) -> None:
    """Keep a run's measurements for the next plan on this machine. A cache that cannot be written gives a notice."""
    staged = encoder.staged
    before = measurements.of(staged.fingerprint, staged.dtype, device_name)
    now = replace(before, runs=before.runs + 1)
    if tokens >= before.tokens:  # few chunks would measure the warm-up
        now = replace(now, tokens_per_second=rate, tokens=tokens)
    if compared is not None:
        now = replace(
            now,
            predicted_bytes=compared.predicted_bytes,
            measured_bytes=compared.measured_bytes,
            resident_bytes=compared.resident_bytes,
        )
    try:
        measurements.record(staged.fingerprint, staged.dtype, device_name, now)
    except SoloistError as exc:
        sink.emit(
            Notice(about="measurements", message=f"the measurements of this run are not kept for later plans: {exc}")
        )
