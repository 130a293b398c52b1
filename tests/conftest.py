"""What every test shares: no network, and small models with random weights, made once per session."""

from __future__ import annotations

import atexit
import gc
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support.forks import FORKS, forks_live_in
from support.mounts import Disk, keep_mounts_private

# Read by huggingface_hub when it is imported, which no test module does before this file.
os.environ["HF_HUB_OFFLINE"] = "1"
# What runs measure is kept in the user's cache folder, and refines the next plan: here, it must not.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="soloist-tests-cache-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
# One for all processes of a run, on a short path: that of a socket has at most 108 characters.
if FORKS not in os.environ:
    forks_live_in(Path(tempfile.mkdtemp(prefix="soloist-forks-")))
    atexit.register(shutil.rmtree, os.environ[FORKS], ignore_errors=True)
# Models this small spend their time at the barriers between threads, above all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files that take minutes, the longest first: one that begins last would leave a single process at work at the end.
LONGEST = (
    "validation/test_faults.py", "engine/drivers/test_isolated.py", "faults/test_stopping.py", "engine/test_parity.py",
    "engine/resume/test_kills.py", "cli/test_cli_validate.py", "memory/test_predicted_peaks.py",
    "docs/test_kaggle_notebook.py", "retrieval/test_judged_sets.py", "fuzz/test_fuzz.py", "engine/test_release.py",
    "adapters/test_plan_scenarios.py", "engine/resume/test_processes.py", "docs/test_examples.py",
    "cli/test_cli_process.py",
    "engine/test_scale.py", "sources/test_parquet_memory.py", "memory/test_random_capacities.py",
    "planning/test_estimate.py", "measuring/test_prove_gpu.py", "retrieval/test_odd_files.py",
    "devices/test_device_contract.py", "engine/test_run.py", "engine/resume/test_vector_dtype.py",
    "sizing/test_calibration.py", "engine/resume/test_edits.py", "api/test_given_chunks.py",
    "models/test_every_setting.py", "engine/drivers/test_overlap.py", "retrieval/test_odd_questions.py",
    "measuring/test_benchmarks.py", "exports/test_exports.py", "engine/resume/test_matmul.py",
    "models/test_every_module.py", "devices/test_referrers.py", "models/test_architectures.py",
    "engine/intake/test_vectorless.py",
)  # fmt: skip


# A test may be slow on a busy machine. By default Hypothesis gives each example only a fifth of a second.
settings.register_profile("soloist", parent=settings(), deadline=None)
settings.load_profile("soloist")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--order SEED`: no file may depend on what another has left in the process."""
    parser.addoption("--order", metavar="SEED", help="take the files in the order of this seed, or `random`")


def pytest_configure(config: pytest.Config) -> None:
    """A random seed is drawn once: the processes of the run inherit it, and each would draw another."""
    keep_mounts_private()
    # A shell that starts the tests in the background has them ignore Ctrl-C, which some of them press.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.order == "random":
        config.option.order = os.environ.setdefault("SOLOIST_TEST_ORDER", str(random.randrange(1_000_000)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The order in which files are given to the processes."""
    tests = Path(__file__).parent
    files = [tests / name for name in LONGEST]
    if config.option.order is not None:
        files = sorted({item.path for item in items})
        random.Random(config.option.order).shuffle(files)
    places = {file: place for place, file in enumerate(files)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True, scope="module")
def what_is_there_is_no_garbage() -> None:
    """Take what is there out of the collector's sight, before each file of tests.

    A lease collects garbage at both its ends. A collection that looks through all of torch's and transformers' modules
    takes half a second, and with it what an earlier file left in a cycle would be on the devices of this one's tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def all_objects_in_sight() -> None:
    """For tests of who holds what: of what was imported, the collector tells no referrers (see above)."""
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A failure has to be seen again."""
    if config.option.order is not None:
        terminalreporter.write_line(f"files in the order of --order {config.option.order}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system that the test mounts with the size that it wants; skips where none can be mounted."""
    made = Disk(tmp_path / "disk")
    yield made
    made.unmount()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of complete models by name; read them, and copy one before changing it."""
    from support.tiny_models import make_bert, make_qwen2, make_xlm_roberta

    root = tmp_path_factory.mktemp("tiny_models")
    makers = {"qwen2": make_qwen2, "xlm-roberta": make_xlm_roberta, "bert": make_bert}
    return {name: make(root / name) for name, make in makers.items()}
