"""Makes few points of many, and keeps them true: rates of shards are joined, and the highest memory is kept. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from soloist.reports.run_report.values import MemoryPoint, Rate

POINTS = 1_200  # in a figure: each takes about 120 bytes of the page, in two sizes
# The most of each kind that a figure shows: more would be too small to see, or make the page too large.
DEVICES, MODELS, BARS, LEASES, SHAPES = 8, 8, 16, 400, 400
_Item = TypeVar("_Item")


def thin_rates(rates: Sequence[Rate], points: int = POINTS) -> tuple[tuple[Rate, ...], int]:
    """The rates, and how many shards in a row share a point. A point has the rate of its shards together."""
    by_model: dict[str, list[Rate]] = {}
    for rate in rates:
        by_model.setdefault(rate.model, []).append(rate)
    size = -(-len(rates) // points) if rates else 1
    if size == 1:
        return tuple(rates), 1
    return tuple(_joined(part) for own in by_model.values() for part in _parts(own, size)), size


def thin_memory(
    memory: Mapping[str, Sequence[MemoryPoint]], points: int = POINTS
) -> tuple[dict[str, tuple[MemoryPoint, ...]], int]:
    """The points of each device, and how many in a row share a point. Such a point has the highest of their values."""
    size = -(-max(map(len, memory.values()), default=0) * len(memory) // points) or 1
    return {device: tuple(map(_highest, _parts(own, size))) for device, own in memory.items()}, size


def evenly(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most `most` items, at equal distances from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[index * (len(items) - 1) // (most - 1)] for index in range(most)]


def _parts(items: Sequence[_Item], size: int) -> Iterator[tuple[_Item, ...]]:
    rest = iter(items)
    while part := tuple(itertools.islice(rest, size)):
        yield part


def _joined(rates: Sequence[Rate]) -> Rate:
    return replace(
        rates[-1], tokens=sum(rate.tokens for rate in rates), seconds=sum(rate.seconds for rate in rates),
        shards=len(rates),
    )  # fmt: skip


def _highest(points: Sequence[MemoryPoint]) -> MemoryPoint:
    return max(points, key=lambda point: point.allocated_bytes)
