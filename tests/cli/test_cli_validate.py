"""`soloist validate` as its user meets it: the whole checklist, its report, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.collections import write_collection
from support.forks import run_forked
from support.invoking import invoke

from soloist.validation import commands

PLAN_POINTS = set(range(1, 11))


@pytest.fixture
def options(tmp_path, tiny_models) -> list[str]:
    """A small collection, and a decoder and an encoder in a catalogue."""
    write_collection(tmp_path / "chunks", "alpha", 60, longest=60, seed=1)
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text("".join(f'[models."{name}"]\nsource = "{path}"\n' for name, path in tiny_models.items()))
    return [
        "validate", str(tmp_path / "chunks"), "--out", str(tmp_path / "report"), "--catalogue", str(catalogue),
        "--lock-dir", str(tmp_path / "locks"), "--dtype", "float32",
    ]  # fmt: skip


def test_everything_that_can_be_shown_passes(options, tmp_path, monkeypatch):
    """The one command that somebody with GPUs is asked to run must not fail for reasons of its own."""
    monkeypatch.setattr(commands, "run", run_forked)  # the two commands in processes of their own, without the imports
    result = invoke(*options, "--models", "qwen2,xlm-roberta", "--accelerator", "simulated:2xT4", "--sample-chunks", 40)
    assert result.exit_code == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "report" / "validation.json").read_text())
    verdicts = {check["name"]: check["verdict"] for check in report["checks"]}
    assert set(verdicts.values()) == {"pass"}
    assert {check["point"] for check in report["checks"] if check["point"]} == PLAN_POINTS
    assert all(check["evidence"] for check in report["checks"])
    assert (report["chunks"], report["models"], report["devices"]) == (40, ["qwen2", "xlm-roberta"], ["sim:0", "sim:1"])
    assert "19 pass" in result.stdout
    page = (tmp_path / "report" / "validation.md").read_text()
    assert page.count("\n| ") == 1 + len(verdicts)
    assert Path(tmp_path / "report" / "exclusive" / "run.json").is_file()
    figures = (tmp_path / "report" / "report.html").read_text()
    assert 'id="wide-0-leases"' in figures and 'id="wide-1-leases"' in figures  # of both modes


def test_a_quick_rehearsal_on_one_cpu_says_what_it_cannot_show(options, tmp_path):
    """A point that needs two devices and passes on one is a silent lie."""
    result = invoke(*options, "--models", "bert", "--accelerator", "cpu", "--sample-chunks", 12, "--quick")
    assert result.exit_code == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "report" / "validation.json").read_text())
    unshown = {check["name"] for check in report["checks"] if check["verdict"] == "cannot be shown here"}
    assert {
        "release",
        "devices-compute",
        "replicas",
        "peaks",
        "cli-flag",
        "telemetry",
        "isolation",
        "resume",
    } == unshown


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--models", "no-such-model"), 2, "is in no catalogue"),
        (("--models", "bert", "--accelerator", "simulated:2xT5"), 2, "the card T5 cannot be simulated"),
        (("--models", "bert", "--collections", "absent"), 2, "absent"),
    ],
)
def test_what_cannot_be_rehearsed_is_one_sentence(more, code, words, options):
    """A wrong name must not cost seven runs, nor a traceback."""
    result = invoke(*options, *more)
    assert result.exit_code == code
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("soloist: error:")]
    assert words in line
