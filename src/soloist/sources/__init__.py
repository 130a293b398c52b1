"""Chunk files, or what Python gives, in; chunks out: discovery, a reader a format, the check that ids are unique.

Knows no torch.
"""

from soloist.sources.discovery import InputFiles, discover, find_input
from soloist.sources.duplicates import DuplicateIds
from soloist.sources.given import GivenCollection, given_input, iterators_of
from soloist.sources.passed_over import PassedOverFiles
from soloist.sources.read_once import forget_begun
from soloist.sources.reading import input_of, read_chunks
from soloist.sources.skipped import SkippedInputs

__all__ = [
    "DuplicateIds",
    "GivenCollection",
    "InputFiles",
    "PassedOverFiles",
    "SkippedInputs",
    "discover",
    "find_input",
    "forget_begun",
    "given_input",
    "input_of",
    "iterators_of",
    "read_chunks",
]
