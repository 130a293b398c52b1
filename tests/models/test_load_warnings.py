"""What libraries say while a model is loaded reaches the user, once a load and a line each, and not the terminal."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import warnings
from pathlib import Path

import pytest
from transformers.utils import logging as transformers_logging

from soloist.models.catalogue import resolve
from soloist.models.load_warnings import heard, quiet
from soloist.models.loading import StagedModel, stage

LOUD = logging.getLogger("transformers.loud")


@pytest.fixture
def talkative(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A model of which sentence-transformers warns once in a process."""
    folder = Path(shutil.copytree(tiny_models["bert"], tmp_path / "talkative"))
    path = folder / "config_sentence_transformers.json"
    content = {**json.loads(path.read_text()), "prompts": {"x": "x: "}, "default_prompt_name": "x"}
    path.write_text(json.dumps(content))
    return folder


def said_of(staged: StagedModel) -> list[str]:
    return [notice for notice in staged.notices if notice.startswith("Default prompt name is set to 'x'")]


def test_every_run_hears_what_was_said_of_a_model(talkative: Path) -> None:
    """The second of two runs in a process shared the module, or loaded it anew, and heard nothing."""
    first = stage(resolve(str(talkative)), "float32")
    second = stage(resolve(str(talkative)), "float32")
    assert first.module is second.module
    assert len(said_of(first)) == len(said_of(second)) == 1
    del first, second
    assert len(said_of(stage(resolve(str(talkative)), "float32"))) == 1


def test_the_lines_that_are_heard() -> None:
    """Tables in colours, lines that repeat, and chatter would bury what a user must know."""
    table = (
        "\x1b[1mBert REPORT\x1b[0m from: here\nKey | Status\n----+----\na.b | MISSING\nc | NEW\n\nNotes:\n- MISSING: so"
    )
    with quiet(), heard() as said:
        LOUD.warning("one %s", "thing")
        LOUD.warning("one thing")
        LOUD.info("loading")
        LOUD.error("two\n  lines")
        LOUD.warning(table)
        warnings.warn("an old pickle", UserWarning, stacklevel=1)
        warnings.warn("for developers", DeprecationWarning, stacklevel=1)
        LOUD.warning("x" * 5000)
    assert said[:-1] == ["one thing", "two lines", "Bert REPORT from: here: a.b MISSING, c NEW", "an old pickle"]
    assert len(said[-1]) <= 400


def test_other_threads_are_heard_where_they_were(caplog: pytest.LogCaptureFixture) -> None:
    """An application that loads a model of its own beside ours would lose its warnings, or find them in our run."""
    kept: list[logging.LogRecord] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record)

    root, handler = logging.getLogger("transformers"), Keeps()
    root.addHandler(handler)
    try:
        with quiet(), heard() as said:
            other = threading.Thread(target=lambda: LOUD.warning("of another"))
            other.start()
            other.join()
    finally:
        root.removeHandler(handler)
    assert said == []
    assert [record.getMessage() for record in kept] == ["of another"]


def test_loggers_are_left_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    """Loads that overlap would leave a process without its warnings, or with ours among them."""
    root = logging.getLogger("transformers")
    before = root.level, list(root.handlers), root.propagate, transformers_logging.is_progress_bar_enabled()
    outer, inner = quiet(), quiet()
    outer.__enter__()
    inner.__enter__()
    LOUD.warning("not on the terminal")
    outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    assert (root.level, list(root.handlers), root.propagate, transformers_logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_a_library_that_is_imported_while_a_model_loads_keeps_its_logging() -> None:
    """transformers is imported with the first network, maybe while another thread loads a table: its warnings to
    others would be lost from then on.
    """
    added = logging.StreamHandler()
    logger = logging.getLogger("transformers")
    before = list(logger.handlers)
    try:
        with quiet():
            logger.addHandler(added)
        assert logger.handlers == [*before, added]
    finally:
        logger.removeHandler(added)
