"""What was read of a run counts only where the run is still the one that was opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from soloist.errors import OutputError
from soloist.stores import RunFolder, Unchanged

SUMMARY = {"models": [], "fusion": None}


def test_a_run_that_is_left_alone_is_unchanged(tmp_path: Path) -> None:
    """Finishing a finished run again, with nothing to do, must not send its readers away."""
    folder = RunFolder.create(tmp_path / "run")
    folder.finish(SUMMARY)
    opened = Unchanged.of(folder.path)
    folder.finish(SUMMARY)
    opened.require("search it again")


@pytest.mark.parametrize("again", [False, True], ids=["at-work", "finished-again"])
def test_a_run_that_is_made_anew_is_another(tmp_path: Path, again: bool) -> None:
    """Believing what was read while files were replaced would put new vectors beside old texts."""
    folder = RunFolder.create(tmp_path / "run")
    folder.finish(SUMMARY)
    opened = Unchanged.of(folder.path)
    folder.reopen()
    if again:
        folder.finish(SUMMARY)
    with pytest.raises(OutputError, match="was changed meanwhile: search it again when it is finished"):
        opened.require("search it again")


def test_a_run_that_never_was_finished_is_not_believed(tmp_path: Path) -> None:
    """None would equal None."""
    folder = RunFolder.create(tmp_path / "run")
    with pytest.raises(OutputError, match="was changed meanwhile"):
        Unchanged.of(folder.path).require("search it again")
