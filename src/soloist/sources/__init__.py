"""Chunk files in, chunks out: discovery, a reader a format, and the check that ids are unique. Knows no torch."""

from soloist.sources.discovery import discover
from soloist.sources.duplicates import DuplicateIds
from soloist.sources.reading import read_chunks

__all__ = ["DuplicateIds", "discover", "read_chunks"]
