"""The plan's scenarios, run: what each of them leaves becomes evidence, also where it fails.

Works on a sample of the user's own chunks. Knows the engine and the command lines; judges nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import soloist
from soloist.arrays import Vectors
from soloist.config import FusionConfig, RunConfig, SourceConfig
from soloist.devices import Accelerator, DeviceLease, open_accelerator
from soloist.devices.lease import LOCK_DIR
from soloist.engine import RunResult, run
from soloist.engine.intake.ingest import tell_passed_over
from soloist.errors import ConfigError, InputError, OutputError
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
from soloist.jsontext import json_text
from soloist.models.loading import StagedModel
from soloist.sources import find_input, read_chunks
from soloist.staging import select_models, stage_all
from soloist.stores import RunFolder
from soloist.stores.atomic import disk_errors
from soloist.types import Collection
from soloist.validation.evidence import (
    CommandRecord,
    Evidence,
    FailureRecord,
    Observation,
    ResumeRecord,
    RunRecord,
    StagingRecord,
)
from soloist.validation.host import own_bytes

SAMPLE_CHUNKS = 200
PLANTED = "an error planted by the rehearsal after the first batch"
BROKEN_OFF = "broken off by the rehearsal once two shards were done"
_SHARDS_BEFORE = 2
# How long runs after the first wait for the devices: those that the run before did not give back never come.
_AGAIN_SECONDS = 15.0
_COMMAND_SECONDS = 3600
_TIMED_OUT = 124
_MARKER = ".soloist-rehearsal"
_FOLDERS = (
    "chunks", "exclusive", "again", "once-more", "standard", "isolated", "failed", "resumed", "command", "script",
    "cache",
)  # fmt: skip


class PlantedError(Exception):
    """What a rehearsal raises in the midst of a pass."""


def rehearse(
    config: RunConfig, folder: Path, sink: EventSink, *, sample_chunks: int = SAMPLE_CHUNKS, quick: bool = False
) -> Evidence:
    """Run everything that the checklist is about, in `folder`, on the first chunks of each collection.

    `config` says which chunks, models and accelerator; its `out` is not used. The whole takes nine runs, a quick one
    the six that need no process of their own.

    Raises:
        SoloistError: there are no chunks, or the models or the accelerator cannot be used at all.
    """
    accelerator = open_accelerator(config.accelerator, config.lock_dir or LOCK_DIR)
    sample = folder / "chunks"
    given = find_input(config.chunks_root, config.source, config.collections)
    tell_passed_over(given.passed_over, sink)
    chunks = _write_sample(config, given.collections, sample, sample_chunks)
    base = replace(
        config, chunks_root=sample, collections=(), source=SourceConfig(), lock_dir=config.lock_dir or LOCK_DIR,
        cache_dir=folder / "cache", isolation="allocator", shard_chunks=max(16, chunks // 3),
        fusion=_named(config.fusion),
    )  # fmt: skip
    waits = config.lease_timeout_seconds
    later = replace(base, lease_timeout_seconds=_AGAIN_SECONDS if waits is None else min(waits, _AGAIN_SECONDS))
    specs = select_models(base)

    def played(name: str, **changes: object) -> RunRecord:
        sink.emit(Notice(about="rehearsal", message=name))
        first = base if name == "exclusive" else later
        return _played(replace(first, out=folder / name, **changes), accelerator, sink)  # type: ignore[arg-type]

    with _staged(base, accelerator) as (models, staging):
        assert models is None or models  # held, so that the runs share the weights and do not load them again
        return Evidence(
            accelerator=config.accelerator,
            kind=accelerator.kind,
            card=accelerator.card,
            devices=accelerator.devices,
            residue_bytes=accelerator.residue_bytes,
            models=tuple(specs),
            chunks=chunks,
            sample=sample,
            staging=staging,
            exclusive=played("exclusive", mode="exclusive"),
            again=played("again", mode="exclusive"),
            once_more=played("once-more", mode="exclusive"),
            standard=played("standard", mode="standard"),
            failure=_failure(replace(later, out=folder / "failed", mode="exclusive"), accelerator),
            resume=_resume(
                replace(later, out=folder / "resumed", mode="exclusive"), lambda: played("resumed", mode="exclusive")
            ),
            isolated=None if quick else played("isolated", mode="exclusive", isolation="process"),
            embed=None if quick else _embed(base, folder / "command"),
            script=None if quick else _script(base, folder / "script"),
        )


def _write_sample(config: RunConfig, collections: Sequence[Collection], target: Path, limit: int) -> int:
    """The first chunks of every collection, as JSON Lines that every command can read; how many they are."""
    each = max(1, -(-limit // len(collections)))
    total = 0
    for collection in collections:
        total += _write_collection(collection, config.source, target, min(each, limit - total))
    if not total:
        raise InputError(
            f"there are no chunks to rehearse with below {config.chunks_root}: name a folder that has some"
        )
    return total


def _write_collection(collection: Collection, source: SourceConfig, target: Path, limit: int) -> int:
    lines: list[str] = []
    with contextlib.closing(read_chunks(collection, source, lambda item: None)) as chunks:  # type: ignore[type-var]
        for chunk, _ in chunks:
            if len(lines) == limit:
                break
            lines.append(json_text({"id": chunk.id, "text": chunk.text, "metadata": dict(chunk.metadata)}))
    if lines:
        file = target / collection.name / "sample.jsonl"
        with disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


@contextlib.contextmanager
def _staged(
    config: RunConfig, accelerator: Accelerator
) -> Iterator[tuple[Mapping[str, StagedModel] | None, StagingRecord]]:
    """All models in host memory, and whether they went through a device on the way there."""
    for device in accelerator.devices:
        accelerator.reset_peak(device)
    before = {device: accelerator.memory(device).allocated_bytes for device in accelerator.devices}
    staged = stage_all(select_models(config), config, accelerator, ListSink())
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
    for report in (each for each in result.collections if each.chunks):
        shards = folder.shards.indices(report.name)
        for model in result.models:
            parts = [folder.shards.read_vectors(report.name, model.name, shard)[1] for shard in shards]
            own[report.name, model.name] = np.concatenate(parts)
        if result.fusion is not None:
            final[report.name] = np.concatenate([folder.shards.read_fused(report.name, shard)[1] for shard in shards])
        else:
            final[report.name] = np.concatenate([own[report.name, model.name] for model in result.models], axis=1)
    return final, own


class _Planter:
    """Raises in the midst of a pass, once."""

    def __init__(self) -> None:
        self.planted = False
        self.released = False

    def emit(self, event: Event) -> None:
        """Let the first batch be the last."""
        if isinstance(event, LeaseReleased):
            self.released = True
        if isinstance(event, BatchEncoded) and not self.planted:
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
    """Breaks a run off once some shards are done."""

    def __init__(self) -> None:
        self.shards = 0

    def emit(self, event: Event) -> None:
        """Count the shards."""
        self.shards += isinstance(event, ShardEncoded)
        if isinstance(event, ShardEncoded) and self.shards == _SHARDS_BEFORE:
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


def _embed(config: RunConfig, out: Path) -> CommandRecord:
    """`soloist embed` in a process of its own, in exclusive mode."""
    arguments = [
        str(config.chunks_root), "--out", str(out), "--models", ",".join(config.models), "--mode", "exclusive",
        "--accelerator", config.accelerator, "--dtype", config.dtype, *_fusion_arguments(config.fusion),
    ]  # fmt: skip
    code = "from soloist.cli import main; main()"
    return _command([sys.executable, "-c", code, "embed", *arguments], config, {"run.json": out / "run.json"})


def _named(fusion: FusionConfig) -> FusionConfig:
    """The same fusion as one that somebody named: a single model is fused too, so that the checklist sees a fusion."""
    return replace(fusion, method=str(fusion.method))


def _fusion_arguments(fusion: FusionConfig) -> list[str]:
    weights = ",".join(f"{name}={weight!r}" for name, weight in fusion.weights.items())
    return [
        "--fusion", fusion.method, *(["--weights", weights] if weights else []),
        *(["--dim", str(fusion.dim)] if fusion.dim is not None else []),
    ]  # fmt: skip


def _script(config: RunConfig, out: Path) -> CommandRecord | None:
    """The validation plan's own command, where this is a checkout; None where it is not."""
    path = Path(soloist.__file__).resolve().parents[2] / "scripts" / "embed_collections_v5.py"
    if not path.is_file():
        return None
    arguments = [
        "--chunks-root", str(config.chunks_root), "--output-root", str(out), "--model", config.models[0],
        "--enable-ensemble", "--ensemble-models", ",".join(config.models), "--ensemble-mode", "sequential",
        "--exclusive-ensemble", "--aggregation-method", "concat",
    ]  # fmt: skip
    collections = sorted(child.name for child in config.chunks_root.iterdir())
    files = {name: out / name for name in ("embedding_summary.json",)}
    files |= {f"{name}_processing_stats.json": out / name / f"{name}_processing_stats.json" for name in collections}
    return _command([sys.executable, str(path), *arguments], config, files)


