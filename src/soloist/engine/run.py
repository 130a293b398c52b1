"""The run: one loop over the passes of a plan, and what comes before and after it.

Emits events and prints nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soloist.config import RunConfig
from soloist.devices import Accelerator, GpuLease, open_accelerator
from soloist.devices.lease import LOCK_DIR, ProcessLease
from soloist.encoding.encoder import Encoder
from soloist.engine.budgets import Budget, Calibrations, budget_of, run_budgets
from soloist.engine.cache import measured_key
from soloist.engine.deviation import tell_deviations
from soloist.engine.feedback import Feedback
from soloist.engine.fusing import Fusing, fuse_all, fusing, is_fused
from soloist.engine.ingest import ShardRef, ingest
from soloist.engine.isolation import run_isolated
from soloist.engine.known import models_set_aside, serves
from soloist.engine.memory import plan_memory, remember
from soloist.engine.passes import Stage, pending, run_pass
from soloist.engine.plan import Pass
from soloist.engine.result import FORMAT, ResultBuilder, RunResult
from soloist.engine.staging import encoders_of, require_distinct, select_models, stage_all
from soloist.engine.stopping import Stop
from soloist.errors import (
    ConfigError,
    LeaseTimeoutError,
    NothingFinishedError,
    OutputError,
    RunInterruptedError,
    RunStoppedError,
    SoloistError,
)
from soloist.events import (
    ChunksRemoved,
    Event,
    EventSink,
    JsonLinesSink,
    ListSink,
    Notice,
    RunFinished,
    RunStarted,
    ShardEncoded,
    ShardFused,
    TeeSink,
)
from soloist.fusion import FusionPlan, Member, plan_fusion, require_weights
from soloist.models.loading import StagedModel
from soloist.models.spec import ModelSpec
from soloist.sources import discover
from soloist.stores import RunFolder
from soloist.stores.adoption import adopt_incoming
from soloist.stores.manifest import FileRecord
from soloist.stores.run_folder import STATE
from soloist.types import Collection, VectorDType


def run(config: RunConfig, *sinks: EventSink, clock: Callable[[], float] = time.time) -> RunResult:
    """Embed what the config names, and write a run folder; go on with the one that is there.

    What the folder has of the same chunks by the same models is kept, so that a run that was stopped, or whose chunks
    have changed since, costs what is left to do. Events go to `events.jsonl` in that folder and to `sinks`. `clock`
    gives seconds since 1970. In the main thread Ctrl-C and SIGTERM end the run at the end of the shard in work.

    Raises:
        RunStoppedError: the run was to end before it was done; the same config goes on with it.
        RunInterruptedError: a second signal ended it at once; the same config goes on with it.
        SoloistError: see `soloist.errors`; each kind says what to do. Where the input or a model cannot be
            used, the folder is as it was before.
    """
    stop = Stop(config.stop_after)
    _require_apart(config)
    specs = select_models(config)
    require_weights(config.fusion, tuple(specs))
    accelerator = open_accelerator(config.accelerator, config.lock_dir or LOCK_DIR)
    collections = discover(config.chunks_root, config.source, config.collections)
    require_distinct("collections", [collection.name for collection in collections])
    others = [_other_run(path) for path in config.reuse]
    folder = RunFolder.create(config.out)
    with folder.locked(), stop.on_signals():
        _require_the_same(folder, config, tuple(specs), [collection.name for collection in collections])
        return _Run(config, folder, specs, accelerator, collections, others, stop).through(sinks, clock)


class _Run:
    """One run at work in a folder that it holds."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        specs: Mapping[str, ModelSpec],
        accelerator: Accelerator,
        collections: Sequence[Collection],
        others: Sequence[RunFolder],
        stop: Stop,
    ) -> None:
        self._config = config
        self._folder = folder
        self._specs = specs
        self._accelerator = accelerator
        self._collections = collections
        self._others = others
        self._stop = stop

    def through(self, sinks: Sequence[EventSink], clock: Callable[[], float]) -> RunResult:
        """Read, embed, fuse, and say in run.json what was done."""
        builder = ResultBuilder(self._config, clock)
        with contextlib.closing(JsonLinesSink(self._folder.path / "events.jsonl", clock)) as log:
            finished = _Finished()
            sink = TeeSink(log, builder, finished, *sinks)
            began = time.perf_counter()
            try:
                with finished.something_or_said(self._stop):
                    result = self._work(builder, sink)
            except BaseException as exc:
                with contextlib.suppress(OutputError):  # the error to tell is the first
                    sink.emit(RunFinished(seconds=time.perf_counter() - began, error=_first_line(exc)))
                raise
            with self._stop.shielded():  # there is nothing left to stop
                sink.emit(RunFinished(seconds=time.perf_counter() - began))
                found = result()
                self._folder.finish(found.to_dict())
        return found

    def _work(self, builder: ResultBuilder, sink: EventSink) -> Callable[[], RunResult]:
        config, folder, accelerator = self._config, self._folder, self._accelerator
        with _undone_on_error(folder), self._told(sink):
            _announce(config, self._specs, accelerator, sink)
            _mend(folder, sink)
            shards = ingest(
                self._collections, config.source, folder.incoming, config.shard_chunks, sink, config.collections,
                self._stop.check,
            )  # fmt: skip
            staged = stage_all(self._specs, config, accelerator, sink, self._stop.check)
            encoders = encoders_of(staged, config, accelerator, sink)
            fusion = plan_fusion(config.fusion, [_member(model) for model in staged.values()])
            self._stop.check()
            made = _made_with(folder)
            _require_dtypes(folder, config, staged, made)
            fingerprints = {name: model.fingerprint for name, model in staged.items()}
            fused = fusing(fusion, fingerprints, config.vector_dtype, shards)
        _adopt(folder, fingerprints, fused, config.vector_dtype, sink)
        _warn_of_other_settings(self._others, fingerprints, config.vector_dtype, sink)
        _warn_of_missing_vectors(self._others, fingerprints, sink)
        recorded = _recorded_budgets(made, fingerprints)
        budgets = run_budgets(config.token_budget, staged, accelerator, recorded, Calibrations(config.cache_dir))
        folder.write_json(STATE, _state(config, staged, shards, budgets))
        _warn_of_fusion(fusion, sink)
        feedback = Feedback(config.cache_dir)
        plan = plan_memory(config, encoders, budgets, accelerator, feedback, sink)
        stage = Stage(
            plan=plan, encoders=encoders, shards=shards, accelerator=accelerator, folder=folder, stop=self._stop,
            vector_dtype=config.vector_dtype, others=self._others,
        )  # fmt: skip
        unfinished = [model for each in plan.passes for _, model in pending(each, stage, ListSink())]
        if unfinished or not is_fused(fused, stage):
            folder.reopen()
        _warn_of_other_budgets(recorded, {model: budgets[model] for model in unfinished}, sink)
        with self._told(sink):
            if accelerator.kind == "cpu":
                tell_deviations(config.dtype, plan.passes, stage, sink)
            for each in plan.passes:
                _run_pass(each, stage, config, sink)
        if fused is not None:
            fuse_all(fused, stage, sink)
        _remember(builder.result(staged, fusion, plan), builder, encoders, accelerator, feedback, sink)
        return lambda: builder.result(staged, fusion, plan)

    @contextlib.contextmanager
    def _told(self, sink: EventSink) -> Iterator[None]:
        """Say that a signal was heard, as soon as it was."""

        def say(why: str) -> None:
            message = "the run ends with the shard in work; a second Ctrl-C ends it at once"
            with contextlib.suppress(OutputError):  # in a thread where nobody hears it, of a run that ends anyway
                sink.emit(Notice(about=why, message=message))

        with self._stop.on_request(say):
            yield


