"""The proof for GPUs: a part costs only itself, the files are right, and a rehearsal runs what the parts run."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.foreign_memory import taken
from support.forks import Forked

from benchmarks.machine import ROOT
from benchmarks.prove_gpu import __main__ as command
from benchmarks.prove_gpu import running
from benchmarks.prove_gpu.parts import runs
from benchmarks.prove_gpu.parts.attention import Kernels
from benchmarks.prove_gpu.parts.profile import measured
from benchmarks.prove_gpu.record import stem, write
from benchmarks.prove_gpu.running import Outcome, run_part
from benchmarks.prove_gpu.setting import Setting
from benchmarks.prove_gpu.table import PARTS, Part

CIRCUMSTANCES = {
    "benchmark": "prove_gpu", "commit": "abc1234", "devices": "cuda", "cards": ["Tesla T4", "Tesla T4"],
    "driver": "550.1", "hardware": {}, "versions": {"torch": "2.13.0"},
}  # fmt: skip


@pytest.fixture
def setting(tmp_path) -> Setting:
    return Setting(devices="simulated:1xT4", work=tmp_path, small=True)


@pytest.fixture
def part(tmp_path, monkeypatch):
    """A part with code of its own, which its process finds as it finds the others."""

    def made(code: str) -> Part:
        room = tmp_path / "code" / "benchmarks_of_a_test"
        room.mkdir(parents=True)
        (room / "sitecustomize.py").write_text(
            "import benchmarks.prove_gpu.parts as parts, sys, types\n"
            "module = types.ModuleType('benchmarks.prove_gpu.parts.tests')\n"
            f"exec({code!r}, module.__dict__)\n"
            "sys.modules[module.__name__] = parts.tests = module\n"
        )
        monkeypatch.setenv("PYTHONPATH", f"{room}:{ROOT}")
        return next(part for part in PARTS if part.name == "contract")

    return made


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "verdict", "text"),
    [
        ("import os\ndef contract(setting): print('last words', flush=True); os._exit(9)", "failed",
         "its process ended with exit code 9: last words"),
        ("def contract(setting): raise ValueError('no kernel')", "failed", "ValueError: no kernel"),
        ("import time\ndef contract(setting): print('waits', flush=True); time.sleep(600)", "failed",
         "it was ended after 5 s: waits"),
        ("from benchmarks.prove_gpu.setting import Seen\n"
         "def contract(setting): return Seen(summary='all well', figures={'n': 3})", "ok", "all well"),
        ("from benchmarks.prove_gpu.setting import Seen\n"
         "def contract(setting): return Seen(summary='n 3', faults=('it leaks',))", "failed", "it leaks; n 3"),
        ("from benchmarks.prove_gpu.setting import CannotBeShownError\n"
         "def contract(setting): raise CannotBeShownError('needs two cards')", "cannot be shown here",
         "needs two cards"),
    ],
    ids=["dies", "raises", "hangs", "ok", "fault", "cannot"],
)  # fmt: skip
def test_a_part_costs_only_itself(part, setting, code, verdict, text):
    """A part that dies or hangs would take the proof with it, or count as shown."""
    outcome = run_part(part(code), setting, 5)
    assert (outcome.verdict, outcome.text) == (verdict, text)


@pytest.mark.process
def test_what_a_part_has_started_ends_with_it(part, setting, tmp_path):
    """A run that a part left behind would compute beside the next part, and hold the device."""
    pid = tmp_path / "pid"
    code = (
        "import subprocess, sys, time\n"
        "def contract(setting):\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"    open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "    time.sleep(600)\n"
    )
    run_part(part(code), setting, 5)
    deadline = time.monotonic() + 30
    while _lives(int(pid.read_text())):
        assert time.monotonic() < deadline, "the part's own process still lives"
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_the_page_has_a_row_for_each_part_and_the_tables_of_some(tmp_path):
    """A verdict would be missing, or a bar in a sentence would break the table."""
    figures = {"rows": [{"model": "bge", "MB": 2}, {"model": "qwen", "MB": 3}]}
    outcomes = [
        Outcome(name="peaks", title="peaks", verdict="ok", text="1.00", seconds=3.2, figures=figures),
        Outcome(name="idle", title="a profile", verdict="failed", text="a|b\nc", seconds=0.4),
    ]
    record, page = write(tmp_path, CIRCUMSTANCES, outcomes)
    assert record.name == "gpu-2x-tesla-t4.json"
    assert [each["verdict"] for each in json.loads(record.read_text())["parts"]] == ["ok", "failed"]
    lines = page.read_text().splitlines()
    assert "| peaks | ok | 3 | 1.00 |" in lines and "| a profile | failed | 0 | a\\|b c |" in lines
    assert lines[-4:] == ["| model | MB |", "|---|---|", "| bge | 2 |", "| qwen | 3 |"]
    assert stem(["NVIDIA H100 80GB HBM3"]) == "gpu-nvidia-h100-80gb-hbm3"


def test_a_part_without_time_is_not_run(setting):
    """The proof would take longer than it says, and a part that did not run would count as shown."""
    outcome = command._outcome(PARTS[0], setting, 120, 3.0)
    assert (
        outcome.verdict == "cannot be shown here"
        and outcome.text == "only 3 s of the time were left: run --only models"
    )


def test_a_part_that_the_time_of_all_parts_ends_has_not_failed(part, setting):
    """A slow card would end the proof with an exit code that says that soloist is broken."""
    outcome = run_part(part("import time\ndef contract(setting): time.sleep(600)"), setting, 120, 2.0)
    assert (outcome.verdict, outcome.text) == (
        "cannot be shown here", "only 2 s of the time were left: run --only contract"
    )  # fmt: skip


@pytest.mark.parametrize(("is_masked", "kernel"), [(False, "cpu"), (True, "cpu")])
def test_the_watcher_sees_the_kernel_inside_of_attention(is_masked, kernel):
    """In inference mode attention arrives whole: every kernel would be taken for the one of single steps."""
    heads = torch.randn(2, 4, 8, 16)
    mask = torch.ones(2, 1, 8, 8, dtype=torch.bool) if is_masked else None
    with torch.no_grad(), Kernels() as seen:
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)
    assert seen.kernel == kernel


def test_the_idle_share_counts_time_without_a_kernel_once():
    """Kernels that overlap would count twice, and a device look busy while it waits."""

    def event(name, kind, start, end):
        return SimpleNamespace(
            name=name, device_type=SimpleNamespace(name=kind), time_range=SimpleNamespace(start=start, end=end)
        )

    events = [
        event("gemm", "CUDA", 0, 400_000), event("copy", "CUDA", 300_000, 500_000), event("gemm", "CUDA", 900_000, 1e6),
        event("cudaStreamSynchronize", "CPU", 0, 9), event("cudaMemcpyAsync", "CPU", 0, 9),
    ]  # fmt: skip
    found = measured(SimpleNamespace(events=lambda: events), 1.0)
    assert found == {"seconds": 1.0, "idle": 0.4, "kernels": 3, "waits a batch": round(1 / 24, 2)}


def test_memory_that_other_programs_hold_shows_as_less(setting, monkeypatch):
    """Memory that a run did not give back would pass for given back."""
    monkeypatch.setattr(runs, "_PATIENCE_SECONDS", 0.2)
    before = runs.free_bytes(setting)
    with taken(setting.machine, 0, 10**9):
        assert runs.still_less(setting, before) == {"sim:0": 10**9}
    assert runs.still_less(setting, before) == {}


def test_every_part_has_a_function():
    """A part that is misnamed would fail after ten minutes on somebody's card."""
    assert all(callable(part.function()) for part in PARTS)


@pytest.mark.process
def test_a_rehearsal_runs_on_simulated_devices(tmp_path, monkeypatch):
    """Without a rehearsal, nobody would have run this code before it reaches a GPU."""
    monkeypatch.setattr(running, "Popen", Forked)  # each part in a process of its own, without its imports
    options = ["--devices", "simulated:1xT4", "--results", str(tmp_path), "--only", "peaks,out_of_memory"]
    monkeypatch.setattr(sys, "argv", ["prove_gpu", *options])
    assert command.main() == 0
    record = json.loads((tmp_path / "gpu-simulated-tesla-t4.json").read_text())
    found = {part["name"]: part for part in record["parts"]}
    assert {name: part["verdict"] for name, part in found.items()} == {
        "models": "ok", "peaks": "ok", "out_of_memory": "ok"
    }  # fmt: skip
    ratios = [row["measured / predicted"] for row in found["peaks"]["figures"]["rows"]]
    assert len(ratios) == 20 and all(abs(ratio - 1) < 0.01 for ratio in ratios)
    assert found["out_of_memory"]["figures"]["splits"] > 0
