"""The validation plan's six scenarios, verbatim: on simulated devices with tiny models, on the CPU with packaged ones.

A block's code is run as it stands in the plan. Only the two folders that it names, which exist on Kaggle alone, are
replaced by the test's own (`with_folders`), and the `!` of scenario 6, which a notebook strips, is stripped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.forks import run_forked

ROOT = Path(__file__).resolve().parents[2]
PLAN = ROOT.parent / "shared" / "seed" / "kaggle_validation_plan.md"
PLAN_SHA256 = "ea5bee7ba8cb25826743ec3a0e64ebddb58dfcbe1d2df863072f852d26ad67fa"
JINA, BGE = "jina-code-embeddings-1.5b", "bge-m3"
CHUNKS_FOLDER, OUTPUT_FOLDER = "/kaggle/input/test-chunks", "/kaggle/working/embeddings"

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not PLAN.is_file(), reason="the validation plan is not beside the checkout"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What the five Python scenarios left, and what the process wrote to stderr."""

    accelerator: str
    facts: list[dict[str, Any]]
    stderr: str

    @property
    def device_ids(self) -> list[int]:
        """The devices that every lease should name."""
        return [0] if self.accelerator == "cpu" else [0, 1]


def blocks(language: str) -> list[str]:
    """The plan's code blocks in a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PLAN.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def with_folders(block: str, chunks: Path, output: Path) -> str:
    """The block with Kaggle's two folders replaced, and nothing else."""
    return block.replace(CHUNKS_FOLDER, str(chunks)).replace(OUTPUT_FOLDER, str(output))


def environment(accelerator: str, catalogue: Path, folder: Path) -> dict[str, str]:
    """The process's environment: soloist's own settings, and this interpreter as `python`."""
    return {
        **os.environ,
        "SOLOIST_ACCELERATOR": accelerator,
        "SOLOIST_CATALOGUE": str(catalogue),
        "SOLOIST_LOCK_DIR": str(folder / "locks"),
        "HF_HUB_OFFLINE": "1",
        # Two OpenMP threads that wait for each other on busy cores were ten times slower than one.
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
    }


@pytest.fixture(scope="module", params=["simulated:2x15.83GB", "cpu"])
def setting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, str], Path]:
    """An accelerator, the environment with its models, and a folder."""
    accelerator = str(request.param)
    catalogue = request.getfixturevalue("packaged_catalogue" if accelerator == "cpu" else "tiny_catalogue")
    folder = tmp_path_factory.mktemp("plan")
    return accelerator, environment(accelerator, catalogue, folder), folder


