"""Compares run folders file by file, besides what tells of a session or is drawn."""

from __future__ import annotations

from pathlib import Path

_OWN_FILES = {"run.json", "events.jsonl", "id.json", ".lock"}


def require_same_files(one: Path, other: Path) -> None:
    """Both folders have the same files with the same bytes."""
    found, wanted = _files_of(one), _files_of(other)
    assert list(found) == list(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


def _files_of(out: Path) -> dict[str, bytes]:
    found = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(found.items()) if name not in _OWN_FILES}
