"""The plan's scenarios, run: what each of them leaves becomes evidence, also where it fails.

Works on a sample of the user's own chunks. Knows the engine and the command lines; judges nothing.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from soloist.arrays import Vectors
from soloist.config import RunConfig, SourceConfig
from soloist.devices import Accelerator, DeviceLease, open_accelerator
from soloist.devices.locks import LOCK_DIR
from soloist.engine import RunResult, run
from soloist.engine.result import ModelReport
from soloist.errors import ConfigError, OutputError
from soloist.events import (
    BatchEncoded,
    Event,
    EventSink,
    LeaseAcquired,
    LeaseReleased,
    ListSink,
    Notice,
    ShardEncoded,
)
from soloist.models.loading import StagedModel
from soloist.models.spec import ModelSpec
from soloist.staging import select_models, stage_all
from soloist.stores import RunFolder
from soloist.stores.atomic import disk_errors
from soloist.validation.commands import run_embed, run_script
from soloist.validation.evidence import (
    Evidence,
    FailureRecord,
    Observation,
    ResumeRecord,
    RunRecord,
    StagingRecord,
)
from soloist.validation.host import own_bytes
from soloist.validation.sample import write_sample

SAMPLE_CHUNKS = 200
PLANTED = "an error planted by the rehearsal after the first batch"
BROKEN_OFF = "broken off by the rehearsal once two shards were done"
_SHARDS_BEFORE = 2
_FIRST = "exclusive"  # the run that comes first
# How long runs after the first wait for the devices: those that the run before did not give back never come.
_AGAIN_SECONDS = 15.0
_MARKER = ".soloist-rehearsal"
_FOLDERS = (
    "chunks", "exclusive", "again", "once-more", "standard", "isolated", "failed", "resumed", "command", "script",
    "cache",
)  # fmt: skip


class PlantedError(Exception):
    """What a rehearsal raises in the midst of a pass."""


def rehearse(
    config: RunConfig,
    folder: Path,
    sink: EventSink,
    *,
    chunks: object = None,
    sample_chunks: int = SAMPLE_CHUNKS,
    quick: bool = False,
) -> Evidence:
    """Run everything that the checklist is about, in `folder`, on the first chunks of each collection.

    `config` says which chunks, models and accelerator; its `out` is not used. `chunks` are given instead of a folder
    (see `soloist.sources.given`). The whole rehearsal makes nine runs. A
    quick rehearsal makes the six runs that need no process of their own.

    Raises:
        SoloistError: there are no chunks, or the models or the accelerator cannot be used at all.
    """
    specs = _with_weights(config)
    accelerator = open_accelerator(config.accelerator, config.lock_dir or LOCK_DIR)
    sample = folder / "chunks"
    count = write_sample(config, chunks, sample, sample_chunks, sink)
    base = _base(config, folder, sample, count)
    runs = _Runs(base, folder, accelerator, sink)
    with _staged(base, accelerator) as (models, staging):
        assert models is None or models  # held, so that the runs share the weights and do not load them again
        return Evidence(
            accelerator=config.accelerator,
            kind=accelerator.kind,
            card=accelerator.card,
            devices=accelerator.devices,
            residue_bytes=accelerator.residue_bytes,
            models=tuple(specs),
            chunks=count,
            sample=sample,
            staging=staging,
            exclusive=runs.play("exclusive"),
            again=runs.play("again"),
            once_more=runs.play("once-more"),
            standard=runs.play("standard", mode="standard"),
            failure=_failure(runs.config("failed"), accelerator),
            resume=_resume(runs.config("resumed"), lambda: runs.play("resumed")),
            isolated=None if quick else runs.play("isolated", isolation="process"),
            embed=None if quick else run_embed(base, folder / "command"),
            script=None if quick else run_script(base, folder / "script"),
        )


def _with_weights(config: RunConfig) -> dict[str, ModelSpec]:
    """The members that lease devices: words have nothing to validate there, and go through the runs beside the others.

    Raises:
        ConfigError: there is none.
    """
    specs = {name: spec for name, spec in select_models(config).items() if spec.kind != "lexical"}
    if not specs:
        words = ", ".join(config.models)
        raise ConfigError(f"{words} needs no device, so there is nothing to validate: name a model too")
    return specs


def _base(config: RunConfig, folder: Path, sample: Path, chunks: int) -> RunConfig:
    """The config that all runs of a rehearsal begin with: the user's, on the sample and with a cache of its own."""
    fusion = config.fusion
    if len(config.models) == 1:
        fusion = replace(fusion, method=str(fusion.method))  # named: so a single model is fused too
    return replace(
        config, chunks_root=sample, collections=(), source=SourceConfig(), lock_dir=config.lock_dir or LOCK_DIR,
        cache_dir=folder / "cache", isolation="allocator", shard_chunks=max(16, chunks // 3), fusion=fusion,
    )  # fmt: skip


class _Runs:
    """The runs of a rehearsal, in exclusive mode but for what a run changes, each in a folder of its name."""

    def __init__(self, base: RunConfig, folder: Path, accelerator: Accelerator, sink: EventSink) -> None:
        self._base = base
        self._folder = folder
        self._accelerator = accelerator
        self._sink = sink

    def config(self, name: str, **changes: Any) -> RunConfig:
        """The config of a run. The first waits for the devices as the user said, later ones only a while."""
        waits = self._base.lease_timeout_seconds
        later = _AGAIN_SECONDS if waits is None else min(waits, _AGAIN_SECONDS)
        seconds = waits if name == _FIRST else later
        settings = {"mode": "exclusive", **changes}
        return replace(self._base, out=self._folder / name, lease_timeout_seconds=seconds, **settings)

    def play(self, name: str, **changes: Any) -> RunRecord:
        """Do a run, whatever becomes of it."""
        self._sink.emit(Notice(about="validate", message=f"the run {name} begins"))
        return _played(self.config(name, **changes), self._accelerator, self._sink)


@contextlib.contextmanager
def _staged(
    config: RunConfig, accelerator: Accelerator
) -> Iterator[tuple[Mapping[str, StagedModel] | None, StagingRecord]]:
    """All models in host memory, and whether they went through a device on the way there."""
    for device in accelerator.devices:
        accelerator.reset_peak(device)
    before = {device: accelerator.memory(device).allocated_bytes for device in accelerator.devices}
    staged = stage_all(_with_weights(config), config, accelerator, ListSink())
    peaks = (
        {}
        if not accelerator.copies_weights
        else {device: accelerator.memory(device).peak_bytes - before[device] for device in accelerator.devices}
    )
    where = {
        name: tuple(sorted({str(parameter.device) for parameter in model.module.parameters()}))
        for name, model in staged.items()
    }
    yield staged, StagingRecord(parameter_devices=where, peak_bytes=peaks)


class _Watcher:
    """Keeps events, and measures the devices itself at both ends of every lease."""

    def __init__(self, accelerator: Accelerator, *, measures: bool) -> None:
        self.events: list[Event] = []
        self.observations: list[Observation] = []
        self._accelerator = accelerator
        self._measures = measures

    def emit(self, event: Event) -> None:
        """Keep the event, but for those of single batches."""
        if isinstance(event, BatchEncoded):
            return
        self.events.append(event)
        if self._measures and isinstance(event, (LeaseAcquired, LeaseReleased)):
            self.observations.append(Observation(event=event, allocated_bytes=_allocated(self._accelerator)))


def _played(config: RunConfig, accelerator: Accelerator, sink: EventSink) -> RunRecord:
    """A run, whatever becomes of it."""
    # With process isolation this process keeps away from the devices: measuring would make contexts on them.
    isolated = config.isolation == "process"
    watcher = _Watcher(accelerator, measures=not isolated)
    result, error = None, None
    try:
        result = run(config, watcher, sink)
    except Exception as exc:  # a run that fails is evidence, and the checks say what it is evidence of
        error = f"{type(exc).__name__}: {exc}"
    vectors, model_vectors = _vectors(config.out, result) if result is not None else ({}, {})
    return RunRecord(
        mode="isolated" if isolated else config.mode,
        events=tuple(watcher.events),
        observations=tuple(watcher.observations),
        result=result,
        error=error,
        allocated_after=_allocated(accelerator) if not isolated else {},
        own_bytes=own_bytes(),
        vectors=vectors,
        model_vectors=model_vectors,
    )


def _allocated(accelerator: Accelerator) -> dict[str, int]:
    return {device: accelerator.memory(device).allocated_bytes for device in accelerator.devices}


def _vectors(path: Path, result: RunResult) -> tuple[dict[str, Vectors], dict[tuple[str, str], Vectors]]:
    """The final vectors by collection, and each model's own by collection and model."""
    folder = RunFolder.open(path)
    own: dict[tuple[str, str], Vectors] = {}
    final: dict[str, Vectors] = {}
    for report in (report for report in result.collections if report.chunks):
        shards = folder.shards.indices(report.name)
        for model in result.models:
            parts = [_model_vectors(folder, report.name, model, shard) for shard in shards]
            own[report.name, model.name] = np.concatenate(parts)
        if result.fusion is not None:
            final[report.name] = np.concatenate([folder.shards.read_fused(report.name, shard)[1] for shard in shards])
        else:
            final[report.name] = np.concatenate([own[report.name, model.name] for model in result.models], axis=1)
    return final, own


def _model_vectors(folder: RunFolder, collection: str, model: ModelReport, shard: int) -> Vectors:
    """The vectors of a shard. Those of a sparse model are whole, and of length 1 to be compared like the others."""
    if model.kind == "dense":
        return folder.shards.read_vectors(collection, model.name, shard)[1]
    _, rows = folder.sparse.read(collection, model.name, shard)
    vectors = np.zeros((len(rows), model.dim), np.float32)
    for number, (keys, values) in enumerate(rows):
        vectors[number, keys] = values / np.linalg.norm(values) if len(values) else values
    return vectors


class _Planter:
    """Raises in the midst of a pass, once."""

    def __init__(self) -> None:
        self.planted = False
        self.released = False

    def emit(self, event: Event) -> None:
        """Let the first batch of a device be the last. Words have no device, and no lease to give back."""
        if isinstance(event, LeaseReleased):
            self.released = True
        if isinstance(event, BatchEncoded) and event.device and not self.planted:
            self.planted = True
            raise PlantedError(PLANTED)


def _failure(config: RunConfig, accelerator: Accelerator) -> FailureRecord:
    planter = _Planter()
    raised = None
    try:
        run(config, planter)
    except Exception as exc:  # whatever the planted error became on its way here is what the check looks at
        raised = f"{type(exc).__name__}: {exc}"
    after = _allocated(accelerator)
    return FailureRecord(
        planted=PLANTED,
        raised=raised,
        released=planter.released,
        allocated_after=after,
        next_lease_error=_next_lease_error(config, accelerator),
    )


class _Breaker:
    """Breaks a run off once devices have done some shards. `shards` counts those of words too."""

    def __init__(self) -> None:
        self.shards = 0
        self._on_devices = 0

    def emit(self, event: Event) -> None:
        """Count the shards."""
        if not isinstance(event, ShardEncoded):
            return
        self.shards += 1
        self._on_devices += bool(event.rows_per_device)
        if self._on_devices == _SHARDS_BEFORE:
            raise PlantedError(BROKEN_OFF)


def _resume(config: RunConfig, go_on: Callable[[], RunRecord]) -> ResumeRecord:
    """A run that is broken off, and then gone on with in its folder."""
    breaker, broken_off = _Breaker(), None
    try:
        run(config, breaker)
    except Exception as exc:  # whatever the planted error became on its way here is what the check looks at
        broken_off = f"{type(exc).__name__}: {exc}"
    return ResumeRecord(planted=BROKEN_OFF, shards_before=breaker.shards, broken_off=broken_off, resumed=go_on())


def _next_lease_error(config: RunConfig, accelerator: Accelerator) -> str | None:
    """Why the devices cannot be leased now; None where they can."""
    lease = DeviceLease(accelerator, ("rehearsal",), ListSink(), lock_dir=config.lock_dir, timeout_seconds=0)
    try:
        with lease:
            return None
    except Exception as exc:  # as above
        return f"{type(exc).__name__}: {exc}"


def prepare_folder(folder: Path, chunks_root: Path | None) -> None:
    """Make the folder of a rehearsal, without what an earlier rehearsal left there.

    Raises:
        ConfigError: one of the two folders is inside the other.
        OutputError: the folder has files, and is not that of an earlier rehearsal.
    """
    if chunks_root is not None:
        ours, chunks = folder.resolve(), chunks_root.resolve()
        if ours.is_relative_to(chunks) or chunks.is_relative_to(ours):
            raise ConfigError(f"the folders {folder} and {chunks_root} overlap: choose another --out")
    marker = folder / _MARKER
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not marker.is_file() and any(folder.iterdir()):
            raise OutputError(
                f"{folder} is not empty and is not the folder of an earlier rehearsal: choose a new folder for "
                "the report"
            )
        marker.write_text(
            "soloist validate writes in this folder, and removes the files of the run before\n", encoding="utf-8"
        )
        for name in _FOLDERS:
            if (folder / name).exists():
                shutil.rmtree(folder / name)
