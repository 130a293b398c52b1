"""Readers of a run's events and of its result, for people: progress and the closing table."""
