"""What every test shares: no network, and small models with random weights, made once per session."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from support.forks import FORKS, fork_workers, forks_live_in
from support.mounts import MEMORY, Disk, has_room_for_tests, keep_mounts_private
from xdist.scheduler import LoadFileScheduling

# All that tests write goes there. On a busy disk the sync of one small file takes tens of milliseconds, and a run of
# soloist syncs each file that it writes. A TMPDIR that is given stays.
if "TMPDIR" not in os.environ and has_room_for_tests(MEMORY):
    os.environ["TMPDIR"], tempfile.tempdir = str(MEMORY), None
IN_MEMORY = Path(tempfile.gettempdir()).is_relative_to(MEMORY)
LARGE_BYTES = 1 << 20
# Read by huggingface_hub when it is imported, which no test module does before this file.
os.environ["HF_HUB_OFFLINE"] = "1"
# Read by haystack when it is imported: else it writes into the user's folder, and reports each pipeline.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "false"
os.environ["ANONYMIZED_TELEMETRY"] = "false"  # chromadb's
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
    "engine/cluster/test_deaths.py", "engine/cluster/test_same_bytes.py", "engine/cluster/test_chaos.py",
    "validation/test_faults.py", "engine/resume/test_kills.py", "retrieval/test_judged_sets.py",
    "docs/test_kaggle_notebook.py", "engine/test_parity.py", "cli/test_cli_validate.py",
    "engine/drivers/test_isolated.py", "fuzz/test_fuzz.py", "faults/test_stopping.py", "memory/test_predicted_peaks.py",
    "engine/resume/test_processes.py", "adapters/test_plan_scenarios.py", "planning/test_estimate.py",
    "engine/resume/test_vector_dtype.py", "measuring/test_prove_gpu.py", "docs/test_examples.py",
    "reports/run_report/test_page.py", "engine/resume/test_edits.py", "memory/test_random_capacities.py",
    "engine/test_release.py", "api/test_given_chunks.py", "sources/test_parquet_memory.py", "cli/test_cli_process.py",
    "exports/test_exports.py", "exports/test_stores.py", "exports/test_asking_stores.py",
    "exports/test_ragged_stores.py", "retrieval/test_odd_texts.py", "engine/test_same_pass.py",
    "engine/resume/test_kills_of_kinds.py", "reports/run_report/test_browser.py", "retrieval/test_odd_questions.py",
    "engine/test_scale.py", "faults/test_verify_and_status.py", "measuring/test_benchmarks.py",
    "models/test_loading.py", "sizing/test_calibration.py", "engine/intake/test_ahead.py", "models/test_prepacked.py",
    "devices/test_device_contract.py", "engine/test_run.py", "models/test_every_setting.py", "encoding/test_encoder.py",
    "models/test_every_module.py", "models/test_architectures.py", "memory/test_prediction.py",
    "retrieval/test_opened.py", "engine/drivers/test_overlap.py", "engine/resume/test_matmul.py",
    "devices/test_referrers.py", "retrieval/test_odd_files.py", "engine/intake/test_vectorless.py",
)  # fmt: skip

# Folders whose files share what takes long to start: a cluster.
ONE_PROCESS = ("engine/cluster/",)


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


class ByFileOrFolder(LoadFileScheduling):
    """Gives each file of tests to one process, and each folder in `ONE_PROCESS`."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return next((folder for folder in ONE_PROCESS if folder in file), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For --dist loadfile."""
    return ByFileOrFolder(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True, scope="module")
def what_is_there_is_no_garbage() -> None:
    """Take what is there out of the collector's sight, before each file of tests.

    A lease collects garbage at both its ends. A collection that looks through all of torch's and transformers' modules
    takes half a second, and with it what an earlier file left in a cycle would be on the devices of this one's tests.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """A test's large files go from memory with it. Its small ones may be locks that a simulated device still has."""
    yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if IN_MEMORY and folder is not None and not item.session.testsfailed:
        for path in (Path(root, name) for root, _, names in os.walk(folder) for name in names):
            with contextlib.suppress(OSError):
                if path.lstat().st_size > LARGE_BYTES:
                    path.unlink()


@pytest.fixture(autouse=True, scope="session")
def none_of_it_stays_in_memory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """pytest would keep the folders of three runs. Those of a run in which a test failed stay, to be looked at."""
    yield
    if IN_MEMORY and not request.session.testsfailed:
        shutil.rmtree(tmp_path_factory.getbasetemp(), ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def workers_are_forked() -> None:
    """The worker of an isolated pass is a fork too. A test of how it is started sets `STARTED`."""
    fork_workers()


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
