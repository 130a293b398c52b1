"""The adapter's log: a line for each event worth reading, visible without any set-up by the caller.

Reads the engine's events; knows nothing of what makes them.
"""

from __future__ import annotations

import logging
import sys

from soloist.events import (
    BatchSplit,
    Event,
    InputScanned,
    LeaseAcquired,
    LeaseReleased,
    LeaseWaiting,
    ModelStaged,
    Notice,
    RowsRecomputed,
    RunFinished,
)

logger = logging.getLogger("processor.ultimate_embedder")


class FallbackHandler(logging.Handler):
    """Writes to the present `sys.stderr`, for as long as no logger above ours has a handler of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, unless another handler will."""
        above = logger.parent
        if above is None or not above.hasHandlers():
            sys.stderr.write(self.format(record) + "\n")


def make_visible() -> None:
    """Let the log be seen where the caller has set up no logging; what the caller has set up stays as it is."""
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = FallbackHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)


_SPLIT = "%s: a batch of %d rows did not fit on %s, so it was halved"
_RECOMPUTED = "%s: %d vectors were 0 or not finite, and were computed again in float32 on the CPU"


class LogSink:
    """Writes events to the log."""

    def emit(self, event: Event) -> None:
        """Log one event, where a reader of the log would want it."""
        match event:
            case InputScanned():
                logger.info("%s: %d chunks, %d left out", event.collection, event.chunks, event.skipped)
            case ModelStaged():
                logger.info("%s: staged on the CPU in %s", event.model, event.dtype)
            case LeaseWaiting():
                logger.info("waiting for %s, which is held by %s", event.device, event.holder)
            case LeaseAcquired():
                logger.info("%s: lease of %s acquired", "+".join(event.models), ", ".join(event.devices))
            case LeaseReleased():
                still = ", ".join(f"{stats.allocated_bytes / 1e9:.2f} GB on {d}" for d, stats in event.memory.items())
                logger.info(
                    "%s: lease released after %.1f s, still allocated: %s",
                    "+".join(event.models), event.held_seconds, still,
                )  # fmt: skip
            case Notice():
                logger.warning("%s: %s", event.about, event.message)
            case BatchSplit():
                logger.warning(_SPLIT, event.model, event.rows, event.device)
            case RowsRecomputed():
                logger.warning(_RECOMPUTED, event.model, len(event.ids))
            case RunFinished():
                logger.info("run %s after %.1f s", "failed" if event.error else "finished", event.seconds)
