"""Every framework's adapter gives the vectors of the run to the last bit, and stands what its framework does to it."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from support.forks import run_forked

from soloist.errors import ConfigError, OutputError, SoloistError
from soloist.extras import install_command
from soloist.integrations.chroma import SoloistEmbeddingFunction
from soloist.integrations.haystack import SoloistDocumentEmbedder, SoloistTextEmbedder
from soloist.integrations.langchain import SoloistEmbeddings
from soloist.integrations.llama_index import SoloistEmbedding
from soloist.retrieval.opened_questions import open_questions

TEXTS = ["which device has a lease?", "tokens", "東京の天気 and the lease, " * 40, "tokens"]
NAMES = ("bert", "wordllama", "fused")
# Imports a module where a library is not installed.
WITHOUT = """
import importlib, sys

class Without:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
try:
    importlib.import_module(sys.argv[2])
except Exception as exc:
    print(exc)
"""
Encode = Callable[[Sequence[str]], Any]


def langchain(given: Any, name: str) -> tuple[Encode, Encode]:
    embeddings = SoloistEmbeddings(given, name)
    return lambda texts: [embeddings.embed_query(text) for text in texts], embeddings.embed_documents


def langchain_async(given: Any, name: str) -> tuple[Encode, Encode]:
    embeddings = SoloistEmbeddings(given, name)

    async def of_queries(texts: Sequence[str]) -> Any:
        return await asyncio.gather(*map(embeddings.aembed_query, texts))

    return lambda texts: asyncio.run(of_queries(texts)), lambda texts: asyncio.run(embeddings.aembed_documents(texts))


def llama_index(given: Any, name: str) -> tuple[Encode, Encode]:
    embedding = SoloistEmbedding(questions=given, model_name=name, embed_batch_size=3)
    return lambda texts: list(map(embedding.get_query_embedding, texts)), embedding.get_text_embedding_batch


def llama_index_async(given: Any, name: str) -> tuple[Encode, Encode]:
    embedding = SoloistEmbedding(questions=given, model_name=name)

    async def of_queries(texts: Sequence[str]) -> Any:
        return await asyncio.gather(*map(embedding.aget_query_embedding, texts))

    async def of_texts(texts: Sequence[str]) -> Any:
        return [*await embedding.aget_text_embedding_batch(texts[:-1]), await embedding.aget_text_embedding(texts[-1])]

    return lambda texts: asyncio.run(of_queries(texts)), lambda texts: asyncio.run(of_texts(texts))


def haystack(given: Any, name: str) -> tuple[Encode, Encode]:
    from haystack import Document

    for_questions, for_chunks = SoloistTextEmbedder(given, name), SoloistDocumentEmbedder(given, name)

    def of_chunks(texts: Sequence[str]) -> Any:
        documents = [Document(content=text, meta={"at": number}) for number, text in enumerate(texts)]
        embedded = for_chunks.run(documents=documents)["documents"]
        assert [each.content for each in embedded] == list(texts) and documents[0].embedding is None
        return [each.embedding for each in embedded]

    return lambda texts: [for_questions.run(text=text)["embedding"] for text in texts], of_chunks


def chroma(given: Any, name: str) -> tuple[Encode, Encode]:
    function = SoloistEmbeddingFunction(given, name)
    return function.embed_query, function


ADAPTERS = [langchain, langchain_async, llama_index, llama_index_async, haystack, chroma]
MAKERS = [
    SoloistEmbeddings,
    lambda given, name=None: SoloistEmbedding(questions=given, **({"model_name": name} if name else {})),
    SoloistTextEmbedder,
    SoloistDocumentEmbedder,
    SoloistEmbeddingFunction,
]


def bits(vectors: Any) -> bytes:
    return np.ascontiguousarray(vectors, np.float32).tobytes()


def used(adapter: Any) -> Any:
    """What an adapter gives of one question or chunk, by its framework's own method."""
    from haystack import Document

    if isinstance(adapter, SoloistDocumentEmbedder):
        return adapter.run(documents=[Document(content="a lease")])["documents"][0].embedding
    if isinstance(adapter, SoloistTextEmbedder):
        return adapter.run(text="a lease")["embedding"]
    if isinstance(adapter, SoloistEmbeddingFunction):
        return adapter(["a lease"])[0].tolist()
    return adapter.embed_query("a lease") if hasattr(adapter, "embed_query") else adapter.get_query_embedding("a lease")


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
def test_vectors_are_those_of_the_run_to_the_last_bit(adapter, opened):
    """A framework's own rounding, order or prompt would make every score a little wrong, and nobody would see it."""
    for name in NAMES:
        of_questions, of_chunks = adapter(opened, name)
        wanted = opened.encode_fused(TEXTS) if name == "fused" else opened.encode(name, TEXTS)
        assert bits(of_questions(TEXTS)) == bits(wanted), name
        assert bits(of_chunks(TEXTS)) == bits(opened.questions.encode(TEXTS, name, role="document")), name


