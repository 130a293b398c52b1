"""Chunk files in, chunks out: discovery, a reader a format, and the check that ids are unique. Knows no torch."""

from soloist.sources.discovery import InputFiles, discover, find_input
from soloist.sources.duplicates import DuplicateIds
from soloist.sources.passed_over import PassedOverFiles
from soloist.sources.reading import read_chunks
from soloist.sources.skipped import SkippedInputs

__all__ = [
    "DuplicateIds",
    "InputFiles",
    "PassedOverFiles",
    "SkippedInputs",
    "discover",
    "find_input",
    "read_chunks",
]
