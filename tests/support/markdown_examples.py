"""The commands and the Python blocks of a Markdown page: found, run in order in one folder, and their outputs compared.

What a page shows is what a reader gets. These rules hold, and docs/testing-docs.md tells them to readers:

- In a `console` block a line that begins with `$ ` is a command. The lines below it are its output: stdout, and what
  stderr says from a line that begins with `soloist:` on. Progress is left out.
- A `text` block directly below a `python` block is what that block prints. The blocks of a page share their variables.
- A `toml` block whose first line is a comment with a file's name is that file.
- A line of `...` stands for any lines.
- Whole numbers are compared. Numbers with a decimal point, times and sizes vary, and so do spaces: they are not.
- A command may fail where its output is an error, or where `$ echo $?` follows.
- A command that ends in `&` runs until the page ends. Its output is compared as soon as it has as many lines as shown.
- 127.0.0.1:8000 stands for a port that is free.
- `<!-- not run: REASON -->` before a block says that nobody runs it here, and why.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from support.forks import Forked
from typer.testing import CliRunner

from soloist.cli import app

CHECKOUT = Path(__file__).resolve().parents[2]
RUN_LANGUAGES = frozenset({"console", "python", "toml"})
SHOWN_LANGUAGES = frozenset({"text", "json", "bash", "yaml"})
_SHOWN_PORT = "127.0.0.1:8000"
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*$")
_VARIES = re.compile(
    r"""\d[\d,]*\.\d+(\ ?[kMGT]?B\b)?  # 17.7, 1.05 GB
    | \d[\d,]*\ ?[kMGT]?B\b  # 712 B
    | \d+(:\d\d)+  # 0:50
    | \b\d+\ s\b""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page. `line` counts from 1; `not_run` is the reason that the page gives, or empty."""

    page: Path
    line: int
    language: str
    content: str
    not_run: str = ""
    output: str | None = None  # of a python block: the text block below it
    output_line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A line of a `console` block with its output; `line` is that of the first line of output, from 1."""

    text: str
    output: str
    line: int