@pytest.fixture(scope="module")
def played(setting: tuple[str, dict[str, str], Path], chunks_root: Path) -> Played:
    """Scenarios 1 to 5, run in one process of their own."""
    accelerator, env, folder = setting
    code = [with_folders(block, chunks_root, folder / "unused") for block in blocks("python")]
    (folder / "blocks.json").write_text(json.dumps(code), encoding="utf-8")
    done = run_forked(
        [sys.executable, ROOT / "tests/adapters/run_scenarios.py", folder / "blocks.json", folder / "facts.json"],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return Played(accelerator=accelerator, facts=facts, stderr=done.stderr)


def test_the_plan_is_the_one_that_these_tests_were_written_for() -> None:
    """Catches a changed plan whose new expectations nobody has read."""
    assert hashlib.sha256(PLAN.read_bytes()).hexdigest() == PLAN_SHA256
    assert (len(blocks("python")), len(blocks("bash"))) == (5, 1)


def test_scenario_1_stages_every_model_on_the_cpu_and_says_so(played: Played) -> None:
    """Catches a model that is loaded through a device, and a log line that needs logging to be set up first."""
    assert played.facts[0]["printed"].splitlines() == [f"{JINA}: cpu", f"{BGE}: cpu"]
    lines = [
        line for line in played.stderr.splitlines() if "Exclusive ensemble mode: staging primary model to CPU" in line
    ]
    assert len(lines) == 2  # one for each of the two exclusive embedders, none twice


def test_scenario_2_leases_all_devices_to_one_model_after_the_other(played: Played) -> None:
    """Catches a lease too many, a wrong order, and devices or memory that an event leaves out."""
    events = played.facts[1]["events"]["embedder"]
    assert [(event["event_type"], event["model"]) for event in events] == [
        ("acquire", JINA), ("release", JINA), ("acquire", BGE), ("release", BGE),
    ]  # fmt: skip
    for event in events:
        assert event["device_ids"] == played.device_ids
        assert list(event["vram"]) == [str(device) for device in played.device_ids]
        for vram in event["vram"].values():
            assert set(vram) == {"allocated_gb", "reserved_gb", "free_gb", "total_gb"}
            assert all(isinstance(value, float) for value in vram.values())
    assert [event["timestamp"] for event in events] == sorted(event["timestamp"] for event in events)
    assert "Total lease events: 4" in played.facts[1]["printed"]


def test_scenario_3_has_its_own_events_and_gives_all_memory_back(played: Played) -> None:
    """Catches events that pile up over runs, memory measured before the model has left, a result changed later."""
    events, earlier = played.facts[2]["events"]["embedder"], played.facts[1]["events"]["embedder"]
    assert [event["event_type"] for event in events] == ["acquire", "release"] * 2
    assert events[0]["timestamp"] > earlier[-1]["timestamp"]
    assert played.facts[2]["earlier_unchanged"]
    for event in events:
        assert all(vram["allocated_gb"] == 0 for vram in event["vram"].values())
    assert played.facts[2]["printed"].count("0.00 GB allocated") >= 2 * len(played.device_ids)


def test_scenario_4_has_batches_at_least_as_large_in_exclusive_mode(played: Played) -> None:
    """Catches a batch size that is no number, or that depends on what else is on the devices."""
    results = played.facts[3]["results"]
    standard, exclusive = (results[f"results_{mode}"]["optimal_batch_size"] for mode in ("standard", "exclusive"))
    assert isinstance(standard, int)
    assert exclusive >= standard > 0
    assert results["results_exclusive"]["optimal_batch_sizes"][JINA] == exclusive
    assert f"Standard batch size: {standard}\nExclusive batch size: {exclusive}\n" == played.facts[3]["printed"]


def test_scenario_4_shares_weights_and_leaves_the_devices_empty(played: Played) -> None:
    """Catches three embedders that hold three copies, and standard mode keeping its models on the devices."""
    modules = played.facts[3]["modules"]
    assert modules["embedder"] == modules["embedder_standard"] == modules["embedder_exclusive"]
    for facts in played.facts:
        assert facts["simulated_bytes"] == [0, 0]
        assert all(devices == ["cpu"] for devices in facts["devices"].values())
    assert [event["model"] for event in played.facts[3]["events"]["embedder_standard"]] == [f"{JINA}+{BGE}"] * 2


def test_scenario_5_gives_the_same_vectors_in_both_modes(played: Played) -> None:
    """Catches a batch plan, a padding or a fusion that depends on the mode."""
    facts = played.facts[4]
    assert facts["similarity"] >= 0.9999
    assert facts["difference"] == 0
    results = facts["results"]["results_exclusive"]
    expected = {"shape": [30, results["embedding_dimension"]], "dtype": "float32", "contiguous": True}
    assert facts["embeddings"] == {"embeddings_standard": expected, "embeddings_exclusive": expected}
    for key in ("model_weights", "matryoshka_dim", "aggregation_method", "dtypes"):
        assert results[key] == facts["results"]["results_standard"][key]


def test_every_device_computes_in_every_pass(played: Played) -> None:
    """Catches replicas that are not rebuilt for the second pass, so that a device stays idle."""
    for report in played.facts[1]["results"]["results"]["model_reports"].values():
        rows = list(report["rows_per_device"].values())
        assert len(rows) == len(played.device_ids)
        assert all(rows)
        assert sum(rows) == 30


def test_scenario_6_runs_from_the_command_line(setting: tuple[str, dict[str, str], Path], chunks_root: Path) -> None:
    """Catches a flag of the plan that is missing, and outputs that lack the mode or the lease events."""
    _, env, folder = setting
    output = folder / "working" / "embeddings"
    (block,) = blocks("bash")
    command = with_folders(block, chunks_root, output).replace("!python", "python")
    done = subprocess.run(
        ["bash", "-ec", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Exclusive ensemble mode detected" in done.stderr
    assert "run_exclusive_ensemble" in done.stderr
    (item,) = json.loads((output / "embedding_summary.json").read_text(encoding="utf-8"))
    assert (item["collection"], item["ensemble_mode"], item["chunks"]) == ("test_collection", "exclusive", 20)
    assert item["model_weights"] == {JINA: 0.5, BGE: 0.5}
    assert item["matryoshka_dim"] == item["embedding_dimension"]
    stats = json.loads((output / "test_collection/test_collection_processing_stats.json").read_text(encoding="utf-8"))
    assert stats["lease_events"] == stats["gpu_lease_events"]
    assert [event["event_type"] for event in stats["lease_events"]] == ["acquire", "release"] * 2
