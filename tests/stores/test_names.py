"""Any name becomes one safe folder of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from soloist.stores import folder_name
from soloist.stores.names import MAX_LENGTH

# Few letters, so that near-clashes are common; and any text at all, lone surrogates included.
NAMES = st.text("aA/.-_\\ ~é", max_size=12) | st.text(st.characters(exclude_categories=()), max_size=120)


@pytest.mark.parametrize(
    "name", ["bge-m3", "all-MiniLM-L6-v2", "jina-code-embeddings-1.5b", "Docling", "a", "_a-", "a" * 100]
)
def test_a_safe_name_is_its_own_folder(name: str) -> None:
    """The user would not find the model's folder by its name."""
    assert folder_name(name) == name


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("BAAI/bge-m3", "BAAI--bge-m3"),
        ("", "_"),
        (".", "_"),
        ("..", "_"),
        ("../../etc", "--..--etc"),
        (".hidden", "hidden"),
        ("dot.", "dot."),
        ("C:\\x", "C__x"),
        ("a" * 101, "a" * 91),
        ("run.json", "run.json"),
        ("EVENTS.JSONL", "EVENTS.JSONL"),
        ("a-0123abcd", "a-0123abcd"),
        ("a\n", "a_"),
        ("\udcff", "_"),
        ("CRÈME", "CR_ME"),
    ],
)
def test_any_other_name_gets_a_digest(name: str, readable: str) -> None:
    """A name would leave the run folder, hide, replace run.json, or be refused by the file system."""
    assert re.fullmatch(re.escape(readable) + "-[0-9a-f]{8}", folder_name(name))


@given(NAMES)
@example("/")
@example("\x00")
def test_the_folder_is_one_component_inside(name: str) -> None:
    """A collection called `../x` would be written outside of the run."""
    folder = folder_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", folder)
    assert 1 <= len(folder) <= MAX_LENGTH
    assert (Path("/run") / folder).resolve().parent == Path("/run")


@given(NAMES, NAMES)
@example("a/b", "a--b")
@example("a/b", folder_name("a/b"))
@example("a/b", folder_name("a/b").upper())
@example("A/B", "a/b")
@example("a" * 101, "a" * 102)
@example(".a", "a")
def test_distinct_names_have_distinct_folders(one: str, other: str) -> None:
    """Two collections would overwrite each other's shards, on a file system that ignores case too."""
    only_case_differs = one.lower() == other.lower()
    if one != other:
        assert folder_name(one) != folder_name(other)
    if not only_case_differs:
        assert folder_name(one).lower() != folder_name(other).lower()
