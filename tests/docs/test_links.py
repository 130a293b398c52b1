"""Links of README, CONTRIBUTING, CHANGELOG and docs lead to a file and a heading that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from support.markdown_examples import CHECKOUT, pages

_ALL = [*pages(), CHECKOUT / "CHANGELOG.md"]


def links(page: Path) -> list[str]:
    """The targets of a page's links, without those of other sites."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    children = [child for token in tokens for child in token.children or ()]
    targets = [str(child.attrGet("href")) for child in children if child.type == "link_open"]
    return [target for target in targets if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    headings = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", _ALL, ids=lambda page: page.relative_to(CHECKOUT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """README is read where no builder checks its links; a page that moved leaves them dead."""
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}"


def test_every_page_is_reached_from_the_first() -> None:
    """A page that no other page names is never read; the contents of the site are not links to it."""
    docs = CHECKOUT / "docs"
    contents = (docs / "index.md").read_text(encoding="utf-8") + (docs / "decisions/index.md").read_text(
        encoding="utf-8"
    )
    for page in docs.rglob("*.md"):
        name = "testing*" if page.stem.startswith("testing") else page.stem
        assert page.stem == "index" or re.search(rf"^{re.escape(name)}$", contents, re.MULTILINE), page


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(CHECKOUT).as_posix())
def test_files_that_are_named_are_there(page: Path) -> None:
    """A file that was renamed stays in the architecture and in the decisions under its old name."""
    named = re.findall(r"`((?:[\w.-]+/)+[\w-]+\.py)(?:::\w+)?`", page.read_text(encoding="utf-8"))
    missing = [
        name for name in named if not any((root / name).exists() for root in (CHECKOUT, CHECKOUT / "src/soloist"))
    ]
    assert missing == []
