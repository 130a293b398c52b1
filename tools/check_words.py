"""Hold the documents to their lengths: words of a sentence, lines of the README. Knows nothing of soloist.

Run as `python -m tools.check_words`; prints every sentence that is too long, and then exits with 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tools.markdown_text import sentences

README = "README.md"
README_LINES = 130
README_WORDS = 30
WORDS = 35
OTHERS = ("CHANGELOG.md", "CONTRIBUTING.md")
FOLDER = "docs"
_SHOWN_WORDS = 8


def complaints(root: Path) -> Iterator[str]:
    """A line for every sentence that is too long, and for a README that is."""
    lines = len((root / README).read_text(encoding="utf-8").splitlines())
    if lines > README_LINES:
        yield f"{README}: the file has {lines} lines; at most {README_LINES} are allowed"
    yield from _long_sentences(root, root / README, README_WORDS)
    for path in [*(root / name for name in OTHERS), *sorted((root / FOLDER).rglob("*.md"))]:
        yield from _long_sentences(root, path, WORDS)


def _long_sentences(root: Path, path: Path, most: int) -> Iterator[str]:
    for sentence in sentences(path.read_text(encoding="utf-8")):
        if sentence.words > most:
            beginning = " ".join(sentence.text.split()[:_SHOWN_WORDS])
            place = f"{path.relative_to(root)}:{sentence.line}"
            yield f"{place}: a sentence has {sentence.words} words; at most {most} are allowed: {beginning} ..."


def main(root: Path) -> int:
    """Check the documents of a repository; the exit code."""
    lines = list(complaints(root))
    print("\n".join(lines) if lines else "all sentences are short enough")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parents[1]))
