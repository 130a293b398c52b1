"""Adapters to frameworks of applications: a file for each, which imports its framework. soloist imports none of them.

Each takes a folder of questions (`soloist export RUN --to questions`), a run folder, or one of them opened. What a
retriever or a tool searches must be a run.
"""
