"""A run foretold: what it will need and how long it will take, before any weights are loaded.

Reads the chunks and the tokenizers; knows a machine only as a card and a count of devices, so that a session on another
machine can be planned on this one. Every figure that is no measurement says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soloist.config import RunConfig
from soloist.devices import Accelerator, open_accelerator
from soloist.encoding.batching import bucket
from soloist.engine.resume.kept_settings import Settled, settled, unfit_weights
from soloist.engine.samples.unit_lengths import in_words, ranks_otherwise
from soloist.fusion import Member, plan_fusion
from soloist.memory.planner import BatchLimits, memory_limit
from soloist.memory.prediction import Predictor, blueprint_of, tracer_of
from soloist.models.blueprint import Blueprint
from soloist.models.dtype import family_overflows_float16
from soloist.models.fingerprint import known_fingerprint
from soloist.models.location import find_settings, weight_files
from soloist.models.refusals import has_weights, require_dense_encoder
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
)
from soloist.planning.token_lengths import Scan, TokenCounts, scan
from soloist.sizing.budgets import Budget, CalibrationCache, choose_budget, table_row
from soloist.sizing.measurements import Measurement, MeasurementCache, device_key
from soloist.sizing.run_plan import PlannedModel, RunPlan, plan_run
from soloist.sources import find_input
from soloist.staging import dtype_on, select_models
from soloist.types import DType, Mode, VectorDType

# Bytes a second from a disk or a network volume into host memory, while a model is staged. An assumption.
STAGING_BYTES_PER_SECOND = 400e6
VECTOR_BYTES: Mapping[VectorDType, int] = {"float32": 4, "float16": 2}
_CURVE_LENGTHS = tuple(1 << power for power in range(6, 15))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Known:
    """A model as far as it is known without its weights."""

    spec: ModelSpec
    blueprint: Blueprint
    settings: ModelSettings
    dtype: DType
    predictor: Predictor
    measured: Measurement
    budget: Budget


def estimate_run(config: RunConfig, session_seconds: float | None = None) -> RunEstimate:
    """Foretell the run that a config describes; nothing is written, and no weights are loaded.

    What the folder `out` was made with counts where the config does not name something else, as in a run.

    Raises:
        SoloistError: the input, a model or the accelerator cannot be used, or nothing is known of a model's network.
    """
    accelerator = open_accelerator(config.accelerator)
    kept = settled(config)
    specs = select_models(kept.config)
    config, kept_notes = _without_unfit_weights(kept, tuple(specs))
    known = [_know(spec, config, accelerator) for spec in specs.values()]
    given = find_input(config.chunks_root, config.source, config.collections)
    found = scan(given.collections, config.source, [(each.spec, each.settings) for each in known], config.collections)
    planned = [_planned(each, accelerator) for each in known]
    modes: tuple[Mode, ...] = ("exclusive", "standard")
    plans = {mode: plan_run(planned, mode, accelerator.card) for mode in modes}
    models = tuple(_model_plan(each, found, plans, config, accelerator) for each in known)
    passed_over = given.passed_over.notice()
    of_input = [*([passed_over] if passed_over else []), *kept_notes]
    remarks = [remark for each in known for remark in _remarks(each)]
    return _session(config, accelerator, found, models, plans, session_seconds, of_input, remarks)


def _without_unfit_weights(kept: Settled, models: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """The config to plan, and what to say of the folder's settings. A plan goes on where `embed` asks for weights."""
    said = [f"{notice.about}: {notice.message}" for notice in kept.notices]
    unfit = unfit_weights(kept, models)
    if unfit is None:
        return kept.config, said
    return replace(kept.config, fusion=replace(kept.config.fusion, weights={})), [*said, unfit]


def _remarks(known: _Known) -> list[str]:
    """What a user should know of how a model's files are followed, and what its run will say too."""
    settings = known.settings
    said = list(settings.notices)
    if ranks_otherwise(settings.similarity, has_unit_vectors=settings.has_unit_vectors):
        said.append(in_words(settings.similarity))
    if Path(known.spec.source).is_dir() and not has_weights(Path(known.spec.source)):
        said.append(f"its weights are not in {known.spec.source}, and a run needs them: copy them there first")
    return [f"{known.spec.name}: {each}" for each in said]


