"""A run of all kinds of members, whose model has prompts, and no network beyond this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.collections import write_collection

from soloist.config import RunConfig
from soloist.exports import export_run
from soloist.retrieval.opened import OpenedRun, open_run

PROMPTS = 'query_prompt = "question: "\ndocument_prompt = "passage: "\n'


@pytest.fixture(autouse=True)
def no_calls_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A framework that tells somebody of its use, or fetches a file, fails the test."""
    asked: list[object] = []
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            asked.append(address)
            raise OSError(f"no test may connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    yield
    assert asked == []


@pytest.fixture(scope="session")
def asked_folder(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Path:
    """The folder of the run: two dense members, a sparse one and words, over two collections."""
    from support.tiny_sparse import make_splade

    from soloist.engine.run import run

    root = tmp_path_factory.mktemp("applications")
    write_collection(root / "chunks", "alpha", 30, longest=30, seed=3)
    write_collection(root / "chunks", "beta", 10, longest=30, seed=4)
    (root / "models.toml").write_text(f'[models.bert]\nsource = "{tiny_models["bert"]}"\n{PROMPTS}')
    splade = make_splade(root / "splade", num_hidden_layers=1)
    config = RunConfig(
        chunks_root=root / "chunks", out=root / "run", accelerator="cpu", catalogue=root / "models.toml",
        models=("bert", "wordllama", str(splade), "bm25"), dtype="float32", lock_dir=root / "locks",
    )  # fmt: skip
    run(config)
    return root / "run"


@pytest.fixture(scope="session")
def opened(asked_folder: Path) -> OpenedRun:
    """The run, opened."""
    return open_run(asked_folder)


@pytest.fixture(scope="session")
def questions_folder(asked_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The questions of the run, exported into a folder of their own."""
    folder = tmp_path_factory.mktemp("exported") / "questions"
    export_run(asked_folder, "questions", out=folder)
    return folder
