"""Where progress is shown: in a notebook, or on a terminal. Elsewhere progress is shown only if the caller asks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from soloist.events import EventSink
from soloist.reports.notebook import in_notebook, notebook_line, notebook_progress
from soloist.reports.progress import progress, status_line


@contextlib.contextmanager
def shown_progress(asked: bool | None) -> Iterator[EventSink | None]:
    """A sink that shows a run, or None where nothing is shown. `asked` is None where the caller does not say."""
    if asked is not False and in_notebook():
        with notebook_progress() as sink:
            yield sink
    elif asked or (asked is None and _is_terminal()):
        with progress() as lines:
            yield lines
    else:
        yield None


@contextlib.contextmanager
def shown_line(asked: bool | None) -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done, as one line that is removed at the end."""
    if asked is False or sys.stderr is None:
        yield lambda _: None
        return
    with notebook_line() if in_notebook() else status_line() as show:
        yield show


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
