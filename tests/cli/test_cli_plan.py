"""The plan command: exit codes, one JSON object, and errors of one sentence each."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from soloist.cli import app
from soloist.config import RunConfig, seconds_of
from soloist.errors import ConfigError
from soloist.planning.estimate import estimate_run
from soloist.reports.estimate import print_estimate

PACKAGED = ("--models", "all-MiniLM-L6-v2,wordllama")
ON_T4 = ("--accelerator", "simulated:2xT4")


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch, tmp_path):
    """Neither a downloaded model nor an earlier run may decide a plan."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "no-hub-cache"))
    monkeypatch.setenv("SOLOIST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # whose `run` is the default of --out


def plan(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["plan", *(str(argument) for argument in arguments)])


def the_error(result: Result) -> str:
    """The one line that a command which failed leaves on stderr."""
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("soloist: error: ") and "unexpected" not in line, line
    return line


def test_a_plan_that_fits(chunks_root, tmp_path):
    """A script that asks before it rents a machine reads nothing but the exit code."""
    before = sorted(tmp_path.rglob("*"))
    result = plan(chunks_root, *PACKAGED, *ON_T4, "--session", "9h")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("3 chunks, ") and lines[1].startswith("2 devices: Tesla T4, 15.83 GB each, ")
    assert lines[-1] == "fits into a session of 9:00:00"
    assert all(f"{name}: chunks by tokens, before truncation" in lines for name in PACKAGED[1].split(","))
    assert sorted(tmp_path.rglob("*")) == before


def test_json_is_one_object(chunks_root):
    """A line of text before it, and no parser reads it."""
    result = plan(chunks_root, *PACKAGED, *ON_T4, "--json")
    content = json.loads(result.stdout)
    assert result.exit_code == 0 and result.stderr == ""
    assert (content["fits"], content["problems"], content["chunks"]) == (True, [], 3)
    assert [model["name"] for model in content["models"]] == ["all-MiniLM-L6-v2", "wordllama"]
    assert content["models"][0]["exclusive"]["limited_by"] == "saturation"


def test_the_vector_dtype_reaches_the_plan(chunks_root):
    """An option that is parsed and then forgotten plans for twice the disk."""
    sizes = {}
    for vector_dtype in ("float32", "float16"):
        result = plan(chunks_root, *PACKAGED, *ON_T4, "--vector-dtype", vector_dtype, "--json")
        sizes[vector_dtype] = json.loads(result.stdout)["fused_bytes"]
    assert sizes["float32"] == 2 * sizes["float16"] > 0


def test_json_of_what_does_not_fit(chunks_root):
    """The reasons are what a script shows to its user."""
    result = plan(chunks_root, "--models", "bge-m3", "--accelerator", "simulated:1x1GB", "--dtype", "float32", "--json")
    content = json.loads(result.stdout)
    assert result.exit_code == 1 and result.stderr == ""
    assert content["fits"] is False
    assert [problem.partition(" needs ")[0] for problem in content["problems"]] == ["bge-m3"]


def test_weights_that_do_not_fit_are_one_sentence(chunks_root):
    """A run would be refused after the download of 2.3 GB."""
    result = plan(chunks_root, "--models", "bge-m3", "--accelerator", "simulated:1x1GB", "--dtype", "float32")
    assert result.exit_code == 1
    verdict = [line for line in result.stdout.splitlines() if line.startswith("does not fit")]
    assert len(verdict) == 1
    assert verdict[0].startswith("does not fit: bge-m3 needs 2.27 GB for its weights in float32, but soloist can ")
    assert "choose a device with more memory" in verdict[0]
    assert "none fits" in result.stdout and "\nfits" not in result.stdout


def test_a_session_that_is_too_short_is_one_sentence(chunks_root):
    """`does not fit` without what to change is half an answer."""
    result = plan(chunks_root, "--models", "bge-m3", *ON_T4, "--session", "2s")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith("does not fit: the run would take ")
    assert "run the same embed command with --stop-after in 3 sessions" in result.stdout.splitlines()[-1]


def test_a_session_of_unknown_rate_is_unknown(chunks_root):
    """Unknown is no yes, and no no either: whoever reads `does not fit` looks for what is too large."""
    arguments = (chunks_root, *PACKAGED, "--accelerator", "simulated:1x1GB", "--session", "9h")
    result = plan(*arguments)
    assert result.exit_code == 1
    assert "does not fit" not in result.stdout
    last = result.stdout.splitlines()[-1]
    assert last.startswith("unknown: whether a session of 9.0 h is long enough, because the speed of all-MiniLM-L6-v2")
    as_json = plan(*arguments, "--json")
    content = json.loads(as_json.stdout)
    assert (as_json.exit_code, content["fits"], content["problems"]) == (1, None, [])
    assert last == f"unknown: {content['unknowns'][0]}"


def test_what_is_no_plain_word_in_a_heading_is_explained(chunks_root):
    """`512 to 32` under `exclusive` says nothing to whoever has not read the source."""
    lines = plan(chunks_root, *PACKAGED, *ON_T4).stdout.splitlines()
    (legend,) = (line for line in lines if line.startswith("budget: "))
    assert all(f"{heading}: " in legend for heading in ("budget", "exclusive, standard", "limit"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("9h", 32_400), ("8h30m", 30_600), ("45m", 2_700), ("90s", 90), ("1h1m1s", 3_661), ("1.5h", 5_400),
        (" 9H ", 32_400), ("0h5m", 300),
    ],
)  # fmt: skip
def test_durations(text, seconds):
    """8h30m that is read as 8 hours, or as 30 minutes, is a wrong answer that looks right."""
    assert seconds_of("--session", text) == seconds


@pytest.mark.parametrize(
    "text", ["", "8x", "9", "h", "9d", "9h30", "30m9h", "-9h", "9 h", "inf", "nanh", "0h", "1e3s", "9hh"]
)
def test_what_is_no_duration(text, chunks_root):
    """9 is nine of what? A guess would plan nine seconds or nine hours."""
    with pytest.raises(ConfigError):
        seconds_of("--session", text)
    result = plan(chunks_root, *PACKAGED, *ON_T4, "--session", text)
    assert result.exit_code == 2
    assert the_error(result).endswith(f"--session is {text!r}: give a duration such as 9h, 8h30m, 45m or 90s")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "bge-m4"), "bge-m3"),
        (("--models", ","), "--models is empty"),
        (("--accelerator", "simulated:2xT5"), "the card T5 cannot be simulated: choose one of T4"),
        (("--mode", "solo"), "choose one of exclusive, standard"),
        (("--dtype", "int8"), "choose one of"),
        (("--token-budget", "0"), "give 1 or more tokens"),
        (("--catalogue", "nowhere.toml"), "the catalogue nowhere.toml cannot be read"),
    ],
)
def test_usage_errors(arguments, message, chunks_root):
    """A setting that cannot be honoured is 2, so that a script does not take it for a plan that does not fit."""
    models = () if "--models" in arguments else PACKAGED
    result = plan(chunks_root, *models, *ON_T4, *arguments)
    assert result.exit_code == 2
    assert message in the_error(result)


