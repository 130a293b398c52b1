"""The soloist command as a process that a test kills. Its workers note each shard that they have computed."""

from __future__ import annotations

from soloist.cli import main
from soloist.engine.drivers.cluster import coordinator

if __name__ == "__main__":
    coordinator.WORK = "support.planted_workers:logged"
    main()
