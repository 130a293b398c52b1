"""Sentences about an estimate: problems, what is not known, and notes on the figures. Estimates nothing."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from soloist.config import RunConfig
from soloist.devices import Accelerator
from soloist.memory.planner import memory_limit
from soloist.planning.run_estimate import LEAST_MEASURED_TOKENS, RATE_SHARE, BatchEstimate, ModelEstimate
from soloist.planning.token_lengths import CHARACTERS_PER_TOKEN
from soloist.sizing.run_plan import RunPlan
from soloist.types import Mode


def memory_problems(
    config: RunConfig, accelerator: Accelerator, models: Sequence[ModelEstimate], plans: Mapping[Mode, RunPlan]
) -> list[str]:
    """The models that do not fit on a device, in the mode of the config."""
    problems, limit = [], memory_limit(accelerator.card)
    if not accelerator.copies_weights:
        return []
    for model in models:
        resident = plans[config.mode].predictors[model.name].resident_bytes()
        batches = model.exclusive if config.mode == "exclusive" else model.standard
        if resident > limit:
            problems.append(_weights_problem(config.mode, model, resident, limit, accelerator.card.device_name))
        elif not batches.fits:
            problems.append(
                f"{model.name} leaves no memory on a {accelerator.card.device_name} for one text of "
                f"{model.longest_length} tokens beside its weights: lower its max_tokens in a catalogue, or choose a "
                "smaller dtype"
            )
    return problems


def _weights_problem(mode: Mode, model: ModelEstimate, needed_bytes: int, limit_bytes: int, card: str) -> str:
    whose, remedy = "its", "a device with more memory, or a smaller dtype"
    if mode == "standard":
        whose, remedy = "all models'", "a device with more memory, a smaller dtype, or exclusive mode"
    return (
        f"{model.name} needs {needed_bytes / 1e9:.2f} GB for {whose} weights in {model.dtype}, but soloist can use "
        f"only {limit_bytes / 1e9:.2f} GB of a {card}: choose {remedy}"
    )


def time_problems(models: Sequence[ModelEstimate], seconds: float | None, session_seconds: float | None) -> list[str]:
    """The problem of a run that takes longer than the session, where both times are known."""
    if session_seconds is None or seconds is None or seconds <= session_seconds:
        return []
    slowest = max(models, key=lambda model: model.seconds or 0.0, default=None)
    sessions = math.ceil(seconds / session_seconds)
    remedies = [
        f"run the same embed command with --stop-after in {sessions:,} sessions",
        "lower max_tokens",
        *([f"leave out {slowest.name}, the slowest model"] if slowest is not None and len(models) > 1 else []),
    ]
    return [
        f"the run would take {_duration(seconds)}, but the session has {_duration(session_seconds)}: "
        f"{', '.join(remedies[:-1])}, or {remedies[-1]}"
    ]


def disk_problems(out: Path, needed: int) -> list[str]:
    """The problem of a run folder whose disk has fewer free bytes than `needed`."""
    folder = next((path for path in (out.absolute(), *out.absolute().parents) if path.exists()), None)
    free = shutil.disk_usage(folder).free if folder is not None else needed
    if needed <= free:
        return []
    return [
        f"the run folder needs {needed / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB free: free some space, or "
        "choose another --out"
    ]


def unknowns(models: Sequence[ModelEstimate], session_seconds: float | None) -> list[str]:
    """Whether the session is long enough, where that is not known because a model's rate is not."""
    unknown = ", ".join(model.name for model in models if model.seconds is None)
    if session_seconds is None or not unknown:
        return []
    return [
        f"whether a session of {_duration(session_seconds)} is long enough, because the speed of {unknown} is not "
        f"known: embed chunks of {LEAST_MEASURED_TOKENS:,} tokens or more on this machine once, which measures it"
    ]


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def notes(config: RunConfig, models: Sequence[ModelEstimate]) -> list[str]:
    """What the reader should know about the figures."""
    estimated = [model.name for model in models if model.lengths_estimated]
    sentences = []
    if estimated:
        sentences.append(
            f"the tokenizer of {', '.join(estimated)} is not on this machine: lengths are estimated at "
            f"{CHARACTERS_PER_TOKEN} characters a token"
        )
    smaller = [model.name for model in models if _is_smaller(model.standard, model.exclusive)]
    if not models or not all(model.exclusive.fits for model in models):
        pass  # the problems say so, and there is nothing to compare
    elif smaller:
        sentences.append(
            f"exclusive mode allows larger batches of {', '.join(smaller)}, because standard mode keeps all models' "
            "weights on the device"
        )
    else:
        sentences.append("both modes allow the same batches: they fit on the device beside all models' weights")
    if any(model.basis.startswith("estimated") for model in models):
        sentences.append(f"times from a data sheet are estimates: they assume {RATE_SHARE:.0%} of the stated rate")
    return sentences


def _is_smaller(batches: BatchEstimate, than: BatchEstimate) -> bool:
    """Whether batches of the median or the longest length have fewer rows, or not even one row fits."""
    return (
        batches.fits < than.fits or batches.median_rows < than.median_rows or batches.longest_rows < than.longest_rows
    )