class _Finished:
    """An event sink that knows whether this process has finished anything."""

    def __init__(self) -> None:
        self._anything = False

    def emit(self, event: Event) -> None:
        self._anything = self._anything or isinstance(event, (ShardEncoded, ShardFused))

    @contextlib.contextmanager
    def something_or_said(self, stop: Stop) -> Iterator[None]:
        """Where the time is over before anything was finished, say so: whoever repeats the command would for ever."""
        try:
            yield
        except RunStoppedError as exc:
            if self._anything or stop.is_asked or isinstance(exc.__context__, LeaseTimeoutError):
                raise  # of the last more time is no cure: another process held the devices
            raise NothingFinishedError(
                f"{exc}, before anything new was finished: give --stop-after more than reading the chunks, loading the "
                "models and one shard take"
            ) from exc


def _require_apart(config: RunConfig) -> None:
    # Not Path.resolve, which raises what is no OSError where a link leads to itself.
    out, root = (Path(os.path.realpath(path)) for path in (config.out, config.chunks_root))
    if out.is_relative_to(root):
        raise ConfigError(
            f"the run folder {config.out} is inside the folder of chunks, where its files would be read as chunks: "
            "choose another --out"
        )


def _announce(config: RunConfig, specs: Mapping[str, ModelSpec], accelerator: Accelerator, sink: EventSink) -> None:
    sink.emit(
        RunStarted(mode=config.mode, accelerator=config.accelerator, devices=accelerator.devices, models=tuple(specs))
    )
    for spec in specs.values():
        if spec.non_commercial:
            sink.emit(Notice(about=spec.name, message=f"its licence, {spec.licence}, allows no commercial use"))


