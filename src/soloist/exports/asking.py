"""How to ask a store so that it ranks as the run does: a text of Markdown that an export leaves beside its rows.

The text has Python that runs as it is, once `questions`, `question` and what connects to the store are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soloist.errors import OutputError
from soloist.exports.rows import Source
from soloist.fusion_methods import FUSED
from soloist.stores.atomic import atomic_path, disk_errors

TITLE = "# How to ask this export of soloist"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A way to query: what it ranks by, what to know about it, and the code, which gives `hits`."""

    title: str
    code: str
    says: str = ""


def ranked_by(source: Source) -> dict[str, float]:
    """What the run's own ranking weighs, by name; empty where not all of it is exported."""
    weights = dict(source.hybrid)
    if not weights:
        alone = (*source.names, *source.others)
        only = FUSED if FUSED in alone else alone[0] if len(alone) == 1 else None
        weights = {only: 1.0} if only is not None else {}
    return weights if weights.keys() <= set(source.names) else {}


def asked(source: Source, name: str) -> str:
    """Python that makes of `question` what is asked of a member: its vector, weights by dimension or counts by term."""
    member = source.ragged.get(name)
    call = "encode" if member is None else "encode_words" if member.kind == "lexical" else "encode_sparse"
    return f"questions.{call}([question], {name!r})[0]"


def how_to_ask(source: Source, connect: str, sections: Mapping[str, Section], *, shares_disk: bool = True) -> str:
    """The whole text. `connect` is Python that connects to the store; `sections` are by name.

    Whoever reads it has the run under the same path, if the store `shares_disk` with the run. Others see no path.
    """
    path = source.folder.path.absolute()
    run = str(path) if shares_disk else path.name
    start = f"import soloist\n{connect}\n\nquestions = soloist.open_questions({run!r})\nquestion = 'your question'"
    says = (
        "The questions of a run are embedded in the same way as its chunks. `open_questions` takes the folder of the "
        "run, or the one that `soloist export --to questions` wrote. Run this code before any code below"
    )
    if not shares_disk:
        says += ", with the path of such a folder"
    parts = [TITLE, f"{says}:", _code(start)]
    for section in sections.values():
        parts += [f"## {section.title}", *([section.says] if section.says else []), _code(section.code)]
    return "\n\n".join(parts) + "\n"


def write_beside(path: Path, text: str | None) -> tuple[str, ...]:
    """Write the text into a file, if it says something else; notes for the user. Where there is no text any more, that
    of an export before is removed. A file of somebody else's stays. The rows are there, so a disk that does not take
    the text is a note.
    """
    try:
        return _write_beside(path, text)
    except OutputError as exc:
        if text is None:
            return (f"{path} may be the text of an earlier export, which no longer fits: remove it ({exc})",)
        return (f"all rows are exported, but not the text that says how to query them: {exc}",)


def _write_beside(path: Path, text: str | None) -> tuple[str, ...]:
    with disk_errors(path):
        if text is None and not path.is_file():
            return ()
        there = path.read_bytes() if path.exists() else TITLE.encode()
    if text is None:
        with disk_errors(path):
            if there.startswith(TITLE.encode()):
                path.unlink()
        return ()
    if not there.startswith(TITLE.encode()):
        return (
            f"{path} is a file of yours, so the export left it and did not write how to query the table: "
            "move the file and export again to get that text",
        )
    if there != text.encode():
        with atomic_path(path) as temp, disk_errors(path):
            temp.write_text(text, encoding="utf-8")
    return ()


def _code(text: str) -> str:
    return f"```python\n{text}\n```"
