"""What frameworks bring for OpenAI, asked to talk to `soloist serve`: the same bits as in the process of the run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from support.server_processes import ServerProcess

pytestmark = pytest.mark.process
TEXTS = ["which device has a lease?", "tokens", "東京の天気 and the lease, " * 40, "tokens"]
NAMES = ("bert", "wordllama", "fused")


@pytest.fixture(scope="module")
def url(asked_folder, tmp_path_factory) -> Iterator[str]:
    """The address of a server over the run, as clients of OpenAI want it."""
    process = ServerProcess(asked_folder, tmp_path_factory.mktemp("server") / "output")
    with contextlib.closing(process):
        process.wait_until_ready()
        yield f"{process.url}/v1"


def bits(vectors: Any) -> bytes:
    return np.ascontiguousarray(vectors, np.float32).tobytes()


def langchain(url: str, name: str, closing: contextlib.ExitStack) -> tuple[Any, Any]:
    from langchain_openai import OpenAIEmbeddings

    http = closing.enter_context(httpx.Client())
    as_question, as_chunk = (
        OpenAIEmbeddings(
            model=name, base_url=url, api_key="none", http_client=http, check_embedding_ctx_length=False,
            model_kwargs={"extra_body": {"input_type": role}},
        )
        for role in ("query", "document")
    )  # fmt: skip
    return lambda texts: list(map(as_question.embed_query, texts)), as_chunk.embed_documents


def langchain_async(url: str, name: str, closing: contextlib.ExitStack) -> tuple[Any, Any]:
    from langchain_openai import OpenAIEmbeddings

    async def all_at_once(texts: Sequence[str]) -> Any:
        async with httpx.AsyncClient() as http:
            embeddings = OpenAIEmbeddings(
                model=name, base_url=url, api_key="none", http_async_client=http, check_embedding_ctx_length=False
            )
            return await asyncio.gather(*map(embeddings.aembed_query, texts))

    return lambda texts: asyncio.run(all_at_once(texts)), None


def llama_index(url: str, name: str, closing: contextlib.ExitStack) -> tuple[Any, Any]:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    http = closing.enter_context(httpx.Client())
    as_question, as_chunk = (
        OpenAILikeEmbedding(
            model_name=name, api_base=url, api_key="none", http_client=http,
            additional_kwargs={"extra_body": {"input_type": role}},
        )
        for role in ("query", "document")
    )  # fmt: skip
    return lambda texts: list(map(as_question.get_query_embedding, texts)), as_chunk.get_text_embedding_batch


def haystack(url: str, name: str, closing: contextlib.ExitStack) -> tuple[Any, Any]:
    from haystack.components.embedders import OpenAITextEmbedder
    from haystack.utils import Secret

    embedder = OpenAITextEmbedder(Secret.from_token("none"), model=name, api_base_url=url)
    closing.callback(lambda: embedder.client.close())
    return lambda texts: [embedder.run(text=text)["embedding"] for text in texts], None


def chroma(url: str, name: str, closing: contextlib.ExitStack) -> tuple[Any, Any]:
    from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction

    function = OpenAIEmbeddingFunction(model_name=name, api_base=url, api_key_env_var="KEY_OF_SOLOIST")
    closing.callback(function.client.close)
    return function.embed_query, None


@pytest.mark.parametrize(
    "client", [langchain, langchain_async, llama_index, haystack, chroma], ids=lambda client: client.__name__
)
def test_a_framework_asks_a_server_and_gets_the_bits_of_the_run(client, url, opened, monkeypatch) -> None:
    """A client that rounds, sends tokens or a shorter dimension would make every score a little wrong."""
    monkeypatch.setenv("KEY_OF_SOLOIST", "none")
    for name in NAMES:
        with contextlib.ExitStack() as closing:
            of_questions, of_chunks = client(url, name, closing)
            wanted = opened.encode_fused(TEXTS) if name == "fused" else opened.encode(name, TEXTS)
            assert bits(of_questions(TEXTS)) == bits(wanted), name
            if of_chunks is not None:
                assert bits(of_chunks(TEXTS)) == bits(opened.questions.encode(TEXTS, name, role="document")), name
