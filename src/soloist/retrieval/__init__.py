"""Searching a finished run, and finding out what its ensemble is worth."""

from soloist.retrieval.opened import By, OpenedRun

__all__ = ["By", "OpenedRun"]
