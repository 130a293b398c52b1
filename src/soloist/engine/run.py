"""The run: one loop over the passes of a plan, and what comes before and after it.

Emits events and prints nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from soloist.config import RunConfig
from soloist.devices import Accelerator, GpuLease, open_accelerator
from soloist.devices.lease import LOCK_DIR, ProcessLease
from soloist.encoding.encoder import Encoder
from soloist.engine.feedback import Feedback
from soloist.engine.ingest import ShardRef, ingest
from soloist.engine.interrupts import first_interrupt_only
from soloist.engine.isolation import run_isolated
from soloist.engine.memory import measured_key, plan_memory, remember
from soloist.engine.passes import Stage, run_pass
from soloist.engine.plan import Pass
from soloist.engine.result import ResultBuilder, RunResult
from soloist.engine.staging import require_distinct, select_models, stage_all
from soloist.errors import ConfigError, SoloistError
from soloist.events import (
    EventSink,
    JsonLinesSink,
    Notice,
    RunFinished,
    RunStarted,
    ShardFused,
    TeeSink,
)
from soloist.fusion import FusionPlan, Member, fuse, plan_fusion, require_weights
from soloist.models.loading import StagedModel
from soloist.models.spec import ModelSpec
from soloist.sources import discover
from soloist.stores import RunFolder


def run(config: RunConfig, *sinks: EventSink, clock: Callable[[], float] = time.time) -> RunResult:
    """Embed what the config names, and write a run folder.

    Events go to `events.jsonl` in that folder and to `sinks`. `clock` gives seconds since 1970.

    Raises:
        SoloistError: see `soloist.errors`; each kind says what to do. Where the input or a model cannot be
            used, the run folder is emptied again, so that the same command can be given once more.
    """
    _require_apart(config)
    specs = select_models(config)
    require_weights(config.fusion, tuple(specs))
    accelerator = open_accelerator(config.accelerator, config.lock_dir or LOCK_DIR)
    collections = discover(config.chunks_root, config.source, config.collections)
    require_distinct("collections", [collection.name for collection in collections])
    builder = ResultBuilder(config, clock)
    folder = RunFolder.create(config.out)
    with contextlib.closing(JsonLinesSink(folder.path / "events.jsonl", clock)) as log:
        sink = TeeSink(log, builder, *sinks)
        began = time.perf_counter()
        try:
            with _discarded_on_error(folder):
                _announce(config, specs, accelerator, sink)
                shards = ingest(collections, config.source, folder, config.shard_chunks, sink, config.collections)
                staged = stage_all(specs, config, accelerator, sink)
                encoders = {name: Encoder(model) for name, model in staged.items()}
                fusion = plan_fusion(config.fusion, [_member(model) for model in staged.values()])
            _warn_of_fusion(fusion, sink)
            feedback = Feedback(config.cache_dir)
            plan = plan_memory(config, encoders, accelerator, feedback, sink)
            stage = Stage(plan=plan, encoders=encoders, shards=shards, accelerator=accelerator, folder=folder)
            for each in plan.passes:
                with first_interrupt_only():
                    _run_pass(each, stage, config, sink)
            if fusion is not None:
                _fuse_all(fusion, shards, folder, sink)
            _remember(builder.result(staged, fusion, plan), builder, encoders, accelerator, feedback, sink)
        except BaseException as exc:
            sink.emit(RunFinished(seconds=time.perf_counter() - began, error=_first_line(exc)))
            raise
        sink.emit(RunFinished(seconds=time.perf_counter() - began))
    result = builder.result(staged, fusion, plan)
    folder.write_json("run.json", result.to_dict())
    return result


def _require_apart(config: RunConfig) -> None:
    if config.out.resolve().is_relative_to(config.chunks_root.resolve()):
        raise ConfigError(
            f"the run folder {config.out} is inside the folder of chunks, where its files would be read as chunks: "
            "choose another --out"
        )


def _announce(config: RunConfig, specs: dict[str, ModelSpec], accelerator: Accelerator, sink: EventSink) -> None:
    sink.emit(
        RunStarted(mode=config.mode, accelerator=config.accelerator, devices=accelerator.devices, models=tuple(specs))
    )
    for spec in specs.values():
        if spec.non_commercial:
            sink.emit(Notice(about=spec.name, message=f"its licence, {spec.licence}, allows no commercial use"))


def _run_pass(each: Pass, stage: Stage, config: RunConfig, sink: EventSink) -> None:
    """A pass in this process, or in one of its own."""
    kind = GpuLease if config.isolation == "allocator" else ProcessLease
    lease = kind(
        stage.accelerator, each.models, sink, lock_dir=config.lock_dir, timeout_seconds=config.lease_timeout_seconds
    )
    if isinstance(lease, ProcessLease):
        run_isolated(each, config, stage.shards, lease, sink)
    else:
        run_pass(each, stage, lease, sink)


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


def _fuse_all(fusion: FusionPlan, shards: Sequence[ShardRef], folder: RunFolder, sink: EventSink) -> None:
    """Fused vectors of every shard, from the vectors on disk; needs no device."""
    for shard in shards:
        members = [folder.read_vectors(shard.collection, model, shard.index) for model in fusion.models]
        ids = members[0][0]
        fused = fuse(fusion, [vectors for _, vectors in members], ids=ids)
        folder.write_fused(shard.collection, shard.index, ids, fused)
        sink.emit(ShardFused(collection=shard.collection, shard=shard.index, rows=len(ids), dim=fusion.dim))


def _member(model: StagedModel) -> Member:
    return Member(name=model.spec.name, dim=model.dim, matryoshka_dims=model.matryoshka_dims)


def _warn_of_fusion(fusion: FusionPlan | None, sink: EventSink) -> None:
    for message in fusion.notices if fusion is not None else ():
        sink.emit(Notice(about="fusion", message=message))


@contextlib.contextmanager
def _discarded_on_error(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except BaseException:
        folder.discard()
        raise


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return (
        text.splitlines()[0] if isinstance(error, SoloistError) else f"{type(error).__name__}: {text.splitlines()[0]}"
    )
