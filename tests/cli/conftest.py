"""A small collection, and the options with which a fast model embeds it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TEXTS = ["A lease gives one model every device.", "Rain fell on the harbour all night.", "def add(a, b): return a + b"]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """Variables of the person who runs the tests must not decide them."""
    for name in ("SOLOIST_ACCELERATOR", "SOLOIST_CATALOGUE", "SOLOIST_LOCK_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def chunks_root(tmp_path) -> Path:
    """One collection, `notes`, of three chunks."""
    folder = tmp_path / "chunks" / "notes"
    folder.mkdir(parents=True)
    chunks = [{"text": text, "metadata": {"chunk_id": f"n{index}"}} for index, text in enumerate(TEXTS)]
    (folder / "a_chunks.json").write_text(json.dumps(chunks))
    return tmp_path / "chunks"


@pytest.fixture
def options(tmp_path, chunks_root) -> list[str]:
    """Arguments of a run with wordllama on the CPU, with locks of its own."""
    return [
        "embed", str(chunks_root), "--out", str(tmp_path / "run"), "--models", "wordllama", "--accelerator", "cpu",
        "--lock-dir", str(tmp_path / "locks"),
    ]  # fmt: skip
