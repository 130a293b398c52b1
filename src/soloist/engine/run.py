"""The run: one loop over the passes of a plan, and what comes before and after it.

Emits events and prints nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from soloist.config import RunConfig
from soloist.devices import Accelerator, GpuLease, open_accelerator
from soloist.encoding.encoder import Encoder, TokenizedTexts
from soloist.encoding.replicas import Replicas
from soloist.engine.ingest import ShardRef, ingest
from soloist.engine.interrupts import first_interrupt_only
from soloist.engine.lookahead import Lookahead
from soloist.engine.plan import Pass, RunPlan, plan_run
from soloist.engine.result import ResultBuilder, RunResult
from soloist.errors import ConfigError, SoloistError
from soloist.events import (
    EventSink,
    JsonLinesSink,
    ModelStaged,
    Notice,
    PassFinished,
    PassStarted,
    RowsRecomputed,
    RunFinished,
    RunStarted,
    ShardEncoded,
    ShardFused,
    TeeSink,
)
from soloist.fusion import FusionPlan, Member, fuse, plan_fusion, require_weights
from soloist.models.catalogue import resolve
from soloist.models.dtype import resolve_dtype
from soloist.models.loading import StagedModel, overflows_float16, stage
from soloist.models.spec import ModelSpec
from soloist.models.user_catalogue import load_catalogue
from soloist.sources import discover
from soloist.stores import RunFolder, folder_name
from soloist.types import Batch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prepared:
    """A shard that is tokenized and planned for one model, ready for the devices."""

    model: str
    shard: ShardRef
    ids: tuple[str, ...]
    tokenized: TokenizedTexts
    batches: tuple[Batch, ...]
    padded_tokens: int
    seconds: float


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
    accelerator = open_accelerator(config.accelerator)
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
                staged = _stage_all(specs, config, accelerator, sink)
                encoders = {name: Encoder(model) for name, model in staged.items()}
                fusion = plan_fusion(config.fusion, [_member(model) for model in staged.values()])
            _warn_of_fusion(fusion, sink)
            plan = _plan(config, staged, accelerator)
            for each in plan.passes:
                with first_interrupt_only():
                    _run_pass(each, plan, encoders, shards, accelerator, folder, config, sink)
            if fusion is not None:
                _fuse_all(fusion, shards, folder, sink)
        except BaseException as exc:
            sink.emit(RunFinished(seconds=time.perf_counter() - began, error=_first_line(exc)))
            raise
        sink.emit(RunFinished(seconds=time.perf_counter() - began))
    result = builder.result(staged, fusion)
    folder.write_json("run.json", result.to_dict())
    return result


def _require_apart(config: RunConfig) -> None:
    if config.out.resolve().is_relative_to(config.chunks_root.resolve()):
        raise ConfigError(
            f"the run folder {config.out} is inside the folder of chunks, where its files would be read as chunks: "
            "choose another --out"
        )


def select_models(config: RunConfig) -> dict[str, ModelSpec]:
    """The models of a run by name, in the order of their passes; one that is named twice is one.

    Raises:
        UnknownModelError: a name resolves to nothing.
        ConfigError: two sources go by one name.
    """
    catalogue = load_catalogue(config.catalogue)
    specs: dict[str, ModelSpec] = {}
    for asked in config.models:
        spec = resolve(asked, catalogue)
        known = specs.setdefault(spec.name, spec)
        if known != spec:
            raise ConfigError(
                f"two models go by the name {spec.name} ({known.source} and {spec.source}): give one of them another "
                "name in a catalogue"
            )
    require_distinct("models", specs)
    return specs


def require_distinct(kind: str, names: Iterable[str]) -> None:
    """Refuse names that would share a folder where the file system ignores case.

    Raises:
        ConfigError: two of them would.
    """
    taken: dict[str, str] = {}
    for name in names:
        other = taken.setdefault(folder_name(name).casefold(), name)
        if other != name:
            raise ConfigError(f"the {kind} {other} and {name} would share a folder: rename one of them")


def _announce(config: RunConfig, specs: dict[str, ModelSpec], accelerator: Accelerator, sink: EventSink) -> None:
    sink.emit(
        RunStarted(mode=config.mode, accelerator=config.accelerator, devices=accelerator.devices, models=tuple(specs))
    )
    for spec in specs.values():
        if spec.non_commercial:
            sink.emit(Notice(about=spec.name, message=f"its licence, {spec.licence}, allows no commercial use"))


def _stage_all(
    specs: dict[str, ModelSpec], config: RunConfig, accelerator: Accelerator, sink: EventSink
) -> dict[str, StagedModel]:
    """Every model in host memory before the first lease: one that cannot be loaded fails the run at its start."""
    staged: dict[str, StagedModel] = {}
    for name, spec in specs.items():
        began = time.perf_counter()
        known = replace(spec, overflows_float16=overflows_float16(spec))
        dtype = resolve_dtype(known, config.dtype, device_kind=accelerator.kind, capability=accelerator.capability)
        model = stage(known, dtype)
        staged[name] = model
        sink.emit(
            ModelStaged(
                model=name,
                source=spec.source,
                revision=model.revision,
                fingerprint=model.fingerprint,
                dim=model.dim,
                max_tokens=model.max_tokens,
                dtype=model.dtype,
                weights_bytes=model.weights_bytes,
                seconds=time.perf_counter() - began,
            )
        )
    return staged


def _plan(config: RunConfig, staged: dict[str, StagedModel], accelerator: Accelerator) -> RunPlan:
    static = [name for name, model in staged.items() if model.is_static]
    return plan_run(tuple(staged), static, config.mode, accelerator.kind, config.token_budget)


def _run_pass(
    each: Pass,
    plan: RunPlan,
    encoders: dict[str, Encoder],
    shards: Sequence[ShardRef],
    accelerator: Accelerator,
    folder: RunFolder,
    config: RunConfig,
    sink: EventSink,
) -> None:
    """One lease: its models on all devices, every shard through every one of them."""
    lease = GpuLease(
        accelerator, each.models, sink, lock_dir=config.lock_dir, timeout_seconds=config.lease_timeout_seconds
    )

    def prepare(work: tuple[ShardRef, str]) -> _Prepared:
        return _prepare(folder, work[0], work[1], encoders[work[1]], plan.token_budgets[work[1]])

    work = ((shard, model) for shard in shards for model in each.models)
    with Lookahead(prepare, work) as prepared:
        prepared.wait_for_first()  # the devices are not held while the first shard is tokenized
        with lease, _on_devices(each, encoders, accelerator, sink) as replicas:
            for model in each.models:
                sink.emit(
                    PassStarted(model=model, devices=accelerator.devices, chunks=sum(shard.rows for shard in shards))
                )
            _encode_all(prepared, replicas, folder, sink)
            peaks = {device: accelerator.memory(device).peak_bytes for device in accelerator.devices}
            for model in each.models:
                sink.emit(PassFinished(model=model, peak_bytes=peaks))


@contextlib.contextmanager
def _on_devices(
    each: Pass, encoders: dict[str, Encoder], accelerator: Accelerator, sink: EventSink
) -> Iterator[dict[str, Replicas]]:
    with contextlib.ExitStack() as stack:
        yield {
            model: stack.enter_context(Replicas(encoders[model].staged, encoders[model], accelerator, sink))
            for model in each.models
        }


def _prepare(folder: RunFolder, ref: ShardRef, model: str, encoder: Encoder, budget: int) -> _Prepared:
    began = time.perf_counter()
    shard = folder.read_shard(ref.collection, ref.index)
    tokenized = encoder.tokenize(shard.texts)
    batches = encoder.plan(tokenized, budget)
    return _Prepared(
        model=model,
        shard=ref,
        ids=shard.ids,
        tokenized=tokenized,
        batches=batches,
        padded_tokens=encoder.computed_tokens(tokenized, batches),
        seconds=time.perf_counter() - began,
    )


def _encode_all(
    prepared: Lookahead[tuple[ShardRef, str], _Prepared],
    replicas: dict[str, Replicas],
    folder: RunFolder,
    sink: EventSink,
) -> None:
    began = time.perf_counter()
    before_the_lease = None
    for work in prepared:
        if before_the_lease is None:
            before_the_lease = work.seconds
            began -= work.seconds
        _encode_shard(work, replicas[work.model], folder, sink, began)
        began = time.perf_counter()


def _encode_shard(work: _Prepared, replicas: Replicas, folder: RunFolder, sink: EventSink, began: float) -> None:
    encoded = replicas.encode(work.ids, work.tokenized, work.batches)
    folder.write_vectors(work.shard.collection, work.model, work.shard.index, work.ids, encoded.vectors)
    if encoded.recomputed_rows:
        sink.emit(
            RowsRecomputed(
                model=work.model,
                collection=work.shard.collection,
                shard=work.shard.index,
                ids=tuple(work.ids[row] for row in encoded.recomputed_rows),
            )
        )
    sink.emit(
        ShardEncoded(
            model=work.model,
            collection=work.shard.collection,
            shard=work.shard.index,
            rows=len(work.ids),
            tokens=sum(work.tokenized.lengths),
            padded_tokens=work.padded_tokens,
            truncated_rows=sum(1 for dropped in work.tokenized.dropped if dropped),
            truncated_tokens=sum(work.tokenized.dropped),
            batch_rows=tuple(len(batch.rows) for batch in work.batches),
            rows_per_device=encoded.rows_per_device,
            seconds=time.perf_counter() - began,
        )
    )


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
