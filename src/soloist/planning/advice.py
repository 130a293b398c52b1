"""What is said of a plan, in sentences: what stands against the run, what is not known of it, and what to know of its
figures. Plans nothing.
"""

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
    """What does not fit on a device, in the mode that is asked for."""
    problems, limit = [], memory_limit(accelerator.card)
    if not accelerator.copies_weights:
        return []
    for model in models:
        resident = plans[config.mode].predictors[model.name].resident_bytes()
        batches = model.exclusive if config.mode == "exclusive" else model.standard
        if resident > limit:
            what = "all models'" if config.mode == "standard" else "its"
            problems.append(
                f"{model.name} needs {resident / 1e9:.2f} GB for {what} weights in {model.dtype}, and "
                f"{limit / 1e9:.2f} GB of {accelerator.card.name} can be planned with: choose a device with more "
                f"memory, a smaller dtype"
                f"{', or exclusive mode' if config.mode == 'standard' else ''}"
            )
        elif not batches.fits:
            problems.append(
                f"{model.name} cannot take even one row of {model.longest_length} tokens beside its weights on "
                f"{accelerator.card.name}: lower its max_tokens in a catalogue, or choose a smaller dtype"
            )
    return problems


def time_problems(models: Sequence[ModelEstimate], seconds: float | None, session_seconds: float | None) -> list[str]:
    """That the run is longer than the session, where both are known."""
    if session_seconds is None or seconds is None or seconds <= session_seconds:
        return []
    slowest = max(models, key=lambda model: model.seconds or 0.0)
    sessions = math.ceil(seconds / session_seconds)
    without = f", or leave out {slowest.name}, the slowest" if len(models) > 1 else ""
    return [
        f"the run would take {_duration(seconds)} and the session has {_duration(session_seconds)}: give it "
        f"{sessions:,} sessions, in each of which the same command with --stop-after goes on with the run folder"
        f"{', or' if not without else ','} lower max_tokens{without}"
    ]


def disk_problems(out: Path, needed: int) -> list[str]:
    """That the disk of the run folder has less than the `needed` bytes free."""
    place = next((each for each in (out.absolute(), *out.absolute().parents) if each.exists()), None)
    free = shutil.disk_usage(place).free if place is not None else needed
    if needed <= free:
        return []
    return [
        f"the run folder needs {needed / 1e9:.2f} GB and {place} has {free / 1e9:.2f} GB free: free some space, or "
        "choose another --out"
    ]


def unknowns(models: Sequence[ModelEstimate], session_seconds: float | None) -> list[str]:
    """What cannot be said of a session, because the rate of a model is not known."""
    unknown = ", ".join(model.name for model in models if model.seconds is None)
    if session_seconds is None or not unknown:
        return []
    return [
        f"whether the session of {_duration(session_seconds)} is long enough, because the rate of {unknown} is not "
        f"known: run it once on this machine with chunks of {LEAST_MEASURED_TOKENS:,} tokens or more, which measures it"
    ]


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def notes(config: RunConfig, models: Sequence[ModelEstimate]) -> list[str]:
    """What the reader should know of the figures."""
    estimated = [model.name for model in models if model.lengths_estimated]
    said = []
    if estimated:
        said.append(
            f"the tokenizer of {', '.join(estimated)} is not on this machine: lengths are estimated at "
            f"{CHARACTERS_PER_TOKEN} characters a token"
        )
    smaller = [model.name for model in models if _is_smaller(model.standard, model.exclusive)]
    if not all(model.exclusive.fits for model in models):
        pass  # the problems say so, and there is nothing to compare
    elif smaller:
        said.append(
            f"exclusive mode allows larger batches of {', '.join(smaller)}, because standard mode keeps all models' "
            "weights on the device"
        )
    else:
        said.append("both modes allow the same batches: beside all models' weights there is still room for them")
    if any(model.basis.startswith("estimated") for model in models):
        said.append(f"times from a data sheet assume {RATE_SHARE:.0%} of its rate, and are estimates")
    return said


def _is_smaller(batches: BatchEstimate, than: BatchEstimate) -> bool:
    """Whether batches of the median or the longest length have fewer rows, or not even one fits any more."""
    return (
        batches.fits < than.fits or batches.median_rows < than.median_rows or batches.longest_rows < than.longest_rows
    )
