"""Chunk files in, chunks out: discovery, a reader a format, and the check that ids are unique. Knows no torch."""

from soloist.sources.discovery import discover
from soloist.sources.duplicates import DuplicateIds
from soloist.sources.read_places import ReadPlaces
from soloist.sources.reading import read_chunks
from soloist.sources.skipped import SkippedInputs

__all__ = ["DuplicateIds", "ReadPlaces", "SkippedInputs", "discover", "read_chunks"]
