"""Questions for a run that nobody has judged: headings, each of which should find its own chunk.

That is weaker evidence than judged questions. A heading often stands in its chunk word for word, which favours whatever
matches words. And people do not ask as headings are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from soloist.errors import InputError
from soloist.retrieval.metrics import FEWEST
from soloist.retrieval.qrels import Qrels
from soloist.types import Chunk
from soloist.wording import count_text

_TITLE_FIELDS = (
    "title", "heading_text", "heading", "chunk_heading", "section_title", "section", "header", "headline",
    # By their depth, as those who split Markdown name them: the deepest is the chunk's own.
    *(f"{name}{depth}" for depth in range(6, 0, -1) for name in ("header ", "heading ", "h")),
)  # fmt: skip
# Of a path the last part is asked. A title is asked as a whole, such as "TCP/IP basics".
_PATH_FIELDS = ("section_path", "hierarchy_path", "headings", "heading_path", "header_path", "breadcrumbs")
HEADING_FIELDS = (*_TITLE_FIELDS, *_PATH_FIELDS)
_SEPARATORS = (" > ", "/", "|")
_MOST_OWNERS = 3  # a heading of more chunks, such as "See also", does not tell them apart
_WAY_ON = "give --queries and --qrels"


def probes(chunks: Iterable[Chunk], most: int = 300) -> Qrels:
    """Up to `most` headings, chosen by their digests, each with the chunks that it is a heading of.

    Of each chunk the first heading that tells it apart, one of several words before one of a single word.

    Raises:
        InputError: no chunk has a heading, or none tells its chunk apart.
    """
    known = {chunk.id: headings_of(chunk) for chunk in chunks}
    owners: dict[str, list[str]] = {}
    for id_, headings in known.items():
        for heading in headings:
            owners.setdefault(heading, []).append(id_)
    firsts = (next((text for text in headings if _tells(owners[text])), None) for headings in known.values())
    telling = {heading: owners[heading] for heading in firsts if heading is not None}
    if not telling:
        raise InputError(_why_none(owners))
    chosen = sorted(telling, key=lambda heading: hashlib.sha256(heading.encode()).digest())[:most]
    ids = [f"probe-{number}" for number in range(len(chosen))]
    return Qrels(
        queries=dict(zip(ids, chosen, strict=True)),
        judgements={id_: dict.fromkeys(telling[heading], 1) for id_, heading in zip(ids, chosen, strict=True)},
        notices=tuple(_notices(chosen, len(known))),
        weak=True,
    )


def _tells(owners: Sequence[str]) -> bool:
    return len(owners) <= _MOST_OWNERS


def _why_none(owners: Mapping[str, Sequence[str]]) -> str:
    if owners:
        return (
            f"the chunks' metadata have {count_text(len(owners), 'heading')}, but more than {_MOST_OWNERS} chunks "
            f"share each of them, so no heading tells its chunk from the others: {_WAY_ON}"
        )
    named = ", ".join(HEADING_FIELDS[:4])
    return f"no chunk has a heading in its metadata ({named} or similar), so there is nothing to ask: {_WAY_ON}"


def _notices(chosen: Sequence[str], chunks: int) -> Iterator[str]:
    single = sum(len(heading.split()) == 1 for heading in chosen)
    words = f" ({single:,} of one word)" if single else ""
    yield (
        f"nobody judged these questions: they are {count_text(len(chosen), 'heading')}{words}, each of which should "
        "find its own chunk. That is weaker evidence than judged questions"
    )
    if len(chosen) < FEWEST:
        yield (
            f"too few headings: in {count_text(chunks, 'chunk')} only {len(chosen)} tell chunks apart, and fewer than "
            f"{FEWEST} questions show nothing: {_WAY_ON}"
        )


def headings_of(chunk: Chunk) -> tuple[str, ...]:
    """The headings in a chunk's metadata: those of several words, then single words. Of a path its last part."""
    fields = {name.lower(): value for name, value in chunk.metadata.items()}
    texts = [_text(fields.get(name), is_path=name in _PATH_FIELDS) for name in HEADING_FIELDS]
    # A number or a dash is not a question.
    headings = dict.fromkeys(text for text in texts if any(map(str.isalpha, text)))
    return tuple(sorted(headings, key=lambda text: len(text.split()) == 1))


def _text(value: Any, *, is_path: bool) -> str:
    if isinstance(value, list):
        # The parts of a path, each of them a title.
        value, is_path = value[-1] if value else "", False
    if not isinstance(value, str):
        return ""
    value = value.strip(" /|") if is_path else value  # "/Guide/Leases/" ends in its last part too
    separator = next((mark for mark in _SEPARATORS if is_path and mark in value), None)
    value = value.rsplit(separator, 1)[-1] if separator is not None else value
    # JSON may hold lone surrogates, which are not text and cannot be asked.
    return " ".join(value.encode("utf-8", "replace").decode("utf-8").split())
