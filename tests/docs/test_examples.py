"""What README and docs show is what a reader gets: every command and every Python block is run, in order, page by page.

SOLOIST_UPDATE_DOCS=1 writes what was printed into the pages, where it differs: look at the change before you keep it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from support.markdown_examples import (
    CHECKOUT,
    RUN_LANGUAGES,
    SHOWN_LANGUAGES,
    Block,
    Session,
    blocks,
    commands,
    is_same,
    pages,
)

import soloist

MODELS = ("all-MiniLM-L6-v2", "wordllama")
HAS_RUN = "The commands on this page use the run that the [quickstart](quickstart.md) makes."
UPDATE = os.environ.get("SOLOIST_UPDATE_DOCS") == "1"


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the quickstart makes."""
    folder = tmp_path_factory.mktemp("quickstart")
    shutil.copytree(CHECKOUT / "examples", folder / "examples")
    config = soloist.RunConfig(
        chunks_root=folder / "examples/chunks", out=folder / "run", models=MODELS, accelerator="cpu"
    )
    soloist.embed(config)
    return folder / "run"


@pytest.fixture(autouse=True)
def settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A reader's machine has no GPU here, locks of its own, and nothing measured before."""
    monkeypatch.setenv("SOLOIST_ACCELERATOR", "cpu")
    monkeypatch.setenv("SOLOIST_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("SOLOIST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("SOLOIST_CATALOGUE", raising=False)


def pages_to_run() -> list[Path]:
    """Pages that have a block to run."""
    return [page for page in pages() if any(is_run(block) for block in blocks(page))]


def is_run(block: Block) -> bool:
    return block.language in RUN_LANGUAGES and not block.not_run


@pytest.mark.parametrize("page", pages_to_run(), ids=lambda page: page.relative_to(CHECKOUT).as_posix())
def test_a_page_shows_what_a_reader_gets(page: Path, finished_run: Path, tmp_path: Path, request) -> None:
    """A command of the docs that fails, or prints something else, costs a stranger the first hour."""
    session = Session(folder=tmp_path / "reader")
    shutil.copytree(finished_run.parent / "examples", session.folder / "examples")
    if HAS_RUN in page.read_text(encoding="utf-8"):
        shutil.copytree(finished_run, session.folder / "run")
    wrong = Wrong(page)
    with contextlib.closing(session):
        for block in filter(is_run, blocks(page)):
            run_block(session, block, wrong)
    wrong.end()


def run_block(session: Session, block: Block, wrong: Wrong) -> None:
    """Do what a reader does with a block, and compare."""
    if block.language == "toml":
        session.write(block)
    elif block.language == "python":
        printed = session.python(block)
        if block.output is not None:
            wrong.compare(block.output_line, "the Python block", block.output, printed)
    else:
        run_commands(session, block, wrong)


def run_commands(session: Session, block: Block, wrong: Wrong) -> None:
    """A command fails only where the page shows its error, or asks for its exit code."""
    shown = list(commands(block))
    for command, after in zip(shown, [*shown[1:], None], strict=True):
        printed = session.command(command)
        wrong.compare(command.line, command.text, command.output, printed)
        may_fail = "soloist: error:" in printed or (after is not None and after.text == "echo $?")
        assert session.code == 0 or may_fail, f"{block.page.name}:{command.line}: {command.text}: {printed}"


class Wrong:
    """What a page shows that was not printed."""

    def __init__(self, page: Path) -> None:
        self._page = page
        self._found: list[tuple[int, str, str, str]] = []

    def compare(self, line: int, what: str, shown: str, printed: str) -> None:
        """Note it where it differs."""
        if not is_same(shown, printed):
            self._found.append((line, what, shown, printed))

    def end(self) -> None:
        """Fail, or write what was printed into the page."""
        if UPDATE:
            self._update()
            return
        name = self._page.relative_to(CHECKOUT)
        told = [
            f"{name}:{line}: {what}\nshown:\n{shown}\nprinted:\n{printed}" for line, what, shown, printed in self._found
        ]
        assert not told, "\n\n".join(told)

    def _update(self) -> None:
        lines = self._page.read_text(encoding="utf-8").splitlines()
        for line, _, shown, printed in reversed(self._found):
            lines[line - 1 : line - 1 + len(shown.rstrip("\n").splitlines())] = printed.strip("\n").splitlines()
        self._page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_every_block_has_a_language_and_a_reason_not_to_be_run() -> None:
    """A command in a block that nobody looks at goes stale."""
    for page in pages():
        for block in blocks(page):
            place = f"{page.name}:{block.line}"
            assert block.language in RUN_LANGUAGES | SHOWN_LANGUAGES or block.language.startswith("{"), place
            if block.language in SHOWN_LANGUAGES:
                assert not any(line.startswith("$ ") for line in block.content.splitlines()), place


# Every block that nobody runs here, by page, with the reason that the page gives.
NOT_RUN = {
    ("docs/applications.md", "it needs a PostgreSQL server, which tests/integrations starts"),
    ("README.md", "the tests run in an environment that has soloist"),
    ("docs/quickstart.md", "the tests run in an environment that has soloist"),
    ("docs/benchmarks.md", "measures for minutes to hours, in environments of its own"),
    ("docs/installation.md", "it downloads wheels from an index"),
    ("docs/installation.md", "it needs the folder of wheels"),
    ("docs/installation.md", "it lists what is on your machine"),
    ("docs/kaggle.md", "needs the package index and some minutes"),
    ("docs/kaggle.md", "downloads 2.3 GB"),
    ("docs/many-machines.md", "it starts a Ray cluster, and tests do that by themselves"),
    ("docs/many-machines.md", "it needs several machines"),
    ("docs/planning.md", "measures for a minute; tests/sizing runs it"),
    ("docs/report.md", "the command above writes the same file"),
    ("docs/report.md", "the page on search runs soloist eval"),
    ("docs/report.md", "there is one run on this page"),
    ("docs/serving.md", "the tests run in an environment that has soloist"),
    ("docs/search.md", "needs the Cranfield collection and 90 seconds; the figures are of one run"),
    ("docs/search.md", "needs a cross-encoder, and no package brings one"),
    ("docs/t4.md", "needs a GPU"),
    ("docs/testing-docs.md", "it would change these pages"),
    ("docs/troubleshooting.md", "needs a GPU"),
    ("docs/validation.md", "needs a GPU"),
    ("docs/validation.md", "starts a process of its own for half a minute; tests/adapters/test_script.py runs it"),
}


def test_what_is_not_run_is_on_the_list() -> None:
    """A block that is marked as not run hides that it fails: each new mark is a decision."""
    marked = {
        (block.page.relative_to(CHECKOUT).as_posix(), block.not_run)
        for page in pages()
        for block in blocks(page)
        if block.not_run
    }
    assert marked == NOT_RUN


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("32 chunks in 1.1 s", "32 chunks in 27.9 s", True),
        ("peak cpu 770.6 MB", "peak cpu  1.06 GB", True),
        ("0:50 left, 712 B", "1:12:03 left, 3 kB", True),
        ("32 chunks", "33 chunks", False),
        ("first\n...\nlast", "first\nsecond\nthird\nlast", True),
        ("first\n...", "second", False),
        ("one", "one\ntwo", False),
        ("a.b", "axb", False),
        ("", "said", False),
    ],
)
def test_what_counts_as_the_same_output(shown: str, printed: str, same: bool) -> None:
    """A comparison that lets a count or a line pass proves nothing about the pages."""
    assert is_same(shown, printed) is same


def test_a_wrong_output_and_a_failing_command_are_found(tmp_path: Path) -> None:
    """The runner itself: a page that shows another output, or a command that fails, must not pass."""
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ echo one\ntwo\n$ false\n$ echo $?\n1\n```\n\n```python\nprint(1 + 1)\n```\n\n```text\n2\n```\n"
    )
    console, python = blocks(page)
    session = Session(folder=tmp_path)
    printed = [session.command(command) for command in commands(console)]
    assert printed == ["one\n", "", "1"]
    assert [is_same(command.output, said) for command, said in zip(commands(console), printed, strict=True)] == [
        False, True, True,
    ]  # fmt: skip
    assert is_same(python.output or "", session.python(python))
