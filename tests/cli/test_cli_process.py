"""What only a real process shows: imports, signals, closed pipes, terminals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from support.ctrl_c import PATIENCE_SECONDS, press_twice
from support.forks import Forked

COMMAND = (sys.executable, "-c", "from soloist.cli import main; main()")
STOPPED = "soloist: stopped by a second Ctrl-C; what is done is kept, and this command continues the run:"


def start(*arguments: str, **streams) -> subprocess.Popen:
    """The command in a process of its own."""
    return subprocess.Popen([*COMMAND, *arguments], text=True, **streams)


def start_forked(*arguments: str, **streams) -> Forked:
    """The same without its imports."""
    return Forked([*COMMAND, *arguments], text=True, **streams)


def test_help_and_models_import_no_torch():
    """Torch takes seconds to import, and --help is asked for by people who wait."""
    code = (
        "import sys; from typer.testing import CliRunner; import soloist; from soloist.cli import app; "
        "assert not CliRunner().invoke(app, ['--help']).exit_code; "
        "assert not CliRunner().invoke(app, ['models', 'list']).exit_code; "
        "assert soloist.__version__ and 'embed' in dir(soloist); "
        "print([name for name in ('torch', 'sentence_transformers', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr


def test_ctrl_c_stops_a_run_and_frees_the_devices(options, chunks_root, tmp_path):
    """A run that cannot be stopped, or that keeps its lease, blocks everybody else on the machine."""
    text = " ".join(["vector lease shard"] * 60)
    many = [{"text": f"{index} {text}", "metadata": {"chunk_id": str(index)}} for index in range(3000)]
    (chunks_root / "notes" / "b_chunks.json").write_text(json.dumps(many))
    events, said = tmp_path / "run" / "events.jsonl", tmp_path / "stderr"
    with said.open("w") as stderr_file:
        process = start_forked(*options, "--models", "all-MiniLM-L6-v2", stdout=subprocess.PIPE, stderr=stderr_file)
    try:
        await_event(events, '"PassStarted", "model": "wordllama"')
        await_event(events, '"PassStarted", "model": "all-MiniLM-L6-v2"')
        press_twice(process, said)  # the first waits for the end of a shard of 3,000 chunks
        stdout, _ = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
        process.communicate()
    stderr = said.read_text()
    assert process.returncode == 130
    assert not any('"ShardEncoded"' in line and "MiniLM" in line for line in events.read_text().splitlines())
    assert stderr.splitlines()[-2] == STOPPED
    assert "Traceback" not in stderr and stdout == ""
    assert "all-MiniLM-L6-v2: released cpu" in stderr
    assert not list((tmp_path / "locks").glob("*.holder"))


@pytest.mark.parametrize(
    ("command", "library"),
    [
        (["embed", "chunks", "--out", "run"], "torch"),
        (["plan", "chunks"], "numpy"),
        (["search", "run", "question"], "numpy"),
        (["eval", "run"], "torch"),
        (["export", "run", "--to", "jsonl", "--out", "out.jsonl"], "pyarrow"),
        (["verify", "run"], "pyarrow"),
    ],
    ids=str,
)
def test_ctrl_c_while_libraries_are_imported_is_no_error_of_theirs(tmp_path, command, library):
    """A module that was broken off in the middle raised a RecursionError or an AttributeError, or aborted."""
    code = f"""
import os, signal, sys
def hook(event, arguments):
    if event == "import" and arguments[0].startswith({library + "."!r}) and not done:
        done.append(1)
        os.kill(os.getpid(), signal.SIGINT)
done = []
sys.addaudithook(hook)
from soloist.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=tmp_path)
    way_on = {
        "embed": f"nothing is kept yet, and this command starts the run:\n  soloist {' '.join(command)}\n",
        "export": "what was written stays, and the same command goes on\n",
    }.get(command[0], "nothing was changed, and the same command starts again\n")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"soloist: stopped by Ctrl-C; {way_on}")


