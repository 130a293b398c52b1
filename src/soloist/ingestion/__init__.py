"""Chunks from their sources into the shards of a run folder. Knows no torch."""
