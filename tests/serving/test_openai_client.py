"""A server process and its clients: vectors with the bits of the run, searches, models, health and figures."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.collections import some_words
from support.server_processes import ServerProcess, embeddings_request
from support.waiting import until

from soloist.reports.hits import hit_values
from soloist.retrieval import OpenedRun, open_run

pytestmark = pytest.mark.process
TEXTS = ["a lease of devices", "fusion", some_words(60), "Grüße 東京 \x00 end"]
DENSE = ("bert", "wordllama", "fused")


@pytest.fixture(scope="module")
def server(served: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(served, tmp_path_factory.mktemp("server") / "output")
    process.wait_until_ready()
    with contextlib.closing(process):
        yield process


@pytest.fixture(scope="module")
def opened(served: Path) -> OpenedRun:
    return open_run(served)


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def vectors_of(answer: Any) -> np.ndarray:
    assert [each.index for each in answer.data] == list(range(len(answer.data)))
    return np.array([each.embedding for each in answer.data], np.float32)


@pytest.mark.parametrize("more", [{}, {"encoding_format": "float"}, {"extra_body": {"input_type": "document"}}])
@pytest.mark.parametrize("name", DENSE)
def test_the_openai_client_gets_the_bits_of_the_run(client, opened, name, more) -> None:
    """A vector with other bits, of another role or in another order has wrong scores, and nothing says so."""
    role = more.get("extra_body", {}).get("input_type", "query")
    expected = opened.questions.encode(TEXTS, name, role)
    answer = client.embeddings.create(model=name, input=TEXTS, dimensions=opened.questions.dims[name], **more)
    assert vectors_of(answer).tobytes() == expected.tobytes()
    assert answer.model == name
    if role == "query":
        run_s_own = opened.encode_fused(TEXTS) if name == "fused" else opened.encode(name, TEXTS)
        assert vectors_of(answer).tobytes() == run_s_own.tobytes()


def test_one_text_is_a_list_of_one(client, opened) -> None:
    """A text's letters would be embedded one by one."""
    answer = client.embeddings.create(model="bert", input=TEXTS[0])
    assert vectors_of(answer).tobytes() == opened.encode("bert", TEXTS[:1]).tobytes()


def test_usage_has_the_tokens_that_the_models_read(client, opened) -> None:
    """A client that pays or budgets by tokens gets numbers that mean nothing."""
    counts = {name: client.embeddings.create(model=name, input=TEXTS).usage.prompt_tokens for name in DENSE}
    alone = client.embeddings.create(model="bert", input=TEXTS[0]).usage.total_tokens
    assert alone >= len(["[CLS]", "question:", *TEXTS[0].split(), "[SEP]"])
    assert counts["fused"] == counts["bert"] + counts["wordllama"]
    assert client.embeddings.create(model="bert", input=some_words(600)).usage.cut_tokens > 0
    twice = client.embeddings.create(model="bert", input=TEXTS * 2)
    assert twice.usage.total_tokens == 2 * counts["bert"]


def test_every_answer_says_whose_vectors_these_are(server, opened) -> None:
    """A store that was filled by another model would be asked, and nobody could see it."""
    fingerprints = opened.questions.fingerprints
    for name in DENSE:
        _, _, headers = server.ask("POST", "/v1/embeddings", {"model": name, "input": "a"})
        assert headers["x-soloist-fingerprint"] == fingerprints[name]
    for path in ("/health", "/v1/models", "/metrics", "/nowhere", "/v1/embeddings"):
        assert server.ask("GET", path)[2]["x-soloist-fingerprint"] == fingerprints["fused"]
    assert f"x-soloist-fingerprint: {fingerprints['fused']}".encode() in server.raw(b"no HTTP\r\n\r\n")


