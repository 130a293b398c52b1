"""A run as Python calls it: its arguments, who may listen, and how it is stopped."""

from __future__ import annotations

import dataclasses
import io
import logging
import signal
import sys

import pytest

import soloist
from soloist.api.settings import Settings
from soloist.errors import ConfigError
from soloist.events import Event, InputScanned, ListSink, RunStarted, ShardEncoded


class Pressed:
    """A function that presses Ctrl-C when the first shard is done, and keeps what it heard."""

    def __init__(self, times: int) -> None:
        self.events: list[Event] = []
        self._times = times

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, ShardEncoded):
            for _ in range(self._times):
                signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("times", "error", "why"),
    [(1, soloist.RunStoppedError, "stopped by Ctrl-C"), (2, soloist.RunInterruptedError, "stopped by a second Ctrl-C")],
)
def test_ctrl_c_is_one_sentence_with_the_way_on(config, times, error, why):
    """A script ended in frames of the engine, and nothing said that what is done is kept."""
    pressed = Pressed(times)
    with pytest.raises(error) as caught:
        soloist.embed(config, pressed)
    way_on = "what is done is kept, and soloist.embed with the same config continues the run"
    assert str(caught.value) == f"{why}; {way_on}"
    assert caught.value.__suppress_context__ and len(caught.traceback) == 3, "the frames of the engine are left out"
    assert isinstance(pressed.events[0], RunStarted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    result = soloist.embed(config)
    assert result.models[0].kept + result.models[0].embedded + result.models[0].repeated == 95


def test_a_time_that_is_too_short_is_one_sentence_too(config):
    """Whoever repeats the call would for ever."""
    short = dataclasses.replace(config, stop_after=1e-6)
    longer = "and soloist.embed with a longer stop_after"
    with pytest.raises(soloist.NothingFinishedError, match=f"; nothing is kept yet, {longer} starts the run$"):
        soloist.embed(short)
    soloist.embed(config)
    with pytest.raises(
        soloist.NothingFinishedError, match=f"; what was done before is kept, {longer} continues the run$"
    ):
        soloist.embed(short)


def test_a_signal_before_anything_is_finished_keeps_nothing(config):
    """It was said of a folder that did not exist that what is done is kept."""

    def press(event: Event) -> None:
        if isinstance(event, InputScanned):
            signal.raise_signal(signal.SIGINT)

    way_on = "nothing is kept yet, and soloist.embed with the same config starts the run"
    with pytest.raises(soloist.RunStoppedError, match=f"^stopped by Ctrl-C; {way_on}$"):
        soloist.embed(config, press)
    assert not config.out.exists()


def test_what_takes_no_events_is_refused_before_the_run(config):
    """`embed(config, "log.txt")` ended in two tracebacks, in the midst of the run."""
    cannot = "cannot take events"
    for sink, said in ((3, f"3 {cannot}"), ("log", f"'log' {cannot}"), (ListSink, "ListSink is a class")):
        with pytest.raises(ConfigError, match=f"^the sink {said}: give "):
            soloist.embed(config, sink)
    assert not config.out.exists()


def test_a_function_that_fails_is_the_error(config):
    """The end of the run was told to it too, and its second error hid the first."""

    def fail(event: Event) -> None:
        raise ZeroDivisionError(type(event).__name__)

    with pytest.raises(ZeroDivisionError, match=r"^RunStarted$") as caught:
        soloist.embed(config, fail)
    assert caught.value.__context__ is None
    assert not config.out.exists()


def test_without_a_sink_notices_are_logged(config, caplog):
    """A script without a progress bar saw nothing of what its folder kept."""
    soloist.embed(dataclasses.replace(config, vector_dtype="float16"))
    with caplog.at_level(logging.WARNING, logger="soloist"):
        soloist.embed(config)
    assert f"vector_dtype: float16, kept from {config.out}; to change this, give --vector-dtype" in caplog.messages


def test_the_arguments_are_those_of_the_command_line(config, settings):
    """A notebook had to build three configs for what the command says in a line."""
    result = soloist.embed(str(config.chunks_root), **settings, fusion="concat", weights={"wordllama": 1}, dim=8)
    assert result.config.fusion == soloist.FusionConfig(method="concat", weights={"wordllama": 1.0}, dim=8)
    assert (result.models[0].chunks, result.fusion.dim) == (95, 8)
    again = soloist.embed(config.chunks_root, out=config.out, accelerator="cpu", lock_dir=config.lock_dir)
    assert (again.models[0].kept, again.fusion.dim) == (95, 8), "the folder keeps its settings"


def test_the_keyword_arguments_are_all_settings_there_are():
    """A new setting that the command line takes and Python does not."""
    config = soloist.RunConfig(chunks_root="chunks", out="run")
    assert {*Settings.__annotations__} == {*config.settings()} - {"chunks_root"}


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (("chunks",), {"models": ["m"]}, "soloist.embed does not set out: add it"),
        (("chunks",), {"out": "run", "model": "m"}, "soloist.embed has the unknown setting 'model': choose one of "),
        (("chunks",), {"out": "run", "models": "m"}, r"soloist.embed sets models to 'm': give a list of strings"),
        (("",), {"out": "run"}, "chunks_root is '': give a path"),
        (
            (soloist.RunConfig(chunks_root="chunks", out="run"),), {"models": ["m"]},
            "soloist.embed has a config, and also the setting models: set it in the config",
        ),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_sentence(arguments, settings, said):
    """A wrong name ended in a TypeError of a dataclass."""
    with pytest.raises(ConfigError, match=f"^{said}"):
        soloist.embed(*arguments, **settings)


def test_a_stop_names_the_same_arguments(config, settings):
    """There is no config where the caller gave a folder and settings."""
    with pytest.raises(soloist.RunStoppedError, match=r"soloist\.embed with the same arguments continues the run$"):
        soloist.embed(config.chunks_root, Pressed(1), **settings)


def test_lines_where_progress_is_asked_for_and_nothing_by_itself(config, capsys):
    """A script in a log got bars, or a person who asked for progress got nothing."""
    soloist.embed(config)
    assert capsys.readouterr().err == ""
    soloist.embed(config, progress=True)
    assert "wordllama: 95 chunks in 4 shards kept\n" in capsys.readouterr().err


def test_bars_on_a_terminal_and_none_if_not_wanted(config, monkeypatch):
    """A person at a terminal saw nothing for hours."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    soloist.embed(config)
    assert "95/95" in terminal.getvalue() and "wordllama on cpu" in terminal.getvalue()
    silent = Terminal()
    monkeypatch.setattr(sys, "stderr", silent)
    soloist.embed(dataclasses.replace(config, vector_dtype="float16"), progress=False)
    assert silent.getvalue() == ""


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True
