"""`open_questions`: the query side of a run, from its folder."""

from __future__ import annotations

from pathlib import Path

from soloist.retrieval.opened import questions_of
from soloist.retrieval.questions import Questions
from soloist.retrieval.run_record import read_record
from soloist.stores import RunFolder


def open_questions(path: str | Path, *, catalogue: str | Path | None = None) -> Questions:
    """Open the query side of a finished run. No model is loaded before it is asked.

    Give a `catalogue` file of your models if those of the run are in other places now.

    Raises:
        OutputError: there is no finished run, or its files cannot be read.
    """
    folder = RunFolder.open(Path(path))
    return questions_of(folder, read_record(folder), Path(catalogue) if catalogue is not None else None)
