"""How long a worker may say nothing before it counts as hung, and how often workers may end. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_TIMES_THE_SLOWEST = 10
_TIMES_THE_LEAST = 30  # before anything is known: a batch of a large model on a slow host takes minutes
_TIMES_FOR_THE_FIRST = 5  # weights go to the devices, and libraries prepare their kernels
_WARNINGS = 6  # who stages and says nothing is named after this part of the time
_MOST_ENDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for a sign of progress.

    `least_seconds` holds for a worker with a shard in work, and is the least. `staging_seconds` holds for a worker that
    stages the models. It says each few seconds that it reads, downloads or computes, so a slow disk does not count.
    """

    least_seconds: float = 60.0
    staging_seconds: float = 1800.0

    @property
    def warning_seconds(self) -> float:
        """After this silence it is told that a worker stages and says nothing."""
        return self.staging_seconds / _WARNINGS

    def with_a_shard(self, slowest_seconds: float | None, *, is_first: bool = False) -> float:
        """For a worker with a shard in work.

        `slowest_seconds` is what the slowest shard of the pass has taken so far on any node, None before the first one.
        `is_first` says that the worker itself has not computed a shard of the pass yet.

        >>> Patience().with_a_shard(30.0)
        300.0
        >>> Patience().with_a_shard(0.5)
        60.0
        >>> Patience().with_a_shard(0.5, is_first=True)
        300.0
        """
        if slowest_seconds is None:
            return _TIMES_THE_LEAST * self.least_seconds
        longest = max(self.least_seconds, _TIMES_THE_SLOWEST * slowest_seconds)
        return longest * (_TIMES_FOR_THE_FIRST if is_first else 1)


PATIENCE = Patience()


class Ends:
    """How many workers of each node have ended since the node has last computed a shard."""

    def __init__(self) -> None:
        self._ends: dict[str, int] = {}

    def too_many(self, node_id: str, end: str, *, has_computed: bool) -> str:
        """Count the end of a worker. Why its node is to take no part any more, after the node's name; else empty.

        `end` says how it ended, and `has_computed` whether it had computed a shard.

        >>> ends = Ends()
        >>> [bool(ends.too_many("a", "killed", has_computed=computed)) for computed in (False, True, False, False)]
        [False, False, False, True]
        """
        ends = self._ends[node_id] = 1 if has_computed else self._ends.get(node_id, 0) + 1
        if ends < _MOST_ENDS:
            return ""
        return (
            f"has lost {ends} workers and computed no shard in between (the last time {end}): look at the memory and "
            "the devices of this node, and in Ray's logs there (by default /tmp/ray/session_latest/logs)"
        )
