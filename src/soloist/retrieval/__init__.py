"""Searching a finished run, and finding out what its ensemble is worth."""

from soloist.retrieval.opened import By, OpenedRun, open_run

__all__ = ["By", "OpenedRun", "open_run"]
