"""Estimates what a run will need and how long it will take, before any weights are loaded.

Reads the chunks and the tokenizers. Knows a machine only as a card and a number of devices, so one machine can plan a
run on another. Figures that were not measured say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import soloist.memory.network  # noqa: F401  # at once: Ctrl-C in its imports could look like a fault of a library
from soloist.config import RunConfig
from soloist.devices import Accelerator, open_accelerator
from soloist.encoding.batching import bucket
from soloist.engine.resume.checks import require_the_same
from soloist.engine.resume.kept_settings import KeptSettings, unfit_weights, with_kept_settings
from soloist.engine.resume.members import members_of
from soloist.engine.samples.unit_lengths import in_words, ranks_otherwise
from soloist.fusion import Member, plan_fusion
from soloist.memory.cards import Card
from soloist.memory.planner import BatchLimits, memory_limit
from soloist.memory.prediction import PassMemory, Predictor, blueprint_of, tracer_of
from soloist.models.blueprint import Blueprint
from soloist.models.dtype import family_overflows_float16
from soloist.models.fingerprint import known_fingerprint
from soloist.models.location import find_settings, weight_files
from soloist.models.refusals import has_weights, require_encoder
from soloist.models.settings import ModelSettings, read_settings
from soloist.models.spec import ModelSpec
from soloist.planning.advice import disk_problems, memory_problems, notes, time_problems, unknowns
from soloist.planning.run_estimate import (
    LEAST_MEASURED_TOKENS,
    RATE_SHARE,
    Basis,
    BatchEstimate,
    ModelEstimate,
    RunEstimate,
    WordsEstimate,
    in_the_pass_of_another,
    over_nodes,
    row_bytes,
    words_estimate,
)
from soloist.planning.token_lengths import Scan, TokenCounts, scan
from soloist.sizing.budgets import Budget, CalibrationCache, choose_budget, table_row
from soloist.sizing.measurements import Measurement, MeasurementCache, device_key
from soloist.sizing.run_plan import PlannedModel, RunPlan, plan_run
from soloist.sources import input_of
from soloist.staging import companions, dtype_on, matmul_on, select_models
from soloist.stores import RunFolder
from soloist.types import DType, Mode, VectorDType

# The rate from a disk or a network volume into host memory while a model is staged. It is an assumption.
STAGING_BYTES_PER_SECOND = 400e6
VECTOR_BYTES: Mapping[VectorDType, int] = {"float32": 4, "float16": 2}
_CURVE_LENGTHS = tuple(1 << power for power in range(6, 15))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _UnloadedModel:
    """What is known of a model without its weights."""

    spec: ModelSpec
    blueprint: Blueprint
    settings: ModelSettings
    dtype: DType
    predictor: Predictor
    measured: Measurement
    budget: Budget


def estimate_run(
    config: RunConfig, session_seconds: float | None = None, *, chunks: object = None, nodes: int = 1
) -> RunEstimate:
    """Estimate the run that a config describes. Nothing is written, and no weights are loaded.

    As in a run, the settings of the folder `out` apply where the config does not set others. `session_seconds` is the
    time that the machine is available for. `chunks` are given instead of a folder (see `soloist.sources.given`).
    `nodes` machines like this one share out the encoding.

    Raises:
        SoloistError: the input, a model or the accelerator cannot be used, or nothing is known of a model's network.
    """
    accelerator = open_accelerator(config.accelerator)
    kept = with_kept_settings(config)
    kept, kept_notes = _without_unfit_weights(kept)
    members = members_of(kept)
    config = replace(kept.config, fusion=members.fusion)
    models = [_inspect(spec, config, accelerator) for spec in members.models.values()]
    models = _in_one_pass(models, companions(members.models), accelerator.card)
    files = input_of(config, chunks, again="soloist.plan")
    names = [collection.name for collection in files.collections]
    require_the_same(RunFolder(config.out), config, tuple(members.specs), names)
    tokenizers = [(model.spec, model.settings) for model in models]
    scanned = scan(files.collections, config.source, tokenizers, config.collections)
    planned = [_planned(model, accelerator) for model in models]
    modes: tuple[Mode, ...] = ("exclusive", "standard")
    plans = {mode: plan_run(planned, mode, accelerator.card) for mode in modes}
    beside = companions(members.models)
    estimates = tuple(
        in_the_pass_of_another(estimate) if estimate.name in beside else estimate
        for estimate in (_model_estimate(model, scanned, plans, config, accelerator) for model in models)
    )
    input_notes = [*filter(None, [files.passed_over.notice()]), *kept_notes]
    remarks = [remark for model in models for remark in _remarks(model)]
    words = tuple(words_estimate(name, config.language, scanned) for name in members.words)
    shared = over_nodes(estimates, nodes)
    made = _run_estimate(config, accelerator, scanned, shared, words, plans, session_seconds, input_notes, remarks)
    return replace(made, nodes=nodes)


def _without_unfit_weights(kept: KeptSettings) -> tuple[KeptSettings, list[str]]:
    """The config to plan, and notes on the folder's settings. A plan continues where `embed` would ask for weights."""
    notes_on_settings = [f"{notice.about}: {notice.message}" for notice in kept.notices]
    unfit = unfit_weights(kept, tuple(select_models(kept.config)))
    if unfit is None:
        return kept, notes_on_settings
    config = replace(kept.config, fusion=replace(kept.config.fusion, weights={}))
    return replace(kept, config=config, kept={}), [*notes_on_settings, unfit]