def _know(spec: ModelSpec, config: RunConfig, accelerator: Accelerator) -> _Known:
    folder = find_settings(spec)
    if folder is not None:  # whoever plans a download of gigabytes may have none of them yet
        require_dense_encoder(spec, folder, with_weights=False)
    blueprint = blueprint_of(spec)
    overflows = spec.overflows_float16 or family_overflows_float16(blueprint.config.get("model_type"))
    spec = replace(spec, overflows_float16=overflows)
    dtype = dtype_on(accelerator, spec, config.dtype)
    settings = read_settings(spec, blueprint)
    measurements, calibrations = MeasurementCache(config.cache_dir), CalibrationCache(config.cache_dir)
    device = device_key(accelerator)
    row = table_row(accelerator.kind, blueprint.is_static)
    # Its files are digested only where something was measured on such a device.
    is_any_known = measurements.knows(dtype, device) or calibrations.knows(dtype, device)
    fingerprint = (known_fingerprint(spec, settings, dtype) if is_any_known else None) or ""
    calibrated = calibrations.tokens(fingerprint, dtype, device, row)
    return _Known(
        spec=spec,
        blueprint=blueprint,
        settings=settings,
        dtype=dtype,
        predictor=Predictor(tracer_of(blueprint, dtype, accelerator.card), accelerator.card),
        measured=measurements.of(fingerprint, dtype, device),
        budget=choose_budget(config.token_budget, None, calibrated, row, device),
    )


def _planned(known: _Known, accelerator: Accelerator) -> PlannedModel:
    """As the run plans it: on the host, whose memory is not a device's own, nothing bounds batches but saturation."""
    return PlannedModel(
        name=known.spec.name,
        budget=known.budget,
        max_tokens=known.settings.max_tokens,
        weight_sizes=known.predictor.weights.sizes_bytes,
        tracer=known.predictor.tracer if accelerator.copies_weights else None,
        growth=known.measured.growth,
    )


def _model_plan(
    known: _Known, found: Scan, plans: Mapping[Mode, RunPlan], config: RunConfig, accelerator: Accelerator
) -> ModelEstimate:
    counts = found.counts[known.spec.name]
    name, limit = known.spec.name, known.settings.max_tokens
    median, longest = (max(1, counts.quantile(share)) for share in (0.5, 1.0))
    # Without its weights nobody knows whether a model's rows can be packed on the CPU: as a rule they can.
    packs = known.blueprint.is_static or accelerator.packs_rows
    pad = (lambda length: length) if packs else (lambda length: bucket(length, limit))
    padded = sum(pad(length) * rows for length, rows in counts.kept.items())
    tokens = sum(length * rows for length, rows in counts.kept.items())
    plan = plans[config.mode]
    limits = plan.limits[name]
    predictor = plan.predictors.get(name, known.predictor)
    peaks = [predictor.predict(min(counts.rows, limits.rows(pad(length))), pad(length)) for length in (median, longest)]
    worst = max(peaks, key=lambda memory: memory.peak_bytes)
    seconds, basis = _seconds(known, counts, padded, accelerator)
    return ModelEstimate(
        name=name,
        dtype=known.dtype,
        dim=known.settings.dim,
        matryoshka_dims=known.spec.matryoshka_dims,
        max_tokens=limit,
        rows=counts.rows,
        tokens=tokens,
        lengths_estimated=counts.estimated,
        median_length=median,
        longest_length=longest,
        histogram=_histogram(counts),
        truncated_rows=counts.truncated_rows,
        padding_share=1 - tokens / padded if padded else 0.0,
        weights_bytes=worst.weights_bytes,
        peak_bytes=worst.peak_bytes,
        reserved_bytes=worst.reserved_bytes,
        token_budget=known.budget.tokens,
        budget_source=known.budget.source,
        exclusive=_batch_plan(plans["exclusive"].limits[name], pad(median), pad(longest)),
        standard=_batch_plan(plans["standard"].limits[name], pad(median), pad(longest)),
        curve=known.predictor.curve([length for length in _CURVE_LENGTHS if length < longest] + [longest]),
        seconds=seconds,
        basis=basis,
        staging_seconds=(known.blueprint.checkpoint_bytes or worst.weights_bytes) / STAGING_BYTES_PER_SECOND,
        download_bytes=_download_bytes(known),
        host_bytes=_host_bytes(known),
        vectors_bytes=found.chunks * (known.settings.dim or 0) * VECTOR_BYTES[config.vector_dtype],
    )


def _batch_plan(limits: BatchLimits, median: int, longest: int) -> BatchEstimate:
    return BatchEstimate(
        median_rows=limits.rows(median),
        longest_rows=limits.rows(longest),
        limited_by=limits.reason(longest),
        fits=limits.one_row_fits(longest),
    )


def _histogram(counts: TokenCounts) -> dict[int, int]:
    """Rows by the power of two that their whole length does not exceed."""
    found: dict[int, int] = {}
    for length, rows in counts.rows_of.items():
        edge = 1 << max(0, (length - 1).bit_length())
        found[edge] = found.get(edge, 0) + rows
    return dict(sorted(found.items()))