def pages() -> list[Path]:
    """README, CONTRIBUTING and every page of docs."""
    return [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    reason, follows_python = "", False
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            match = _NOT_RUN.search(token.content)
            reason = match[1] if match else ""
        elif token.type == "fence" and token.map is not None:
            language, line = token.info.split(" ")[0], token.map[0] + 2
            if language == "text" and follows_python:
                found[-1] = _with_output(found[-1], token.content, line)
            else:
                found.append(Block(page=page, line=line, language=language, content=token.content, not_run=reason))
            follows_python, reason = language == "python", ""
        elif token.level == 0:
            reason, follows_python = "", False
    return found


def _with_output(block: Block, output: str, line: int) -> Block:
    return Block(
        page=block.page, line=block.line, language=block.language, content=block.content, not_run=block.not_run,
        output=output, output_line=line,
    )  # fmt: skip


def commands(block: Block) -> Iterator[Command]:
    """The commands of a `console` block, with the output that the page shows."""
    text, output, begin = "", [], block.line
    lines = block.content.splitlines()
    assert lines and lines[0].startswith("$ "), f"{block.page.name}:{block.line} begins with no command"
    for number, line in enumerate(lines, start=block.line):
        if text.endswith("\\"):
            text, begin = text[:-1] + line.strip(), number + 1
        elif line.startswith("$ "):
            if text:
                yield Command(text=text, output="\n".join(output), line=begin)
            text, output, begin = line[2:], [], number + 1
        else:
            output.append(line)
    yield Command(text=text, output="\n".join(output), line=begin)


def is_same(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed, by the rules above."""
    parts = [re.escape(_plain(part)) for part in re.split(r"^\.\.\.$", shown.strip(), flags=re.MULTILINE)]
    return re.fullmatch(r"[\s\S]*".join(parts), _plain(printed)) is not None


def _plain(text: str) -> str:
    lines = [re.sub(r"\s+", " ", _VARIES.sub("#", line)).strip() for line in text.strip("\n").splitlines()]
    return "\n".join(line for line in lines if line)


@dataclass
class Session:
    """What the blocks of one page share: a folder, variables of Python, and the exit code of the last command."""

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    code: int = 0
    port: int = field(default_factory=lambda: _free_port())
    _started: list[Forked] = field(default_factory=list)

    def python(self, block: Block) -> str:
        """Run a block; what it printed."""
        printed = io.StringIO()
        content = block.content.replace(_SHOWN_PORT, f"127.0.0.1:{self.port}")
        source = compile("\n" * (block.line - 1) + content, str(block.page), "exec", dont_inherit=True)
        with _inside(self.folder), contextlib.redirect_stdout(printed):
            exec(source, self.names)
        return printed.getvalue()

    def write(self, block: Block) -> None:
        """Make the file that a block shows."""
        name = block.content.partition("\n")[0].removeprefix("# ")
        (self.folder / name).write_text(block.content, encoding="utf-8")

    def command(self, command: Command) -> str:
        """Run a command; what the page should show of it."""
        if command.text == "echo $?":
            code, self.code = self.code, 0
            return str(code)
        words = shlex.split(command.text)
        if words[-1] == "&":
            return self._begin(words[1:-1], len(command.output.splitlines()))
        if words[0] != "soloist" or {"|", "&&"} & set(words):
            return self._shell(command.text)
        return self._soloist(words[1:])

    def _soloist(self, words: list[str]) -> str:
        """In this process: an import of torch takes longer than all commands of a page."""
        words, given = _without_redirections(words, self.folder)
        with _inside(self.folder), _arguments(words), warnings.catch_warnings():
            result = CliRunner().invoke(app, words, input=given.get("<"))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code = result.exit_code
        if ">" in given:
            Path(given[">"]).write_text(result.stdout, encoding="utf-8")
            return _said(result.stderr)
        return result.stdout + _said(result.stderr)

    def _begin(self, words: list[str], lines: int) -> str:
        """A command of soloist in a process of its own; the first lines that it prints."""
        process = Forked(
            [sys.executable, "-m", "soloist", *words, "--port", self.port], cwd=self.folder, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._started.append(process)
        return self._with_shown_port("".join(process.stdout.readline() for _ in range(lines)))

    def close(self) -> None:
        """End the commands that run until the page ends."""
        for process in self._started:
            process.terminate()
            process.communicate()

    def _with_shown_port(self, text: str) -> str:
        return text.replace(f"127.0.0.1:{self.port}", _SHOWN_PORT)

    def _shell(self, text: str) -> str:
        text = text.replace(_SHOWN_PORT, f"127.0.0.1:{self.port}")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-c", text], cwd=self.folder, env={**os.environ, "PATH": path}, text=True, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.code = done.returncode
        return self._with_shown_port(done.stdout)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def _without_redirections(words: list[str], folder: Path) -> tuple[list[str], dict[str, str]]:
    """The arguments, and what `<` gives to stdin or where `>` puts stdout."""
    rest, given = [], {}
    waiting = iter(words)
    for word in waiting:
        if word == "<":
            given["<"] = (folder / next(waiting)).read_text(encoding="utf-8")
        elif word == ">":
            given[">"] = str(folder / next(waiting))
        elif not word.startswith("2>"):
            rest.append(word)
    return rest, given


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _arguments(words: list[str]) -> Iterator[None]:
    """`soloist` says how to go on with the words by which it was started."""
    before, sys.argv = sys.argv, ["soloist", *words]
    try:
        yield
    finally:
        sys.argv = before


def _said(stderr: str) -> str:
    """What stderr says beside progress: from a line of `soloist:` on, or the usage."""
    lines = stderr.splitlines(keepends=True)
    said = [number for number, line in enumerate(lines) if line.startswith(("soloist:", "Usage:"))]
    return "".join(lines[said[0] :]) if said else ""
