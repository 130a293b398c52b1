"""The run: one loop over the passes of a plan, and what comes before and after it.

Emits events and prints nothing.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from soloist.config import RunConfig
from soloist.devices import Accelerator, open_accelerator
from soloist.devices.locks import LOCK_DIR
from soloist.encoding.encoder import Encoder
from soloist.engine.drivers.context import pass_contexts
from soloist.engine.drivers.passes import require_means, run_passes
from soloist.engine.ending import Finished, first_line
from soloist.engine.fusing import Fusing, fuse_all, fusing, is_fused
from soloist.engine.indexing import Indexing, compared_by_cosine, index_all, indexed_as, indexing, is_indexed
from soloist.engine.intake.ahead import Ahead, EmbeddedAhead, may_embed_ahead, spare_bytes
from soloist.engine.intake.model_staging import ModelStaging
from soloist.engine.intake.vectorless import without_vectorless
from soloist.engine.result import FORMAT, ResultBuilder, RunResult
from soloist.engine.resume.checks import (
    Made,
    made_with,
    matmul_before,
    mend,
    other_run,
    reconcile,
    recorded_budgets,
    require_dtypes,
    require_the_same,
    warn_of_missing_vectors,
    warn_of_other_budgets,
    warn_of_other_matmuls,
    warn_of_other_settings,
)
from soloist.engine.resume.kept_settings import KeptSettings, tell_fusion, tell_hybrid, with_kept_settings
from soloist.engine.resume.members import Members, members_of
from soloist.engine.resume.pending import RunShards, pending
from soloist.engine.samples.deviation import tell_deviations
from soloist.engine.samples.texts import Samples
from soloist.engine.samples.unit_lengths import tell_lost_lengths
from soloist.engine.words_pass import analyse_all, words_left
from soloist.errors import (
    ConfigError,
    OutputError,
)
from soloist.events import (
    Event,
    EventSink,
    JsonLinesSink,
    Notice,
    RunFinished,
    RunStarted,
    TeeSink,
    as_sink,
)
from soloist.fusion import FusionPlan, HybridPlan, Member, plan_fusion
from soloist.ingestion.apart import ingest_apart, is_read_apart
from soloist.ingestion.ingest import ShardRef, ingest, require_apart, tell_passed_over
from soloist.installed import versions
from soloist.models.loading import StagedModel
from soloist.models.spec import ModelSpec
from soloist.ragged import RaggedRows, TermRows
from soloist.sizing.batch_limits import plan_memory, remember
from soloist.sizing.budgets import Budget, CalibrationCache, run_budgets
from soloist.sizing.measurements import MeasurementCache, device_key
from soloist.sizing.run_plan import RunPlan
from soloist.sources import InputFiles, input_of
from soloist.staging import import_libraries, require_distinct, together
from soloist.stopping import Stop
from soloist.stores import RunFolder
from soloist.stores.atomic import none_left_on_error
from soloist.stores.layout import STATE
from soloist.stores.leftovers import ahead_removed, undone_on_error


def run(
    config: RunConfig,
    *sinks: EventSink | Callable[[Event], object],
    chunks: object = None,
    clock: Callable[[], float] = time.time,
) -> RunResult:
    """Embed what the config names into a run folder, or continue the run that is there.

    Vectors that the folder has of the same chunks by the same models are kept. So a run that was stopped, or whose
    chunks have changed, computes only what is left. Events go to `events.jsonl` in that folder and to `sinks`:
    functions that take an event, or objects whose `emit` does. `chunks` are given instead of a folder (see
    `soloist.sources.given`). `clock` gives seconds since 1970. In the main thread, Ctrl-C and SIGTERM end the run after
    the present shard.

    Raises:
        RunStoppedError: the run was to end before it was done; the same config continues it.
        RunInterruptedError: a second signal ended the run at once; the same config continues it.
        SoloistError: see `soloist.errors`; each kind says what to do. Where the input or a model cannot be
            used, the folder is as it was before.
    """
    if not isinstance(config, RunConfig):
        raise ConfigError(f"the config is {config!r}: give a soloist.RunConfig")
    stop = Stop(config.stop_after)
    with stop.on_signals():
        return _run_in_folder(config, chunks, [as_sink(sink) for sink in sinks], stop, clock)


def _run_in_folder(
    config: RunConfig, chunks: object, sinks: Sequence[EventSink], stop: Stop, clock: Callable[[], float]
) -> RunResult:
    """Look at all that can be refused without the folder, and hold the folder for the run."""
    require_apart(config)
    require_means(config)
    asked, kept = config, with_kept_settings(config)
    config = kept.config
    members = members_of(kept)
    accelerator = open_accelerator(config.accelerator, config.lock_dir or LOCK_DIR)
    files = input_of(config, chunks)
    names = [collection.name for collection in files.collections]
    require_distinct("collections", names)
    others = [other_run(path) for path in config.reuse]
    import_libraries(members.models.values(), accelerator, stop.check)
    is_shared = config.cluster is not None
    with (
        none_left_on_error(config.out),
        RunFolder.create(config.out).locked(
            shared=is_shared, on_lost=lambda why: stop.request("another run, which has taken the folder over")
        ) as require_held,
    ):
        folder = RunFolder(config.out)
        if with_kept_settings(asked) != kept:
            raise OutputError(f"another run has changed {config.out} meanwhile: run the same command again")
        require_the_same(folder, config, tuple(members.specs), names)
        return _Run(kept, folder, members, accelerator, files, others, stop, require_held).through(sinks, clock)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Inputs:
    """What a run has read and loaded before it changes anything: shards, models, and the fusion that is settled.

    `ahead` has the vectors that were embedded while the input was read.
    """

    shards: tuple[ShardRef, ...]
    ahead: EmbeddedAhead
    staged: Mapping[str, StagedModel]
    encoders: dict[str, Encoder]
    fusion_plan: FusionPlan | None
    fusion: Fusing | None
    made: Mapping[str, Made]
    hybrid: HybridPlan | None
    indexing: Indexing

    @property
    def fingerprints(self) -> dict[str, str]:
        return {name: model.fingerprint for name, model in self.staged.items()}


class _Run:
    """One run at work in a folder that it holds."""

    def __init__(
        self,
        kept: KeptSettings,
        folder: RunFolder,
        members: Members,
        accelerator: Accelerator,
        files: InputFiles,
        others: Sequence[RunFolder],
        stop: Stop,
        require_held: Callable[[], None],
    ) -> None:
        self._config = kept.config
        self._kept = kept.notices
        self._folder = folder
        self._members = members
        self._accelerator = accelerator
        self._files = files
        self._others = others
        self._stop = stop
        self._require_held = require_held

    def through(self, sinks: Sequence[EventSink], clock: Callable[[], float]) -> RunResult:
        """Read, embed, fuse, and say in run.json what was done."""
        builder = ResultBuilder(self._config, clock)
        with contextlib.closing(JsonLinesSink(self._folder.path / "events.jsonl", clock)) as log:
            finished = Finished()
            sink = TeeSink(log, builder, finished, *sinks)
            began = time.perf_counter()
            try:
                with finished.something_or_said(self._stop), self._stop.unmasked():
                    make_result = self._work(builder, sink)
            except BaseException as exc:
                with contextlib.suppress(Exception):  # the error to tell is the first, also one of a sink itself
                    sink.emit(RunFinished(seconds=time.perf_counter() - began, error=first_line(exc)))
                raise
            with self._stop.shielded():  # there is nothing left to stop
                sink.emit(RunFinished(seconds=time.perf_counter() - began))
                result = make_result()
                self._require_held()
                self._folder.finish(result.to_dict())
        return result

    def _work(self, builder: ResultBuilder, sink: EventSink) -> Callable[[], RunResult]:
        """Do all but write run.json; what this returns makes the result at the very end."""
        config, accelerator = self._config, self._accelerator
        with undone_on_error(self._folder.path, self._require_held), self._told(sink):
            inputs = self._read(sink)
        with ahead_removed(self._folder.path, self._require_held):
            recorded = recorded_budgets(inputs.made, inputs.fingerprints)
            budgets = self._reconcile(inputs, recorded, sink)
            measurements = MeasurementCache(config.cache_dir)
            drivers = together(inputs.encoders, config, accelerator)
            plan = plan_memory(config, drivers, budgets, accelerator, measurements, sink)
            self._embed(inputs, drivers, plan, recorded, sink)
        if inputs.fusion is not None:
            fuse_all(inputs.fusion, self._folder, sink, self._stop)
        read = functools.partial(self._read_rows, compared_by_cosine(inputs.staged))
        index_all(inputs.indexing, self._folder, read, sink, self._stop)

        def result() -> RunResult:
            return builder.result(inputs.staged, inputs.fusion_plan, plan, self._members.words, inputs.hybrid)

        # What comes with the pass of another model has no time of its own.
        own = {name: encoder for name, encoder in inputs.encoders.items() if drivers[name].staged.spec.name == name}
        _remember(result(), builder, own, accelerator, measurements, sink)
        return result

    def _read(self, sink: EventSink) -> _Inputs:
        """Read the chunks, load the models, and refuse what cannot be done with them."""
        config, folder, check = self._config, self._folder, self._stop.check
        _announce(config, self._members.specs, self._accelerator, sink)
        self._members.tell_idle_settings(config, sink)
        for notice in self._members.concerned(self._kept):
            sink.emit(notice)
        tell_passed_over(self._files.passed_over, sink)
        mend(folder, sink)
        collections = self._files.collections
        made = made_with(folder)
        staging = ModelStaging(
            specs=self._members.models, config=config, accelerator=self._accelerator,
            matmul_of=functools.partial(matmul_before, made), fusion=self._members.fusion,
        )  # fmt: skip
        is_wanted = may_embed_ahead(config, self._accelerator, folder, staging)
        with Ahead(staging, folder, config.vector_dtype, spare_bytes(collections), is_wanted=is_wanted) as thread:
            is_apart = is_wanted and is_read_apart(collections)
            if is_apart:
                thread.stage()
            read = ingest_apart if is_apart else ingest
            shards = read(
                collections, config.source, folder.incoming, config.shard_chunks, sink, config.collections, check,
                thread.begin,
            )  # fmt: skip
            models, ahead = thread.finish(check)
        models = models.told(sink) if models is not None else staging.through(sink, check)
        staged, encoders = models.staged, models.encoders
        shards = without_vectorless(shards, encoders, folder, collections, config, sink, check, ahead.shards)
        dense = [_member(model) for model in staged.values() if model.spec.kind == "dense"]
        fusion_plan = plan_fusion(self._members.fusion, dense)
        check()
        require_dtypes(folder, config, staged, made)
        fingerprints = {name: model.fingerprint for name, model in staged.items()}
        fusion = fusing(fusion_plan, fingerprints, config.vector_dtype, shards)
        return _Inputs(
            shards=shards, ahead=ahead, staged=staged, encoders=encoders, fusion_plan=fusion_plan, fusion=fusion,
            made=made, hybrid=self._members.hybrid(config, fusion_plan),
            indexing=indexing(indexed_as(staged, config.vector_dtype) | self._members.word_fingerprints, shards),
        )  # fmt: skip

    def _reconcile(self, inputs: _Inputs, recorded: Mapping[str, Budget], sink: EventSink) -> dict[str, Budget]:
        """Make the chunks that were read those of the folder, and say what that changes; each model's budget."""
        config, folder, words = self._config, self._folder, self._members.word_fingerprints
        fingerprints = inputs.fingerprints | words
        self._require_held()
        tell_fusion(folder, inputs.fusion_plan, sink)
        tell_hybrid(folder, inputs.hybrid, sink)
        calibrations = CalibrationCache(config.cache_dir)
        budgets = run_budgets(config.token_budget, inputs.staged, self._accelerator, recorded, calibrations)
        # Before run.json may go: whatever ends this, the folder says what it is made with.
        folder.write_json(STATE, _state(config, inputs, budgets, words))
        reconcile(folder, fingerprints, inputs.fusion, config.vector_dtype, sink, words, inputs.indexing.fingerprints)
        warn_of_other_settings(self._others, fingerprints, config.vector_dtype, sink)
        warn_of_missing_vectors(self._others, fingerprints, sink)
        warn_of_other_matmuls(self._others, inputs.staged, sink)
        _warn_of_fusion(inputs.fusion_plan, sink)
        return budgets

    def _read_rows(self, units: Container[str], collection: str, member: str, index: int) -> RaggedRows | TermRows:
        """The rows of a shard as they are indexed: of length 1 for the members in `units`."""
        if member in self._members.words:
            return self._folder.terms.read(collection, member, index)[1]
        rows = self._folder.sparse.read(collection, member, index)[1]
        return rows.of_length_one() if member in units else rows

    def _embed(
        self,
        inputs: _Inputs,
        encoders: Mapping[str, Encoder],
        plan: RunPlan,
        recorded: Mapping[str, Budget],
        sink: EventSink,
    ) -> None:
        """Compute the vectors that the folder does not have, one pass after the other."""
        folder, check = self._folder, self._stop.check
        run_shards = RunShards(
            folder=folder, refs=inputs.shards, vector_dtype=self._config.vector_dtype, others=self._others
        )
        contexts = pass_contexts(
            plan, encoders, self._accelerator, run_shards, self._stop, inputs.ahead, self._config.shared_dtype
        )
        work = [item for context in contexts for item in pending(context.run_shards, context.fingerprints).work]
        words, is_derived = self._members.words, is_fused(inputs.fusion, folder) and is_indexed(inputs.indexing, folder)
        if work or words_left(words, run_shards) or not is_derived:
            folder.reopen()
        warn_of_other_budgets(recorded, {item.model: plan.budgets[item.model] for item in work}, sink)
        samples = Samples.of(work, folder)
        with self._told(sink):
            analyse_all(words, run_shards, sink, self._stop)
            if self._accelerator.kind == "cpu":
                tell_deviations(self._config.dtype, inputs.encoders, samples, check, sink)
            tell_lost_lengths(inputs.encoders, samples, check, sink)
            run_passes(contexts, self._config, self._stop, sink)

    @contextlib.contextmanager
    def _told(self, sink: EventSink) -> Iterator[None]:
        """Say that a signal came, as soon as it does."""

        def say(why: str) -> None:
            message = "the run ends after the present shard; a second Ctrl-C ends the run at once"
            with contextlib.suppress(OutputError):  # in a signal's thread, of a run that ends anyway
                sink.emit(Notice(about=why, message=message))

        with self._stop.on_request(say):
            yield


