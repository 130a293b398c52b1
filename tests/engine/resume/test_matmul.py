"""A run goes on with the library that multiplied before, so that its vectors keep their last bits.

all-MiniLM-L6-v2 shows them: sums of tiny networks are too short for two libraries to differ.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from soloist.config import RunConfig
from soloist.engine import RunResult, run
from soloist.events import ShardEncoded
from soloist.models.matmul import fastest_matmul
from soloist.models.prepacked import can_prepack
from soloist.retrieval import open_run
from soloist.types import Matmul

pytestmark = pytest.mark.skipif(
    not can_prepack(torch.float32), reason="this torch has no products with packed weights on this processor"
)
MODEL = "all-MiniLM-L6-v2"


def write(root: Path, count: int) -> None:
    (root / "texts").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": str(n), "text": f"lease {n} of the shard " * (n % 7 + 1)}) for n in range(count)]
    (root / "texts" / "part.jsonl").write_text("\n".join(lines) + "\n")


def config_of(root: Path, out: Path, **named: Any) -> RunConfig:
    return RunConfig(
        chunks_root=root / "chunks", out=out, models=[MODEL], dtype="float32", accelerator="cpu",
        lock_dir=root / "locks", cache_dir=root / "cache", **named,
    )  # fmt: skip


def vectors(out: Path) -> np.ndarray:
    return np.concatenate(list(open_run(out).vectors(MODEL).blocks()))


def matmul_of(result: RunResult) -> str:
    return result.models[0].matmul


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chunks, and runs over them with each library."""
    root = tmp_path_factory.mktemp("matmul")
    write(root / "chunks", 12)
    for matmul in get_args(Matmul):
        assert matmul_of(run(config_of(root, root / matmul, matmul=matmul))) == matmul
    return root


def test_the_libraries_differ_in_the_last_bits_alone(root: Path) -> None:
    """Without that no test here could fail."""
    for one, other in itertools.combinations(get_args(Matmul), 2):
        first, second = vectors(root / one), vectors(root / other)
        assert not np.array_equal(first, second)
        assert np.abs(first - second).max() <= 1e-6


def test_a_pass_in_a_process_of_its_own_has_the_library_of_the_run(root: Path, tmp_path: Path) -> None:
    """The process would measure for itself, and choose another one than the process before."""
    for matmul in get_args(Matmul):
        run(config_of(root, tmp_path / matmul, matmul=matmul, isolation="process"))
        assert np.array_equal(vectors(tmp_path / matmul), vectors(root / matmul))


def other_than(matmul: str) -> str:
    return "torch" if matmul == "onednn" else "onednn"


def as_on_another_machine(out: Path, matmul: str) -> None:
    """Say in a run's folder that another library multiplied, as a machine says where that one is the faster."""
    for name in ("run.json", "state.json"):
        path = out / name
        if path.is_file():
            written = json.loads(path.read_text())
            if name == "run.json":
                written["models"][0]["matmul"] = matmul
            else:
                written["matmuls"][MODEL] = matmul
            path.write_text(json.dumps(written))


@pytest.mark.parametrize("isolation", ["allocator", "process"])
def test_a_finished_run_goes_on_with_the_library_that_it_began_with(tmp_path: Path, isolation: str) -> None:
    """A machine where another library is faster would mix the last bits, in this process or in the one of a pass."""
    write(tmp_path / "chunks", 4)
    out = tmp_path / "run"
    measured = matmul_of(run(config_of(tmp_path, out)))
    write(tmp_path / "chunks", 8)
    assert matmul_of(run(config_of(tmp_path, out))) == measured
    as_on_another_machine(out, other_than(measured))
    write(tmp_path / "chunks", 12)
    assert matmul_of(run(config_of(tmp_path, out, isolation=isolation))) == other_than(measured)
    whole = config_of(tmp_path, tmp_path / "whole", matmul=other_than(measured))
    run(whole)
    assert np.array_equal(vectors(out)[8:], vectors(whole.out)[8:])


