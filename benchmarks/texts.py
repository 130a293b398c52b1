"""The texts that are measured: real documentation, each text once, none longer than a model reads.

Documentation beside the checkout where it is there, else the docstrings of the standard library. Knows no models: a
function that counts tokens is given.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import random
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import ROOT

SHARED_DATA = ROOT.parent / "shared" / "data"
SHARED_CHUNKS = SHARED_DATA / "chunks"
# Modules of the standard library whose import does nothing else, and which have long docstrings.
DOCUMENTED = (
    "collections", "concurrent.futures", "email", "http", "importlib", "json", "logging", "unittest", "xml",
)  # fmt: skip
# Where a text that is too long is cut, best first: lines, sentences, words.
_BREAKS = (r"(?<=\n)", r"(?<=[.!?] )", r"(?<= )")

_CORPORA = ("docs_rag", "code_rag", "cranfield")
# Lengths in tokens to which texts are cut where many are wanted, the longest first.
_LENGTHS = (256, 192, 128, 96, 64, 48, 40, 32, 24, 16)

CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Distinct texts, and where they come from."""

    texts: tuple[str, ...]
    source: str


def documentation(count: int, count_tokens: CountTokens, *, max_tokens: int = 256, seed: int = 0) -> Texts:
    """`count` pieces of documentation of at most `max_tokens` tokens, drawn from all there are.

    Fewer where there are fewer: what is measured is not repeated, since a text that occurs twice is embedded once.
    """
    whole, source = (_shared(), "documentation") if SHARED_CHUNKS.is_dir() else (docstrings(), "docstrings")
    drawn = list(dict.fromkeys(whole))
    random.Random(seed).shuffle(drawn)
    pieces: dict[str, None] = {}
    for text in drawn:
        pieces.update(dict.fromkeys(split(text, count_tokens, max_tokens)))
        if len(pieces) >= count:
            break
    return Texts(texts=tuple(pieces)[:count], source=source)


def many_pieces(count: int, count_tokens: CountTokens, *, seed: int = 0) -> Texts:
    """`count` different pieces of all texts there are: documentation, code, abstracts and docstrings.

    They are as long as so many can be; the source says how long.

    Raises:
        ValueError: there are fewer, however short they are cut.
    """
    texts = list(dict.fromkeys([*_shared(*_CORPORA), *docstrings()]))
    characters = sum(map(len, texts))
    for max_tokens in _LENGTHS:
        if characters < 2 * count * max_tokens:  # some 4 characters a token, and pieces that are half full
            continue
        pieces = list(dict.fromkeys(piece for text in texts for piece in split(text, count_tokens, max_tokens)))
        if len(pieces) >= count:
            random.Random(seed).shuffle(pieces)
            return Texts(texts=tuple(pieces[:count]), source=f"texts cut to at most {max_tokens} tokens")
    raise ValueError(f"there are not {count:,} different pieces of text: ask for fewer")


def split(text: str, count_tokens: CountTokens, max_tokens: int, breaks: tuple[str, ...] = _BREAKS) -> list[str]:
    """The text in pieces of at most `max_tokens` tokens, cut at line ends where that is enough.

    A word that is longer stays whole. Pieces of white space are left out.
    """
    if count_tokens(text) <= max_tokens or not breaks:
        return [text.strip()] if text.strip() else []
    pieces: list[str] = []
    held = ""
    for part in re.split(breaks[0], text):
        if held and count_tokens(held + part) > max_tokens:
            pieces += split(held, count_tokens, max_tokens, breaks[1:])
            held = ""
        held += part
    return pieces + split(held, count_tokens, max_tokens, breaks[1:])


def chunk_texts(folder: Path) -> list[str]:
    """The texts of the chunk files below a folder, in the files' order."""
    files = sorted(folder.rglob("*_chunks.json"))
    return [item["text"] for file in files for item in json.loads(file.read_text(encoding="utf-8"))]


def docstrings() -> list[str]:
    """What the standard library says of itself, sorted."""
    return sorted({text for name in DOCUMENTED for module in _modules(name) for text in _documentation(module)})


def write_chunk_file(folder: Path, texts: Iterable[str]) -> None:
    """A root of one chunk file, in which a chunk's id is its place, from 0. Holds one text at a time."""
    folder.mkdir(parents=True)
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
        for index, text in enumerate(texts):
            file.write(json.dumps({"id": str(index), "text": text}) + "\n")


def _shared(*corpora: str) -> list[str]:
    """The texts beside the checkout: chunks, and corpora by their folders' names."""
    texts = chunk_texts(SHARED_CHUNKS)
    for name in corpora or _CORPORA[:1]:
        corpus = SHARED_DATA / name / "corpus.jsonl"
        lines = corpus.read_text(encoding="utf-8").splitlines() if corpus.is_file() else []
        texts += [json.loads(line)["text"] for line in lines]
    return texts


def _modules(name: str) -> Iterator[object]:
    package = importlib.import_module(name)
    yield package
    for found in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{name}."):
        if not found.name.endswith("__main__"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield importlib.import_module(found.name)


def _documentation(module: object) -> Iterator[str]:
    for _, member in inspect.getmembers(module):
        if inspect.isclass(member) or inspect.isfunction(member):
            text = inspect.getdoc(member)
            if text:
                yield text
