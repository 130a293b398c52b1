"""The adapters inside what people build: retrievers, saved pipelines, and collections that are opened again."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import re
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from soloist.errors import ConfigError, OutputError
from soloist.integrations import chroma, haystack, langchain, llama_index
from soloist.retrieval import By, open_run
from soloist.types import Hit

QUESTIONS = ("which device has a lease?", "tokens of a batch", "東京の天気")
Ask = Callable[[str], list[tuple[str, str, str, float]]]


def from_langchain(given: Any, **settings: Any) -> Any:
    return langchain.SoloistRetriever(run=given, **settings)


def from_llama_index(given: Any, **settings: Any) -> Any:
    return llama_index.SoloistRetriever(given, **settings)


RETRIEVERS = [from_langchain, from_llama_index]


def found(results: Any) -> list[tuple[str, str, str, float]]:
    """Collection, id, text and score of what a retriever gives."""
    if results and hasattr(results[0], "node"):
        assert all(each.score == each.node.metadata["soloist_score"] for each in results)
        shown = [(each.node.metadata, each.node.text) for each in results]
    else:
        shown = [(each.metadata, each.page_content) for each in results]
    return [(data["soloist_collection"], data["soloist_id"], text, data["soloist_score"]) for data, text in shown]


def wanted(hits: list[Hit]) -> list[tuple[str, str, str, float]]:
    return [(hit.collection, hit.id, hit.text, hit.score) for hit in hits]


def ask(retriever: Any, question: str) -> Any:
    return retriever.invoke(question) if hasattr(retriever, "invoke") else retriever.retrieve(question)


async def ask_async(retriever: Any, question: str) -> Any:
    asked = retriever.ainvoke if hasattr(retriever, "ainvoke") else retriever.aretrieve
    return await asked(question)


@pytest.mark.parametrize("make", RETRIEVERS)
def test_a_retriever_ranks_as_the_run_does(make, opened, asked_folder):
    """An application would show other chunks than soloist search does."""
    weights = dict(zip(opened.questions.kinds, (0.1, 0.5, 0.2, 0.2), strict=False))
    settings: list[dict[str, Any]] = [
        {}, {"k": 3}, {"by": "bm25", "k": 5}, {"by": "bert", "collections": ["beta"]},
        {"by": By(ranker="rrf", weights=weights), "k": 40},
    ]  # fmt: skip
    for chosen in settings:
        for given in (opened, asked_folder):
            retriever = make(given, **chosen)
            for question in QUESTIONS:
                assert found(ask(retriever, question)) == wanted(opened.search(question, **chosen)), chosen


@pytest.mark.parametrize("make", RETRIEVERS)
def test_a_retriever_is_asked_by_many_at_once(make, opened):
    """A framework asks from threads of its own: hits of one question would be mixed with those of another."""
    retriever, asked = make(opened, k=4), [f"{question} {number}" for number in range(8) for question in QUESTIONS]

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(ask_async(retriever, question) for question in asked))

    for question, results in zip(asked, asyncio.run(all_at_once()), strict=True):
        assert found(results) == wanted(opened.search(question, 4))


@pytest.mark.parametrize("make", RETRIEVERS)
def test_a_copy_of_a_retriever_finds_the_same(make, opened):
    """Frameworks copy and pickle what they are given."""
    retriever = make(opened, k=2, by="wordllama")
    for other in (copy.copy(retriever), copy.deepcopy(retriever), pickle.loads(pickle.dumps(retriever))):
        assert found(ask(other, "a lease")) == wanted(opened.search("a lease", 2, by="wordllama"))


@pytest.mark.parametrize("make", RETRIEVERS)
def test_what_cannot_be_searched_is_an_error_of_soloist(make, opened):
    """The framework's own error would hide which setting is wrong."""
    for settings in ({"by": "other"}, {"collections": ["other"]}, {"k": 1_000}):
        with pytest.raises(ConfigError, match=re.escape(str(next(iter(settings.values()))).strip("[]'"))[:5]):
            ask(make(opened, **settings), "a lease")


