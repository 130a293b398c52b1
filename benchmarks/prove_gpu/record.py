"""The two files of a proof: all figures as JSON, and a page for people. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import slug
from benchmarks.prove_gpu.running import Outcome


def write(folder: Path, circumstances: Mapping[str, Any], outcomes: Sequence[Outcome]) -> tuple[Path, Path]:
    """Write `gpu-CARD.json` and `.md`. Older files of the same card are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem(circumstances['cards'])}.json"
    record = {**circumstances, "parts": [asdict(outcome) for outcome in outcomes]}
    _replace(path, json.dumps(record, indent=2) + "\n")
    _replace(path.with_suffix(".md"), markdown(circumstances, outcomes))
    return path, path.with_suffix(".md")


def stem(cards: Sequence[str]) -> str:
    """E.g. `gpu-tesla-t4`, `gpu-2x-tesla-t4`."""
    several = f"{len(cards)}x-" if len(cards) > 1 else ""
    return f"gpu-{several}{slug(cards[0])}"


def markdown(circumstances: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """The page: the circumstances, a row for each part, and a table for each part that has rows."""
    versions = ", ".join(f"{name} {version}" for name, version in circumstances["versions"].items())
    head = [
        f"# soloist on {', '.join(circumstances['cards'])}", "",
        f"Commit {circumstances['commit']}; driver {circumstances['driver']}; {versions}.", "",
        "| part | verdict | seconds | what was seen |", "|---|---|---|---|",
    ]  # fmt: skip
    rows = [f"| {each.title} | {each.verdict} | {each.seconds:.0f} | {_cell(each.text)} |" for each in outcomes]
    tables = [line for each in outcomes for line in _table(each)]
    return "\n".join([*head, *rows, *tables]) + "\n"


def _table(outcome: Outcome) -> list[str]:
    """A part's `rows`, which are objects with the same keys."""
    rows = outcome.figures.get("rows", [])
    if not rows:
        return []
    names = list(rows[0])
    lines = [f"| {' | '.join(_cell(str(row[name])) for name in names)} |" for row in rows]
    return ["", f"## {outcome.title}", "", f"| {' | '.join(names)} |", "|---" * len(names) + "|", *lines]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _replace(path: Path, text: str) -> None:
    partly = path.with_name(f"{path.name}.part")
    partly.write_text(text, encoding="utf-8")
    partly.replace(path)
