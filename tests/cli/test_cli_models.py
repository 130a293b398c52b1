"""The models commands, which read the catalogue and load nothing."""

from __future__ import annotations

from typer.testing import CliRunner

from soloist.cli import app
from soloist.models.catalogue import BUILT_IN


def test_list_has_a_line_for_each_model():
    """A model that the list leaves out is not found by anybody."""
    result = CliRunner().invoke(app, ["models", "list"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["model", *BUILT_IN.names()]


def test_a_users_catalogue_adds_to_the_list(tmp_path, monkeypatch):
    """SOLOIST_CATALOGUE is how a notebook without internet names its attached models."""
    path = tmp_path / "catalogue.toml"
    path.write_text('[models.mine]\nsource = "org/mine"\n')
    assert "org/mine" in CliRunner().invoke(app, ["models", "list", "--catalogue", str(path)]).stdout
    monkeypatch.setenv("SOLOIST_CATALOGUE", str(path))
    assert "org/mine" in CliRunner().invoke(app, ["models", "list"]).stdout


def test_show_makes_the_space_in_a_prompt_visible():
    """A prompt without its last space gives other vectors."""
    result = CliRunner().invoke(app, ["models", "show", "CodeRankEmbed"])
    assert '"Represent this query for searching relevant code: "' in result.stdout
    assert "mit" in result.stdout


def test_show_tells_nothing_from_an_empty_prompt(tmp_path):
    """Three signs for nothing would be looked up in three places."""
    path = tmp_path / "catalogue.toml"
    path.write_text('[models.mine]\nsource = "org/mine"\nquery_prompt = ""\n')
    lines = CliRunner().invoke(app, ["models", "show", "mine", "--catalogue", str(path)]).stdout.splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines)
    assert (shown["document_prompt"], shown["query_prompt"], shown["revision"]) == ("-", "none", "-")
    assert "null" not in shown.values() and '""' not in shown.values()


def test_a_model_whose_folder_is_missing_is_listed_and_not_shown(tmp_path):
    """A folder that is not attached would hide the whole catalogue, or look like a model that can be used."""
    path = tmp_path / "catalogue.toml"
    path.write_text('[models.gone]\nsource = "./gone"\n')
    listed = CliRunner().invoke(app, ["models", "list", "--catalogue", str(path)])
    assert listed.exit_code == 0 and str(tmp_path / "gone") in listed.stdout
    shown = CliRunner().invoke(app, ["models", "show", "gone", "--catalogue", str(path)])
    assert shown.exit_code == 2 and "which does not exist" in shown.stderr
    assert CliRunner().invoke(app, ["models", "show", "bge-m3", "--catalogue", str(path)]).exit_code == 0


def test_an_unknown_model_is_a_usage_error():
    """The nearest names help more than an empty answer."""
    result = CliRunner().invoke(app, ["models", "show", "bge-m4"])
    assert result.exit_code == 2
    assert result.stderr.startswith("soloist: error: ") and "bge-m3" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_version():
    """A report of a fault without a version is worth little."""
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("soloist 0.")
