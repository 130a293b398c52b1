"""Sphinx's settings for the site of these pages: `make docs` builds it, strictly and without the network."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import soloist
from tools.command_reference import command_reference
from tools.docstrings import as_restructured_text

project = "soloist"
author = "the soloist authors"
release = soloist.__version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["site"]
myst_heading_anchors = 3
nitpicky = True
# The frameworks of soloist.integrations, which are not installed for the site.
autodoc_mock_imports = ["chromadb", "haystack", "langchain_core", "llama_index", "mcp", "pydantic"]
# Types of other projects, whose pages are not at hand offline.
nitpick_ignore_regex = [("py:.*", r".*")]

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
python_maximum_signature_line_length = 100
# Two hyphens begin an option, and are no dash.
smartquotes = False

html_theme = "furo"
html_title = f"soloist {release}"
html_show_sourcelink = False
html_copy_source = False

_PAGES = Path(__file__).resolve().parents[1]
_COMMANDS = "<!-- the commands -->"
_LINK_TO_MARKDOWN = re.compile(r"\]\((\.\./[^)#]+\.md)(?:#[^)]*)?\)")


def _fill_in(app: Any, name: str, source: list[str]) -> None:
    """Put what the parser says in the place of the mark; a link to Markdown that is not a page gives the file."""
    folder = (_PAGES / name).parent
    text = source[0].replace(_COMMANDS, command_reference())
    source[0] = _LINK_TO_MARKDOWN.sub(lambda match: _link(folder, match), text)


def _link(folder: Path, match: re.Match[str]) -> str:
    is_page = (folder / match[1]).resolve().is_relative_to(_PAGES)
    return match[0] if is_page else f"](path:{match[1]})"


def _docstring(app: Any, what: str, name: str, documented: object, options: object, lines: list[str]) -> None:
    lines[:] = as_restructured_text(lines)


def setup(app: Any) -> None:
    """Connect what the pages need beside Sphinx's own."""
    app.connect("source-read", _fill_in)
    app.connect("autodoc-process-docstring", _docstring, priority=400)
