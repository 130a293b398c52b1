"""How a server begins and ends: signals, exit codes, and what keeps it from starting."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import threading
from pathlib import Path

import numpy as np
import openai
import pytest
from support.collections import some_words
from support.invoking import invoke
from support.server_processes import ServerProcess, embeddings_request, until_closed
from support.waiting import until

import soloist
import soloist.serving
from soloist.errors import ConfigError

pytestmark = pytest.mark.process
LONG = {"model": "bert", "input": [f"{some_words(250)} {number}" for number in range(400)]}


def at_work(server: ServerProcess, connection: socket.socket) -> None:
    """Send a request that takes a while, and return once it is in work."""
    server.wait_until_ready()
    connection.sendall(embeddings_request(LONG))
    until(lambda: "soloist_waiting_texts 0" not in server.ask("GET", "/metrics")[1], "the texts are in work")


def test_sigterm_finishes_what_is_in_work(served: Path, tmp_path: Path) -> None:
    """Each restart of a service would cost the answers that are on their way."""
    with contextlib.closing(ServerProcess(served, tmp_path / "output")) as server:
        with server.connected() as idle, server.connected() as connection:
            at_work(server, connection)
            server.signal(signal.SIGTERM)
            body = until_closed(connection).partition(b"\r\n\r\n")[2]
            assert len(json.loads(body)["data"]) == len(LONG["input"])
            assert idle.recv(1) == b""
        assert server.wait() == 0
        told = server.output.read_text()
        assert told.startswith("soloist: ") and told.endswith(
            " texts in work, then the server ends; a second signal ends it now\n"
        )


@pytest.mark.parametrize(("first", "second"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT"), ("SIGINT", "SIGTERM")])
def test_a_second_signal_ends_at_once(served: Path, tmp_path: Path, first: str, second: str) -> None:
    """Whoever cannot wait would have to look for the process and kill it."""
    with contextlib.closing(ServerProcess(served, tmp_path / "output")) as server, server.connected() as connection:
        at_work(server, connection)
        for name in (first, second):
            server.signal(signal.Signals[name])
            if name is first:
                until(lambda: "then the server ends" in server.output.read_text(), "the first signal is heard")
        assert server.wait() == 130
        assert until_closed(connection) == b""


def test_a_port_that_is_taken(served: Path) -> None:
    """A traceback of asyncio, or a server that seems to run and is another one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = invoke("serve", served, "--port", port)
    assert result.exit_code == 2
    assert result.stderr == (
        f"soloist: error: the port {port} of 127.0.0.1 cannot be had (Address already in use): give --port another "
        "number, or 0 for any free port\n"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 can be reached from other machines, and there is no key: set SOLOIST_API_KEY"),
        (["--host", "::"], ":: can be reached from other machines"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid can be reached from other machines"),
        (["--port", "70000"], "the port is 70000: give a number from 0 to 65535; 0 is any free port"),
    ],
)
def test_what_cannot_be_listened_at(served: Path, monkeypatch, options: list[str], sentence: str) -> None:
    """A server that all the world can ask, without anybody having meant it."""
    monkeypatch.delenv("SOLOIST_API_KEY", raising=False)
    result = invoke("serve", served, *options)
    assert (result.exit_code, result.stdout) == (2, "") and sentence in result.stderr


@pytest.mark.parametrize("key", ["", " ", "a\nb", "clé", "a "])
def test_a_key_that_no_client_can_send(served: Path, key: str) -> None:
    """Every client would be refused, and nobody could say why."""
    with pytest.raises(ConfigError, match="the key in SOLOIST_API_KEY or api_key is empty, or has a character"):
        soloist.serving.start(served, port=0, api_key=key)
    with pytest.raises(ConfigError, match="the key in SOLOIST_API_KEY or api_key is empty"):
        soloist.serving.app(served, api_key=key)


def test_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    """The socket would stay open, and the next start say that the port is taken."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for _ in range(2):
        result = invoke("serve", tmp_path, "--port", port)
        assert result.exit_code == 2
        assert "has neither questions.json nor the files of a run: give the folder of soloist embed" in result.stderr


def test_a_model_that_is_not_the_run_s_ends_the_server(served: Path, tmp_path: Path, tiny_models) -> None:
    """The server would say that it listens, and answer every question with an error."""
    shutil.copytree(tiny_models["bert"], tmp_path / "bert")
    config = tmp_path / "bert" / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"do_lower_case"', '"do_lower_case_"'))
    (tmp_path / "bert" / "model.safetensors").write_bytes(
        (tiny_models["bert"] / "model.safetensors").read_bytes()[:-4] + b"\0\0\0\0"
    )
    models = (served.parent / "models.toml").read_text().replace(str(tiny_models["bert"]), str(tmp_path / "bert"))
    (tmp_path / "models.toml").write_text(models)
    server = soloist.serving.start(served, port=0, catalogue=tmp_path / "models.toml")
    until(lambda: not server.is_alive, "the server has ended")
    with pytest.raises(ConfigError, match="bert"):
        server.stop()


def test_a_server_in_a_notebook(served: Path) -> None:
    """A thread of the user's process: it has no signals, and leaves nothing behind."""
    before = set(threading.enumerate())  # those of other tests in this process are not the server's
    server = soloist.serving.start(served, port=0, api_key="key")
    with server, socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        connection.sendall(embeddings_request({"model": "bert", "input": "a"}, Authorization="Bearer key"))
        assert until_closed(connection).startswith(b"HTTP/1.1 200 ")
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("soloist-")]
    assert "soloist-server" not in {thread.name for thread in left}
    for thread in left:
        if thread.name == "soloist-interruptible":  # it loaded a model, and is about to end
            thread.join(60)
            assert not thread.is_alive()


def test_the_folder_of_questions_alone(served: Path, tmp_path: Path) -> None:
    """An application without the run's gigabytes would get other vectors, or an error instead of a sentence."""
    soloist.export(served, "questions", out=tmp_path / "questions")
    with soloist.serving.start(tmp_path / "questions", port=0) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        answer = client.embeddings.create(model="fused", input="a lease of devices")
        with client, pytest.raises(openai.NotFoundError, match="the questions of a run, and no chunks: start it with"):
            client.post("/search", cast_to=object, body={"question": "a lease"})
    expected = soloist.open_run(served).encode_fused(["a lease of devices"])[0]
    assert np.array(answer.data[0].embedding, np.float32).tobytes() == expected.tobytes()
