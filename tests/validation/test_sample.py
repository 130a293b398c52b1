"""The chunks that a rehearsal begins with: where they are written, and what is refused before that."""

from __future__ import annotations

import pytest

import soloist
from soloist.api.settings import config_of
from soloist.errors import ConfigError, UnknownModelError
from soloist.events import ListSink
from soloist.sources import find_input
from soloist.validation.rehearsal import prepare_folder
from soloist.validation.sample import write_sample


def test_a_sample_stays_in_its_folder(tmp_path):
    """A collection `../..` of a mapping was written outside of the folder, and `a/b` as a part of `a`."""
    target = tmp_path / "report" / "chunks"
    names = ["../../outside", str(tmp_path / "absolute"), "a", "a/b", ".hidden"]
    config, given = config_of("soloist.validate", {name: [name] for name in names}, {"out": tmp_path / "report"})
    assert write_sample(config, given, target, 10, ListSink()) == len(names)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    found = find_input(target, config.source, ())
    assert len(found.collections) == len(names) and all(len(each.files) == 1 for each in found.collections)


@pytest.fixture
def report(tmp_path):
    """The folder of a validation, with a run and a page of figures."""
    folder = tmp_path / "report"
    prepare_folder(folder, None)
    (folder / "exclusive").mkdir()
    (folder / "exclusive" / "run.json").write_text("{}")
    (folder / "report.html").write_text('<meta name="generator" content="soloist report 1">')
    return folder


def test_a_generator_is_refused_before_anything_goes(report):
    """The runs of the last validation were gone, and then the generator was refused."""
    with pytest.raises(ConfigError, match=r"^soloist\.validate would use up the chunks"):
        soloist.validate((text for text in ["a"]), out=report, models=["wordllama"], accelerator="cpu")
    assert (report / "exclusive" / "run.json").is_file() and (report / "report.html").is_file()


@pytest.mark.parametrize("is_ours", [True, False])
def test_figures_of_the_last_validation_go_with_its_runs(report, is_ours):
    """Without matplotlib, an old report.html stayed beside the new validation.json."""
    if not is_ours:
        (report / "report.html").write_text("my own page")
    with pytest.raises(UnknownModelError):
        soloist.validate(["a"], out=report, models=["no-such-model"], accelerator="cpu")
    assert not (report / "exclusive").exists()
    assert (report / "report.html").exists() is not is_ours