def _run_pass(each: Pass, stage: Stage, config: RunConfig, sink: EventSink) -> None:
    """A pass in this process, or in one of its own."""
    kind = GpuLease if config.isolation == "allocator" else ProcessLease
    limits = (config.lease_timeout_seconds, stage.stop.remaining_seconds)
    timeout = min((seconds for seconds in limits if seconds is not None), default=None)
    lease = kind(stage.accelerator, each.models, sink, lock_dir=config.lock_dir, timeout_seconds=timeout)
    try:
        if isinstance(lease, ProcessLease):
            run_isolated(each, config, stage, lease, sink)
        else:
            run_pass(each, stage, lease, sink)
    except LeaseTimeoutError:
        stage.stop.check()  # the time that ended may have been the run's
        raise


def _remember(
    result: RunResult,
    builder: ResultBuilder,
    encoders: dict[str, Encoder],
    accelerator: Accelerator,
    feedback: Feedback,
    sink: EventSink,
) -> None:
    """Keep what the run measured for the next plan on this machine."""
    for model in result.models:
        rate = model.padded_tokens / model.seconds / len(accelerator.devices) if model.seconds else 0.0
        remember(
            feedback, encoders[model.name], measured_key(accelerator), builder.compared(model.name),
            tokens=model.padded_tokens, rate=rate, sink=sink,
        )  # fmt: skip


def _member(model: StagedModel) -> Member:
    return Member(name=model.spec.name, dim=model.dim, matryoshka_dims=model.matryoshka_dims)


def _warn_of_fusion(fusion: FusionPlan | None, sink: EventSink) -> None:
    for message in fusion.notices if fusion is not None else ():
        sink.emit(Notice(about="fusion", message=message))


@contextlib.contextmanager
def _undone_on_error(folder: RunFolder) -> Iterator[None]:
    """Until the new chunks are adopted nothing has changed: a new folder is empty again, another as it was."""
    try:
        yield
    except BaseException:
        if folder.is_new:
            folder.discard()
        else:
            folder.clean()
        raise


def _mend(folder: RunFolder, sink: EventSink) -> None:
    """Take away what a killed run has left."""
    folder.clean()
    rows = folder.manifest.mend()
    if rows:
        sink.emit(
            Notice(
                about="manifest.jsonl",
                message=f"{rows} of its rows could not be read: the files that they named are written again",
            )
        )


def _adopt(
    folder: RunFolder,
    fingerprints: Mapping[str, str],
    fused: Fusing | None,
    vector_dtype: VectorDType,
    sink: EventSink,
) -> None:
    """Make the chunks that were read those of the run, and say what that changes."""
    of_fusion = fused.fingerprint if fused is not None else None

    def is_current(record: FileRecord) -> bool:
        if record.kind == "fit":
            return fused is not None and fused.plan.needs_fit and record.fingerprint == of_fusion
        fingerprint = of_fusion if record.kind == "fused" else fingerprints.get(record.model)
        return (record.fingerprint, record.vector_dtype) == (fingerprint, vector_dtype)

    before = folder.manifest.read().values()
    adopted = adopt_incoming(folder, is_current)
    for file in adopted.damaged:
        sink.emit(Notice(about=file, message="its bytes are not those that were written: it is written again"))
    changed = (record.model for record in adopted.outdated if record.fingerprint != fingerprints.get(record.model))
    for model in dict.fromkeys(changed):
        sink.emit(Notice(about=model, message="its weights or settings have changed: its vectors are computed again"))
    _tell_other_dtype(before, fingerprints, vector_dtype, sink)
    for collection, chunks in adopted.removed.items():
        sink.emit(ChunksRemoved(collection=collection, chunks=chunks))


