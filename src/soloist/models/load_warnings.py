"""What libraries say while a model is loaded, kept for the user and off the terminal.

Knows the loggers of the libraries and Python's warnings; nothing of models. Only what the loading thread says is
kept. Chatter is told from warnings by its level, never by its text.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from typing import TextIO

from transformers.utils import logging as transformers_logging

_LOGGERS = tuple(logging.getLogger(name) for name in ("sentence_transformers", "transformers", "huggingface_hub"))
# Words of warnings for developers who call a library, and not for users of a model.
_FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 400

_switching = threading.Lock()
_depth = 0
_heard_by: dict[int, list[str]] = {}  # by the thread that loads


class _Ear(logging.Handler):
    """Keeps the warnings of threads that load, and passes those of others on to where they would have gone."""

    def emit(self, record: logging.LogRecord) -> None:
        heard = _heard_by.get(record.thread or 0)
        if heard is not None:
            heard.append(record.getMessage())
            return
        for before in _before.values():
            if record.name.split(".")[0] == before.logger.name and record.levelno >= before.level:
                before.pass_on(record)


class _Before:
    """How a logger was set before the first of the loads that are at work."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.level, self.handlers, self.propagate = logger.level, list(logger.handlers), logger.propagate

    def pass_on(self, record: logging.LogRecord) -> None:
        """Do with a record what would have been done with it."""
        for handler in self.handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
        if self.propagate:
            logging.getLogger().callHandlers(record)

    def restore(self) -> None:
        """Set the logger as it was."""
        self.logger.setLevel(self.level)
        self.logger.handlers[:] = self.handlers
        self.logger.propagate = self.propagate


_ear = _Ear(logging.WARNING)
_before: dict[str, _Before] = {}
_bars = False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings on stderr while a model loads: soloist reports with events."""
    _begin()
    try:
        with _silent_unless_heard():
            yield
    finally:
        _end()


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """The warnings of libraries in this thread, a line each and no line twice, in the list once the work is done.

    Within `quiet`, one at a time in a process: Python's warnings are settings of all threads.
    """
    said: list[str] = []
    me = threading.get_ident()
    outer = _heard_by.get(me, [])
    _heard_by[me] = said
    # A library that warns once in a process would be heard by the first of two runs alone.
    for once in (logging.Logger.warning_once, logging.Logger.info_once):  # type: ignore[attr-defined]
        once.cache_clear()
    try:
        with _python_warnings(said):
            yield said
    finally:
        _heard_by[me] = outer
        said[:] = dict.fromkeys(_line(text) for text in said)


def _begin() -> None:
    global _depth, _bars
    with _switching:
        if _depth == 0:
            _bars = transformers_logging.is_progress_bar_enabled()
            transformers_logging.disable_progress_bar()
            for logger in _LOGGERS:
                _before[logger.name] = _Before(logger)
                logger.setLevel(logging.WARNING)
                logger.handlers[:] = [_ear]
                logger.propagate = False
        _depth += 1


def _end() -> None:
    global _depth
    with _switching:
        _depth -= 1
        if _depth == 0:  # the last of those who are at work
            for before in _before.values():
                before.restore()
            _before.clear()
            if _bars:
                transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _silent_unless_heard() -> Iterator[None]:
    """What is said before and after the load itself, such as that a download goes on, is chatter."""
    me = threading.get_ident()
    _heard_by[me] = []
    try:
        yield
    finally:
        _heard_by.pop(me, None)


@contextlib.contextmanager
def _python_warnings(said: list[str]) -> Iterator[None]:
    me = threading.get_ident()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def keep(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if threading.get_ident() != me:
                show(message, category, filename, lineno, file, line)
            elif not issubclass(category, _FOR_DEVELOPERS):
                said.append(str(message))

        warnings.simplefilter("always")
        warnings.showwarning = keep
        yield


def _line(text: object) -> str:
    """A text in one line: up to its first blank one, without colours, the head of a table, and beyond what is read."""
    lines = [re.sub(r"[\s|]+", " ", line).strip() for line in _COLOURS.sub("", str(text)).strip().splitlines()]
    lines = lines[: lines.index("")] if "" in lines else lines
    rule = next((at for at, line in enumerate(lines) if at > 1 and not line.strip("-+= ")), None)
    if rule is not None:
        lines = [f"{lines[0]}: {', '.join(lines[rule + 1 :])}"]
    joined = " ".join(lines)
    return joined if len(joined) <= _LONGEST else f"{joined[: _LONGEST - 3]}..."
