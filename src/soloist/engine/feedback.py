"""What earlier runs on this machine measured, for the next plan: peaks against predictions, and rates.

Refines plans and is needed for none: what cannot be read is nothing known, and what cannot be written is a notice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from soloist.engine.cache import MachineCache

FILE_NAME = "measured.json"
LEAST_ACTIVATIONS_SHARE = 0.25
MOST_GROWTH = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of a model in one dtype on one kind of device.

    Bytes are of the whole device, `resident_bytes` the weights on it; 0 where nothing was predicted or measured. The
    rate is of one device, over tokens with their padding.
    """

    predicted_bytes: int = 0
    measured_bytes: int = 0
    resident_bytes: int = 0
    tokens_per_second: float = 0.0
    tokens: int = 0
    runs: int = 0

    @property
    def growth(self) -> float:
        """Measured over predicted activations, at most 2; 1 where unknown.

        Where activations are a small part of the peak, a constant such as a second workspace would pass for growth.
        """
        predicted = self.predicted_bytes - self.resident_bytes
        if not self.measured_bytes or predicted < LEAST_ACTIVATIONS_SHARE * self.predicted_bytes:
            return 1.0
        return min(MOST_GROWTH, (self.measured_bytes - self.resident_bytes) / predicted)


class Feedback:
    """The measurements that a cache folder keeps. None as the folder: the user's own."""

    def __init__(self, cache_dir: Path | None = None) -> None:
        self._cache = MachineCache(cache_dir, FILE_NAME)

    def of(self, fingerprint: str, dtype: str, device_name: str) -> Measured:
        """What is known of a model on a device; an empty record where nothing is."""
        row = self._cache.row(fingerprint, dtype, device_name)
        known = {name: row[name] for name in Measured.__slots__ if isinstance(row.get(name), (int, float))}
        return Measured(**known)

    def knows(self, dtype: str, device_name: str) -> bool:
        """Whether anything was measured in a dtype on a device."""
        return self._cache.knows(dtype, device_name)

    def record(self, fingerprint: str, dtype: str, device_name: str, measured: Measured) -> None:
        """Keep a measurement in the place of the one before.

        Raises:
            OutputError: the file cannot be written.
        """
        self._cache.record(fingerprint, dtype, device_name, asdict(measured))
