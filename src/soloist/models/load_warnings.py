"""Warnings of libraries while a model is loaded: kept for the user, and not written to the terminal.

Knows the loggers of the libraries and Python's warnings; nothing of models. Only warnings of the loading thread are
kept. What is a warning follows from the level of a message, never from its text.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from huggingface_hub import utils

_hub: Any = utils  # its switches of progress bars are public, but have no types
_LOGGERS = tuple(logging.getLogger(name) for name in ("sentence_transformers", "transformers", "huggingface_hub"))
# Warnings for developers who call a library, not for users of a model.
_FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
_TRANSFORMERS_LOGGING = "transformers.utils.logging"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 400

_switching = threading.Lock()
_depth = 0
_heard_by: dict[int, list[str]] = {}  # by the thread that loads


class _Ear(logging.Handler):
    """Keeps the warnings of threads that load, and passes those of other threads on to their own handlers."""

    def emit(self, record: logging.LogRecord) -> None:
        heard = _heard_by.get(record.thread or 0)
        if heard is not None:
            heard.append(record.getMessage())
            return
        for before in _before.values():
            if record.name.split(".")[0] == before.logger.name and record.levelno >= before.level:
                before.pass_on(record)


class _Before:
    """The settings of a logger before the first of the running loads."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.level, self.handlers, self.propagate = logger.level, list(logger.handlers), logger.propagate

    def pass_on(self, record: logging.LogRecord) -> None:
        """Handle a record as the logger did before."""
        for handler in self.handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
        if self.propagate:
            logging.getLogger().callHandlers(record)

    def restore(self) -> None:
        """Give the logger its settings back."""
        self.logger.setLevel(self.level)
        added = [handler for handler in self.logger.handlers if handler not in (_ear, *self.handlers)]
        self.logger.handlers[:] = [*self.handlers, *added]  # a library that was imported meanwhile has added its own
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
    """A list that has the warnings of libraries in this thread once the work is done: one line each, no line twice.

    Use it within `quiet`, and once at a time in a process: Python's warnings are settings of all threads.
    """
    said: list[str] = []
    me = threading.get_ident()
    outer = _heard_by.get(me, [])
    _heard_by[me] = said
    # Otherwise a library that warns once in a process would warn only in the first of two runs.
    for once in ("warning_once", "info_once"):  # which transformers adds
        if hasattr(logging.Logger, once):
            getattr(logging.Logger, once).cache_clear()
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
            _bars = _shows_bars()
            for logger in _LOGGERS:
                _before[logger.name] = _Before(logger)
                logger.setLevel(logging.WARNING)
                logger.handlers[:] = [_ear]
                logger.propagate = False
        _show_bars(False)  # also where another thread loads already, before transformers was there
        _depth += 1


def _end() -> None:
    global _depth
    with _switching:
        _depth -= 1
        if _depth == 0:  # the last of the running loads has ended
            for before in _before.values():
                before.restore()
            _before.clear()
            if _bars:
                _show_bars(True)


def _shows_bars() -> bool:
    transformers = sys.modules.get(_TRANSFORMERS_LOGGING)
    return not _hub.are_progress_bars_disabled() if transformers is None else transformers.is_progress_bar_enabled()


def _show_bars(shown: bool) -> None:
    """Progress bars of the hub, and of transformers where that is imported: a table of vectors does without it."""
    transformers = sys.modules.get(_TRANSFORMERS_LOGGING)
    if transformers is not None:  # it switches the hub's too
        (transformers.enable_progress_bar if shown else transformers.disable_progress_bar)()
    else:
        (_hub.enable_progress_bars if shown else _hub.disable_progress_bars)()


@contextlib.contextmanager
def _silent_unless_heard() -> Iterator[None]:
    """Drop what is said before and after the load itself, e.g. about a download."""
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
    """A text on one line: up to its first empty line, without colours and the head of a table, and not too long."""
    lines = [re.sub(r"[\s|]+", " ", line).strip() for line in _COLOURS.sub("", str(text)).strip().splitlines()]
    lines = lines[: lines.index("")] if "" in lines else lines
    rule = next((at for at, line in enumerate(lines) if at > 1 and not line.strip("-+= ")), None)
    if rule is not None:
        lines = [f"{lines[0]}: {', '.join(lines[rule + 1 :])}"]
    joined = " ".join(lines)
    return joined if len(joined) <= _LONGEST else f"{joined[: _LONGEST - 3]}..."
