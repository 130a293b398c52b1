"""Another process that takes most of the memory of simulated devices, as soon as a model is on them.

No plan can know of it: so batches run out of memory and are halved.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from soloist.events import Event, PassStarted

_CODE = textwrap.dedent("""
    import sys
    from pathlib import Path
    import support.torchless
    from soloist.devices.simulated_driver import DriverMemory
    folder, total, spare, devices = Path(sys.argv[1]), *map(int, sys.argv[2:])
    for index in range(devices):
        memory = DriverMemory(f"simulated-{index}", total, folder)
        assert memory.take(memory.free_bytes() - spare)
    print("taken", flush=True)
    sys.stdin.read()
""")


class Crowd:
    """An event sink that lets the process loose when a model's pass begins, and ends it with `close`."""

    def __init__(self, model: str, lock_dir: Path, total_bytes: int, spare_bytes: int, devices: int = 2) -> None:
        self._model = model
        self._arguments = [str(lock_dir), *map(str, (total_bytes, spare_bytes, devices))]
        self._process: subprocess.Popen[str] | None = None

    def emit(self, event: Event) -> None:
        if not isinstance(event, PassStarted) or event.model != self._model:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, *self._arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        assert self._process.stdout is not None and self._process.stdout.readline() == "taken\n"

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()