def test_a_chunk_is_not_embedded_as_a_question(opened):
    """The two prompts would be mixed up: the vectors of a framework's documents would not be those of the run."""
    texts = [chunk.text for chunk in opened.chunks()][:5]
    kept = opened.vectors("bert").at(np.arange(5))
    embeddings = SoloistEmbeddings(opened, "bert")
    assert np.allclose(embeddings.embed_documents(texts), kept, atol=1e-6)
    assert not np.allclose([embeddings.embed_query(text) for text in texts], kept, atol=1e-3)


@pytest.mark.parametrize("make", MAKERS)
def test_a_copy_and_a_pickle_give_the_same(make, asked_folder, opened, tmp_path, monkeypatch):
    """Frameworks copy components, and send them to other processes: a lock inside cannot be copied."""
    monkeypatch.chdir(asked_folder.parent)
    adapter = make(asked_folder.name)  # by a relative path
    wanted = used(adapter)
    monkeypatch.chdir(tmp_path)
    for other in (copy.copy(adapter), copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))):
        assert used(other) == wanted
    assert used(pickle.loads(pickle.dumps(make(opened)))) == wanted


@pytest.mark.parametrize("make", MAKERS)
def test_exported_questions_give_the_same(make, questions_folder, opened):
    """An application with the small folder alone would get other vectors, or an error at a pickle."""
    wanted = used(make(opened))
    for given in (str(questions_folder), open_questions(questions_folder)):
        assert used(make(given)) == wanted
        assert used(pickle.loads(pickle.dumps(make(given)))) == wanted


@pytest.mark.parametrize("make", MAKERS)
def test_a_name_without_dense_vectors_is_refused(make, opened):
    """Words would be asked for a vector, and the error would be a KeyError of a framework's thread."""
    for name in ("bm25", "other"):
        with pytest.raises(ConfigError, match=rf"has no dense vectors of {name}: choose one of bert, wordllama, fused"):
            used(make(opened, name))


@pytest.mark.parametrize("make", MAKERS)
def test_a_folder_that_is_not_there_is_one_sentence(make, tmp_path):
    """A typing error in a path became a KeyError or a retry of the framework's."""
    with pytest.raises(OutputError, match="gone"):
        used(make(tmp_path / "gone"))


@pytest.mark.parametrize("text", ["", " ", "\ud800"])
def test_a_text_that_is_not_one_is_an_error_of_soloist(text, opened):
    """An empty question got a vector of zeros, or an error that names no text."""
    for adapter in ADAPTERS:
        of_questions, _ = adapter(opened, "fused")
        with pytest.raises(SoloistError):
            of_questions([text])


@pytest.mark.parametrize(
    ("module", "library", "package", "extra"),
    [
        ("langchain", "langchain_core", "langchain-core", "langchain"),
        ("llama_index", "llama_index.core", "llama-index-core", "llama-index"),
        ("haystack", "haystack", "haystack-ai", "haystack"),
        ("chroma", "chromadb", "chromadb", "chroma"),
        ("mcp", "mcp", "mcp", "mcp"),
    ],
)
def test_a_framework_that_is_not_installed(module, library, package, extra):
    """An ImportError names a module, and neither a package nor an extra."""
    name = f"soloist.integrations.{module}"
    done = run_forked([sys.executable, "-c", WITHOUT, library, name], capture_output=True, text=True)
    assert done.stdout == f"{name} needs {package}: run {install_command(extra)}\n"


def test_soloist_imports_no_framework():
    """The import of soloist would cost seconds more for everybody, and fail where a framework is broken."""
    names = ("langchain_core", "llama_index", "haystack", "chromadb", "mcp", "pydantic")
    code = (
        "import sys, soloist, soloist.cli, soloist.integrations.opening, soloist.retrieval.opened; "
        f"print([name for name in {names} if name in sys.modules])"
    )
    done = run_forked([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
