"""Workers of a cluster in which something goes wrong: on one node, or at one shard. Each calls the real worker.

A test names one of these as what the driving process starts on its nodes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import soloist.engine.drivers.cluster.worker as worker
import soloist.engine.drivers.running as running
from soloist.engine.drivers.cluster.attempt_store import AttemptStore
from soloist.engine.drivers.cluster.worker import Channel

NODE = "node-2"
NODES = 3
TOLD = "told"  # a file in the folder of the session
_HEARD_SECONDS = 1.0  # what a worker says is heard in a fifth of a second
_SHARD_SECONDS = 0.1  # of a run in which something is killed after every few shards
POISON = ("alpha", 5)
_CLONE_NEWNS = 0x00020000


def plain(request: Mapping[str, Any], channel: Channel) -> None:
    """The real worker, where nothing goes wrong."""
    worker.work(request, channel)


def together(request: Mapping[str, Any], channel: Channel) -> None:
    """No worker computes a shard before all have their devices and a shard, so that each computes some."""
    session = Path(request["session"])

    def meet() -> None:
        (session / f"has-a-shard-{request['node']}").touch()
        _await_files(session, "has-a-shard-*", NODES)

    _before_encoding(meet)
    worker.work(request, channel)


def hung(request: Mapping[str, Any], channel: Channel) -> None:
    """The worker of one node never ends its first shard."""
    if request["node"] == NODE:
        _before_encoding(lambda: time.sleep(3600))
    together(request, channel)


def slow(request: Mapping[str, Any], channel: Channel) -> None:
    """The worker of one node takes long for each shard, but comes to its end."""
    if request["node"] == NODE:
        _before_encoding(lambda: time.sleep(1))
    together(request, channel)


def hung_staging(request: Mapping[str, Any], channel: Channel) -> None:
    """One node never opens a file of its model, as from a disk that hangs. The others wait until a test has heard."""
    _wait_for_the_test(request)
    if request["node"] == NODE:
        hanging = Path(request["session"]) / f"hangs-{os.getpid()}.toml"
        os.mkfifo(hanging)  # nobody writes to it
        request = {**request, "config": {**request["config"], "catalogue": str(hanging)}}
    worker.work(request, channel)


def broken(request: Mapping[str, Any], channel: Channel) -> None:
    """Each worker of one node fails at its first shard. The others wait until a test has heard of the last one."""
    _wait_for_the_test(request)
    if request["node"] == NODE:
        _before_encoding(_fail)
    worker.work(request, channel)


def poisoned(request: Mapping[str, Any], channel: Channel) -> None:
    """One shard kills whoever has computed it, as a card that fails or memory that runs out would."""
    write = AttemptStore.write

    def die(self: AttemptStore, shard: Any) -> Any:
        if (shard.ref.collection, shard.ref.index) == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, shard)

    AttemptStore.write = die  # type: ignore[method-assign]
    worker.work(request, channel)


def without_the_folder(request: Mapping[str, Any], channel: Channel) -> None:
    """One node has another folder under the path of the run's: nothing is mounted there."""
    _differs(request, channel, {"session": f"{request['session']}-not-mounted"})


def other_catalogue(request: Mapping[str, Any], channel: Channel) -> None:
    """One node has another revision of a model's files."""
    own = Path(request["config"]["catalogue"]).with_name("other-revision.toml")
    _differs(request, channel, {"config": {**request["config"], "catalogue": str(own)}})


def other_card(request: Mapping[str, Any], channel: Channel) -> None:
    """One node has another card."""
    _differs(request, channel, {"config": {**request["config"], "accelerator": "simulated:1xL4"}})


def full_disk(request: Mapping[str, Any], channel: Channel) -> None:
    """What one node writes below the run's folder goes to a disk that is full."""
    _wait_for_the_test(request)
    if request["node"] == NODE:
        _before_encoding(functools.cache(lambda: _mount_small(Path(request["session"]))))
    worker.work(request, channel)


def logged(request: Mapping[str, Any], channel: Channel) -> None:
    """Each shard that was computed is a line of a file beside the run's folder, and takes a moment."""
    log = Path(request["session"]).parent.parent.with_suffix(".computed")
    write = AttemptStore.write

    def note(self: AttemptStore, shard: Any) -> Any:
        time.sleep(_SHARD_SECONDS)
        with log.open("a") as file:
            file.write(f"{self._model} {shard.ref.collection} {shard.ref.index}\n")
        return write(self, shard)

    AttemptStore.write = note  # type: ignore[method-assign]
    worker.work(request, channel)


def _differs(request: Mapping[str, Any], channel: Channel, changes: Mapping[str, Any]) -> None:
    """One node has another request. The others compute no shard before that node has told what it is."""
    told = Path(request["session"]) / TOLD
    if request["node"] != NODE:
        _before_encoding(functools.cache(lambda: (_await_files(told.parent, told.name, 1), time.sleep(_HEARD_SECONDS))))
        worker.work(request, channel)
        return

    def say(message: Mapping[str, Any]) -> None:
        if message["word"] == "staged" or message.get("seen") is False:
            told.touch()  # what it says now ends this process
        channel.say(message)

    worker.work({**request, **changes}, _Said(channel, say))


class _Said:
    """A channel whose words go through a function."""

    def __init__(self, channel: Channel, say: Callable[[Mapping[str, Any]], None]) -> None:
        self.receive = channel.receive
        self.say = say


def _fail() -> None:
    raise RuntimeError("no card")


def _wait_for_the_test(request: Mapping[str, Any]) -> None:
    """On the other nodes no shard is computed before the test has written a file."""
    if request["node"] != NODE:
        _before_encoding(functools.cache(lambda: _await_files(Path(request["session"]), TOLD, 1)))


def _await_files(folder: Path, pattern: str, count: int) -> None:
    while len(list(folder.glob(pattern))) < count:
        time.sleep(0.02)


def _before_encoding(first: Callable[[], object]) -> None:
    encode = running.encode_texts

    def encode_texts(*args: Any) -> Any:
        first()
        return encode(*args)

    running.encode_texts = encode_texts


def _mount_small(folder: Path) -> None:
    """Mount a small disk over a folder, which only this thread sees, and fill it. Empty files stay."""
    marks = [path.name for path in folder.iterdir() if path.is_file() and not path.stat().st_size]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    for command in (["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]):
        subprocess.run(command, check=True)
    for name in marks:
        (folder / name).touch()
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(1024)):
            pass