@pytest.mark.parametrize(
    ("root", "arguments", "code", "message"),
    [
        ("nowhere", (), 2, "nowhere"),
        ("chunks", ("--collections", "gamma"), 2, "gamma"),
        ("chunks", ("--models", "nobody/model"), 1, "nothing is known of the network of nobody/model"),
    ],
)
def test_what_cannot_be_planned(root, arguments, code, message, chunks_root):
    """Input that is not there is 2, a model of which nothing is known is 1, and each is one sentence, as for embed."""
    result = plan(chunks_root.parent / root, *PACKAGED, *ON_T4, *arguments)
    assert result.exit_code == code
    assert message in the_error(result)


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers"])
def test_a_configuration_that_lacks_a_field(field, chunks_root, tiny_models, tmp_path):
    """The user's own model, exported by hand: the sentence names the file that lacks something."""
    folder = Path(shutil.copytree(tiny_models["bert"], tmp_path / "mine"))
    config = json.loads((folder / "config.json").read_text())
    del config[field]
    (folder / "config.json").write_text(json.dumps(config))
    result = plan(chunks_root, "--models", folder, *ON_T4)
    assert result.exit_code == 1
    error = the_error(result)
    assert str(folder) in error and field in error and "config.json" in error


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("modules.json", "{"),
        ("modules.json", '[{"idx": 0}]'),
        ("config.json", "[1]"),
        ("tokenizer.json", '{"x": 1}'),
    ],
)
def test_a_damaged_file_of_a_model(file, content, chunks_root, tiny_models, tmp_path):
    """A copy that was cut short: `unexpected KeyError` sends the user to us and not to the file."""
    folder = Path(shutil.copytree(tiny_models["bert"], tmp_path / "mine"))
    (folder / file).write_text(content)
    result = plan(chunks_root, "--models", folder, *ON_T4)
    assert result.exit_code == 1
    assert str(folder) in the_error(result)


