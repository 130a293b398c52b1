"""The calibrate command: a table or one JSON object, errors of one sentence, and an end by signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.forks import Forked
from support.invoking import invoke
from typer.testing import Result

from soloist.devices import DeviceLease, open_accelerator
from soloist.events import ListSink

COMMAND = (sys.executable, "-c", "from soloist.cli import main; main()")


@pytest.fixture
def options(tmp_path, tiny_models) -> list[str]:
    """Arguments for one small model on the CPU, with locks and a cache of its own."""
    return [
        "calibrate", "--models", str(tiny_models["bert"]), "--accelerator", "cpu",
        "--lock-dir", str(tmp_path / "locks"), "--cache-dir", str(tmp_path / "cache"), "--sample-seconds", "0.000001",
    ]  # fmt: skip


def the_error(result: Result) -> str:
    """The last line of stderr of a command that failed."""
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith("soloist: error: ") and "unexpected" not in line, line
    return line


def test_a_table_on_stdout_and_progress_on_stderr(options, tmp_path, tiny_models):
    """What was chosen, and beside what: a figure alone cannot be judged."""
    result = invoke(*options)
    assert result.exit_code == 0, result.stderr
    head, *rows = result.stdout.split("\n\n")[0].splitlines()
    assert head.split("  ")[0] == "model" and "token budget" in head and "tokens/s" in head
    assert [row.split()[2] for row in rows] == ["512", "1,024", "2,048"]
    assert sum("chosen" in row for row in rows) == 1 and "default" in rows[-1]
    choice, kept = result.stdout.splitlines()[-2:]
    assert "the default is 2,048 (measured on a core with AVX-512" in choice
    assert kept.startswith(f"kept in {tmp_path / 'cache' / 'calibrated.json'}: ")
    lines = result.stderr.splitlines()
    assert sum("tokens/s in batches of" in line for line in lines) == 9
    assert "leased cpu" in result.stderr and "released cpu (0 B still allocated)" in lines[-1]


def test_json_is_one_object_and_a_plan_takes_it(options, tmp_path, chunks_root):
    """The program that rents a machine calibrates it, and plans with what came of it."""
    result = invoke(*options, "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    (model,) = content["models"]
    assert Path(content["file"]).is_file()
    assert set(model["rates"]) == {"512", "1024", "2048"} and str(model["tokens"]) in model["rates"]
    planned = invoke("plan", str(chunks_root), *options[1:5], "--cache-dir", str(tmp_path / "cache"), "--json")
    (plan,) = json.loads(planned.stdout)["models"]
    assert (plan["token_budget"], plan["budget_source"]) == (model["tokens"], "calibrated")
    shown = invoke("plan", str(chunks_root), *options[1:5], "--cache-dir", str(tmp_path / "cache")).stdout
    assert f"token budgets: {plan['name']} {model['tokens']:,} as calibrated on this machine" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "bge-m4"), "bge-m3"),
        (("--models", ","), "--models is empty"),
        (("--accelerator", "simulated:2xT5"), "the card T5 cannot be simulated: choose one of T4"),
        (("--dtype", "int8"), "choose one of"),
        (("--catalogue", "nowhere.toml"), "the catalogue nowhere.toml cannot be read"),
        (("--cache-dir", ""), "give a path"),
        (("--sample-seconds", "0"), "sample_seconds is 0.0: give more than 0 seconds"),
        (("--lease-timeout-seconds", "-1"), "give 0 or more seconds"),
    ],
)
def test_usage_errors(arguments, message, options):
    """A setting that cannot be honoured is 2 and one sentence, before a model is staged."""
    kept = options[:1] + options[3:] if arguments[0] == "--models" else options
    result = invoke(*kept, *arguments)
    assert result.exit_code == 2
    assert message in the_error(result)
    assert len(result.stderr.splitlines()) == 1


def test_devices_that_another_holds(options, tmp_path):
    """A calibration in a job's script that waits for ever for a run beside it."""
    with DeviceLease(open_accelerator("cpu"), ["another"], ListSink(), lock_dir=tmp_path / "locks"):
        result = invoke(*options, "--lease-timeout-seconds", "0")
    assert result.exit_code == 1
    assert "cpu is held by" in the_error(result) and "(another)" in the_error(result)


def test_a_cache_that_cannot_be_written(options, tmp_path):
    """The budget would be gone, and the exit code would say that it is kept."""
    (tmp_path / "taken").write_text("a file, where the folder should be")
    result = invoke(*options, "--cache-dir", str(tmp_path / "taken"))
    assert result.exit_code == 1
    assert f"cannot write {tmp_path / 'taken' / 'calibrated.json'}" in the_error(result)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_frees_the_devices(number, options, tmp_path):
    """Whoever measures holds every device: a signal that leaves them held blocks everybody else on the machine."""
    process = Forked(
        [*COMMAND, *options, "--sample-seconds", "1"], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        before = ""
        while "round 1" not in before and (line := process.stderr.readline()):
            before += line
        process.send_signal(number)
        stdout, after = process.communicate(timeout=300)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, before + after
    assert "Traceback" not in before + after and stdout == ""
    assert "released cpu (0 B still allocated)" in after
    why = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
    kept = "the budgets that were measured are kept, and the same command measures all models again"
    assert after.splitlines()[-1] == f"soloist: stopped by {why}; {kept}"
    assert not list((tmp_path / "locks").glob("*.holder"))
    assert not (tmp_path / "cache" / "calibrated.json").exists()


def test_help_names_every_option():
    """Help that leaves an option out makes it unknown."""
    text = " ".join(invoke("calibrate", "--help").stdout.split())
    for option in (
        "--models", "--accelerator", "--dtype", "--catalogue", "--lock-dir", "--lease-timeout-seconds", "--cache-dir",
        "--sample-seconds", "--json", "--debug",
    ):  # fmt: skip
        assert option in text
    assert "calibrate" in invoke("--help").stdout