def test_models_are_those_of_the_run(client, server, opened) -> None:
    """A list that is not the run's sends clients to names that are refused."""
    questions = opened.questions
    assert [model.id for model in client.models.list()] == list(questions.names)
    for name in questions.names:
        model = client.models.retrieve(name).to_dict()
        assert (model["kind"], model["dimensions"]) == (questions.kinds[name], questions.dims.get(name))
        assert model["fingerprint"] == questions.fingerprints[name]
    with pytest.raises(openai.NotFoundError, match="there is no model of this name here: choose one of bert"):
        client.models.retrieve("gpt")


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"model": "gpt"}, 404, "there is no model of this name here: choose one of bert, wordllama, splade, bm25"),
        (
            {"model": "splade"},
            400,
            "no vector of fixed length: choose one of bert, wordllama, fused, or .*encode_spars",
        ),
        ({"model": "bm25"}, 400, "soloist.open_questions(...).encode_words"),
        ({"dimensions": 7}, 400, "bert has 32 dimensions, as the vectors that it is compared with: leave dimensions"),
        ({"input": [[1, 2]]}, 400, "check_embedding_ctx_length=False"),
        ({"input": ""}, 400, "a text of input is empty: give some text"),
    ],
)
def test_what_has_no_vector_is_refused(server, fields, status, sentence) -> None:
    """Another member's vector, or a part of one, would be taken for the right one."""
    code, answer, _ = server.ask("POST", "/v1/embeddings", {"model": "bert", "input": "a", **fields})
    assert code == status
    assert sentence.replace(".*", "") in answer["error"]["message"] or all(
        part in answer["error"]["message"] for part in sentence.split(".*")
    )
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_a_search_has_the_hits_of_the_run(server, opened) -> None:
    """Hits by another ranker, or without their texts, are no answer."""
    for more in ({}, {"k": 3, "by": "bm25"}, {"k": 2, "by": "fused", "collections": ["beta"]}):
        status, answer, _ = server.ask("POST", "/v1/search", {"question": "a lease of a device", **more})
        hits = opened.search("a lease of a device", **more)
        assert (status, answer["data"]) == (200, json.loads(json.dumps([hit_values(hit) for hit in hits])))
        assert all(hit["text"] and hit["metadata"] for hit in answer["data"])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"k": 51}, "50 chunks can be found: give a k from 1 to 50"),
        ({"by": "gpt"}, "the run has no model gpt"),
        ({"collections": ["gamma"]}, "the run has no collection gamma: choose one of alpha, beta"),
    ],
)
def test_a_search_that_the_run_cannot_make(server, fields, sentence) -> None:
    """The run's own sentence says what there is."""
    status, answer, _ = server.ask("POST", "/v1/search", {"question": "a lease", **fields})
    assert status == 400 and sentence in answer["error"]["message"]


def test_many_clients_get_their_own_vectors(server, opened) -> None:
    """What is joined may be mixed up: each of many clients would get the vector of another."""
    texts = [f"{some_words(number % 20 + 1)} {number}" for number in range(160)]
    expected = {name: opened.questions.encode(texts, name) for name in DENSE}
    barrier = threading.Barrier(16)

    def ask(first: int) -> None:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as mine:
            barrier.wait()
            for number in range(first, len(texts), 16):
                name = DENSE[number % 3]
                found = vectors_of(mine.embeddings.create(model=name, input=texts[number]))
                assert found[0].tobytes() == expected[name][number].tobytes(), (name, number)

    with ThreadPoolExecutor(16) as clients:
        list(clients.map(ask, range(16)))
    figures = figures_of(server)
    assert figures["soloist_turn_texts_count", "fused"] <= figures["soloist_texts_total", "fused"]
    assert figures["soloist_waiting_texts", ""] == 0


def figures_of(server: ServerProcess) -> dict[tuple[str, str], float]:
    """The figures by their names and models."""
    _, text, headers = server.ask("GET", "/metrics")
    assert headers["content-type"].startswith("text/plain; version=")
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, sample.labels.get("of", "")): sample.value for sample in samples}


def test_figures_count_what_was_answered(server) -> None:
    """A dashboard that shows nothing, or the same for ever, is noticed when it is needed."""
    before = figures_of(server)
    _, answer, _ = server.ask("POST", "/v1/embeddings", {"model": "bert", "input": ["a", "b"]})
    after = figures_of(server)
    assert after["soloist_texts_total", "bert"] - before["soloist_texts_total", "bert"] == 2
    tokens = after["soloist_tokens_total", "bert"] - before["soloist_tokens_total", "bert"]
    assert tokens == answer["usage"]["total_tokens"]
    assert after["soloist_ready", ""] == 1 and after["process_resident_memory_bytes", ""] > 0


def test_a_client_that_goes_away_costs_nothing_more(server) -> None:
    """The rest of its texts would be computed for nobody, while others wait."""
    before = figures_of(server).get(("soloist_texts_total", "fused"), 0.0)
    texts = [f"{some_words(330)} {number}" for number in range(1_500)]
    with server.connected() as connection:
        connection.sendall(embeddings_request({"model": "fused", "input": texts}))
        until(lambda: figures_of(server)["soloist_waiting_texts", ""] > 0, "the texts are in work")
    until(lambda: not figures_of(server)["soloist_waiting_texts", ""], "the texts are gone")
    assert figures_of(server).get(("soloist_texts_total", "fused"), 0.0) - before < len(texts) / 2


def test_a_log_has_neither_texts_nor_paths(server, served) -> None:
    """Questions of people would be kept in a file that nobody thinks of."""
    server.ask("POST", "/v1/embeddings", {"model": "bert", "input": "a secret text"}, Authorization="Bearer my-key")
    server.ask("POST", "/v1/search?secret=path", {"question": "a secret text", "k": 10**6})
    server.raw(b"GET /a\x00secret HTTP/1.1\r\n\r\n")
    assert server.output.read_text() == ""
    assert server.said.endswith("answers by bert, wordllama, splade, bm25 and fused; no key is needed")
