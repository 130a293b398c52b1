"""What a run did, read from its events: the content of `run.json`."""

from __future__ import annotations

import dataclasses
import datetime
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from soloist.config import RunConfig
from soloist.engine.tally import Tally, WordsReport, words_report
from soloist.events import (
    BatchSplit,
    ChunksRemoved,
    Event,
    InputPassedOver,
    InputScanned,
    LeaseAcquired,
    LeaseReleased,
    Notice,
    PassFinished,
    PeakCompared,
    RowsRecomputed,
    RunFinished,
    RunStarted,
    ShardEncoded,
    ShardsKept,
    TextsLeftOut,
)
from soloist.fusion import FusionPlan, HybridPlan
from soloist.memory.planner import BatchLimits, Reason
from soloist.models.loading import StagedModel
from soloist.shown import ShownByModel
from soloist.sizing.budgets import Budget
from soloist.sizing.run_plan import RunPlan
from soloist.types import Matmul, MemberKind, MemoryStats
from soloist.words import Analyser

FORMAT = 2
_NOTHING_PASSED_OVER = InputPassedOver(files=0, by_reason={}, first=())


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """One end of a lease. `timestamp` is in seconds since 1970, `memory` per device."""

    timestamp: float
    event_type: str
    models: tuple[str, ...]
    devices: tuple[str, ...]
    memory: Mapping[str, MemoryStats]


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthLimit:
    """The most rows that the planner allows in a batch of one padded length, and what keeps it from being more."""

    padded_length: int
    rows: int
    limited_by: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizes:
    """Rows in the batches as planned; `splits` counts those that did not fit and were halved.

    `planned` is what the planner allows in a batch of rows of the median length, were there enough of them, and
    `limited_by` what keeps it from being more: `saturation` of the device, or its `memory`. `limits` are the same
    for every padded length that occurred.
    """

    smallest: int
    median: float
    largest: int
    batches: int
    splits: int
    planned: int
    limited_by: Reason
    limits: tuple[LengthLimit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """One model's part in a run. Figures without a word on it are of the chunks that were embedded now.

    Attributes:
        matryoshka_dims: those that the model was trained to be cut to.
        files: the sha256 of each file of the model that decides its vectors, by its path in the model's folder.
        matmul: the library that multiplied, `torch`, `onednn` or `onednn+numpy`; on devices it is `torch`.
        chunks: all chunks. The next five are parts of them.
        embedded: went through the model now.
        kept: were finished by an earlier session.
        reused: have vectors from an earlier state of the run or from another run.
        from_others: those of `reused` that are from another run.
        repeated: have the text of another chunk.
        tokens: of all chunks, with prompts and special tokens, after truncation. So are the two `truncated` figures.
            Kept shards that an earlier version wrote are left out, with a notice.
        padding_share: the share of computed tokens that were padding.
        budget: what the batches were planned with.
        seconds: tokenizing and encoding, without loading, of the shards that had rows to embed.
        peak_bytes: over the model's lease, which all models share in standard mode.
        predicted_peak_bytes: what was predicted for it, or None.
    """

    name: str
    source: str
    revision: str | None
    fingerprint: str
    dim: int
    dtype: str
    matmul: Matmul
    max_tokens: int | None
    document_prompt: str
    query_prompt: str
    licence: str | None
    weight: float | None
    matryoshka_dims: tuple[int, ...] = ()
    chunks: int
    embedded: int
    kept: int
    reused: int
    from_others: int
    repeated: int
    tokens: int
    padded_tokens: int
    padding_share: float
    truncated_rows: int
    truncated_tokens: int
    budget: Budget
    batch_sizes: BatchSizes
    recomputed_rows: int
    seconds: float
    chunks_per_second: float
    peak_bytes: Mapping[str, int]
    predicted_peak_bytes: int | None
    rows_per_device: Mapping[str, int]
    device_shares: Mapping[str, float]
    kind: MemberKind = "dense"
    files: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as `run.json` has it: with the kind only where it is not dense."""
        values = dataclasses.asdict(self)
        if self.kind == "dense":
            del values["kind"]
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionReport:
    """One collection's part in a run. `removed` counts the ids that the run had before and has no more: also
    those of chunks that moved, where the ids are derived from file and index. `without_vector` counts those of the
    skipped that were left out because of a model, by that model.
    """

    name: str
    files: int
    chunks: int
    skipped: int
    removed: int = 0
    without_vector: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult(ShownByModel):
    """What a run did. `seconds` is everything, from the first file read to the last vector fused. `passed_over` are the
    files beside the chunk files, as `InputPassedOver` has them; None where there are none. `words` are the members that
    are words, and `hybrid` is how members of several kinds are weighed; `run.json` has neither where there are none.
    """

    config: RunConfig
    devices: tuple[str, ...]
    collections: tuple[CollectionReport, ...]
    models: tuple[ModelReport, ...]
    fusion: FusionPlan | None
    lease_events: tuple[LeaseRecord, ...]
    notices: tuple[str, ...]
    started: float
    seconds: float
    passed_over: InputPassedOver | None = None
    words: tuple[WordsReport, ...] = ()
    hybrid: HybridPlan | None = None

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready values, as `run.json` has it."""
        return {
            "format": FORMAT,
            "started": datetime.datetime.fromtimestamp(self.started, datetime.timezone.utc).isoformat(),
            "mode": self.config.mode,
            "accelerator": self.config.accelerator,
            "devices": list(self.devices),
            "config": self.config.to_dict(),
            "config_fingerprint": self.config.fingerprint(),
            "vector_dtype": self.config.vector_dtype,
            "fusion": self.fusion.to_dict() if self.fusion is not None else None,
            "weights": dict(zip(self.fusion.models, self.fusion.weights, strict=True)) if self.fusion else {},
            "collections": [dataclasses.asdict(collection) for collection in self.collections],
            "models": [model.to_dict() for model in self.models],
            **({"words": [dataclasses.asdict(member) for member in self.words]} if self.words else {}),
            **({"hybrid": self.hybrid.to_dict()} if self.hybrid is not None else {}),
            "lease_events": [dataclasses.asdict(event) for event in self.lease_events],
            "passed_over": dataclasses.asdict(self.passed_over or _NOTHING_PASSED_OVER),
            "notices": list(self.notices),
            "seconds": self.seconds,
        }


class ResultBuilder:
    """An event sink that adds up a run."""

    def __init__(self, config: RunConfig, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._started = clock()
        self._devices: tuple[str, ...] = ()
        self._collections: list[CollectionReport] = []
        self._tallies: dict[str, Tally] = {}
        self._leases: list[LeaseRecord] = []
        self._notices: list[str] = []
        self._passed_over: InputPassedOver | None = None
        self._removed: dict[str, int] = {}
        self._seconds = 0.0

    def emit(self, event: Event) -> None:
        """Take what the result needs; pass over the rest."""
        match event:
            case RunStarted():
                self._devices = event.devices
                self._tallies = {model: Tally() for model in event.models}
            case InputPassedOver():
                self._passed_over = event
            case InputScanned():
                self._collections.append(
                    CollectionReport(
                        name=event.collection, files=event.files, chunks=event.chunks, skipped=event.skipped
                    )
                )
            case TextsLeftOut():
                self._leave_out(event)
            case Notice():
                self._notices.append(f"{event.about}: {event.message}")
            case LeaseAcquired() | LeaseReleased():
                self._devices = tuple(dict.fromkeys((*self._devices, *event.devices)))  # a node may join at any time
                self._leases.append(self._record(event))
            case ShardEncoded():
                self._tallies[event.model].add(event)
            case ShardsKept():
                self._tallies[event.model].chunks += event.rows
                self._tallies[event.model].kept += event.rows
                self._tallies[event.model].whole += event.tally
            case ChunksRemoved():
                self._removed[event.collection] = event.chunks
            case RowsRecomputed():
                self._tallies[event.model].recomputed_rows += len(event.ids)
            case BatchSplit():
                self._tallies[event.model].splits += 1
            case PassFinished():
                self._tallies[event.model].peak_bytes = event.peak_bytes
            case PeakCompared():
                for model in event.models:
                    self._tallies[model].compared = event
            case RunFinished():
                self._seconds = event.seconds

    def _leave_out(self, event: TextsLeftOut) -> None:
        """Count chunks that were read, and left out afterwards, as skipped."""
        at = next(at for at, report in enumerate(self._collections) if report.name == event.collection)
        read = self._collections[at]
        self._collections[at] = dataclasses.replace(
            read, chunks=read.chunks - event.chunks, skipped=read.skipped + event.chunks, without_vector=event.by_model
        )

    def compared(self, model: str) -> PeakCompared | None:
        """What a model's prediction was worth, where it was alone on the devices."""
        compared = self._tallies[model].compared
        return compared if compared is not None and compared.models == (model,) else None

    def result(
        self,
        staged: Mapping[str, StagedModel],
        fusion: FusionPlan | None,
        plan: RunPlan,
        words: Mapping[str, Analyser] = MappingProxyType({}),
        hybrid: HybridPlan | None = None,
    ) -> RunResult:
        """The result of the run so far."""
        shares = hybrid.weights if hybrid is not None else {}
        fused = dict(zip(fusion.models, fusion.weights, strict=True)) if fusion is not None else {}
        weights = {**shares, **fused}
        return RunResult(
            config=self._config,
            devices=self._devices,
            collections=self._collection_reports(),
            models=tuple(
                _report(model, self._tallies[name], weights.get(name), self._devices, plan)
                for name, model in staged.items()
            ),
            fusion=fusion,
            lease_events=tuple(self._leases),
            notices=tuple(self._notices),
            started=self._started,
            seconds=self._seconds,
            passed_over=self._passed_over,
            words=tuple(
                words_report(name, of.language, of.fingerprint, shares.get(name), self._tallies[name])
                for name, of in words.items()
            ),
            hybrid=hybrid,
        )

    def _collection_reports(self) -> tuple[CollectionReport, ...]:
        """Those of the run, then those that are gone altogether."""
        present = {report.name for report in self._collections}
        gone = [
            CollectionReport(name=name, files=0, chunks=0, skipped=0, removed=removed)
            for name, removed in self._removed.items()
            if name not in present
        ]
        kept = [dataclasses.replace(report, removed=self._removed.get(report.name, 0)) for report in self._collections]
        return (*kept, *gone)

    def _record(self, event: LeaseAcquired | LeaseReleased) -> LeaseRecord:
        return LeaseRecord(
            timestamp=self._clock(),
            event_type="acquire" if isinstance(event, LeaseAcquired) else "release",
            models=event.models,
            devices=event.devices,
            memory=event.memory,
        )


def _report(
    model: StagedModel, tally: Tally, weight: float | None, devices: tuple[str, ...], plan: RunPlan
) -> ModelReport:
    return ModelReport(
        name=model.spec.name,
        kind=model.spec.kind,
        source=model.spec.source,
        revision=model.revision,
        fingerprint=model.fingerprint,
        dim=model.dim,
        dtype=model.dtype,
        matmul=model.matmul,
        max_tokens=model.max_tokens,
        document_prompt=model.document_prompt,
        query_prompt=model.query_prompt,
        licence=model.spec.licence,
        weight=weight,
        matryoshka_dims=model.matryoshka_dims,
        chunks=tally.chunks,
        embedded=tally.embedded,
        kept=tally.kept,
        reused=tally.reused,
        from_others=tally.from_others,
        repeated=tally.repeated,
        tokens=tally.whole.tokens,
        padded_tokens=tally.padded_tokens,
        padding_share=1 - tally.embedded_tokens / tally.padded_tokens if tally.padded_tokens else 0.0,
        truncated_rows=tally.whole.truncated_rows,
        truncated_tokens=tally.whole.truncated_tokens,
        budget=plan.budgets[model.spec.name],
        batch_sizes=_batch_sizes(tally, plan.limits[model.spec.name]),
        recomputed_rows=tally.recomputed_rows,
        seconds=tally.seconds,
        chunks_per_second=tally.embedded / tally.seconds if tally.seconds else 0.0,
        peak_bytes=dict(tally.peak_bytes),
        predicted_peak_bytes=tally.compared.predicted_bytes if tally.compared is not None else None,
        rows_per_device={device: tally.rows_per_device[device] for device in devices},
        device_shares={device: tally.rows_per_device[device] / max(1, tally.embedded) for device in devices},
        files=dict(model.contents),
    )


def _batch_sizes(tally: Tally, limits: BatchLimits) -> BatchSizes:
    sizes = sorted(tally.batch_rows.elements())
    typical = statistics.median_high(tally.padded_lengths.elements()) if tally.padded_lengths else 1
    return BatchSizes(
        smallest=sizes[0] if sizes else 0,
        median=statistics.median(sizes) if sizes else 0,
        largest=sizes[-1] if sizes else 0,
        batches=len(sizes),
        splits=tally.splits,
        planned=limits.rows(typical),
        limited_by=limits.reason(typical),
        limits=tuple(
            LengthLimit(padded_length=length, rows=limits.rows(length), limited_by=limits.reason(length))
            for length in sorted(tally.padded_lengths)
        ),
    )