def test_chunks_of_two_collections_with_one_id_are_both_found(tmp_path):
    """LlamaIndex leaves out a node whose id it has seen."""
    import soloist

    texts = [soloist.Chunk(id="same", text="a lease of a device")]
    soloist.embed({"one": texts, "two": texts}, out=tmp_path / "run", models=["wordllama"], accelerator="cpu")
    nodes = llama_index.SoloistRetriever(tmp_path / "run").retrieve("a lease")
    assert [node.metadata["soloist_collection"] for node in nodes] == ["one", "two"]
    assert len({node.node_id for node in nodes}) == 2


def test_a_language_model_reads_no_score(opened):
    """Scores and places would be pasted into every prompt."""
    from llama_index.core.schema import MetadataMode

    (node,) = llama_index.SoloistRetriever(opened, k=1).retrieve("a lease")
    assert "soloist_" not in node.node.get_content(MetadataMode.LLM)
    assert "chunk_id" in node.node.get_content(MetadataMode.LLM)


def test_llama_index_finds_with_its_own_index_what_the_run_finds(opened):
    """An index that LlamaIndex builds with our embeddings would rank otherwise than the run."""
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    nodes = [TextNode(id_=chunk.id, text=chunk.text) for chunk in opened.chunks(["alpha"])]
    embedding = llama_index.SoloistEmbedding(questions=opened)
    index = VectorStoreIndex(nodes, embed_model=embedding)
    for question in QUESTIONS:
        hits = opened.search(question, 5, by="fused", collections=["alpha"])
        retrieved = index.as_retriever(similarity_top_k=5).retrieve(question)
        assert [each.node_id for each in retrieved] == [hit.id for hit in hits]


def test_llama_index_saves_the_folder_and_the_name(opened):
    """A configuration that is loaded again would give vectors of another member."""
    embedding = llama_index.SoloistEmbedding(questions=opened, model_name="bert")
    saved = json.loads(embedding.to_json())
    assert (saved["questions"], saved["model_name"]) == (str(opened.path), "bert")
    again = llama_index.SoloistEmbedding.from_dict(saved)
    assert again.get_query_embedding("a lease") == embedding.get_query_embedding("a lease")


def test_langchain_finds_with_its_own_store_what_the_run_finds(opened):
    """The vectors of a store that LangChain fills would not be comparable with those of its questions."""
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore(langchain.SoloistEmbeddings(opened))
    chunks = list(opened.chunks(["alpha"]))
    store.add_texts([chunk.text for chunk in chunks], ids=[chunk.id for chunk in chunks])
    for question in QUESTIONS:
        hits = opened.search(question, 5, by="fused", collections=["alpha"])
        assert [each.id for each in store.similarity_search(question, 5)] == [hit.id for hit in hits]


def haystack_pipeline(opened: Any) -> Any:
    """Questions to the documents of a store, which has the vectors of the document embedder."""
    from haystack import Document, Pipeline
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    documents = [Document(id=chunk.id, content=chunk.text) for chunk in opened.chunks(["alpha"])]
    filled = haystack.SoloistDocumentEmbedder(opened).run(documents=documents)
    store.write_documents(filled["documents"])
    pipeline = Pipeline()
    pipeline.add_component("embedder", haystack.SoloistTextEmbedder(opened))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=5))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    return pipeline


def test_a_haystack_pipeline_finds_what_the_run_finds(opened):
    """The components would not connect, or the pipeline would rank otherwise than the run."""
    pipeline = haystack_pipeline(opened)
    for question in QUESTIONS:
        ids = [hit.id for hit in opened.search(question, 5, by="fused", collections=["alpha"])]
        results = pipeline.run({"embedder": {"text": question}})
        assert [each.id for each in results["retriever"]["documents"]] == ids
        results = asyncio.run(pipeline.run_async({"embedder": {"text": question}}))
        assert [each.id for each in results["retriever"]["documents"]] == ids


def test_a_saved_haystack_pipeline_gives_the_same_vectors(opened):
    """A pipeline of a file would embed by another member, or could not be loaded."""
    from haystack import Document, Pipeline

    pipeline = Pipeline()
    pipeline.add_component("text", haystack.SoloistTextEmbedder(opened, "bert"))
    pipeline.add_component("documents", haystack.SoloistDocumentEmbedder(opened))
    text = pipeline.dumps()
    again = Pipeline.loads(text, allowed_modules=["soloist.integrations.haystack"])
    assert again.dumps() == text and str(opened.path) in text
    given = {"text": {"text": "a lease"}, "documents": {"documents": [Document(content="a lease")]}}
    assert again.run(given) == pipeline.run(given)
    assert again.run(given)["text"]["meta"] == {
        "model": "bert", "fingerprint": opened.questions.fingerprints["bert"],
    }  # fmt: skip


