"""How long a worker may say nothing before it counts as hung. Pure: seconds in, seconds out."""

from __future__ import annotations

LEAST_SECONDS = 60.0
_TIMES_THE_SLOWEST = 10
_TIMES_THE_LEAST = 30  # before anything is known: a batch of a large model on a slow host takes minutes
_TIMES_FOR_THE_FIRST = 5  # weights go to the devices, and libraries prepare their kernels


def patience_seconds(
    slowest_seconds: float | None, least_seconds: float = LEAST_SECONDS, *, is_first: bool = False
) -> float:
    """How long to wait for a sign of progress of a worker with a shard in work.

    `slowest_seconds` is what the slowest shard of the pass has taken so far on any node, None before the first one.
    `is_first` says that the worker itself has not computed a shard of the pass yet.

    >>> patience_seconds(30.0)
    300.0
    >>> patience_seconds(0.5)
    60.0
    >>> patience_seconds(0.5, is_first=True)
    300.0
    """
    if slowest_seconds is None:
        return _TIMES_THE_LEAST * least_seconds
    return max(least_seconds, _TIMES_THE_SLOWEST * slowest_seconds) * (_TIMES_FOR_THE_FIRST if is_first else 1)
