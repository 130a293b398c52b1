"""The soloist command as a process that a test kills. Its workers note each shard that they have computed."""

from __future__ import annotations

import os

from support.forks import STARTED

from soloist.cli import main
from soloist.engine.drivers.cluster import coordinator

if __name__ == "__main__":
    coordinator.WORK = f"support.{'planted' if os.environ.get(STARTED) else 'warm'}_workers:logged"
    main()