def _tell_other_dtype(
    before: Iterable[FileRecord], fingerprints: Mapping[str, str], vector_dtype: VectorDType, sink: EventSink
) -> None:
    """Say of which models the run has had vectors that are what they should be but for what they are stored as."""
    own = [each for each in before if each.kind == "vectors" and each.fingerprint == fingerprints.get(each.model)]
    for model, stored in dict.fromkeys((each.model, each.vector_dtype) for each in own):
        if stored == vector_dtype:
            continue
        if serves(stored, vector_dtype):
            message = f"its {stored} vectors are rounded to {vector_dtype}, and not computed again"
        else:
            message = (
                f"its {stored} vectors are not taken for {vector_dtype}: what is in {stored} alone is computed again"
            )
        sink.emit(Notice(about=model, message=message))


def _state(
    config: RunConfig, staged: Mapping[str, StagedModel], shards: Sequence[ShardRef], budgets: Mapping[str, Budget]
) -> dict[str, Any]:
    """What is to be known of a run that is not finished."""
    return {
        "format": FORMAT,
        "config": config.to_dict(),
        "models": {name: model.fingerprint for name, model in staged.items()},
        "dtypes": {name: model.dtype for name, model in staged.items()},
        "budgets": {name: asdict(budget) for name, budget in budgets.items()},
        "shards": [[shard.collection, shard.index, shard.rows, shard.content] for shard in shards],
    }


def _other_run(path: Path) -> RunFolder:
    """A run whose vectors may be taken, finished or not."""
    if not RunFolder(path).manifest.exists():
        raise ConfigError(f"{path} has no manifest.jsonl: give --reuse the folder of a run")
    return RunFolder(path)


def _warn_of_other_settings(
    others: Sequence[RunFolder], fingerprints: Mapping[str, str], vector_dtype: VectorDType, sink: EventSink
) -> None:
    """Say where --reuse names a run whose vectors by a model are not those that the model gives now."""
    for other in others:
        records = [record for record in other.manifest.read().values() if record.kind == "vectors"]
        names = {record.model for record in records}
        made = {record.fingerprint: record.vector_dtype for record in records}
        taken = {record.fingerprint for record in records if serves(record.vector_dtype, vector_dtype)}
        for model, fingerprint in sorted(fingerprints.items()):
            if fingerprint in taken or (fingerprint not in made and model not in names):
                continue
            what = f"rounded to {made[fingerprint]}" if fingerprint in made else "of other weights or settings"
            sink.emit(Notice(about=model, message=f"its vectors in {other.path} are {what}: none is taken over"))


def _warn_of_missing_vectors(others: Sequence[RunFolder], fingerprints: Mapping[str, str], sink: EventSink) -> None:
    """Say where none of the runs that --reuse names has any vectors by a model."""
    records = [each for other in others for each in other.manifest.read().values() if each.kind == "vectors"]
    known = {record.model for record in records} | {record.fingerprint for record in records}
    for model, fingerprint in fingerprints.items():
        if others and not known & {model, fingerprint}:
            where = " and ".join(str(other.path) for other in others)
            sink.emit(Notice(about=model, message=f"there are no vectors of it in {where}: none is taken over"))