def test_another_dtype_has_the_library_that_is_fastest_in_it(tmp_path: Path) -> None:
    """All vectors are made anew, with a library that may be much slower in that dtype: and as a new run would not."""
    write(tmp_path / "chunks", 4)
    out = tmp_path / "run"
    run(config_of(tmp_path, out))
    fastest = fastest_matmul("bfloat16")
    as_on_another_machine(out, other_than(fastest))
    assert matmul_of(run(replace(config_of(tmp_path, out), dtype="bfloat16"))) == fastest


def test_a_run_that_was_broken_off_goes_on_with_its_library(tmp_path: Path) -> None:
    """What is not finished has no run.json yet."""
    write(tmp_path / "chunks", 12)
    out = tmp_path / "run"

    def breaks(event: object) -> None:
        if isinstance(event, ShardEncoded):
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        run(config_of(tmp_path, out, shard_chunks=4), breaks)
    assert not (out / "run.json").exists()
    measured = json.loads((out / "state.json").read_text())["matmuls"][MODEL]
    as_on_another_machine(out, other_than(measured))
    assert matmul_of(run(config_of(tmp_path, out, shard_chunks=4))) == other_than(measured)


def test_a_run_of_an_earlier_version_goes_on_with_torch(root: Path, tmp_path: Path) -> None:
    """Its new vectors would be of another library than its old ones, though nobody asked for one."""
    write(tmp_path / "chunks", 6)
    config = config_of(tmp_path, tmp_path / "run", matmul="torch")
    run(config)
    path = config.out / "run.json"
    written = json.loads(path.read_text())
    del written["config"]["matmul"], written["models"][0]["matmul"]
    path.write_text(json.dumps(written))
    write(tmp_path / "chunks", 12)
    assert matmul_of(run(config_of(tmp_path, config.out))) == "torch"
    assert np.array_equal(vectors(config.out), vectors(root / "torch"))


def test_vectors_of_another_library_are_reused_with_a_word(root: Path, tmp_path: Path) -> None:
    """A run would mix the last bits of two libraries, and its report would name one of them alone."""
    config = config_of(root, tmp_path / "run", matmul="onednn", reuse=[root / "torch"])
    result = run(config)
    assert result.models[0].from_others == 12
    assert np.array_equal(vectors(config.out), vectors(root / "torch"))
    assert any("were computed by torch and new ones are by onednn" in notice for notice in result.notices)
    alike = run(config_of(root, tmp_path / "alike", matmul="torch", reuse=[root / "torch"]))
    assert not any("new ones are by" in notice for notice in alike.notices)


def test_a_library_that_was_chosen_stays_until_another_is_named(root: Path, tmp_path: Path) -> None:
    """A setting of a run would go back to its default with the next command; or change without a word."""
    write(tmp_path / "chunks", 4)
    config = config_of(tmp_path, tmp_path / "run", matmul="torch")
    run(config)
    write(tmp_path / "chunks", 8)
    assert matmul_of(run(config_of(tmp_path, config.out))) == "torch"
    write(tmp_path / "chunks", 12)
    changed = run(config_of(tmp_path, config.out, matmul="onednn"))
    assert matmul_of(changed) == "onednn"
    assert any("it was torch" in notice and "last bits" in notice for notice in changed.notices)
    expected = np.concatenate([vectors(root / "torch")[:8], vectors(root / "onednn")[8:]])
    assert np.array_equal(vectors(config.out), expected)


def test_asking_for_the_faster_library_changes_nothing_and_says_nothing(root: Path, tmp_path: Path) -> None:
    """A command would announce other last bits, although it goes on with the library that the run has."""
    write(tmp_path / "chunks", 4)
    out = tmp_path / "run"
    measured = matmul_of(run(config_of(tmp_path, out)))
    as_on_another_machine(out, other_than(measured))
    write(tmp_path / "chunks", 8)
    asked = run(config_of(tmp_path, out, matmul="auto"))
    assert matmul_of(asked) == other_than(measured)
    assert not any("last bits" in notice for notice in asked.notices)
