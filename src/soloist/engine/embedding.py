"""A run as Python calls it: notices without a listener are logged, and a stop says how to continue in Python.

Wraps `soloist.engine.run`. The command line calls that one itself, and says with which command to continue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn

from soloist.config import RunConfig
from soloist.engine.result import RunResult
from soloist.engine.run import run
from soloist.errors import NothingFinishedError, RunInterruptedError, RunStoppedError
from soloist.events import Event, EventSink, Notice
from soloist.stores import RunFolder

_logger = logging.getLogger("soloist")


def embed(config: RunConfig, *sinks: EventSink | Callable[[Event], object]) -> RunResult:
    """Embed what the config names into a run folder, or continue the run that is there.

    Vectors that the folder has of the same chunks by the same models are kept. So a run that was stopped, or whose
    chunks have changed, computes only what is left. Events go to `events.jsonl` in that folder and to `sinks`:
    functions that take an event, or objects whose `emit` does. Without sinks, notices are logged as warnings of
    "soloist".

    In the main thread, a notebook's too, the first Ctrl-C or SIGTERM ends the run after the present shard, and a
    second one ends it at once. Elsewhere, or where a handler of your own is set, signals are yours.

        try:
            result = soloist.embed(config)
        except soloist.RunStoppedError:
            result = soloist.embed(config)  # later: continues

    Raises:
        RunStoppedError: the run was to end before it was done; the same config continues it.
        RunInterruptedError: a second signal ended the run at once; the same config continues it. A KeyboardInterrupt.
        SoloistError: see `soloist.errors`; each kind says what to do. Where the input or a model cannot be
            used, the folder is as it was before.
    """
    try:
        return run(config, *(sinks or (_log_notices,)))
    except (RunStoppedError, RunInterruptedError) as exc:
        _raise_with_the_way_on(exc, is_kept=RunFolder(config.out).manifest.exists())


def _raise_with_the_way_on(stopped: RunStoppedError | RunInterruptedError, *, is_kept: bool) -> NoReturn:
    """Without the frames between the caller and the signal, which help nobody."""
    is_too_short = isinstance(stopped, NothingFinishedError)
    config = "a longer stop_after" if is_too_short else "the same config"
    done = "was done before" if is_too_short else "is done"
    kept = f"what {done} is kept" if is_kept else "nothing is kept yet"
    goes = "continues" if is_kept else "starts"
    raise type(stopped)(f"{stopped}; {kept}, and soloist.embed with {config} {goes} the run") from None


def _log_notices(event: Event) -> None:
    if isinstance(event, Notice):
        _logger.warning("%s: %s", event.about, event.message)