def _remarks(model: _UnloadedModel) -> list[str]:
    """What a user should know about a model's settings. The run will say it too."""
    settings = model.settings
    remarks = list(settings.notices)
    if ranks_otherwise(settings.similarity, settings.kind, has_unit_vectors=settings.has_unit_vectors):
        remarks.append(in_words(settings.similarity, settings.kind))
    if Path(model.spec.source).is_dir() and not has_weights(Path(model.spec.source)):
        remarks.append(f"its weights are not in {model.spec.source}, and a run needs them: copy them there first")
    return [f"{model.spec.name}: {remark}" for remark in remarks]


def _inspect(spec: ModelSpec, config: RunConfig, accelerator: Accelerator) -> _UnloadedModel:
    folder = find_settings(spec)
    if folder is not None:  # a user who plans a download of gigabytes may have no weights yet
        require_encoder(spec, folder, with_weights=False)
    blueprint = blueprint_of(spec)
    overflows = spec.overflows_float16 or family_overflows_float16(blueprint.config.get("model_type"))
    spec = replace(spec, overflows_float16=overflows)
    dtype = dtype_on(accelerator, spec, config.dtype)
    settings = read_settings(spec, blueprint)
    measurements, calibrations = MeasurementCache(config.cache_dir), CalibrationCache(config.cache_dir)
    device = device_key(accelerator)
    row = table_row(accelerator.kind, blueprint.is_static, blueprint.splade is not None)
    # The model's files are digested only where something was measured on such a device.
    is_any_known = measurements.knows(dtype, device) or calibrations.knows(dtype, device)
    fingerprint = (known_fingerprint(spec, settings, dtype) if is_any_known else None) or ""
    calibrated = calibrations.tokens(fingerprint, dtype, device, row)
    return _UnloadedModel(
        spec=spec,
        blueprint=blueprint,
        settings=settings,
        dtype=dtype,
        predictor=Predictor(tracer_of(blueprint, dtype, accelerator.card), accelerator.card),
        measured=measurements.of(fingerprint, dtype, device),
        budget=choose_budget(config.token_budget, None, calibrated, row, device),
    )


def _in_one_pass(models: Sequence[_UnloadedModel], beside: Mapping[str, str], card: Card) -> list[_UnloadedModel]:
    """The models, where a model and its token weights have the memory of the one pass that makes both."""

    def of_both(model: _UnloadedModel) -> Predictor:
        return Predictor(tracer_of(replace(model.blueprint, head="both"), model.dtype, card), card)

    names = {*beside, *beside.values()}
    return [replace(model, predictor=of_both(model)) if model.spec.name in names else model for model in models]


def _planned(model: _UnloadedModel, accelerator: Accelerator) -> PlannedModel:
    """The model as the run plans it. On the CPU only the token budget bounds batches, not memory."""
    return PlannedModel(
        name=model.spec.name,
        budget=model.budget,
        max_tokens=model.settings.max_tokens,
        weight_sizes=model.predictor.weights.sizes_bytes,
        tracer=model.predictor.tracer if accelerator.copies_weights else None,
        growth=model.measured.growth,
    )


