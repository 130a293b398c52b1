"""Measurements of a machine in the user's cache folder: JSON files with a row for each model, dtype and device.

`MachineCache` is one such file. `MeasurementCache` keeps in it the peaks and the rates that runs measured, for the next
plan. Runs and plans work without them: a missing or damaged file counts as empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from soloist.devices import Accelerator
from soloist.jsontext import json_text
from soloist.stores.atomic import atomic_path, disk_errors

FILE_NAME = "measured.json"
LEAST_ACTIVATIONS_SHARE = 0.25
MOST_GROWTH = 2.0


class MachineCache:
    """The rows of one file in a cache folder; None for the user's cache folder."""

    def __init__(self, cache_dir: Path | None, file_name: str) -> None:
        self.path = (cache_dir or platformdirs.user_cache_path("soloist")) / file_name

    def row(self, fingerprint: str, dtype: str, device_name: str) -> Mapping[str, Any]:
        """The row of a model on a device; empty where there is none."""
        return self._rows().get(_key(fingerprint, dtype, device_name), {})

    def knows(self, dtype: str, device_name: str) -> bool:
        """Whether there is a row of any model in this dtype on this device."""
        return any(key.endswith(_key("", dtype, device_name)) for key in self._rows())

    def record(self, fingerprint: str, dtype: str, device_name: str, row: Mapping[str, Any]) -> None:
        """Keep a row. It replaces the one before.

        Raises:
            OutputError: the file cannot be written.
        """
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"):
                rows = {**self._rows(), _key(fingerprint, dtype, device_name): row}
                with atomic_path(self.path) as temp, disk_errors(self.path):
                    temp.write_text(json_text(rows), encoding="utf-8")

    def _rows(self) -> Mapping[str, Mapping[str, Any]]:
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return {key: row for key, row in rows.items() if isinstance(row, dict)} if isinstance(rows, dict) else {}


def device_key(accelerator: Accelerator) -> str:
    """The name of a device in the cache. It tells a simulated T4 from a real one."""
    return f"{accelerator.kind} {accelerator.card.device_name}"


def _key(fingerprint: str, dtype: str, device_name: str) -> str:
    return f"{fingerprint}/{dtype}/{device_name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The measurements of a model in one dtype on one kind of device.

    Bytes are of the whole device, and 0 where nothing was predicted or measured. `resident_bytes` are the weights on
    it. The rate is of one device, over tokens with their padding.
    """

    predicted_bytes: int = 0
    measured_bytes: int = 0
    resident_bytes: int = 0
    tokens_per_second: float = 0.0
    tokens: int = 0
    runs: int = 0

    @property
    def growth(self) -> float:
        """Measurement over predicted activations, at most 2; 1 where unknown.

        Where activations are a small part of the peak, a constant such as a second workspace would pass for growth.
        """
        predicted = self.predicted_bytes - self.resident_bytes
        if not self.measured_bytes or predicted < LEAST_ACTIVATIONS_SHARE * self.predicted_bytes:
            return 1.0
        return min(MOST_GROWTH, (self.measured_bytes - self.resident_bytes) / predicted)


class MeasurementCache:
    """The measurements in a cache folder; None for the user's cache folder."""

    def __init__(self, cache_dir: Path | None = None) -> None:
        self._cache = MachineCache(cache_dir, FILE_NAME)

    def of(self, fingerprint: str, dtype: str, device_name: str) -> Measurement:
        """The measurement of a model on a device; an empty one where there is none."""
        row = self._cache.row(fingerprint, dtype, device_name)
        known = {name: row[name] for name in Measurement.__slots__ if isinstance(row.get(name), (int, float))}
        return Measurement(**known)

    def knows(self, dtype: str, device_name: str) -> bool:
        """Whether anything was measured in this dtype on this device."""
        return self._cache.knows(dtype, device_name)

    def record(self, fingerprint: str, dtype: str, device_name: str, measured: Measurement) -> None:
        """Keep a measurement. It replaces the one before.

        Raises:
            OutputError: the file cannot be written.
        """
        self._cache.record(fingerprint, dtype, device_name, asdict(measured))