def _announce(config: RunConfig, specs: Mapping[str, ModelSpec], accelerator: Accelerator, sink: EventSink) -> None:
    devices = accelerator.devices if config.cluster is None else ()  # those of nodes are known once nodes have joined
    sink.emit(
        RunStarted(
            mode=config.mode, accelerator=config.accelerator, devices=devices, models=tuple(specs), versions=versions()
        )
    )  # fmt: skip
    for spec in specs.values():
        if spec.non_commercial:
            sink.emit(Notice(about=spec.name, message=f"its licence, {spec.licence}, does not allow commercial use"))


def _remember(
    result: RunResult,
    builder: ResultBuilder,
    encoders: dict[str, Encoder],
    accelerator: Accelerator,
    measurements: MeasurementCache,
    sink: EventSink,
) -> None:
    """Keep what the run measured for the next plan on this machine."""
    for model in (model for model in result.models if model.name in encoders):
        rate = model.padded_tokens / model.seconds / len(result.devices) if model.seconds else 0.0
        remember(
            measurements, encoders[model.name], device_key(accelerator), builder.compared(model.name),
            tokens=model.padded_tokens, rate=rate, sink=sink,
        )  # fmt: skip


def _member(model: StagedModel) -> Member:
    return Member(name=model.spec.name, dim=model.dim, matryoshka_dims=model.matryoshka_dims)


def _warn_of_fusion(fusion: FusionPlan | None, sink: EventSink) -> None:
    for message in fusion.notices if fusion is not None else ():
        sink.emit(Notice(about="fusion", message=message))


def _state(
    config: RunConfig, inputs: _Inputs, budgets: Mapping[str, Budget], words: Mapping[str, str]
) -> dict[str, Any]:
    """What has to be known of a run that is not finished. Without words and other kinds as in earlier versions."""
    return {
        "format": FORMAT,
        "config": config.to_dict(),
        "models": inputs.fingerprints,
        "dtypes": {name: model.dtype for name, model in inputs.staged.items()},
        "matmuls": {name: model.matmul for name, model in inputs.staged.items()},
        "budgets": {name: asdict(budget) for name, budget in budgets.items()},
        "fusion": inputs.fusion_plan.to_dict() if inputs.fusion_plan is not None else None,
        "shards": [[shard.collection, shard.index, shard.rows, shard.content] for shard in inputs.shards],
        **({"words": dict(words)} if words else {}),
        **({"hybrid": inputs.hybrid.to_dict()} if inputs.hybrid is not None else {}),
    }