def test_a_saved_haystack_pipeline_is_loaded_where_the_folder_is_not(opened, tmp_path):
    """A pipeline could not be looked at or changed on a machine without the folder."""
    for kind in (haystack.SoloistTextEmbedder, haystack.SoloistDocumentEmbedder):
        saved = kind(tmp_path / "gone", "bert").to_dict()
        again = kind.from_dict(saved)
        assert again.to_dict() == saved
        with pytest.raises(OutputError, match="gone"):
            again.warm_up()


def test_a_haystack_document_without_text_is_named(opened):
    """A document of an image would end in an error of a tokenizer."""
    from haystack import Document

    with pytest.raises(ConfigError, match="the document an image has no text to embed"):
        haystack.SoloistDocumentEmbedder(opened).run(documents=[Document(id="an image")])


@pytest.fixture
def chroma_client(tmp_path) -> Any:
    """A client with a folder of its own, which reports to nobody."""
    import chromadb

    return chromadb.PersistentClient(tmp_path / "chroma", chromadb.Settings(anonymized_telemetry=False))


def test_a_chroma_collection_finds_what_the_run_finds(opened, chroma_client):
    """Questions would be embedded as chunks are, without an error."""
    chunks = list(opened.chunks(["alpha"]))
    function = chroma.SoloistEmbeddingFunction(opened, "bert")
    made = chroma_client.create_collection("chunks", embedding_function=function)
    made.add(ids=[chunk.id for chunk in chunks], documents=[chunk.text for chunk in chunks])
    assert made.configuration["hnsw"]["space"] == "ip"
    again = chroma_client.get_collection("chunks")  # which builds the function from what the collection keeps
    kept = made.get(ids=[chunks[0].id], include=["embeddings"])["embeddings"]
    assert np.array_equal(np.float32(kept), np.float32(function([chunks[0].text])))
    for question in QUESTIONS:
        ids = [hit.id for hit in opened.search(question, 5, by="bert", collections=["alpha"])]
        for collection in (made, again):
            results = collection.query(query_texts=[question], n_results=5)
            assert results["ids"] == [ids]


def test_a_chroma_collection_refuses_questions_of_another_run(opened, asked_folder, chroma_client, tmp_path):
    """A collection would be asked with vectors that cannot be compared with its own."""
    import soloist

    moved = tmp_path / "moved"
    shutil.copytree(asked_folder, moved)
    function = chroma.SoloistEmbeddingFunction(moved)
    chroma_client.create_collection("chunks", embedding_function=function).add(ids=["a"], documents=["a lease"])
    assert chroma_client.get_collection("chunks").query(query_texts=["lease"])["ids"] == [["a"]]
    shutil.rmtree(moved)
    soloist.embed(["a lease"], out=moved, models=["wordllama", "all-MiniLM-L6-v2"], accelerator="cpu")
    with pytest.raises(ValueError, match="makes other vectors of fused than the collection has"):
        chroma_client.get_collection("chunks").query(query_texts=["lease"])
    other = chroma.SoloistEmbeddingFunction(moved)
    with pytest.raises(ConfigError, match="makes other vectors"):
        other.validate_config_update(chroma.SoloistEmbeddingFunction(opened).get_config(), other.get_config())


def test_chroma_follows_a_folder_that_moved(opened, asked_folder, chroma_client, tmp_path):
    """An application on another machine has its folder elsewhere."""
    moved = tmp_path / "moved"
    shutil.copytree(asked_folder, moved)
    function = chroma.SoloistEmbeddingFunction(moved)
    chroma_client.create_collection("chunks", embedding_function=function).add(ids=["a"], documents=["a lease"])
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="moved"):
        chroma_client.get_collection("chunks").query(query_texts=["lease"])
    there = chroma.SoloistEmbeddingFunction(tmp_path / "elsewhere")
    found = chroma_client.get_collection("chunks", embedding_function=there)
    assert found.query(query_texts=["lease"])["ids"] == [["a"]]
    assert open_run(tmp_path / "elsewhere").questions.fingerprints == opened.questions.fingerprints
