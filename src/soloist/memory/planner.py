"""How many rows a batch may have. Arithmetic over predictions; knows nothing of texts, engines or real devices.

The limits follow from the model and the kind of card. They depend neither on the number of devices nor on the memory
that is free at the moment, nor on the mode, as long as all models fit.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal

from soloist.memory.cards import Card
from soloist.memory.prediction import PeakCurve, Predictor

# Left free on purpose, for scratch memory inside kernels and for cached blocks that do not fit the next batch. A replay
# of the allocator, largest batch first, reserved 14% more than was allocated. Segments are replayed for every limit, so
# this share is for what cannot be replayed.
RESERVE_SHARE = 0.05
# An estimate below this share of the room needs no replay.
_CLEARLY_FITS = 0.75
# The share of an estimate that is left, at the least and as a rule, once its segments are replayed.
_KEPT_BY_CACHING = 0.8
# Two segments of torch's allocator that may be begun and not filled.
_BEGUN_SEGMENTS_BYTES = 40 * 2**20

Reason = Literal["saturation", "memory"]


def memory_limit(card: Card) -> int:
    """The most bytes that batches are planned to take from the driver."""
    return int(card.usable_bytes * (1 - RESERVE_SHARE))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MemoryBound:
    """The batches that the memory of a device allows.

    `growth` is the ratio of measured to predicted activations on this machine, where it was above 1. `longest` is the
    longest row of the model: longer ones are not traced.
    """

    predictor: Predictor
    limit_bytes: int
    longest: int | None = None
    growth: float = 1.0
    _known: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def rows(self, length: int, most: int) -> int:
        """The most rows of a length that fit, at least 1 and at most `most`."""
        resident = self.predictor.resident_bytes()
        room = (self.limit_bytes - resident) / self.growth
        slack = _BEGUN_SEGMENTS_BYTES if self.predictor.card.caches else 0
        if self.curve(length).activations_bytes(most, length) + slack <= _CLEARLY_FITS * room:
            return most
        with self._lock:
            if length not in self._known:
                self._known[length] = self._search(length, int(resident + max(0.0, room)))
            return max(1, min(most, self._known[length]))

    def curve(self, length: int) -> PeakCurve:
        """The curve between the powers of two around a length."""
        low = 1 << max(0, length.bit_length() - 1)
        up = 2 * low if self.longest is None else max(length, min(2 * low, self.longest))
        return self.predictor.curve((min(low, up), up))

    def _search(self, length: int, limit_bytes: int) -> int:
        """The largest batch that fits, by bisection over replays; 0 where not even one row fits.

        It begins near an estimate without the allocator, which is a little too large for one that caches.
        """
        room = limit_bytes - self.predictor.resident_bytes()
        estimate = max(0, int(room / self.predictor.curve((length,)).activations_bytes(1, length)))
        fits, too_many = 0, max(1, estimate + 1)
        while self.predictor.fits(too_many, length, limit_bytes):
            fits, too_many = too_many, 2 * too_many
        likely = int(estimate * (_KEPT_BY_CACHING if self.predictor.card.caches else 1))
        if fits < likely < too_many and self.predictor.fits(likely, length, limit_bytes):
            fits = likely
        while too_many - fits > max(1, fits // 64):
            middle = (fits + too_many) // 2
            fits, too_many = (middle, too_many) if self.predictor.fits(middle, length, limit_bytes) else (fits, middle)
        return fits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchLimits:
    """The most rows that a batch of a length may have: enough to saturate the device, or as many as memory allows.

    `bounds` has the device with the model alone and, where other models are resident, with all of them. Without any
    bound, memory does not count.
    """

    token_budget: int
    bounds: tuple[MemoryBound, ...] = ()

    def rows(self, padded_length: int) -> int:
        """Rows of this padded length, at least 1."""
        most = max(1, self.token_budget // max(1, padded_length))
        for bound in self.bounds:
            most = bound.rows(padded_length, most)
        return most

    def is_bound_by_memory(self, padded_length: int) -> bool:
        """Whether memory keeps a batch of this length from saturating the device."""
        return self.rows(padded_length) < max(1, self.token_budget // max(1, padded_length))

    def reason(self, padded_length: int) -> Reason:
        """Why a batch of this length is not larger."""
        return "memory" if self.is_bound_by_memory(padded_length) else "saturation"

    def one_row_fits(self, padded_length: int) -> bool:
        """Whether even a single row of this length is predicted to fit."""
        return all(bound.predictor.fits(1, padded_length, bound.limit_bytes) for bound in self.bounds)