def _model_estimate(
    model: _UnloadedModel, scanned: Scan, plans: Mapping[Mode, RunPlan], config: RunConfig, accelerator: Accelerator
) -> ModelEstimate:
    counts = scanned.counts[model.spec.name]
    # Without its weights nobody knows whether a model's rows can be packed on the CPU: as a rule they can.
    packs = model.blueprint.is_static or accelerator.packs_rows
    lengths = _Lengths(counts=counts, max_tokens=model.settings.max_tokens, packs=packs)
    peak = _peak(model, lengths, plans[config.mode])
    seconds, basis = _seconds(model, counts, lengths.padded_tokens, accelerator)
    return ModelEstimate(
        name=model.spec.name,
        kind=model.settings.kind,
        dtype=model.dtype,
        dim=model.settings.dim,
        matryoshka_dims=model.spec.matryoshka_dims,
        max_tokens=model.settings.max_tokens,
        rows=counts.rows,
        tokens=lengths.tokens,
        lengths_estimated=counts.estimated,
        median_length=lengths.median,
        longest_length=lengths.longest,
        histogram=_histogram(counts),
        truncated_rows=counts.truncated_rows,
        padding_share=1 - lengths.tokens / lengths.padded_tokens if lengths.padded_tokens else 0.0,
        weights_bytes=peak.weights_bytes,
        peak_bytes=peak.peak_bytes,
        reserved_bytes=peak.reserved_bytes,
        token_budget=model.budget.tokens,
        budget_source=model.budget.source,
        exclusive=_batch_estimate(plans["exclusive"].limits[model.spec.name], lengths),
        standard=_batch_estimate(plans["standard"].limits[model.spec.name], lengths),
        curve=model.predictor.curve(lengths.curve_points),
        seconds=seconds,
        basis=basis,
        staging_seconds=(model.blueprint.checkpoint_bytes or peak.weights_bytes) / STAGING_BYTES_PER_SECOND,
        download_bytes=_download_bytes(model),
        host_bytes=_host_bytes(model, config, accelerator),
        vectors_bytes=scanned.chunks * row_bytes(model.settings, VECTOR_BYTES[config.vector_dtype]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lengths:
    """The lengths of a model's rows in tokens, and what padding makes of them."""

    counts: TokenCounts
    max_tokens: int | None
    packs: bool

    def padded(self, length: int) -> int:
        """The length of a row in a batch."""
        return length if self.packs else bucket(length, self.max_tokens)

    @property
    def median(self) -> int:
        return max(1, self.counts.quantile(0.5))

    @property
    def longest(self) -> int:
        return max(1, self.counts.quantile(1.0))

    @property
    def tokens(self) -> int:
        return sum(length * rows for length, rows in self.counts.kept.items())

    @property
    def padded_tokens(self) -> int:
        return sum(self.padded(length) * rows for length, rows in self.counts.kept.items())

    @property
    def curve_points(self) -> list[int]:
        return [length for length in _CURVE_LENGTHS if length < self.longest] + [self.longest]


def _peak(model: _UnloadedModel, lengths: _Lengths, plan: RunPlan) -> PassMemory:
    """The memory of the larger of two full batches: of rows of the median length, and of the longest."""
    limits = plan.limits[model.spec.name]
    predictor = plan.predictors.get(model.spec.name, model.predictor)
    padded = [lengths.padded(length) for length in (lengths.median, lengths.longest)]
    batches = [predictor.predict(min(lengths.counts.rows, limits.rows(length)), length) for length in padded]
    return max(batches, key=lambda memory: memory.peak_bytes)


def _batch_estimate(limits: BatchLimits, lengths: _Lengths) -> BatchEstimate:
    longest = lengths.padded(lengths.longest)
    return BatchEstimate(
        median_rows=limits.rows(lengths.padded(lengths.median)),
        longest_rows=limits.rows(longest),
        limited_by=limits.reason(longest),
        fits=limits.one_row_fits(longest),
    )


def _histogram(counts: TokenCounts) -> dict[int, int]:
    """The number of rows up to each power of two, by length before truncation."""
    histogram: dict[int, int] = {}
    for length, rows in counts.rows_of.items():
        edge = 1 << max(0, (length - 1).bit_length())
        histogram[edge] = histogram.get(edge, 0) + rows
    return dict(sorted(histogram.items()))


def _seconds(
    model: _UnloadedModel, counts: TokenCounts, padded: int, accelerator: Accelerator
) -> tuple[float | None, Basis]:
    """The encoding time of a pass: by what this machine measured, else by the card's data sheet."""
    devices = len(accelerator.devices)
    # A simulated card computes on this machine's processor, whose rate says nothing about the card.
    if model.measured.tokens >= LEAST_MEASURED_TOKENS and accelerator.kind != "simulated":
        return padded / model.measured.tokens_per_second / devices, "measured on this machine"
    if model.blueprint.is_static:
        # A static model only looks vectors up. Its time is the tokenizer's, which was measured just now.
        return (counts.seconds, "measured on this machine") if not counts.estimated else (None, "unknown")
    rate = accelerator.card.matrix_rates.get(model.dtype)
    if rate is None:
        return None, "unknown"
    operations = _operations(model, counts)
    return operations / (rate * RATE_SHARE) / devices, "estimated from the card's data sheet"


def _operations(model: _UnloadedModel, counts: TokenCounts) -> float:
    """Floating-point operations of a pass: two for each weight and token, and attention's products."""
    weights = model.predictor.weights
    matrix = 2 * (weights.parameters - weights.embedding_parameters)
    config = model.blueprint.config
    if model.blueprint.splade is not None and config.get("tie_word_embeddings", True):
        matrix += 2 * weights.embedding_parameters  # the table of tokens predicts words too
    heads, layers = config.get("num_attention_heads", 0), config.get("num_hidden_layers", 0)
    head_dim = config.get("head_dim") or (config.get("hidden_size", 0) // heads if heads else 0)
    attention = 4 * layers * heads * head_dim
    padded = ((bucket(length, model.settings.max_tokens), rows) for length, rows in counts.kept.items())
    return float(sum(rows * length * (matrix + attention * length) for length, rows in padded))


def _download_bytes(model: _UnloadedModel) -> int | None:
    """The bytes to download: 0 where the weights are on this machine, None where their size is not known."""
    folder = model.settings.folder
    if folder is None:
        return model.blueprint.checkpoint_bytes
    if model.spec.loader == "wordllama":
        return 0
    files = weight_files(folder)
    return 0 if files and all(file.is_file() for file in files) else model.blueprint.checkpoint_bytes


def _host_bytes(model: _UnloadedModel, config: RunConfig, accelerator: Accelerator) -> int:
    """The host memory that staging takes: weights in the checkpoint's dtype are mapped, others are a copy.

    Those that are packed for oneDNN are a copy too. Tables of embeddings are not, so this is a little more than it is.
    """
    is_packed = not model.blueprint.is_static and matmul_on(accelerator, model.dtype, config.matmul) != "torch"
    is_mapped = model.blueprint.checkpoint_dtype == model.dtype and not is_packed
    return 0 if is_mapped else model.predictor.weights.total_bytes


def _staging_bytes(config: RunConfig, models: Sequence[ModelEstimate]) -> int:
    """The host memory for all models. A pass in its own process has its models in memory once more."""
    copies = [model.host_bytes for model in models]
    once_more = sum(copies) if config.mode == "standard" else max(copies, default=0)
    in_worker = once_more if config.isolation == "process" else 0
    return sum(copies) + in_worker


def _run_estimate(
    config: RunConfig,
    accelerator: Accelerator,
    scanned: Scan,
    models: tuple[ModelEstimate, ...],
    words: tuple[WordsEstimate, ...],
    plans: Mapping[Mode, RunPlan],
    session_seconds: float | None,
    input_notes: Sequence[str],
    remarks: Sequence[str],
) -> RunEstimate:
    fused = _fused_bytes(config, scanned.chunks, models)
    times = [*(model.seconds for model in models), *(member.seconds for member in words)]
    staging = sum(model.staging_seconds for model in models)
    seconds = sum(time for time in times if time is not None) + staging if None not in times else None
    own = sum(model.vectors_bytes for model in models) + sum(member.disk_bytes for member in words)
    disk = scanned.text_bytes + fused + own
    problems = [
        *memory_problems(config, accelerator, models, plans),
        *time_problems(models, seconds, session_seconds),
        *disk_problems(config.out, disk),
    ]
    return RunEstimate(
        accelerator=config.accelerator,
        card=accelerator.card,
        devices=len(accelerator.devices),
        chunks=scanned.chunks,
        repeated=scanned.repeated,
        skipped=scanned.skipped,
        text_bytes=scanned.text_bytes,
        limit_bytes=memory_limit(accelerator.card),
        models=models,
        words=words,
        fused_bytes=fused,
        disk_bytes=disk,
        host_bytes=_staging_bytes(config, models),
        seconds=seconds,
        session_seconds=session_seconds,
        problems=tuple(problems),
        unknowns=tuple(unknowns(models, session_seconds)),
        notes=(*input_notes, *scanned.notices, *notes(config, models), *remarks),
    )


def _fused_bytes(config: RunConfig, chunks: int, models: Sequence[ModelEstimate]) -> int:
    members = [
        Member(name=model.name, dim=model.dim, matryoshka_dims=model.matryoshka_dims)
        for model in models
        if model.dim is not None and model.kind == "dense"
    ]
    if len(members) < sum(model.kind == "dense" for model in models):
        return 0
    fusion = plan_fusion(config.fusion, members)
    return chunks * fusion.dim * VECTOR_BYTES[config.vector_dtype] if fusion is not None else 0