def _command(command: Sequence[str], config: RunConfig, files: Mapping[str, Path]) -> CommandRecord:
    environment = {
        **os.environ,
        "SOLOIST_ACCELERATOR": config.accelerator,
        "SOLOIST_LOCK_DIR": str(config.lock_dir),
        "SOLOIST_CACHE_DIR": str(config.cache_dir),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    if config.catalogue is not None:
        environment["SOLOIST_CATALOGUE"] = str(config.catalogue)
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_COMMAND_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        said = f"it was stopped after {_COMMAND_SECONDS} seconds"
        return CommandRecord(command=" ".join(command), exit_code=_TIMED_OUT, stderr=said, files={})
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items() if path.is_file()}
    return CommandRecord(command=" ".join(command), exit_code=done.returncode, stderr=done.stderr, files=found)


def prepare_folder(folder: Path, chunks_root: Path) -> None:
    """Make the folder of a rehearsal, without what an earlier rehearsal left there.

    Raises:
        ConfigError: the folder and that of the chunks are one inside the other.
        OutputError: the folder has files, and is not that of an earlier rehearsal.
    """
    ours, chunks = folder.resolve(), chunks_root.resolve()
    if ours.is_relative_to(chunks) or chunks.is_relative_to(ours):
        raise ConfigError(f"{folder} and the chunks in {chunks_root} are one inside the other: choose another --out")
    marker = folder / _MARKER
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not marker.is_file() and any(folder.iterdir()):
            raise OutputError(f"{folder} is not empty and no earlier rehearsal's: choose a new folder for the report")
        marker.write_text("soloist validate writes here, and removes what it wrote\n", encoding="utf-8")
        for name in _FOLDERS:
            if (folder / name).exists():
                shutil.rmtree(folder / name)
