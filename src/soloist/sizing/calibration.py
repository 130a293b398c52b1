"""Measures the token budget of a model on this machine: the smallest that is about as fast as the fastest.

Every candidate gets the same kind of work: rows of a few lengths with the same tokens, in full batches, as many for
each worker. Only the size of the batches differs, not how well they divide a shard.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import itertools
import math
import random
import signal
import statistics
import string
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from soloist.config import CalibrationConfig
from soloist.devices import Accelerator, DeviceLease, open_accelerator
from soloist.devices.locks import LOCK_DIR
from soloist.encoding.encoder import Encoder
from soloist.encoding.replicas import Replicas
from soloist.encoding.tokenizing import TokenizedTexts
from soloist.errors import ConfigError
from soloist.events import BatchEncoded, BudgetMeasured, Event, EventSink, Notice
from soloist.memory.planner import BatchLimits
from soloist.sizing.batch_limits import planned_model
from soloist.sizing.budgets import Budget, CalibrationCache, CalibrationRecord, TableRow, table_row
from soloist.sizing.measurements import MeasurementCache, device_key
from soloist.sizing.run_plan import plan_run
from soloist.staging import import_libraries, select_models, stage_all
from soloist.stopping import first_interrupt_only
from soloist.types import Batch

# Rates this close count as equal: a smaller batch takes less memory, and noise should not change the choice.
TOLERANCE = 0.03
ROUNDS = 3
# Typical lengths of chunks. A row longer than the smallest budget would be a batch of its own for several budgets.
LENGTHS = (32, 128, 512)
# A budget above the table's is left out if its batches take longer than this many measurements: such a slow model is
# saturated by smaller ones.
_MOST_SAMPLES = 10
_WORDS, _WORDS_A_TEXT, _TEXTS = 4_000, 100, 500
_VERSIONS = ("soloist", "torch", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationResult:
    """The calibration of one model: the median rates in tokens a second by budget, the budget that is kept, and the
    table's for comparison.
    """

    model: str
    fingerprint: str
    dtype: str
    device: str
    rates: Mapping[int, float]
    tokens: int
    table_tokens: int
    table_source: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Load:
    """The work for one candidate: its rows, and each worker's batches of them. `shape` is rows by length."""

    budget: int
    shape: tuple[tuple[int, int], ...]
    tokenized: TokenizedTexts
    batches: tuple[Batch, ...]

    @property
    def tokens(self) -> int:
        return sum(batch.padded_tokens for batch in self.batches)


class _WithoutBatches:
    """An event sink without batches: here they do not belong to a pass."""

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink

    def emit(self, event: Event) -> None:
        if not isinstance(event, BatchEncoded):
            self._sink.emit(event)


def calibrate(
    config: CalibrationConfig, sink: EventSink, clock: Callable[[], float] = time.time
) -> tuple[CalibrationResult, ...]:
    """Measure the budget of each model on leased devices, and keep it for later runs and plans.

    `clock` gives seconds since 1970. In the main thread, Ctrl-C and SIGTERM end the calibration. The budgets of models
    that are done are kept.

    Raises:
        SoloistError: a model, the devices or the cache folder cannot be used.
    """
    with first_interrupt_only((signal.SIGINT, signal.SIGTERM)):
        specs = select_models(config)
        words = [name for name, spec in specs.items() if spec.kind == "lexical"]
        if words:
            raise ConfigError(f"{words[0]} is words and has no batches to measure: leave it out of --models")
        accelerator = open_accelerator(config.accelerator, config.lock_dir or LOCK_DIR)
        if accelerator.kind == "simulated":
            message = "it computes on this machine's processor: the budgets measured here are for simulated runs only"
            sink.emit(Notice(about=config.accelerator, message=message))
        import_libraries(specs.values(), accelerator)
        staged = stage_all(specs, config, accelerator, sink)
        encoders = [Encoder(model, packs=accelerator.packs_rows) for model in staged.values()]
        return tuple(_calibrate(encoder, accelerator, config, sink, clock) for encoder in encoders)


def smallest_near_best(rates: Mapping[int, Sequence[float]], tolerance: float = TOLERANCE) -> int:
    """The smallest budget whose median rate is within `tolerance`, a share, of the best rate."""
    medians = {budget: statistics.median(of_budget) for budget, of_budget in rates.items()}
    best = max(medians.values())
    return min(budget for budget, rate in medians.items() if rate >= (1 - tolerance) * best)


