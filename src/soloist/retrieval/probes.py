"""Questions for a run that nobody has judged: headings, each of which should find its own chunk.

That is weaker evidence than judged questions: a heading often stands in its chunk word for word, which favours whatever
matches words, and people ask otherwise than headings are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from soloist.errors import InputError
from soloist.retrieval.judged import Judged
from soloist.types import Chunk
from soloist.wording import count_text

_TITLE_FIELDS = ("title", "heading_text", "heading", "chunk_heading", "section_title")
# Of these the last part is asked; a title is one whole, such as "TCP/IP basics".
_PATH_FIELDS = ("section_path", "hierarchy_path")
HEADING_FIELDS = (*_TITLE_FIELDS, *_PATH_FIELDS)
_SEPARATORS = (" > ", "/", "|")
_FEWEST_WORDS = 2
_MOST_OWNERS = 3  # a heading of more chunks, such as "See also", tells them not apart


def probes(chunks: Iterable[Chunk], most: int = 300) -> Judged:
    """Up to `most` headings, chosen by their digests, each with the chunks that it is the heading of.

    Raises:
        InputError: no chunk has a heading of two words or more.
    """
    owners: dict[str, list[str]] = {}
    for chunk in chunks:
        heading = heading_of(chunk)
        if heading is not None:
            owners.setdefault(heading, []).append(chunk.id)
    telling = {heading: ids for heading, ids in owners.items() if len(ids) <= _MOST_OWNERS}
    if not telling:
        raise InputError(
            f"no chunk has a heading in its metadata ({', '.join(HEADING_FIELDS[:4])} and such), so there is nothing "
            "to ask: give --queries and --qrels"
        )
    chosen = sorted(telling, key=lambda heading: hashlib.sha256(heading.encode()).digest())[:most]
    ids = [f"probe-{number}" for number in range(len(chosen))]
    return Judged(
        queries=dict(zip(ids, chosen, strict=True)),
        judgements={id_: dict.fromkeys(telling[heading], 1) for id_, heading in zip(ids, chosen, strict=True)},
        notices=(
            f"asked without a judge: {count_text(len(chosen), 'heading')}, each of which should find its own chunk, "
            "which is weaker evidence than judged questions",
        ),
        weak=True,
    )


def heading_of(chunk: Chunk) -> str | None:
    """The heading of a chunk by its metadata, of a path its last part; None where it has none of two words."""
    for name in HEADING_FIELDS:
        heading = _text(chunk.metadata.get(name), is_path=name in _PATH_FIELDS)
        if len(heading.split()) >= _FEWEST_WORDS:
            return heading
    return None


def _text(value: Any, *, is_path: bool) -> str:
    if isinstance(value, list):
        # The parts of a path, each of them a title.
        value, is_path = value[-1] if value else "", False
    if not isinstance(value, str):
        return ""
    separator = next((each for each in _SEPARATORS if is_path and each in value), None)
    value = value.rsplit(separator, 1)[-1] if separator is not None else value
    # JSON may hold lone surrogates, which are no text that could be asked.
    return " ".join(value.encode("utf-8", "replace").decode("utf-8").split())
