"""What Python asks of a finished run. Light to import: evaluations and exports of `api.runs` are not needed for it."""

from soloist.retrieval.opened import open_run
from soloist.retrieval.opened_questions import open_questions

__all__ = ["open_questions", "open_run"]
