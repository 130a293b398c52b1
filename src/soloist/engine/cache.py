"""What is measured on a machine, in the user's cache folder: a JSON file with a row for each model, dtype and device.

It refines runs and plans and is needed for none: a file that is missing or damaged is an empty one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from soloist.devices import Accelerator
from soloist.jsontext import json_text
from soloist.stores.atomic import atomic_path, disk_errors


class MachineCache:
    """The rows of one file of a cache folder. None as the folder: the user's own."""

    def __init__(self, cache_dir: Path | None, file_name: str) -> None:
        self.path = (cache_dir or platformdirs.user_cache_path("soloist")) / file_name

    def row(self, fingerprint: str, dtype: str, device_name: str) -> Mapping[str, Any]:
        """What is kept of a model on a device; empty where nothing is."""
        return self._rows().get(_key(fingerprint, dtype, device_name), {})

    def knows(self, dtype: str, device_name: str) -> bool:
        """Whether anything is kept of any model in a dtype on a device."""
        return any(key.endswith(_key("", dtype, device_name)) for key in self._rows())

    def record(self, fingerprint: str, dtype: str, device_name: str, row: Mapping[str, Any]) -> None:
        """Keep a row in the place of the one before.

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


def measured_key(accelerator: Accelerator) -> str:
    """Under what name measurements are kept: a simulated T4 is no measure of a real one."""
    return f"{accelerator.kind} {accelerator.card.device_name}"


def _key(fingerprint: str, dtype: str, device_name: str) -> str:
    return f"{fingerprint}/{dtype}/{device_name}"
