"""A run as Python calls it: it shows its progress, and a stop says how to continue in Python.

Wraps `soloist.engine.run`. The command line calls that function itself, and says which command continues the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from soloist.api.settings import AnyPath, GivenChunks, Settings, config_of
from soloist.api.showing import shown_progress
from soloist.config import RunConfig
from soloist.engine import RunResult, run
from soloist.errors import NothingFinishedError, RunInterruptedError, RunStoppedError
from soloist.events import Event, EventSink, Notice
from soloist.sources import forget_begun, iterators_of
from soloist.stores import RunFolder

if TYPE_CHECKING:
    from typing_extensions import Unpack

_logger = logging.getLogger("soloist")
_ANEW = "with the chunks from their start (a new generator)"


def embed(
    chunks: RunConfig | AnyPath | GivenChunks,
    /,
    *sinks: EventSink | Callable[[Event], object],
    progress: bool | None = None,
    **settings: Unpack[Settings],
) -> RunResult:
    """Embed chunks into a run folder, or continue the run that is there.

        result = soloist.embed("chunks", out="run", models=["all-MiniLM-L6-v2", "wordllama"])

    `chunks` is a folder of chunks, or chunks themselves. The settings are those of `RunConfig`, with the settings of
    fusion and source beside the others, as the command line names them. Or `chunks` is a `RunConfig`, and there are no
    settings.

    If the folder has vectors of the same chunks by the same models, they are kept. So a run that was stopped, or whose
    chunks have changed, computes only what is left.

    In a notebook and on a terminal there is a bar for each pass, with chunks/s and the time left. `progress=False`
    shows nothing. Elsewhere `progress=True` writes lines to stderr. Events also go to `events.jsonl` in the run folder
    and to `sinks`: functions that take an event, or objects whose `emit` does. If nothing is shown and there are no
    sinks, notices are logged as warnings of "soloist".

    In the main thread, a notebook's too, the first Ctrl-C or SIGTERM (in a notebook: interrupt the kernel) ends the run
    after the present shard, and a second signal ends it at once. In other threads, or with a handler of your own,
    soloist leaves signals to you.

        try:
            result = soloist.embed(config)
        except soloist.RunStoppedError:
            result = soloist.embed(config)  # later: continues

    Raises:
        RunStoppedError: the run was to end before it was done; the same call continues it, with a new generator
            where the chunks were one.
        RunInterruptedError: a second signal ended the run at once; it continues likewise. A KeyboardInterrupt.
        SoloistError: see `soloist.errors`; each kind says what to do. Where the input or a model cannot be
            used, the folder is as it was before.
    """
    config, given = config_of("soloist.embed", chunks, settings)
    try:
        with shown_progress(progress) as shown:
            listeners = (*sinks, shown) if shown is not None else sinks
            result = run(config, *(listeners or (_log_notices,)), chunks=given)
    except (RunStoppedError, RunInterruptedError) as exc:
        same = "the same config" if isinstance(chunks, RunConfig) else "the same arguments"
        anew = bool(iterators_of(given))
        _raise_with_the_way_on(exc, same, anew=anew, is_kept=RunFolder(config.out).manifest.exists())
    for iterator in iterators_of(given):
        forget_begun(iterator)
    return result


def _raise_with_the_way_on(
    stopped: RunStoppedError | RunInterruptedError, same: str, *, anew: bool, is_kept: bool
) -> NoReturn:
    """Raise the error again, with what is kept and how to continue. The frames below the caller help nobody."""
    is_too_short = isinstance(stopped, NothingFinishedError)
    arguments = "a longer stop_after" if is_too_short else "the same settings" if anew else same
    arguments = f"{arguments} and {_ANEW}" if anew else arguments
    done = "was done before" if is_too_short else "is done"
    kept = f"what {done} is kept" if is_kept else "nothing is kept yet"
    goes = "continues" if is_kept else "starts"
    raise type(stopped)(f"{stopped}; {kept}, and soloist.embed with {arguments} {goes} the run") from None


def _log_notices(event: Event) -> None:
    if isinstance(event, Notice):
        _logger.warning("%s: %s", event.about, event.message)