def _calibrate(
    encoder: Encoder,
    accelerator: Accelerator,
    config: CalibrationConfig,
    sink: EventSink,
    clock: Callable[[], float],
) -> CalibrationResult:
    staged, device = encoder.staged, device_key(accelerator)
    row = table_row(accelerator.kind, staged.is_static, staged.predicts_words)
    rates = _measure(encoder, row, accelerator, config, sink)
    result = CalibrationResult(
        model=staged.spec.name,
        fingerprint=staged.fingerprint,
        dtype=staged.dtype,
        device=device,
        rates={budget: statistics.median(of_budget) for budget, of_budget in rates.items()},
        tokens=smallest_near_best(rates),
        table_tokens=row.tokens,
        table_source=row.source,
    )
    record = CalibrationRecord(
        tokens=result.tokens,
        rates={str(budget): rate for budget, rate in result.rates.items()},
        date=datetime.datetime.fromtimestamp(clock(), datetime.timezone.utc).isoformat(timespec="seconds"),
        versions={name: importlib.metadata.version(name) for name in _VERSIONS},
    )
    CalibrationCache(config.cache_dir).record(staged.fingerprint, staged.dtype, device, record)
    return result


def _measure(
    encoder: Encoder, row: TableRow, accelerator: Accelerator, config: CalibrationConfig, sink: EventSink
) -> dict[int, list[float]]:
    """The rates of every candidate, one a round, in tokens a second."""
    name = encoder.staged.spec.name
    loads = _loads(encoder, row, accelerator, MeasurementCache(config.cache_dir), sink)
    lease = DeviceLease(
        accelerator, [name], sink, lock_dir=config.lock_dir, timeout_seconds=config.lease_timeout_seconds
    )  # fmt: skip
    with lease, Replicas(encoder.staged, encoder, accelerator, _WithoutBatches(sink)) as replicas:
        _rate(replicas, loads[0], 1)  # the very first call is slower
        repeats = _repeats(loads, _rate(replicas, loads[0], 1), row.tokens, config.sample_seconds)
        rates: dict[int, list[float]] = {budget: [] for budget in repeats}
        tried = [load for load in loads if load.budget in repeats]
        for number in range(ROUNDS):
            # Every other round goes backwards, so that a machine that gets slower or faster favours no budget.
            for load in tried if number % 2 == 0 else reversed(tried):
                rate = _rate(replicas, load, repeats[load.budget])
                rates[load.budget].append(rate)
                sink.emit(
                    BudgetMeasured(
                        model=name, token_budget=load.budget, tokens_per_second=rate, round=number + 1, rounds=ROUNDS
                    )
                )
    return rates


def _rate(replicas: Replicas, load: _Load, repeats: int) -> float:
    ids = [f"row {index}" for index in range(len(load.tokenized.ids))]
    began = time.perf_counter()
    replicas.encode(ids, load.tokenized, load.batches * repeats)
    return load.tokens * repeats / (time.perf_counter() - began)


def _repeats(loads: Sequence[_Load], rate: float, table_tokens: int, sample_seconds: float) -> dict[int, int]:
    """How often a measurement repeats each candidate's batches. Candidates that would take too long are left out."""
    return {
        load.budget: max(1, math.ceil(sample_seconds * rate / load.tokens))
        for load in loads
        if load.budget <= table_tokens or load.tokens <= _MOST_SAMPLES * sample_seconds * rate
    }


def _loads(
    encoder: Encoder, row: TableRow, accelerator: Accelerator, measurements: MeasurementCache, sink: EventSink
) -> list[_Load]:
    """The work of each candidate. A candidate is left out if memory bounds its batches to those of a smaller one."""
    budget = Budget(tokens=row.tokens, source="table", device=device_key(accelerator))
    model = planned_model(encoder, budget, accelerator, measurements, sink)
    limits = plan_run([model], "exclusive", accelerator.card).limits[model.name]
    stream = _token_stream(encoder, row.largest)
    workers = accelerator.workers * len(accelerator.devices)
    loads: dict[object, _Load] = {}
    for candidate in row.candidates:
        load = _load(replace(limits, token_budget=candidate), stream, model.max_tokens, workers)
        loads.setdefault(load.shape, load)
    return list(loads.values())


def _load(limits: BatchLimits, stream: NDArray[np.int32], max_tokens: int | None, workers: int) -> _Load:
    lengths = sorted({min(length, max_tokens or length) for length in LENGTHS})
    shape = tuple((length, limits.rows(length)) for length in lengths)
    starts = [0, *itertools.accumulate(rows for _, rows in shape)]
    ids = [stream[at * length : (at + 1) * length] for length, rows in shape for at in range(rows)]
    batches = [
        Batch(rows=tuple(range(start, start + rows)), padded_length=length)
        for start, (length, rows) in zip(starts, shape, strict=False)
        for _ in range(workers)
    ]
    tokenized = TokenizedTexts(ids=tuple(ids), dropped=(0,) * len(ids))
    return _Load(budget=limits.token_budget, shape=shape, tokenized=tokenized, batches=tuple(batches))


def _token_stream(encoder: Encoder, count: int) -> NDArray[np.int32]:
    """So many token ids of made-up texts, in one array. They are always the same, and of many words."""
    generator = random.Random(0)
    words = ["".join(generator.choices(string.ascii_lowercase, k=generator.randint(2, 9))) for _ in range(_WORDS)]
    texts = [" ".join(generator.choices(words, k=_WORDS_A_TEXT)) for _ in range(_TEXTS)]
    return np.resize(np.concatenate(encoder.tokenize(texts).ids), count)
