"""Measurements against sentence-transformers, in the same run on the same texts."""
