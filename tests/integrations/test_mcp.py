"""`soloist mcp`, asked by the official client: in this process, and over stdin and stdout of a real one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from support.invoking import invoke

from soloist.errors import ConfigError
from soloist.integrations.mcp import search_server
from soloist.reports.hits import hit_values

QUESTION = "which device has a lease?"
# A client sees the process itself; what it wrote on stdout is kept beside that.
RECORDED = 'exec "$0" -m soloist mcp "$1" -k 3 2> "$2/stderr" | tee "$2/stdout"'


def called(server: Any, **arguments: Any) -> Any:
    """What the tool answers."""

    async def call() -> Any:
        async with Client(server) as client:
            return await client.call_tool("search", arguments)

    return asyncio.run(call())


def hits_of(answer: Any) -> list[dict[str, Any]]:
    assert not answer.is_error, answer.content
    (content,) = answer.content
    assert json.loads(content.text) == answer.structured_content
    return answer.structured_content["hits"]


@pytest.mark.process
def test_an_assistant_searches_over_stdin_and_stdout(asked_folder, opened, tmp_path):
    """A line on stdout that is not the protocol's ends the session with most clients."""

    async def talk() -> tuple[Any, Any]:
        command = StdioServerParameters(
            command="bash", args=["-c", RECORDED, sys.executable, str(asked_folder), str(tmp_path)], env={**os.environ}
        )
        async with Client(stdio_client(command)) as client:
            tools = await client.list_tools()
            return tools, await client.call_tool("search", {"question": QUESTION})

    tools, answer = asyncio.run(talk())
    (tool,) = tools.tools
    assert tool.name == "search" and "40 chunks" in tool.description and "alpha, beta" in tool.description
    assert tool.input_schema["required"] == ["question"]
    assert hits_of(answer) == list(map(hit_values, opened.search(QUESTION, 3)))
    lines = (tmp_path / "stdout").read_text().splitlines()
    assert len(lines) >= 3 and all(json.loads(line)["jsonrpc"] == "2.0" for line in lines)
    assert (tmp_path / "stderr").read_text() == ""


def test_what_an_assistant_may_choose(opened):
    """The answer would have hits of collections that the assistant did not ask for, or another number of them."""
    server = search_server(opened, k=4, by="fused")
    assert hits_of(called(server, question=QUESTION)) == list(map(hit_values, opened.search(QUESTION, 4, by="fused")))
    hits = hits_of(called(server, question=QUESTION, k=7, collections=["beta"]))
    assert hits == list(map(hit_values, opened.search(QUESTION, 7, by="fused", collections=["beta"])))
    assert len(hits_of(called(server, question=QUESTION, k=100))) == 40  # all there are


def test_an_assistant_sees_the_given_collections_alone(opened):
    """A server for some collections would answer from the others."""
    server = search_server(opened, collections=["beta"])
    assert {hit["collection"] for hit in hits_of(called(server, question=QUESTION))} == {"beta"}
    refused = called(server, question=QUESTION, collections=["alpha"])
    assert (
        refused.is_error and "the collection alpha is not searched here: choose one of beta" in refused.content[0].text
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"question": " "}, "a query is empty: give some text"),
        ({"question": QUESTION, "k": 0}, "k"),
        ({"question": QUESTION, "k": 101}, "k"),
        ({"question": QUESTION, "collections": ["other"]}, "the collection other is not searched here"),
        ({}, "question"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence_for_the_assistant(opened, arguments, said):
    """An assistant that reads only "error" tries the same again."""
    answer = called(search_server(opened), **arguments)
    assert answer.is_error and said in answer.content[0].text and "Traceback" not in answer.content[0].text


def test_a_question_that_was_cut_is_told(opened):
    """An assistant would think that all of a long question was read."""
    answer = called(search_server(opened, by="bert"), question="lease " * 2_000)
    (notice,) = answer.structured_content["notices"]
    assert "bert reads" in notice and "cut off" in notice


def test_what_the_server_cannot_begin_with(opened, asked_folder, tmp_path):
    """An assistant would see a tool that fails at every call."""
    for settings, said in (
        ({"k": 0}, "k is 0"),
        ({"by": "other"}, "there is no ranker other"),
        ({"collections": ["other"]}, "no collection other"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            search_server(opened, **settings)
    done = invoke("mcp", tmp_path / "gone")
    assert done.exit_code == 2 and done.stderr.startswith("soloist: error: ") and done.stdout == ""
    done = invoke("mcp", asked_folder, "--collection", "other")
    assert (done.exit_code, done.stdout) == (2, "") and "no collection other" in done.stderr