def test_a_closed_pipe_is_quiet():
    """`soloist models list | head -1` ends with a traceback in many programs."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = start("models", "list", stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    _, stderr = process.communicate(timeout=300)
    assert stderr == ""
    assert process.returncode == 1


def test_a_closed_stdout_costs_the_table_only(options, tmp_path):
    """`>&-` in a job's script would end a finished run in an AttributeError, or lead C's output into our files."""
    process = start(*options, preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "error" not in stderr
    assert all(json.loads(line)["event"] for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, where nothing can be written")
def test_a_full_stdout_is_one_sentence(options, tmp_path):
    """An hour's run would seem to have failed because its table found no room."""
    for arguments, beginning in (
        (options, f"the results are in {tmp_path / 'run'}, but the table"),
        (["models", "list"], "the list"),
        (["models", "show", "bge-m3"], "the model"),
    ):
        with Path("/dev/full").open("w") as full:
            process = start(*arguments, stdout=full, stderr=subprocess.PIPE)
            _, stderr = process.communicate(timeout=300)
        assert process.returncode == 1
        sentence = f"soloist: error: {beginning} could not be written to stdout: No space left on device"
        assert stderr.splitlines()[-1] == sentence
        assert "unexpected" not in stderr and "Exception ignored" not in stderr
    assert (tmp_path / "run" / "run.json").is_file()


def test_the_package_is_a_command_too():
    """`python -m soloist` is what remains where the script is not on the path."""
    done = subprocess.run([sys.executable, "-m", "soloist", "--version"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("soloist 0.")


@pytest.mark.parametrize("columns", [80, 40])
def test_a_terminal_gets_bars_and_whole_words(options, columns):
    """Words broken in the middle make the closing table unreadable in a split window."""
    screen = on_terminal(options, columns)
    assert "wordllama" in screen and "\x1b[" in screen
    assert "\x1b[?25h" in screen, "the cursor was not given back"
    closing = screen[screen.rindex("\x1b[?25h") :]
    for word in ("wordllama", "chunks/s", "truncated", "padded", "seconds", "run.json"):
        assert word in closing
    assert "…" not in closing


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["search", "RUN", "which device has the lease"], ["searching RUN"]),
        (["export", "RUN", "--to", "numpy", "--out", "OUT"], [f"exporting: {done} of 60 rows" for done in (0, 60)]),
        (["eval", "RUN"], [f"ranking 60 chunks for 60 questions by {name}" for name in ("random", "rrf", "BM25")]),
    ],
    ids=["search", "export", "eval"],
)
def test_a_terminal_is_told_what_takes_so_long(folder, tmp_path, arguments, shown):
    """Minutes without a word look like a command that hangs; what was said is no part of the result."""
    named = {"RUN": str(folder / "run"), "OUT": str(tmp_path / "out")}
    told = on_terminal([named.get(each, each) for each in arguments], 200).split("\r\x1b[2K")
    assert {line.replace("RUN", named["RUN"]) for line in shown} <= set(told[1:-1])
    assert len(told[-1].split()) > 5 and not any(line in told[-1] for line in told[1:-1] if line)
    assert "\x1b[?25l" not in "".join(told), "a kill would leave the terminal without a cursor"


def test_a_name_with_no_letter_in_the_encoding_is_printed(options, chunks_root, tmp_path):
    """An ASCII terminal and a collection named 文書 must not end a finished run with an error."""
    (chunks_root / "notes").rename(chunks_root / "文書")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [
        sys.executable,
        "-m",
        "soloist",
        *map(str, options),
    ]  # no fork: a process reads its encoding at its start
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    stdout, stderr = done.stdout, done.stderr
    assert done.returncode == 0, stderr
    assert "\\u6587\\u66f8" in stdout


def await_event(path: Path, text: str) -> None:
    """Wait until the run has written such an event."""
    deadline = time.monotonic() + 300
    while not (path.is_file() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{text} did not come"
        time.sleep(0.05)


def on_terminal(arguments: list[str], columns: int) -> str:
    """All that a command writes to a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = start_forked(
        *arguments, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm-256color"}
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait(timeout=300) == 0, written.decode()
    return written.decode()