def _require_the_same(folder: RunFolder, config: RunConfig, models: Sequence[str], collections: Sequence[str]) -> None:
    """Refuse to drop what a run has because a command does not name it."""
    records = folder.manifest.read().values()
    has = {
        "model": {record.model for record in records if record.kind == "vectors"} | set(models_set_aside(folder)),
        "collection": {record.collection for record in records if record.kind == "chunks"},
    }
    if has["collection"] and not has["collection"] & set(collections):
        raise ConfigError(
            f"{folder.path} is a run over {', '.join(sorted(has['collection']))}, and {config.chunks_root} has none of "
            "them: give the folder of its chunks, or choose another --out"
        )
    gone = sorted(has["collection"] - set(collections))
    before = _root_before(folder)
    if gone and before is not None and os.path.realpath(before) != os.path.realpath(config.chunks_root):
        raise ConfigError(
            f"{folder.path} has the collection {gone[0]} of {before}, which {config.chunks_root} does not have: give "
            "the folder that it was made from, or choose another --out"
        )
    named = {"model": models} if not config.collections else {"model": models, "collection": collections}
    for kind, names in named.items():  # of collections that nobody names, those that are gone go from the run
        left_out = sorted(has[kind] - set(names))
        if left_out:
            raise ConfigError(
                f"{folder.path} has vectors of the {kind} {left_out[0]}, which this command leaves out: name it too, "
                f"or choose another --out with --reuse {folder.path}"
            )


def _root_before(folder: RunFolder) -> str | None:
    """The folder of chunks of the last session; None where it is not known."""
    for name in (STATE, "run.json"):
        with contextlib.suppress(OutputError, KeyError, TypeError):
            return str(folder.read_json(name)["config"]["chunks_root"])
    return None


def _require_dtypes(
    folder: RunFolder, config: RunConfig, staged: Mapping[str, StagedModel], made: Mapping[str, _Made]
) -> None:
    """Refuse to compute everything again because `auto` is another dtype on this machine."""
    if config.dtype not in ("auto", "auto-fast") or folder.is_new:
        return
    fingerprints = {record.fingerprint for record in folder.manifest.read().values() if record.kind == "vectors"}
    for name, before in made.items():
        model, dtype = staged.get(name), before.dtype
        if model is None or model.spec.dtype not in ("auto", "auto-fast"):
            continue
        if model.dtype != dtype and before.fingerprint in fingerprints:
            raise ConfigError(
                f"{folder.path} has vectors of {name} in {dtype}, and {config.dtype} is {model.dtype} on this machine: "
                f"give --dtype {dtype} to go on with them, --dtype {model.dtype} to compute them again, or another "
                "--out"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What the last session of a run made a model's vectors with. An earlier version wrote no budget down."""

    fingerprint: str
    dtype: str
    budget: Budget | None


def _made_with(folder: RunFolder) -> dict[str, _Made]:
    """By model, as the last session had it; empty where it did not come so far."""
    try:
        if (folder.path / STATE).is_file():
            state = folder.read_json(STATE)
            budgets = state.get("budgets", {})
            return {
                name: _Made(fingerprint=state["models"][name], dtype=dtype, budget=budget_of(budgets.get(name)))
                for name, dtype in state["dtypes"].items()
            }
        models = folder.read_json("run.json")["models"]
        return {
            model["name"]: _Made(
                fingerprint=model["fingerprint"], dtype=model["dtype"], budget=budget_of(model.get("budget"))
            )
            for model in models
        }
    except (OutputError, AttributeError, KeyError, TypeError):  # damaged, or of another version: they are written anew
        return {}


def _recorded_budgets(made: Mapping[str, _Made], fingerprints: Mapping[str, str]) -> dict[str, Budget]:
    """The budgets with which the run was begun, of the models that are still the same."""
    return {
        name: each.budget
        for name, each in made.items()
        if each.budget is not None and each.fingerprint == fingerprints.get(name)
    }


def _warn_of_other_budgets(recorded: Mapping[str, Budget], budgets: Mapping[str, Budget], sink: EventSink) -> None:
    """Say where batches have another size than those before, because a GPU chooses its kernels by it."""
    for model, budget in budgets.items():
        before = recorded.get(model)
        if before is not None and before.device == budget.device and before.tokens != budget.tokens:
            message = (
                f"its batches had {before.tokens:,} tokens before and have {budget.tokens:,} from here on: on a GPU "
                "the last bits of a vector may depend on it"
            )
            sink.emit(Notice(about=model, message=message))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    if isinstance(error, KeyboardInterrupt) and not lines:  # where the caller of the run hears the signals
        return "stopped by Ctrl-C"
    if lines and isinstance(error, (SoloistError, RunInterruptedError)):
        return lines[0]
    return ": ".join([type(error).__name__, *lines[:1]])
