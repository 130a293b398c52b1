"""The embed command: options to a config, exit codes, and what goes to which stream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.invoking import invoke

from soloist.fusion_methods import fusion_choices


def saved_config(tmp_path: Path) -> dict:
    """The config that the run says it had."""
    return json.loads((tmp_path / "run" / "run.json").read_text())["config"]


def test_results_on_stdout_and_progress_on_stderr(options, tmp_path):
    """Progress on stdout would end in the file that a script writes the results to."""
    result = invoke(*options)
    assert result.exit_code == 0, result.stderr
    assert "wordllama" in result.stdout and "chunks/s" in result.stdout
    assert str(tmp_path / "run") in result.stdout
    assert "leased" not in result.stdout
    assert "notes: 3 chunks in 1 file" in result.stderr
    assert "wordllama: released cpu (0 B still allocated)" in result.stderr


def test_no_escape_codes_without_a_terminal(options, monkeypatch):
    """FORCE_COLOR in a CI job would fill the log with control characters."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = invoke(*options)
    assert "\x1b" not in result.stdout + result.stderr
    assert "\r" not in result.stdout + result.stderr
    assert all(line == line.rstrip() for line in result.stdout.splitlines())
    assert max(map(len, result.stdout.splitlines()[:5])) <= 100


def test_every_option_reaches_the_config(options, chunks_root, tmp_path):
    """An option that is parsed and then forgotten changes nothing, in silence."""
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text('[models.wordllama]\nlicence = "mit"\n')
    other = tmp_path / "other"
    assert invoke(*options, "--out", other).exit_code == 0
    result = invoke(
        *options, "--collections", "notes", "--weights", "wordllama=.5", "--mode", "standard", "--fusion", "mean",
        "--dim", 64, "--dtype", "float32", "--vector-dtype", "float16", "--language", "german",
        "--sparse-top", 64, "--token-budget", 500,
        "--on-bad-input", "skip", "--catalogue", catalogue,
        "--text-field", "text", "--id-field", "chunk_id", "--file-patterns", "*_chunks.json,other.jsonl",
        "--shard-chunks", 2, "--lease-timeout-seconds", 7.5, "--cache-dir", tmp_path / "cache",
        "--isolation", "process", "--packing", "on", "--matmul", "torch", "--stop-after", "1h30m", "--reuse", other,
        "--mixed-cards",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert saved_config(tmp_path) == {
        "chunks_root": str(chunks_root),
        "out": str(tmp_path / "run"),
        "collections": ["notes"],
        "models": ["wordllama"],
        "mode": "standard",
        "fusion": {"method": "mean", "weights": {"wordllama": 0.5}, "dim": 64},
        "source": {
            "text_field": "text",
            "id_field": "chunk_id",
            "file_patterns": ["*_chunks.json", "other.jsonl"],
            "on_bad_input": "skip",
        },
        "dtype": "float32",
        "vector_dtype": "float16",
        "language": "german",
        "sparse_top": 64,
        "accelerator": "cpu",
        "token_budget": 500,
        "shard_chunks": 2,
        "catalogue": str(catalogue),
        "lock_dir": str(tmp_path / "locks"),
        "lease_timeout_seconds": 7.5,
        "cache_dir": str(tmp_path / "cache"),
        "isolation": "process",
        "packing": "on",
        "matmul": "torch",
        "stop_after": 5400.0,
        "reuse": [str(other)],
        "mixed_cards": True,
    }


def test_an_address_that_cannot_be_one_is_refused_before_anything_is_read(options, tmp_path):
    """An option that is parsed and then forgotten computes on this machine alone, in silence."""
    result = invoke(*options, "--cluster", "local:none")
    assert result.exit_code == 2
    assert "local:none" in result.stderr
    assert not (tmp_path / "run").exists()


def test_lists_by_commas_and_by_repeating(options, tmp_path, tiny_models):
    """Somebody who writes --models twice must not get the last one only."""
    third = str(tiny_models["bert"])
    assert invoke(*options, "--models", f"all-MiniLM-L6-v2, {third}").exit_code == 0
    assert saved_config(tmp_path)["models"] == ["wordllama", "all-MiniLM-L6-v2", third]


def test_weights_by_repeating(options, tmp_path):
    """Of two --weights the last one would be taken, and the other model be missing or weighed alike."""
    pair = ["--models", "all-MiniLM-L6-v2", "--weights", "wordllama=.25"]
    assert invoke(*options, *pair, "--weights", "all-MiniLM-L6-v2=.75").exit_code == 0
    assert saved_config(tmp_path)["fusion"]["weights"] == {"wordllama": 0.25, "all-MiniLM-L6-v2": 0.75}


def test_a_config_file_can_say_everything_and_options_win(chunks_root, tmp_path):
    """An option that was not given must not put its default over the file's value."""
    file = tmp_path / "run.toml"
    file.write_text(
        f'chunks_root = "{chunks_root}"\nout = "{tmp_path / "run"}"\nmodels = ["wordllama"]\nfusion = "none"\n'
        f'accelerator = "cpu"\nshard_chunks = 2\nmode = "standard"\nlock_dir = "{tmp_path / "locks"}"\n'
        'on_bad_input = "skip"\nvector_dtype = "float16"\n'
    )
    result = invoke("embed", "--config", file, "--mode", "exclusive")
    assert result.exit_code == 0, result.stderr
    config = saved_config(tmp_path)
    assert config["mode"] == "exclusive"
    assert (config["shard_chunks"], config["fusion"]["method"], config["accelerator"]) == (2, "none", "cpu")
    assert config["source"]["on_bad_input"] == "skip"
    assert config["vector_dtype"] == "float16"


def test_environment_gives_defaults(options, tmp_path, monkeypatch):
    """A notebook sets the accelerator once for all commands; an option still has the last word."""
    at = options.index("--accelerator")
    monkeypatch.setenv("SOLOIST_ACCELERATOR", "simulated:1x1GB")
    assert invoke(*options[:at], *options[at + 2 :]).exit_code == 0
    assert saved_config(tmp_path)["accelerator"] == "simulated:1x1GB"
    again = [*options, "--out", str(tmp_path / "again")]
    assert invoke(*again).exit_code == 0
    assert json.loads((tmp_path / "again" / "run.json").read_text())["accelerator"] == "cpu"


@pytest.mark.parametrize(
    ("extra", "code", "part"),
    [
        (["--models", "wordlama"], 2, "did you mean wordllama"),
        (["--weights", "wordllama"], 2, "--weights has 'wordllama', which is not model=number: give each model a"),
        (
            ["--weights", ".7"],
            2,
            "--weights has '.7', which does not name a model: give each model a weight, e.g. --weights wo",
        ),
        (["--weights", ".7,.3", "--models", "all-MiniLM-L6-v2"], 2, "e.g. --weights wordllama=.7,all-MiniLM-L6-v2=.3"),
        (["--weights", "=.5"], 2, "--weights has '=.5', which does not name a model: give each model a weight"),
        (["--weights", "wordllama=x"], 2, "--weights has 'wordllama=x', where 'x' is not a number"),
        (["--weights", "wordllama=nan"], 2, "the weight of wordllama is nan: give a finite number of 0 or more"),
        (["--weights", "wordllama=-1"], 2, "the weight of wordllama is -1.0: give 0 or more"),
        (["--weights", "wordllama=0"], 2, "all weights are 0"),
        (["--weights", "other=1"], 2, "not a model of this run"),
        (["--weights", "wordllama=.9, wordllama=.1"], 2, "--weights names wordllama twice"),
        (["--weights", "wordllama=.9", "--weights", "wordllama=.1"], 2, "--weights names wordllama twice"),
        (["--weights", ""], 2, "--weights has ''"),
        (["--models", "wordllama"], 2, "the model wordllama is named twice: name each model once"),
        (["--models", "./nofolder"], 2, "the folder ./nofolder does not exist"),
        (["--out", ""], 2, "out is '': give a path"),
        (["--lock-dir", ""], 2, "lock_dir is '': give a path"),
        (["--mode", "foo"], 2, "mode is 'foo': choose one of exclusive, standard"),
        (["--fusion", "sum"], 2, f"fusion is 'sum': choose one of {', '.join(fusion_choices())}"),
        (["--dtype", "fp16"], 2, "dtype is 'fp16': choose one of auto"),
        (["--vector-dtype", "bfloat16"], 2, "vector_dtype is 'bfloat16': choose one of float32, float16"),
        (["--on-bad-input", "stop"], 2, "on_bad_input is 'stop': choose one of error, skip"),
        (["--collections", ""], 2, "--collections is empty"),
        (["--file-patterns", " , "], 2, "--file-patterns is empty"),
        (["--lease-timeout-seconds", "nan"], 2, "lease_timeout_seconds is nan"),
        (["--lease-timeout-seconds", "-1"], 2, "lease_timeout_seconds is -1"),
        (["--dim", "0"], 2, "dim is 0"),
        (["--accelerator", "tpu"], 2, "'tpu' is unknown"),
        (["--config", "missing.toml"], 2, "missing.toml cannot be read"),
        (["--collections", "other"], 2, "no collection 'other'"),
        (["--text-field", "body"], 1, "--text-field"),
    ],
)
def test_each_error_is_one_line(options, extra, code, part):
    """A traceback hides the one sentence that says what to do."""
    result = invoke(*options, *extra)
    assert result.exit_code == code, result.stderr
    errors = [line for line in result.stderr.splitlines() if "error" in line]
    assert len(errors) == 1 and errors[0].startswith("soloist: error: ")
    assert part in errors[0]
    assert result.stderr.splitlines()[-1] == errors[0]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_an_empty_list_of_models_is_refused(tmp_path, chunks_root):
    """A script's empty variable must not start a run with the default models."""
    result = invoke("embed", chunks_root, "--out", tmp_path / "run", "--models", "")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("soloist: error: --models is empty")
    assert not (tmp_path / "run").exists()


def test_debug_shows_the_traceback_and_the_line(options):
    """Without the traceback nobody can report a fault of soloist itself."""
    result = invoke(*options, "--collections", "other", "--debug")
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("soloist: error: ")


def test_an_unexpected_error_is_one_line_too(options, tmp_path, monkeypatch):
    """An error that is not ours must not look like a crash, and must say how to learn more."""
    import queue

    def refuse(*_args, **_kwargs):
        raise ZeroDivisionError("first\nsecond")

    monkeypatch.setattr(queue, "SimpleQueue", refuse)
    result = invoke(*options)
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last == (
        "soloist: error: unexpected ZeroDivisionError: first second (run again with --debug for the traceback)"
    )


@pytest.mark.parametrize(("missing", "named"), [("chunks_root", "add CHUNKS"), ("out", "add --out")])
def test_what_is_missing_is_named(chunks_root, tmp_path, missing, named):
    """Neither argument is required by the parser, since a config file may have them."""
    given = {"chunks_root": [str(chunks_root)], "out": ["--out", str(tmp_path / "run")]}
    result = invoke("embed", *next(value for name, value in given.items() if name != missing))
    assert result.exit_code == 2
    assert named in result.stderr


@pytest.mark.parametrize("extra", [["--dim", "many"], ["--colections", "a"]])
def test_wrong_usage_exits_with_2(options, extra):
    """A script tells a typing error from a failed run by the exit code."""
    result = invoke(*options, *extra)
    assert result.exit_code == 2
    assert extra[0] in result.stderr


def test_help_names_every_option_and_the_measured_fact():
    """Help that leaves an option out makes it unknown; a fusion without its measurement invites the worse one."""
    text = " ".join(invoke("embed", "--help").stdout.split())
    for option in [
        "--out",
        "--collections",
        "--models",
        "--weights",
        "--mode",
        "--fusion",
        "--dim",
        "--dtype",
        "--vector-dtype",
        "--accelerator",
        "--token-budget",
        "--on-bad-input",
        "--config",
        "--catalogue",
        "--text-field",
        "--id-field",
        "--file-patterns",
        "--shard-chunks",
        "--lease-timeout-seconds",
        "--lock-dir",
        "--debug",
    ]:
        assert option in text
    assert "six of them at weights .7/.3 and on all seven at .85/.15" in text
    assert "plain mean at 256 dimensions lost on all seven" in text
    assert "Empty texts and empty files are not faults" in text
    assert all(choice in text for choice in ("exclusive|standard", "|".join(fusion_choices()), "error|skip"))
    assert all(name in text for name in ("SOLOIST_ACCELERATOR", "SOLOIST_CATALOGUE", "SOLOIST_LOCK_DIR"))