def _seconds(known: _Known, counts: TokenCounts, padded: int, accelerator: Accelerator) -> tuple[float | None, Basis]:
    """Encoding time of a pass: by what this machine measured, else by the card's rates."""
    devices = len(accelerator.devices)
    # The rate of a simulated card is this machine's processor's, and says nothing of the card.
    if known.measured.tokens >= LEAST_MEASURED_TOKENS and accelerator.kind != "simulated":
        return padded / known.measured.tokens_per_second / devices, "measured on this machine"
    if known.blueprint.is_static:
        # A table look-up waits for its tokenizer, which is the host's and was measured just now.
        return (counts.seconds, "measured on this machine") if not counts.estimated else (None, "unknown")
    rate = accelerator.card.matrix_rates.get(known.dtype)
    if rate is None:
        return None, "unknown"
    operations = _operations(known, counts)
    return operations / (rate * RATE_SHARE) / devices, "estimated from the card's data sheet"


def _operations(known: _Known, counts: TokenCounts) -> float:
    """Floating-point operations of a pass: two for each weight and token, and attention's products."""
    weights = known.predictor.weights
    matrix = 2 * (weights.parameters - weights.embedding_parameters)
    config = known.blueprint.config
    heads, layers = config.get("num_attention_heads", 0), config.get("num_hidden_layers", 0)
    head_dim = config.get("head_dim") or (config.get("hidden_size", 0) // heads if heads else 0)
    attention = 4 * layers * heads * head_dim
    padded = ((bucket(length, known.settings.max_tokens), rows) for length, rows in counts.kept.items())
    return float(sum(rows * length * (matrix + attention * length) for length, rows in padded))


def _download_bytes(known: _Known) -> int | None:
    """What must still be fetched: 0 where the weights are here, None where their size is not known."""
    folder = known.settings.folder
    if folder is None:
        return known.blueprint.checkpoint_bytes
    if known.spec.loader == "wordllama":
        return 0
    files = weight_files(folder)
    return 0 if files and all(file.is_file() for file in files) else known.blueprint.checkpoint_bytes


def _host_bytes(known: _Known) -> int:
    """Host memory that staging takes: weights of the checkpoint's own dtype are mapped, others are a copy."""
    same = known.blueprint.checkpoint_dtype == known.dtype
    return 0 if same else known.predictor.weights.total_bytes


def _staging_bytes(config: RunConfig, models: Sequence[ModelEstimate]) -> int:
    """Host memory for all models; a pass in a process of its own has its models there once more."""
    copies = [model.host_bytes for model in models]
    in_worker = (sum(copies) if config.mode == "standard" else max(copies)) if config.isolation == "process" else 0
    return sum(copies) + in_worker


def _session(
    config: RunConfig,
    accelerator: Accelerator,
    found: Scan,
    models: tuple[ModelEstimate, ...],
    plans: Mapping[Mode, RunPlan],
    session_seconds: float | None,
    of_input: Sequence[str],
    remarks: Sequence[str],
) -> RunEstimate:
    fused = _fused_bytes(config, found.chunks, models)
    times = [model.seconds for model in models]
    staging = sum(model.staging_seconds for model in models)
    seconds = sum(time for time in times if time is not None) + staging if None not in times else None
    disk = found.text_bytes + fused + sum(model.vectors_bytes for model in models)
    problems = [
        *memory_problems(config, accelerator, models, plans),
        *time_problems(models, seconds, session_seconds),
        *disk_problems(config.out, disk),
    ]
    return RunEstimate(
        accelerator=config.accelerator,
        card=accelerator.card,
        devices=len(accelerator.devices),
        chunks=found.chunks,
        repeated=found.repeated,
        skipped=found.skipped,
        text_bytes=found.text_bytes,
        limit_bytes=memory_limit(accelerator.card),
        models=models,
        fused_bytes=fused,
        disk_bytes=disk,
        host_bytes=_staging_bytes(config, models),
        seconds=seconds,
        session_seconds=session_seconds,
        problems=tuple(problems),
        unknowns=tuple(unknowns(models, session_seconds)),
        notes=(*of_input, *found.notices, *notes(config, models), *remarks),
    )


def _fused_bytes(config: RunConfig, chunks: int, models: Sequence[ModelEstimate]) -> int:
    members = [
        Member(name=model.name, dim=model.dim, matryoshka_dims=model.matryoshka_dims)
        for model in models
        if model.dim is not None
    ]
    if len(members) < len(models):
        return 0
    fusion = plan_fusion(config.fusion, members)
    return chunks * fusion.dim * VECTOR_BYTES[config.vector_dtype] if fusion is not None else 0
