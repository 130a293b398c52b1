"""What a run would change, said without a model and without changing a byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.editing import write_chunks
from typer.testing import CliRunner

from soloist.cli import app
from soloist.config import RunConfig
from soloist.engine import run

BEFORE = [(f"c{n}", f"text number {n}") for n in range(8)]
AFTER = [*BEFORE[2:7], ("c7", "another text"), ("new", "a new text"), ("twice", "a new text"), ("moved", BEFORE[0][1])]


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory, catalogue: Path) -> RunConfig:
    """A run whose chunks have changed since: two are gone, one has another text, three are new."""
    root = tmp_path_factory.mktemp("edited")
    chunks = write_chunks(root / "chunks", {"alpha/a": BEFORE, "beta/b": [("b", "of a collection that goes")]})
    config = RunConfig(
        chunks_root=chunks, out=root / "run", models=["static"], accelerator="cpu", catalogue=catalogue,
        lock_dir=root / "locks", cache_dir=root / "cache",
    )  # fmt: skip
    run(config)
    write_chunks(chunks, {"alpha/a": AFTER, "gamma/c": [("c", BEFORE[0][1])]})
    return config


def test_a_dry_run_says_what_embed_then_does(edited: RunConfig) -> None:
    """Catches a run of hours that was started to see what it would do, and a dry one that writes or counts wrongly."""
    bytes_of = {path: path.read_bytes() for path in edited.out.rglob("*") if path.is_file()}
    shown = CliRunner().invoke(app, ["embed", str(edited.chunks_root), "--out", str(edited.out), "--dry-run", "--json"])
    status = CliRunner().invoke(app, ["status", str(edited.out), str(edited.chunks_root), "--json"])
    assert {path: path.read_bytes() for path in edited.out.rglob("*") if path.is_file()} == bytes_of
    found = json.loads(shown.stdout)
    assert json.loads(status.stdout) == found
    assert found["collections"] == [
        {"name": "alpha", "new": 3, "changed": 1, "gone": 2, "unchanged": 5},
        {"name": "gamma", "new": 1, "changed": 0, "gone": 0, "unchanged": 0},
        {"name": "beta", "new": 0, "changed": 0, "gone": 1, "unchanged": 0},
    ]
    assert found["to_embed"] == {"static": 2}, "a text that moved or that is there twice is not embedded for it"

    result = run(edited)
    assert result.models[0].embedded == 2
    assert {each.name: each.removed for each in result.collections} == {"alpha": 2, "gamma": 0, "beta": 1}


def test_a_dry_run_of_a_new_folder_makes_none(edited: RunConfig, tmp_path: Path) -> None:
    """Catches an empty folder that is left, and a table without its line on what was written."""
    arguments = ["--out", str(tmp_path / "new" / "run"), "--models", "static", "--catalogue", str(edited.catalogue)]
    shown = CliRunner().invoke(app, ["embed", str(edited.chunks_root), *arguments, "--dry-run"])
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.splitlines()[1].split() == ["alpha", "9", "0", "0", "0"]
    assert shown.stdout.splitlines()[-1] == f"{tmp_path / 'new' / 'run'}: nothing was written"
    assert not (tmp_path / "new").exists()


def test_a_dry_run_refuses_what_embed_refuses(edited: RunConfig, tmp_path: Path) -> None:
    """Catches a promise that the real command does not keep."""
    chunks = write_chunks(tmp_path / "chunks", {"other/a": BEFORE})
    shown = CliRunner().invoke(app, ["embed", str(chunks), "--out", str(edited.out), "--dry-run"])
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "is a run over" in shown.stderr
    missing = CliRunner().invoke(app, ["status", str(tmp_path / "none"), str(chunks)])
    assert missing.exit_code == 2 and "does not exist" in missing.stderr


def test_a_command_without_its_settings_prints_one_document(edited: RunConfig) -> None:
    """Catches progress or a note on stdout, where a script reads JSON."""
    shown = CliRunner().invoke(app, ["embed", str(edited.chunks_root), "--out", str(edited.out), "--json"])
    assert shown.exit_code == 0, shown.stderr
    result = json.loads(shown.stdout)
    assert (result["config"]["models"], result["models"][0]["name"]) == (["static"], "static")
    assert "note: models: static" in shown.stderr
