"""What the pages list is what soloist has: commands and options, fusions, exports, cards and exit codes."""

from __future__ import annotations

import ast
import os
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from support.markdown_examples import CHECKOUT, blocks, commands, pages

from soloist.cli import app
from soloist.config import RunConfig
from soloist.exports import EXPORTS
from soloist.formats import DEFAULT_FILE_PATTERNS
from soloist.fusion_methods import FUSIONS, NO_FUSION
from soloist.memory.cards import CARDS
from soloist.retrieval.rankers import searchable
from soloist.types import DTypeRequest
from tools.command_reference import command_reference
from tools.docstrings import as_restructured_text

DOCS = CHECKOUT / "docs"


def test_every_command_and_option_is_in_the_reference() -> None:
    """An option that the parser has and the page lacks is found by nobody."""
    reference = command_reference()
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert [f"## soloist {name}" in reference for name in names] == [True] * len(names)
    assert "## soloist models list" in reference
    assert reference.count("| `-h, --help` |") == reference.count("## soloist ")  # `-h` is a setting of the whole app
    for name in [each.name for each in fields(RunConfig) if each.name not in ("chunks_root", "source")]:
        assert f"--{name.replace('_', '-')}" in reference, name


def test_a_row_of_the_reference_is_a_row_of_a_table() -> None:
    """A bar within a cell would cut it in two, and a star would make it italic."""
    rows = [line for line in command_reference().splitlines() if line.startswith("| `")]
    assert rows
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 3, row


def fusion_rows() -> list[tuple[str, str]]:
    """What `--fusion` takes, as the help says it."""
    methods = [(name, method.help) for name, method in FUSIONS.items()]
    return [("`--fusion`", "what it makes of the vectors"), *methods, (NO_FUSION, "no fused vectors")]


def ranker_rows() -> list[tuple[str, str]]:
    """The options of `soloist search` that rank, as the help says it."""
    options = {name: f"--{name}" + " NAME" * row.takes_model for name, row in searchable().items()}
    return [("option", "what it does"), *((options[name], row.help) for name, row in searchable().items())]


@pytest.mark.parametrize(
    ("page", "mark", "rows"),
    [("fusion.md", "FUSIONS", fusion_rows()), ("search.md", "RANKERS", ranker_rows())],
)
def test_a_table_of_a_page_is_the_table_of_the_code(page: str, mark: str, rows: list[tuple[str, str]]) -> None:
    """Whoever adds a row to the code would have to know of the page; SOLOIST_UPDATE_DOCS=1 writes it there."""
    head, *body = rows
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| `{name}` | {said} |" for name, said in body)]
    path = DOCS / page
    text = path.read_text(encoding="utf-8")
    begin, end = f"<!-- rows of {mark} -->\n", "<!-- end of the rows -->"
    before, _, rest = text.partition(begin)
    shown, _, after = rest.partition(end)
    expected = "\n".join(lines) + "\n"
    if os.environ.get("SOLOIST_UPDATE_DOCS") == "1":
        path.write_text(f"{before}{begin}{expected}{end}{after}", encoding="utf-8")
        return
    assert shown == expected


@pytest.mark.parametrize(
    ("page", "listed"),
    [
        ("exports.md", [*EXPORTS]),
        ("planning.md", [*CARDS]),
        ("models.md", [*get_args(DTypeRequest)]),
        ("input-output.md", [*DEFAULT_FILE_PATTERNS]),
        ("resume.md", ["0", "1", "2", "3", "130"]),
    ],
)
def test_a_page_lists_all_that_there_is(page: str, listed: list[str]) -> None:
    """A new fusion, export, card or format is a row of a table in the code; its page has to follow."""
    text = (DOCS / page).read_text(encoding="utf-8")
    missing = [name for name in listed if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)]
    assert missing == []


def imported(source: str) -> set[str]:
    """The packages that Python code imports, without those of Python itself."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


# Kinds of export that need an extra of their own name, and modules that an extra brings.
NEED_EXTRA = {"faiss", "lancedb", "pgvector", "qdrant"}
OF_EXTRA = {
    "chromadb": "chroma", "faiss": "faiss", "haystack": "haystack", "lancedb": "lancedb", "mcp": "mcp",
    "psycopg": "pgvector", "qdrant_client": "qdrant",
}  # fmt: skip


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(CHECKOUT).as_posix())
def test_a_page_says_how_to_install_what_it_uses(page: Path) -> None:
    """Two pages imported pandas, and one exported to LanceDB. README's install brings neither."""
    text = page.read_text(encoding="utf-8")
    shown = [block for block in blocks(page) if not block.not_run]
    packages = {name for block in shown if block.language == "python" for name in imported(block.content)}
    lines = {f"pip install {name}" for name in packages - {"soloist", "numpy", "pyarrow", *OF_EXTRA}}
    lines |= {f"pip install '.[{OF_EXTRA[name]}]'" for name in packages & {*OF_EXTRA}}
    typed = [command for block in shown if block.language == "console" for command in commands(block)]
    worked = " ".join(command.text for command in typed if "soloist: error:" not in command.output)
    lines |= {f"pip install '.[{name}]'" for name in re.findall(r"--to (\w+)", worked) if name in NEED_EXTRA}
    lines |= {f"pip install '.[{name}]'" for name in ("eval", "report", "serve") if f"soloist {name} " in worked}
    assert [line for line in sorted(lines) if line not in text] == []


def test_docstrings_become_what_sphinx_reads() -> None:
    """A backquote of Markdown would be italic, and an example a quotation."""
    lines = ["Take `k` of ``n``.", "", "    run = `x`", "", "Raises:", "    KeyError: no `k`."]
    assert as_restructured_text(lines) == [
        "Take ``k`` of ``n``.", "", "::", "", "    run = `x`", "", "Raises:", "    KeyError: no ``k``.",
    ]  # fmt: skip
