"""A command that is stopped says what is kept and how it goes on, whenever the signal comes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.forks import Forked
from support.invoking import invoke

ENDED = "soloist: Ctrl-C came after the command had ended, so nothing is lost\n"
TOO_SHORT = (
    "soloist: stopped because its time is over, before anything new was finished: give --stop-after enough time to "
    "read the chunks, load the models and embed one shard; "
)
NOTHING_CHANGED = "nothing was changed, and the same command starts again"
KEPT = "what is done is kept, and this command continues the run:"
# Presses Ctrl-C while something is written that has one of these words in it.
PRESSING = """
import io, os, signal, sys

words = {words!r}

class Stream(io.TextIOWrapper):
    def write(self, text):
        written = super().write(text)
        self.flush()
        if words and words[0] in text:
            words.pop(0)
            os.kill(os.getpid(), signal.SIGINT)
        return written

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.stdout, sys.stderr = Stream(sys.stdout.detach()), Stream(sys.stderr.detach())
from soloist.cli import main
main()
"""


def pressed(words: list[str], arguments: list[str]) -> tuple[int, str, str]:
    """A command that gets Ctrl-C when it writes these words: its exit code, stdout and stderr."""
    code = PRESSING.format(words=words)
    process = Forked(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


def shown(arguments: list[str]) -> str:
    """A command as the way on shows it."""
    return f"  soloist {' '.join(arguments)}"


def test_a_second_ctrl_c_after_the_first_ended_the_run(options, tmp_path):
    """The second key took the sentence of the first one away, and what is kept was left unsaid."""
    code, stdout, stderr = pressed(["staged in", "soloist: stopped by"], options)
    assert (code, stdout) == (3, "")
    way_on = "nothing is kept yet, and this command starts the run:"
    assert stderr.endswith(f"soloist: stopped by Ctrl-C; {way_on}\n{shown(options)}\n")
    assert not (tmp_path / "run").exists()


def test_ctrl_c_while_the_chunks_are_looked_for(options):
    """Only "stopped" was said: the run heard no signals before it had found its chunks, of which there may be many."""
    assert invoke(*options).exit_code == 0
    code = f"""
import os, signal, sys

def hook(event, arguments):
    if event in ("os.scandir", "os.listdir") and str(arguments[0]) == {options[1]!r} and not done:
        done.append(event)
        os.kill(os.getpid(), signal.SIGINT)

done = []
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(hook)
from soloist.cli import main
main()
"""
    process = Forked([sys.executable, "-c", code, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stdout, stderr = process.communicate(timeout=300)
    assert (process.returncode, stdout) == (3, "")
    assert stderr.splitlines() == [f"soloist: stopped by Ctrl-C; {KEPT}", shown(options)]


def test_ctrl_c_while_the_table_is_printed(options):
    """The run is finished, and the sentence must not send the reader back to its beginning."""
    code, _, stderr = pressed(["written in"], options)
    assert code == 130
    assert stderr.splitlines()[-2:] == [f"soloist: stopped by Ctrl-C; {KEPT}", shown(options)]


THROUGH = """
import atexit, os, signal, typer
from soloist.cli.outcome import through

def press(times=1):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)

app = typer.Typer()
{before}
app.command()(lambda: {command})
through(app)
"""


@pytest.mark.parametrize(
    ("before", "command", "code", "said"),
    [
        ("", "atexit.register(press)", 0, ENDED),
        ("", "atexit.register(press, 2)", 0, ENDED),
        ("atexit.register(press)", "None", 0, ""),
        ("", "press()", 130, f"soloist: stopped by Ctrl-C; {NOTHING_CHANGED}\n"),
    ],
    ids=["once, while Python ends", "twice", "at the very end", "where typer alone hears it"],
)
def test_ctrl_c_outside_a_command(before, command, code, said):
    """The process died of the signal without a word, and a script took its finished work for failed."""
    source = THROUGH.format(before=before, command=command)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


IMPORTING = """
import os, signal, sys

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Press())
from soloist.__main__ import main
main()
"""


def pressed_at_import(module: str, arguments: list[str]) -> tuple[int, str, str]:
    """A command, with all its imports, that gets Ctrl-C when it imports a module: exit code, stdout and stderr."""
    code = IMPORTING.format(module=module)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("module", ["soloist.cli", "typer", "soloist.cli.validate"])
def test_ctrl_c_while_the_command_is_read(module):
    """It showed a traceback of whatever module was being read."""
    said = f"soloist: stopped by Ctrl-C; {NOTHING_CHANGED}\n"
    assert pressed_at_import(module, ["models"]) == (130, "", said)


@pytest.mark.parametrize("module", ["sentence_transformers", "transformers.models.auto", "soloist.memory.tracing"])
def test_ctrl_c_while_the_libraries_of_networks_are_imported(options, tmp_path, tiny_models, module):
    """The library took it for a fault of its own, or the command for a damaged installation."""
    command = [str(tiny_models["bert"]) if word == "wordllama" else word for word in options]
    code, stdout, stderr = pressed_at_import(module, command)
    way_on = "nothing is kept yet, and this command starts the run:"
    assert (code, stdout) == (3, "")
    assert stderr.splitlines() == [f"soloist: stopped by Ctrl-C; {way_on}", shown(command)]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("time", [["--stop-after", "0.001s"], ["--stop-after=0.001s"]], ids=["two words", "one word"])
def test_a_time_that_is_too_short_is_not_given_again(options, tmp_path, monkeypatch, time):
    """The way on was the line that had just failed, and it was said of no folder at all that it is kept."""
    command = [*options[:2], *time, *options[2:]]
    monkeypatch.setattr(sys, "argv", ["soloist", *command])
    result = invoke(*command)
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-2:] == [
        f"{TOO_SHORT}without --stop-after this command does the whole run:", shown(options)
    ]  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_time_that_is_too_short_for_more(options, tmp_path, monkeypatch):
    """What an earlier session finished is kept; a time from a config file is in no option to be left out."""
    assert invoke(*options).exit_code == 0
    kept = f"{TOO_SHORT}what was done before is kept"
    command = [*options, "--stop-after", "0.001s"]
    monkeypatch.setattr(sys, "argv", ["soloist", *command])
    said = invoke(*command).stderr.splitlines()[-2:]
    assert said == [f"{kept}, and without --stop-after this command continues the run:", shown(options)]
    (tmp_path / "run.toml").write_text(f'out = "{tmp_path / "run"}"\nstop_after = 0.001\n')
    command = ["embed", options[1], "--config", str(tmp_path / "run.toml")]
    monkeypatch.setattr(sys, "argv", ["soloist", *command])
    assert invoke(*command).stderr.splitlines()[-1] == kept