@pytest.mark.parametrize("arguments", [("",), (".", "--out", ""), (".", "--cache-dir", "")])
def test_an_empty_path_is_refused(arguments, chunks_root, monkeypatch):
    """`soloist plan "$CHUNKS"` with a variable that is not set must not plan the working directory."""
    monkeypatch.chdir(chunks_root)
    result = plan(*arguments, *PACKAGED, *ON_T4)
    assert result.exit_code == 2
    assert "give a path" in the_error(result)


@pytest.mark.parametrize("columns", ["40", "1"])
def test_a_narrow_terminal(columns, chunks_root, monkeypatch):
    """A phone's terminal, or a split window: no crash, and no number that is cut in two."""
    monkeypatch.setenv("COLUMNS", columns)
    result = plan(chunks_root, *PACKAGED, *ON_T4)
    assert result.exit_code == 0, result.stderr
    config = RunConfig(chunks_root=chunks_root, out="run", models=PACKAGED[1].split(","), accelerator="simulated:2xT4")
    stream = io.StringIO()
    print_estimate(estimate_run(config), Console(file=stream, width=int(columns), highlight=False, markup=False))
    lines = stream.getvalue().splitlines()
    assert "  exclusive" in stream.getvalue() and "  weights" in stream.getvalue()
    assert any(line.split()[:1] == ["reserved"] and line.endswith(" MB") for line in lines)
    assert lines[-1] == "fits"


def test_a_name_cannot_move_the_cursor(chunks_root, tiny_models, tmp_path):
    """A folder's name is the user's, and a terminal obeys what is in it."""
    folder = Path(shutil.copytree(tiny_models["bert"], tmp_path / "a\x1b[2Jb"))
    result = plan(chunks_root, "--models", folder, *ON_T4)
    assert "\x1b" not in result.stdout + result.stderr


def test_standard_mode_is_asked_for_by_its_name(chunks_root):
    """The mode decides what has to fit; both are shown in either case."""
    models = ("--models", "jina-code-embeddings-1.5b,bge-m3", "--dtype", "float16")
    fits = plan(chunks_root, *models, "--accelerator", "simulated:1x4.3GB")
    assert fits.exit_code == 0
    assert re.search(r"^1 device: .*, 4\.30 GB, of which", fits.stdout, re.MULTILINE)  # not "each" of one
    result = plan(chunks_root, *models, "--accelerator", "simulated:1x4.3GB", "--mode", "standard")
    assert result.exit_code == 1
    assert "or exclusive mode" in result.stdout.splitlines()[-1]
